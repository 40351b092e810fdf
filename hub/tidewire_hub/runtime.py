"""The hub's shell: sockets, threads, timers and signals around `HubCore`.

One event loop reads the broker and publishes; one thread holds the stream, so the loop goes on reading while a commit
waits for the disk. Whatever happens is fed to the core, and its effects are performed in order.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any, Final

from tidewire_hub.actions import (
    Append,
    CheckState,
    Effect,
    Greet,
    Lead,
    MakeSnapshot,
    Now,
    Publish,
    ReadChunk,
    ReadPage,
    RemakeState,
    RemoveSnapshot,
    Report,
    SaveDevices,
    Serve,
    Settle,
    StepDown,
    Trim,
    Verify,
)
from tidewire_hub.broker_connection import BrokerConnection
from tidewire_hub.core import HubCore
from tidewire_hub.database import StorageDamaged
from tidewire_hub.device_file import DeviceFile
from tidewire_hub.jobs import Jobs
from tidewire_hub.layout import DataDirectory
from tidewire_hub.settings import HubSettings
from tidewire_hub.snapshot.keeper import SnapshotKeeper
from tidewire_hub.stream import Commit
from tidewire_hub.stream_host import StreamHost, is_storage_fault, wall_ms
from tidewire_hub.verify import answer_from_file
from tidewire_link.port import Link
from tidewire_schemas.errors import LedElsewhere, TidewireError
from tidewire_schemas.messages import Head

logger = logging.getLogger(__name__)

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

_STOP_COMMIT_S: Final = 1.0
"""Longest wait for a commit under way when stopping, so that its acks still go out."""

_STOP_PUBLISH_S: Final = 0.4
"""Longest wait for the broker to take the last messages, and again for its goodbye: it may be frozen."""


class HubRuntime:
    """A hub that leads one stream.

    Args:
        settings: all of them.
        host: the stream, opened and led; used from `executor` alone.
        executor: one thread.
        link: the connection, not yet opened.
        core: the decisions.
    """

    def __init__(
        self, settings: HubSettings, *, host: StreamHost, executor: ThreadPoolExecutor, link: Link, core: HubCore
    ) -> None:
        self._settings = settings
        self._host = host
        self._link = link
        self._core = core
        self._data = DataDirectory(settings.data, settings.stream)
        self._keeper = SnapshotKeeper(settings, host, executor, self._data.state)
        self._devices = DeviceFile(self._data.devices)
        self._broker = BrokerConnection(settings, link, core, now=self._now, perform=self._perform)
        self._outbox = self._broker.outbox
        self._jobs = Jobs(
            executor,
            now=self._now,
            perform=self._perform,
            on_damaged=core.upkeep.on_damaged,
            on_mistake=self._break,
        )
        self._append_began_s = inf
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = False
        self._stop_reading = threading.Event()
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Gets the exception that no part of the hub can go on after."""

    # ── for the outside ───────────────────────────────────────────────────────────────────────────────────────────

    def reasons_not_ready(self) -> list[str]:
        """Why the hub does not serve its stream now; empty when it does."""
        reasons = []
        if self._stopping:
            reasons.append("the hub is stopping")
        if self._broker.problem is not None:
            reasons.append(self._broker.problem)
        waits_for = self._core.waits_for
        if waits_for is not None:
            reasons.append(f"hub {waits_for.leader} seems to lead the stream: waiting for its answer")
        if self._core.problem is not None:
            replaced = self._core.state == "replaced"
            reasons.append(self._core.problem if replaced else f"the last commit failed: {self._core.problem}")
        under_way_s = self._now().s - self._append_began_s
        if under_way_s > self._settings.commit_slow_s:
            reasons.append(f"a commit has been under way for {under_way_s:.0f} s: a huge batch, or is the disk stuck?")
        reasons.extend(self._broker.refused)
        return reasons

    def status(self) -> dict[str, object]:
        """Where the hub stands, for people."""
        core = self._core
        return {
            "node": self._settings.node,
            "stream": self._settings.stream,
            "state": core.state,
            "epoch": core.epoch,
            "head": core.head.seq,
            "oldest": core.oldest,
            "connected": self._link.connected,
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Serve the stream until `stop` is set, then stop cleanly within two seconds."""
        known = self._devices.load()
        if known is not None:
            self._core.restore(known)
        stopped = asyncio.create_task(stop.wait())
        tasks = {asyncio.create_task(self._broker.run()), asyncio.create_task(self._outbox.run()), stopped}
        try:
            await self._link.open()
            working: set[asyncio.Future[Any]] = {*tasks, self._broken}
            done, _ = await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
            await self._stop()
            for ended in done:
                ended.result()  # a mistake of ours: out with it, rather than half a hub
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with suppress(TimeoutError):
                async with asyncio.timeout(_STOP_PUBLISH_S):
                    await self._link.close()

    # ── effects ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _perform(self, effects: Sequence[Effect]) -> None:
        core, host, jobs, keeper = self._core, self._host, self._jobs, self._keeper
        for effect in effects:
            match effect:
                case Publish():
                    self._outbox.put(effect)
                case Append(group=group):
                    self._append_began_s = self._now().s
                    jobs.on_stream(
                        partial(host.append, group),
                        partial(self._appended, effect),
                        partial(self._append_failed, effect),
                    )
                case Greet(device=device, hello=hello):
                    jobs.on_stream(
                        partial(host.greet, effect),
                        partial(core.greetings.on_greeted, device, hello),
                        partial(core.greetings.on_greet_failed, device, hello),
                    )
                case ReadPage(after=after):
                    jobs.on_stream(
                        partial(host.read, effect),
                        partial(core.downloads.on_page_read, after),
                        partial(core.downloads.on_read_failed, after),
                    )
                case Trim():
                    jobs.on_stream(partial(host.trim, effect), core.downloads.on_trimmed, core.downloads.on_trim_failed)
                case MakeSnapshot():
                    jobs.aside(
                        keeper.make, core.downloads.on_snapshot_made, core.downloads.on_snapshot_failed, keeper.thread
                    )
                case CheckState():
                    jobs.aside(keeper.check, core.upkeep.on_checked, core.upkeep.on_check_failed)
                case RemakeState():
                    jobs.on_stream(host.remake_state, core.upkeep.on_remade, core.upkeep.on_remake_failed)
                case ReadChunk():
                    jobs.aside(
                        partial(keeper.read, effect),
                        partial(core.downloads.on_chunk_read, effect),
                        partial(self._chunk_failed, effect),
                    )
                case RemoveSnapshot(snapshot=snapshot):
                    asyncio.get_running_loop().run_in_executor(None, keeper.remove, snapshot)
                case Lead(heard_epoch=heard):
                    jobs.on_stream(partial(host.lead, heard), core.on_led, core.on_lead_failed)
                case Settle():
                    jobs.on_stream(host.stream.rest, _nothing_more, self._not_written)
                case Verify(device=device):
                    jobs.on_stream(
                        host.stream.settle,
                        partial(self._verify, effect),
                        partial(core.verifications.on_verify_failed, device),
                    )
                case Serve():
                    self._begin_to_serve()
                case StepDown(error=error, mark=mark):
                    self._step_down(error, mark)
                case SaveDevices(document=document):
                    self._devices.save(document)
                case Report():
                    logger.log(_LEVELS[effect.level], "%s", effect.message, extra=dict(effect.fields))
        self._set_timer()

    def _chunk_failed(self, chunk: ReadChunk, error: TidewireError, now: Now) -> list[Effect]:
        return self._core.downloads.on_chunk_failed(chunk, error, now, damaged=isinstance(error, StorageDamaged))

    def _appended(self, append: Append, commit: Commit, now: Now) -> list[Effect]:
        self._append_began_s = inf
        return self._core.on_appended(append.group, commit, now)

    def _append_failed(self, append: Append, error: TidewireError, now: Now) -> list[Effect]:
        self._append_began_s = inf
        return self._core.on_append_failed(append.group, error, now, storage=is_storage_fault(error))

    def _verify(self, verify: Verify, _settled: None, _now: Now) -> list[Effect]:
        """Read the state's file beside the stream, which goes on."""

        def rest(seconds: float) -> None:
            if self._stop_reading.wait(seconds):
                raise TidewireError("the hub is stopping")

        device, verifications = verify.device, self._core.verifications
        self._jobs.aside(
            partial(answer_from_file, self._data, self._settings, verify.request, rest),
            partial(verifications.on_verified, device),
            partial(verifications.on_verify_failed, device),
        )
        return []

    def _begin_to_serve(self) -> None:
        self._jobs.on_stream(self._host.forget_replaced, _nothing_more, self._not_written)
        self._broker.serve()

    def _step_down(self, error: LedElsewhere, mark: Head | None) -> None:
        """Another hub leads: end, and remember it where the log goes on elsewhere."""
        if mark is not None:
            self._jobs.on_stream(partial(self._host.remember_replaced, mark), _nothing_more, self._not_written)
        self._break(error)

    def _break(self, error: Exception) -> None:
        """End: no part of the hub can go on after this."""
        if not self._broken.done():
            self._broken.set_exception(error)

    def _not_written(self, error: TidewireError, now: Now) -> list[Effect]:
        logger.error("cannot write: %s", error)
        return []

    def _set_timer(self) -> None:
        wake_at = self._core.wake_at()
        if self._timer is not None:
            if self._timer.when() <= wake_at:
                return  # it fires early, finds nothing to do, and is set again
            self._timer.cancel()
        self._timer = None if wake_at == inf else asyncio.get_running_loop().call_at(wake_at, self._time_has_come)

    def _time_has_come(self) -> None:
        self._timer = None
        self._perform(self._core.on_time(self._now()))

    def _now(self) -> Now:
        return Now(asyncio.get_running_loop().time(), wall_ms())

    # ── the end ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _stop(self) -> None:
        """Let the commit under way be acked, say goodbye, and leave the rest unacked for devices to send again."""
        self._stopping = True
        self._broker.take_no_more()
        self._jobs.stop()
        self._keeper.stop()
        self._stop_reading.set()
        self._perform(self._core.on_outbox(self._now(), full=True))
        try:
            async with asyncio.timeout(_STOP_COMMIT_S):
                await self._jobs.idle.wait()
        except TimeoutError:
            logger.warning("a commit takes long: its acks are left to the devices' next handshake")
        self._perform(self._core.stop(self._now()))
        if self._timer is not None:
            self._timer.cancel()
        try:
            async with asyncio.timeout(_STOP_PUBLISH_S):
                await self._outbox.quiet()
        except TimeoutError:
            logger.warning("the broker did not take the last messages in time")
        self._broker.stop_subscribing()


def _nothing_more(_result: object, _now: Now) -> list[Effect]:
    return []
