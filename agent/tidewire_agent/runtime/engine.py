"""The agent at work on an open database and a link: performs what the session decides.

Four things go on at once, each in order by itself: commits are sealed (`SealLoop`), effects that speak to the hub are
performed (`HubLoop`), effects that write the file are performed (`FileLoop`), and messages come in (`received`, called
by the owner of the link). The session stands between them (`SessionShell`). The database's thread serializes what
touches the file.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

from tidewire_agent.runtime import filework
from tidewire_agent.runtime.database import Database
from tidewire_agent.runtime.disk_watch import DiskWatch
from tidewire_agent.runtime.file_loop import FileLoop
from tidewire_agent.runtime.hub_loop import HubLoop
from tidewire_agent.runtime.inbox import Inbox
from tidewire_agent.runtime.lock_share import LockShare
from tidewire_agent.runtime.patient_database import PatientDatabase
from tidewire_agent.runtime.publisher import Publisher
from tidewire_agent.runtime.seal_loop import SealLoop
from tidewire_agent.runtime.session_shell import SessionShell
from tidewire_agent.runtime.table_watch import TableWatch
from tidewire_agent.runtime.troubles import Troubles, first_error
from tidewire_agent.runtime.verifying import Verifications
from tidewire_agent.runtime.watch import CommitWatch
from tidewire_agent.session.standing import Standing
from tidewire_agent.settings import AgentSettings
from tidewire_agent.store.disk_reserve import DiskReserve
from tidewire_agent.store.edge_store import EdgeStore
from tidewire_link.port import Link
from tidewire_schemas.messages import Welcome
from tidewire_schemas.verification import VerifyAnswer, VerifyNow

LARGE_BYTES: Final = 16_384
"""A larger payload takes longer to parse than it takes to have another thread do it."""


class Engine:
    """One life of the agent on one open database.

    Args:
        settings: all of them.
        database: open; closed by who opened it.
        link: open; its events are brought by `connected`, `received`, `disconnected`.
        boot: random, of this start.
        standing: what the file says.
        device: this device's name.
        inbox: makes messages of payloads.
        troubles: where problems are said.
        on_change: called when something changed that status shows; True if the state did.
    """

    def __init__(
        self,
        settings: AgentSettings,
        database: Database[EdgeStore],
        link: Link,
        *,
        boot: str,
        standing: Standing,
        device: str,
        inbox: Inbox,
        troubles: Troubles,
        on_change: Callable[[bool], None],
    ) -> None:
        self._settings = settings
        self._database = database
        self._inbox = inbox
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._path = settings.db.resolve()
        self._publisher = Publisher(link, settings.payload_bytes_max, troubles)
        self._disk = DiskWatch(DiskReserve(self._path, settings.disk_reserve_bytes), settings.disk_interval_s, troubles)
        self._tables = TableWatch(database, troubles)
        patient = PatientDatabase(settings, database, troubles, self._disk)
        self.lock = LockShare(settings)
        self._shell = SessionShell(
            settings,
            database,
            link,
            boot=boot,
            standing=standing,
            publisher=self._publisher,
            troubles=troubles,
            on_change=on_change,
            on_performed=self._on_performed,
        )
        self.session = self._shell.session
        self.verifications = Verifications(
            settings, patient, self._shell, troubles, report_changed=lambda: on_change(True)
        )
        self._sealing = SealLoop(
            settings,
            self._shell,
            database=database,
            patient=patient,
            lock=self.lock,
            tables=self._tables,
            verifications=self.verifications,
            troubles=troubles,
            on_change=on_change,
        )
        self._file = FileLoop(
            self._shell,
            patient=patient,
            lock=self.lock,
            tables=self._tables,
            troubles=troubles,
            wake=self.wake,
            on_change=on_change,
        )
        self._hub = HubLoop(
            settings, self._shell, device=device, patient=patient, publisher=self._publisher, troubles=troubles
        )

    async def run(self) -> None:
        """Work until cancelled.

        Raises:
            DatabaseError: the file cannot be used any more; open it again later.
        """
        watch = CommitWatch(
            self._path,
            self._data_version,
            self.wake,
            self._on_commit,
            self._on_quiet,
            mode=self._settings.watch,
            poll_interval_s=self._settings.poll_interval_s,
            stat_interval_s=self._settings.stat_interval_s,
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._tables.look(), name="tables")
                tasks.create_task(watch.run(), name="watch")
                tasks.create_task(self._sealing.run(), name="seal")
                tasks.create_task(self._hub.run(), name="hub")
                tasks.create_task(self._file.run(), name="file")
                tasks.create_task(self.verifications.run(), name="verify")
                tasks.create_task(self._disk.run(), name="disk")
                tasks.create_task(self._shell.run(), name="timer")
        except BaseExceptionGroup as group:
            raise first_error(group) from group
        finally:
            self._shell.close()
            self._sealing.close()

    def wake(self) -> None:
        """Something was committed: look at the file."""
        self._sealing.wake()

    def _on_commit(self) -> None:
        """The watch has seen a commit of another connection."""
        self.lock.app_seen(committed=True)
        self.wake()

    def _on_quiet(self) -> None:
        """The watch has looked and seen none."""
        self.lock.app_seen(committed=False)

    def _on_performed(self) -> None:
        """The session has decided something, such as to take batches again."""
        self._sealing.go_on()

    async def _data_version(self) -> int:
        return await self._database.run(EdgeStore.data_version)

    # ── the link's events ─────────────────────────────────────────────────────────────────────────────────────────

    def connected(self, payload_bytes_max: int) -> None:
        """The broker is there and the subscriptions are granted."""
        self._publisher.connected(payload_bytes_max)
        self._shell.connected()

    def disconnected(self) -> None:
        """The connection is gone."""
        self._inbox.drop_parts()
        self._shell.disconnected()

    async def received(self, topic: str, payload: bytes) -> None:
        """A message came in."""
        rejected = self._inbox.rejected_count
        if len(payload) < LARGE_BYTES:
            received = self._inbox.open(topic, payload)
        else:
            received = await self._loop.run_in_executor(self._inbox.thread, self._inbox.open_in_turn, topic, payload)
        if received is None:
            if self._inbox.rejected_count != rejected:
                self._on_change(False)
            return
        message, size = received
        if isinstance(message, VerifyAnswer | VerifyNow):
            self.verifications.take(message)
            return
        if isinstance(message, Welcome):
            points = [*((message.accepted,) if message.accepted else ()), *message.recent]
            ours, too_large = await self._database.run(filework.compare, message, points)
            self._shell.perform(self.session.welcomed(message, ours, self._loop.time(), too_large=too_large))
        else:
            self._shell.perform(self.session.received(message, size, self._loop.time(), random.random()))
