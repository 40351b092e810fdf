"""The hub's shell: sockets, threads, timers and signals around `HubCore`.

One event loop reads the broker and publishes; one thread holds the stream, so the loop goes on reading while a commit
waits for the disk. Whatever happens is fed to the core, and its effects are performed in order.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any, Final, TypeVar

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
from tidewire_hub.core import HubCore
from tidewire_hub.database import StorageDamaged
from tidewire_hub.devices import read_document
from tidewire_hub.layout import DataDirectory, replace_file
from tidewire_hub.outbox import Outbox
from tidewire_hub.settings import HubSettings
from tidewire_hub.snapshot.keeper import SnapshotKeeper
from tidewire_hub.state.check import StateDamaged
from tidewire_hub.stream import Commit
from tidewire_hub.stream_host import StreamHost, as_tidewire_error, is_storage_fault, wall_ms
from tidewire_hub.verify import answer_from_file
from tidewire_link.errors import LinkError, PayloadTooLarge, PublishDenied, SubscriptionDenied
from tidewire_link.port import Connected, Disconnected, Link, Received
from tidewire_schemas import topics
from tidewire_schemas.errors import LedElsewhere, TidewireError
from tidewire_schemas.messages import Head
from tidewire_schemas.verification import VerifyAnswer

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

_TURN_EVENTS: Final = 32
"""Events in a row before other tasks of the event loop get their turn."""

REFUSED_MAX: Final = 10
"""Topics whose publishes the broker refuses that are shown: a sample is enough to see what the access rules lack."""

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
        self._executor = executor
        self._link = link
        self._core = core
        self._data = DataDirectory(settings.data, settings.stream)
        self._keeper = SnapshotKeeper(settings, host, executor, self._data.state)
        self._outbox = Outbox(
            link,
            bytes_max=settings.publish_bytes_max,
            on_full=lambda full: self._perform(core.on_outbox(self._now(), full=full)),
            on_done=self._published,
        )
        self._append_began_s = inf
        self._jobs = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._timer: asyncio.TimerHandle | None = None
        self._subscribing: asyncio.Task[None] | None = None
        self._subscribed = False
        self._saving = False
        self._unsaved: bytes | None = None
        self._payload_bytes_max = settings.payload_bytes_max
        self._link_problem = "not connected to the broker yet"
        self._refused: dict[str, str] = {}
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
        if not self._link.connected or not self._subscribed:
            reasons.append(self._link_problem)
        waits_for = self._core.waits_for
        if waits_for is not None:
            reasons.append(f"hub {waits_for.leader} seems to lead the stream: waiting for its answer")
        if self._core.problem is not None:
            replaced = self._core.state == "replaced"
            reasons.append(self._core.problem if replaced else f"the last commit failed: {self._core.problem}")
        under_way_s = self._now().s - self._append_began_s
        if under_way_s > self._settings.commit_slow_s:
            reasons.append(f"a commit has been under way for {under_way_s:.0f} s: a huge batch, or is the disk stuck?")
        reasons.extend(self._refused.values())
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
        self._load_devices()
        stopped = asyncio.create_task(stop.wait())
        tasks = {asyncio.create_task(self._read_link()), asyncio.create_task(self._outbox.run()), stopped}
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

    # ── the connection ────────────────────────────────────────────────────────────────────────────────────────────

    async def _read_link(self) -> None:
        in_a_row = 0
        async for event in self._link:
            match event:
                case Received():
                    self._received(event)
                case Connected():
                    self._connected(event)
                case Disconnected():
                    self._disconnected(event)
            in_a_row += 1
            if in_a_row % _TURN_EVENTS == 0:
                await asyncio.sleep(0)

    def _received(self, message: Received) -> None:
        if self._stopping:
            return  # not acked, so sent again
        try:
            effects = self._core.on_message(message.topic, message.payload, self._now(), retained=message.retained)
            self._perform(effects)
        except Exception:
            logger.exception("a message on %s could not be handled", message.topic)

    def _connected(self, event: Connected) -> None:
        self._refused.clear()
        self._payload_bytes_max = event.payload_bytes_max
        self._subscribe(topics.rival_filters(self._settings.stream), self._watching)

    def _watching(self) -> None:
        self._link_problem = "the hub looks whether another one leads the stream"
        self._perform(self._core.on_watching(self._now()))

    def _serving(self) -> None:
        self._subscribed = True
        self._perform(self._core.on_connected(self._payload_bytes_max, self._now()))

    def _subscribe(self, filters: Sequence[str], then: Callable[[], None]) -> None:
        self._link_problem = "the broker has not confirmed the subscriptions yet"
        self._subscribing = asyncio.create_task(self._subscribed_to(filters, then))

    async def _subscribed_to(self, filters: Sequence[str], then: Callable[[], None]) -> None:
        """Subscribe, then go on; where the broker forbids it, say so and try again."""
        while True:
            try:
                await self._link.subscribe(filters)
            except SubscriptionDenied as error:
                self._link_problem = str(error)
                logger.error("%s", error)
                await asyncio.sleep(self._settings.subscribe_retry_s)
                continue
            except LinkError:
                return  # lost again: the next Connected subscribes
            then()
            return

    def _disconnected(self, event: Disconnected) -> None:
        if self._subscribing is not None:
            self._subscribing.cancel()
        problem = str(event.reason) if event.reason is not None else "the connection to the broker was closed"
        if self._subscribed or problem != self._link_problem:
            logger.warning("%s", problem, extra={"retry_in_s": round(event.retry_in_s, 1)})
        self._subscribed = False
        self._link_problem = problem
        self._outbox.clear()
        self._perform(self._core.on_disconnected(self._now()))

    def _published(self, publish: Publish, error: BaseException | None) -> None:
        topic = publish.topic
        if error is None:
            self._refused.pop(topic, None)
        elif isinstance(error, PublishDenied | PayloadTooLarge):
            if topic not in self._refused:
                logger.error("%s", error)
            if len(self._refused) < REFUSED_MAX:
                self._refused[topic] = str(error)
        if publish.paced:
            self._perform(self._core.downloads.on_paced_sent(self._now()))

    # ── effects ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _perform(self, effects: Sequence[Effect]) -> None:
        core, host, keeper = self._core, self._host, self._keeper
        for effect in effects:
            match effect:
                case Publish():
                    self._outbox.put(effect)
                case Append(group=group):
                    self._append_began_s = self._now().s
                    self._on_stream(
                        partial(host.append, group),
                        partial(self._appended, effect),
                        partial(self._append_failed, effect),
                    )
                case Greet(device=device, hello=hello):
                    self._on_stream(
                        partial(host.greet, effect),
                        partial(core.greetings.on_greeted, device, hello),
                        partial(core.greetings.on_greet_failed, device, hello),
                    )
                case ReadPage(after=after):
                    self._on_stream(
                        partial(host.read, effect),
                        partial(core.downloads.on_page_read, after),
                        partial(core.downloads.on_read_failed, after),
                    )
                case Trim():
                    self._on_stream(
                        partial(host.trim, effect), core.downloads.on_trimmed, core.downloads.on_trim_failed
                    )
                case MakeSnapshot():
                    self._aside(
                        keeper.make, core.downloads.on_snapshot_made, core.downloads.on_snapshot_failed, keeper.thread
                    )
                case CheckState():
                    self._aside(keeper.check, core.upkeep.on_checked, core.upkeep.on_check_failed)
                case RemakeState():
                    self._on_stream(host.remake_state, core.upkeep.on_remade, core.upkeep.on_remake_failed)
                case ReadChunk():
                    self._aside(
                        partial(keeper.read, effect),
                        partial(core.downloads.on_chunk_read, effect),
                        partial(self._chunk_failed, effect),
                    )
                case RemoveSnapshot(snapshot=snapshot):
                    asyncio.get_running_loop().run_in_executor(None, keeper.remove, snapshot)
                case Lead(heard_epoch=heard):
                    self._on_stream(partial(host.lead, heard), core.on_led, core.on_lead_failed)
                case Settle():
                    self._on_stream(host.stream.rest, _nothing_more, self._not_written)
                case Verify(device=device):
                    self._on_stream(
                        host.stream.settle,
                        partial(self._verify, effect),
                        partial(core.verifications.on_verify_failed, device),
                    )
                case Serve():
                    self._begin_to_serve()
                case StepDown(error=error, mark=mark):
                    self._step_down(error, mark)
                case SaveDevices(document=document):
                    self._save(document)
                case Report():
                    logger.log(_LEVELS[effect.level], "%s", effect.message, extra=dict(effect.fields))
        self._set_timer()

    def _on_stream(
        self,
        job: Callable[[], T],
        then: Callable[[T, Now], list[Effect]],
        otherwise: Callable[[TidewireError, Now], list[Effect]],
    ) -> None:
        """Run a job on the stream's thread, after those before it, and give its result to the core."""

        def finished(future: asyncio.Future[T]) -> None:
            self._jobs -= 1
            self._feed(future, then, otherwise)
            if self._jobs == 0:
                self._idle.set()

        self._jobs += 1
        self._idle.clear()
        asyncio.get_running_loop().run_in_executor(self._executor, job).add_done_callback(finished)

    def _aside(
        self,
        job: Callable[[], T],
        then: Callable[[T, Now], list[Effect]],
        otherwise: Callable[[TidewireError, Now], list[Effect]],
        executor: Executor | None = None,
    ) -> None:
        """Run a job beside the stream's, for which stopping does not wait, and give its result to the core."""

        def finished(future: asyncio.Future[T]) -> None:
            if self._stopping and not future.cancelled():
                future.exception()  # nobody waits for it any more: asyncio would log it as never retrieved
            elif not future.cancelled():
                self._feed(future, then, otherwise)

        asyncio.get_running_loop().run_in_executor(executor, job).add_done_callback(finished)

    def _feed(
        self,
        future: asyncio.Future[T],
        then: Callable[[T, Now], list[Effect]],
        otherwise: Callable[[TidewireError, Now], list[Effect]],
    ) -> None:
        """Give the core what became of a job."""
        error = future.exception()
        try:
            if error is None:
                self._perform(then(future.result(), self._now()))
            else:
                known = as_tidewire_error(error)
                if known is not error:
                    logger.error("%s", known, exc_info=error)
                self._perform([*otherwise(known, self._now()), *self._if_damaged(known)])
        except Exception as mistake:
            if not self._broken.done():
                self._broken.set_exception(mistake)

    def _chunk_failed(self, chunk: ReadChunk, error: TidewireError, now: Now) -> list[Effect]:
        return self._core.downloads.on_chunk_failed(chunk, error, now, damaged=isinstance(error, StorageDamaged))

    def _if_damaged(self, error: TidewireError) -> list[Effect]:
        return self._core.upkeep.on_damaged(error) if isinstance(error, StateDamaged) else []

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

        def read(future: asyncio.Future[VerifyAnswer]) -> None:
            if future.cancelled():
                return
            error = future.exception()
            if error is None:
                self._perform(self._core.verifications.on_verified(verify.device, future.result(), self._now()))
            else:
                known = as_tidewire_error(error)
                failed = self._core.verifications.on_verify_failed(verify.device, known, self._now())
                self._perform([*failed, *self._if_damaged(known)])

        work = partial(answer_from_file, self._data, self._settings, verify.request, rest)
        asyncio.get_running_loop().run_in_executor(None, work).add_done_callback(read)
        return []

    def _begin_to_serve(self) -> None:
        self._on_stream(self._host.forget_replaced, _nothing_more, self._not_written)
        self._subscribe(topics.hub_filters(self._settings.stream), self._serving)

    def _step_down(self, error: LedElsewhere, mark: Head | None) -> None:
        """Another hub leads: end, and remember it where the log goes on elsewhere."""
        if mark is not None:
            self._on_stream(partial(self._host.remember_replaced, mark), _nothing_more, self._not_written)
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

    # ── what is known of devices ──────────────────────────────────────────────────────────────────────────────────

    def _load_devices(self) -> None:
        try:
            text = self._data.devices.read_bytes()
        except OSError:
            return
        document = read_document(text)
        if document is None:
            logger.warning("%s cannot be read: beginning anew", self._data.devices)
        else:
            self._core.restore(document)

    def _save(self, document: bytes) -> None:
        """Write off the event loop, one write at a time; of several that wait the newest counts."""
        if self._saving:
            self._unsaved = document
            return
        self._saving = True

        def written(future: asyncio.Future[None]) -> None:
            self._saving = False
            error = future.exception()
            if error is not None:
                logger.warning("cannot write %s: %s", self._data.devices, error)
            if self._unsaved is not None:
                newer, self._unsaved = self._unsaved, None
                self._save(newer)

        write = partial(replace_file, self._data.devices, document)
        asyncio.get_running_loop().run_in_executor(None, write).add_done_callback(written)

    # ── the end ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _stop(self) -> None:
        """Let the commit under way be acked, say goodbye, and leave the rest unacked for devices to send again."""
        self._stopping = True
        self._keeper.stop()
        self._stop_reading.set()
        self._perform(self._core.on_outbox(self._now(), full=True))
        try:
            async with asyncio.timeout(_STOP_COMMIT_S):
                await self._idle.wait()
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
        if self._subscribing is not None:
            self._subscribing.cancel()


def _nothing_more(_result: object, _now: Now) -> list[Effect]:
    return []
