"""Sealing: what the app commits becomes batches, as soon as the write lock and the hub allow it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from math import inf

from tidewire_agent.runtime import filework
from tidewire_agent.runtime.alarm import Alarm
from tidewire_agent.runtime.database import Database
from tidewire_agent.runtime.gathering import Gathering
from tidewire_agent.runtime.lock_share import LockShare
from tidewire_agent.runtime.patient_database import PatientDatabase
from tidewire_agent.runtime.session_shell import SessionShell
from tidewire_agent.runtime.table_watch import TableWatch
from tidewire_agent.runtime.troubles import Troubles
from tidewire_agent.runtime.verifying import Verifications
from tidewire_agent.session import complaints
from tidewire_agent.settings import AgentSettings
from tidewire_agent.store.edge_store import EdgeStore
from tidewire_agent.store.seal import SealOutcome


class SealLoop:
    """Looks at the file whenever it is woken: seals, and passes on what programs have asked in the file.

    Args:
        on_change: called when something changed that status shows.
    """

    def __init__(
        self,
        settings: AgentSettings,
        shell: SessionShell,
        *,
        database: Database[EdgeStore],
        patient: PatientDatabase,
        lock: LockShare,
        tables: TableWatch,
        verifications: Verifications,
        troubles: Troubles,
        on_change: Callable[[bool], None],
    ) -> None:
        self._payload_bytes_max = settings.payload_bytes_max
        self._shell = shell
        self._session = shell.session
        self._database = database
        self._patient = patient
        self._lock = lock
        self._tables = tables
        self._verifications = verifications
        self._troubles = troubles
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._committed = asyncio.Event()
        self._gathering = Gathering(settings.offline_changes_max, settings.offline_pause_max_s, settings.seal_pause_s)
        self._gathered = Alarm(self.wake)
        """Changes that gather are to be sealed now at the latest."""
        self._holds_back = False
        """Whether something may be left unsealed, as no batch could be sent."""
        self._dead_letters = 0

    def wake(self) -> None:
        """Something was committed: look at the file."""
        self._committed.set()

    def go_on(self) -> None:
        """What was held back is sealed once batches can be sent."""
        if self._holds_back and self._session.takes_batches:
            self._holds_back = False
            self.wake()

    def close(self) -> None:
        """Its timer rings no more."""
        self._gathered.set(inf)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._committed.wait()
            await self._lock.leave()
            self._committed.clear()
            sealed = await self._patient.until_done(self._look)
            self._looked(sealed.outcome)
            if sealed.shapes_changed or sealed.standing.position.seq < self._session.position.seq:
                # A table was attached, or is taken anew: the log is wanted from its start once more.
                # Before anything else: what was sealed now must not be sent in the present handshake.
                self._shell.introduce(sealed.standing)
                await self._tables.look()
            else:
                batch = sealed.outcome.batch
                self._shell.newest = batch if batch and len(batch.payload) <= self._payload_bytes_max else None
                self._shell.perform(self._session.sealed(sealed.standing.sealed, self._loop.time()))
            self._shell.perform(self._session.ask_fresh(sealed.questions, self._loop.time()))
            self._verifications.asked(sealed.verifications)
            self._say_outbox(sealed.outbox_full)
            if sealed.outcome.more:
                self._committed.set()
            letters, self._dead_letters = self._dead_letters, sealed.dead_letters  # a person may have discarded some
            if sealed.outcome.batch is not None or sealed.shapes_changed or sealed.dead_letters != letters:
                self._on_change(False)

    async def _look(self) -> filework.Sealed:
        sends = self._session.takes_batches
        least = self._gathering.least(self._loop.time(), sends=sends)
        self._holds_back = least > 1 and not sends
        return await self._database.run(filework.look, int(time.time() * 1000), self._shell.batch_bytes_max, least)

    def _looked(self, outcome: SealOutcome) -> None:
        self._lock.held(outcome.lock_s)
        self._lock.sealed(outcome.changes, outcome.left, outcome.step)
        self._gathering.looked(outcome.left, outcome.batch is not None, self._loop.time())
        self._gathered.set(self._gathering.due_at)

    def _say_outbox(self, full: str | None) -> None:
        if full is None:
            self._troubles.clear(complaints.OUTBOX_FULL)
        else:
            self._troubles.say(complaints.outbox_full(full))
