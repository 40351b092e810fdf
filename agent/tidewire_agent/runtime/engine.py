"""The agent at work on an open database and a link: performs what the session decides.

Four things go on at once, each in order by itself: commits are sealed (`_seal_loop`), effects that speak to the hub are
performed (`_hub_loop`), effects that write the file are performed (`_file_loop`), and messages come in (`received`,
called by the owner of the link). The database's thread serializes what touches the file.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from math import inf
from typing import Final, TypeVar

from tidewire_agent.errors import LogDiverged
from tidewire_agent.runtime import filework
from tidewire_agent.runtime.alarm import Alarm
from tidewire_agent.runtime.database import Database
from tidewire_agent.runtime.disk_watch import DiskWatch
from tidewire_agent.runtime.gathering import Gathering
from tidewire_agent.runtime.inbox import Inbox
from tidewire_agent.runtime.pace import Pace
from tidewire_agent.runtime.publisher import Publisher
from tidewire_agent.runtime.troubles import Troubles, first_error
from tidewire_agent.runtime.verifying import Verifications
from tidewire_agent.runtime.watch import CommitWatch
from tidewire_agent.session import complaints
from tidewire_agent.session.effects import (
    AnswerFresh,
    ApplyPage,
    AskFresh,
    AwaitSnapshot,
    BeginLoad,
    ClearProblem,
    Effect,
    FinishLoad,
    Follow,
    ForgetLoad,
    Heal,
    Limits,
    LoadChunk,
    PublishState,
    Renumber,
    RequestReplay,
    RequestSnapshot,
    SayProblem,
    SendBatches,
    SendHello,
    Trouble,
)
from tidewire_agent.session.session import Session
from tidewire_agent.session.standing import Standing
from tidewire_agent.session.states import STATE_LINES, State
from tidewire_agent.session.window import SentBatch
from tidewire_agent.settings import AgentSettings
from tidewire_agent.store.apply import Applied
from tidewire_agent.store.disk_reserve import DiskReserve
from tidewire_agent.store.edge_store import EdgeStore
from tidewire_agent.store.outbox import SealedBatch
from tidewire_agent.store.seal import SealOutcome
from tidewire_link.errors import LinkError, NotConnected
from tidewire_link.port import Link
from tidewire_schemas import topics
from tidewire_schemas.base import Message
from tidewire_schemas.codec import encode
from tidewire_schemas.errors import DatabaseError
from tidewire_schemas.messages import FreshRequest, Hello, Page, ReplayRequest, Welcome
from tidewire_schemas.positions import Position
from tidewire_schemas.snapshots import SnapshotRequest
from tidewire_schemas.verification import VerifyAnswer, VerifyNow, VerifyReport, VerifyRequest

R = TypeVar("R")

HubEffect = SendHello | SendBatches | RequestReplay | RequestSnapshot | AskFresh | VerifyRequest | VerifyReport
FileEffect = Follow | ApplyPage | AnswerFresh | Renumber | Heal | AwaitSnapshot | filework.LoadEffect

DIVERGED_PAUSE_S: Final = 5.0
"""After a page that contradicts the log applied so far, how long until the hub is asked again."""

LARGE_BYTES: Final = 16_384
"""A larger payload takes longer to parse than it takes to have another thread do it."""

PACE_STEP_S: Final = 0.01
"""While the lock is left alone, how often to look whether the app has paused."""

_log = logging.getLogger("tidewire.agent")


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
        self._boot = boot
        self._inbox = inbox
        self._troubles = troubles
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._path = settings.db.resolve()
        self.session = Session(settings.session_limits(), boot, standing)
        self.incarnation = standing.incarnation
        self._up_topic = topics.up(settings.stream, device)
        self._ask_topic = topics.ask(settings.stream, device)
        self._link = link
        self._publisher = Publisher(link, settings.payload_bytes_max, troubles)
        self._batch_bytes_max: int | None = None
        # Both are bounded by what the session asks for: one reading of batches, one page, a few questions.
        self._to_hub: asyncio.Queue[HubEffect] = asyncio.Queue()
        self._to_file: asyncio.Queue[FileEffect] = asyncio.Queue()
        self._hello_waits = False
        """Whether a Hello is to be made still: it will tell what the file holds then."""
        self._committed = asyncio.Event()
        self._timer = Alarm(self._tick)
        self._failed: asyncio.Future[None] = self._loop.create_future()
        self._pace = Pace(
            share_max=settings.lock_share_max,
            burst_s=settings.lock_burst_s,
            pause_max_s=settings.lock_pause_max_s,
            rush_share_max=settings.rush_lock_share_max,
            rush_pause_max_s=settings.rush_pause_max_s,
            now=self._loop.time(),
        )
        self._gathering = Gathering(settings.offline_changes_max, settings.offline_pause_max_s, settings.seal_pause_s)
        self._gathered = Alarm(self.wake)
        """Changes that gather are to be sealed now at the latest."""
        self._holds_back = False
        """Whether something may be left unsealed, as no batch could be sent."""
        self.verifications = Verifications(
            settings, database, self, troubles, boot=boot, report_changed=lambda: on_change(True)
        )
        reserve = DiskReserve(self._path, settings.disk_reserve_bytes)
        self._disk = DiskWatch(reserve, settings.disk_interval_s, troubles)
        self._newest: SealedBatch | None = None
        """What was sealed last: it mostly is what is to be sent next."""
        self._parked = self._behind = 0
        """As they were said last."""
        self.lock_s = 0.0
        """How long the app's write lock was held, all in all."""
        self.lock_longest_s = 0.0
        """The longest that sealing, applying or loading held it at once."""

    # ── from outside ──────────────────────────────────────────────────────────────────────────────────────────────

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
                tasks.create_task(self._say_tables(), name="tables")
                tasks.create_task(watch.run(), name="watch")
                tasks.create_task(self._seal_loop(), name="seal")
                tasks.create_task(self._hub_loop(), name="hub")
                tasks.create_task(self._file_loop(), name="file")
                tasks.create_task(self.verifications.run(), name="verify")
                tasks.create_task(self._disk.run(), name="disk")
                tasks.create_task(self._fail_loudly(), name="timer")
        except BaseExceptionGroup as group:
            raise first_error(group) from group
        finally:
            self._timer.set(inf)
            self._gathered.set(inf)

    def _on_commit(self) -> None:
        """The watch has seen a commit of another connection."""
        self._pace.rush.looked(True, self._loop.time())
        self.wake()

    def _on_quiet(self) -> None:
        """The watch has looked and seen none."""
        self._pace.rush.looked(False, self._loop.time())

    def wake(self) -> None:
        """Something was committed: look at the file."""
        self._committed.set()

    def connected(self, payload_bytes_max: int) -> None:
        """The broker is there and the subscriptions are granted."""
        self._publisher.connected(payload_bytes_max)
        self._perform(self.session.connected(self._loop.time()))

    def disconnected(self) -> None:
        """The connection is gone."""
        self._inbox.drop_parts()
        self._perform(self.session.disconnected())

    async def received(self, topic: str, payload: bytes) -> None:
        """A message came in."""
        rejected = self._inbox.rejected_count
        if len(payload) < LARGE_BYTES:
            received = self._inbox.open(topic, payload)
        else:
            received = await self._loop.run_in_executor(None, self._inbox.open_in_turn, topic, payload)
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
            self._perform(self.session.welcomed(message, ours, self._loop.time(), too_large=too_large))
        else:
            self._perform(self.session.received(message, size, self._loop.time(), random.random()))

    async def _data_version(self) -> int:
        return await self._database.run(EdgeStore.data_version)

    # ── for verifications ─────────────────────────────────────────────────────────────────────────────────────────

    @property
    def state(self) -> State:
        """Of the conversation with the hub."""
        return self.session.state

    @property
    def position(self) -> Position:
        """The last entry applied."""
        return self.session.position

    def tell_hub(self, message: VerifyRequest | VerifyReport) -> None:
        """Send a question or a report after what is to be sent before it; lost where there is no connection."""
        self._to_hub.put_nowait(message)

    # ── effects ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendHello() if self._hello_waits:
                    pass  # the one that waits says all that this one would
                case SendHello() | SendBatches() | RequestReplay() | RequestSnapshot() | AskFresh():
                    self._hello_waits = self._hello_waits or isinstance(effect, SendHello)
                    self._to_hub.put_nowait(effect)
                case Follow() | ApplyPage() | AnswerFresh() | Renumber() | Heal() | AwaitSnapshot():
                    self._to_file.put_nowait(effect)
                case BeginLoad() | LoadChunk() | FinishLoad() | ForgetLoad():
                    self._to_file.put_nowait(effect)
                case Limits():
                    self._publisher.heed(effect.payload_bytes_max)
                    self._batch_bytes_max = effect.batch_bytes_max
                case PublishState():
                    _log.info("%s", STATE_LINES[effect.state])
                    self._on_change(True)
                case SayProblem(trouble, None):
                    self._troubles.say(trouble)
                case SayProblem(trouble, since) if since is not None:
                    self._troubles.say_since(trouble, time.time() - (self._loop.time() - since))
                case ClearProblem():
                    self._troubles.clear(effect.code)
        if self._holds_back and self.session.takes_batches:
            self._holds_back = False
            self.wake()
        self._timer.set(self.session.wake_at)

    def _tick(self) -> None:
        try:
            # A timer may fire a clock's grain too early.
            now = max(self._loop.time(), min(self.session.wake_at, self._loop.time() + 0.001))
            if self._link.moving:
                self.session.moving(now)
            self._perform(self.session.tick(now, random.random()))
        except BaseException as error:
            if not self._failed.done():
                self._failed.set_exception(error)

    async def _fail_loudly(self) -> None:
        """A mistake in a timer's callback must end the agent as one in a task does."""
        await self._failed

    # ── the file ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _seal_loop(self) -> None:
        while True:
            await self._committed.wait()
            await self._leave_lock()
            self._committed.clear()
            sealed = await self.patiently(self._look)
            self._looked(sealed.outcome)
            if sealed.shapes_changed or sealed.standing.position.seq < self.session.position.seq:
                # A table was attached, or is taken anew: the log is wanted from its start once more.
                # Before anything else: what was sealed now must not be sent in the present handshake.
                self._introduce(sealed.standing)
                await self._say_tables()
            else:
                batch = sealed.outcome.batch
                self._newest = batch if batch and len(batch.payload) <= self._settings.payload_bytes_max else None
                self._perform(self.session.sealed(sealed.standing.sealed, self._loop.time()))
            self._perform(self.session.ask_fresh(sealed.questions, self._loop.time()))
            self.verifications.asked(sealed.verifications)
            self._say_outbox(sealed.outbox_full)
            if sealed.outcome.more:
                self._committed.set()
            if sealed.outcome.batch is not None or sealed.shapes_changed:
                self._on_change(False)

    async def _leave_lock(self, *, applying: bool = False) -> None:
        """Leave the write lock to the app for as long as it should have it."""
        while wait_s := self._pace.wait_s(self._loop.time(), applying=applying):  # noqa: ASYNC110  # only time tells
            await asyncio.sleep(min(wait_s, PACE_STEP_S))

    def _held(self, lock_s: float) -> None:
        self.lock_s += lock_s
        self.lock_longest_s = max(self.lock_longest_s, lock_s)
        self._pace.held(lock_s, self._loop.time())

    async def _look(self) -> filework.Sealed:
        sends = self.session.takes_batches
        least = self._gathering.least(self._loop.time(), sends=sends)
        self._holds_back = least > 1 and not sends
        return await self._database.run(filework.look, int(time.time() * 1000), self._batch_bytes_max, least)

    def _looked(self, outcome: SealOutcome) -> None:
        now = self._loop.time()
        self._held(outcome.lock_s)
        self._pace.sealed(outcome.changes, outcome.left, now)
        self._gathering.looked(outcome.left, outcome.batch is not None, now)
        self._gathered.set(self._gathering.due_at)

    async def _file_loop(self) -> None:
        while True:
            match await self._to_file.get():
                case ApplyPage(page):
                    await self._apply(page)
                case Follow(log, epoch, head, elsewhere):
                    await self.patiently(partial(self._database.run, EdgeStore.follow, log, epoch, head, elsewhere))
                    self.wake()  # tables that were waiting for a head may have seeds to offer now
                case AnswerFresh(nonce, head):
                    await self.patiently(partial(self._database.run, filework.answer_fresh, nonce, head))
                    if self.session.fresh_waits:
                        self.wake()
                case AwaitSnapshot():
                    await self.patiently(partial(self._database.run, EdgeStore.load_wait))
                    await self._reintroduce()
                case BeginLoad() | LoadChunk() | FinishLoad() | ForgetLoad() as effect:
                    await self._load(effect)
                case Heal(common, points):
                    _log.warning("going back to entry %d, the last that the hub has, too", common.seq)
                    await self.patiently(partial(self._database.run, EdgeStore.heal, common, points))
                    await self._reintroduce()
                case Renumber(after, digest, apart):
                    shared = "no batch" if after is None else f"batch {after} and those before it"
                    if apart is None:
                        text = "this database and the hub have %s in common; what follows gets new numbers"
                    else:
                        text = "the hub has %s; what it cannot take of the rest becomes smaller, with new numbers"
                    _log.warning(text, shared)
                    await self.patiently(partial(self._database.run, EdgeStore.renumber, after, digest, apart))
                    await self._reintroduce()
            self._on_change(False)

    async def _apply(self, page: Page) -> None:
        """Apply a page piece by piece, with rests for an app that writes."""
        try:
            more = True
            while more:
                await self._leave_lock(applying=True)
                done = await self.patiently(partial(self._database.run, filework.apply_some, page))
                position = done.standing.position
                if done.shapes_changed:
                    self._introduce(done.standing)
                    await self._say_tables()
                if done.applied is not None:
                    self._held(done.applied.lock_s)
                    self._troubles.clear("log_diverged")
                    await self._say_applied(done.applied, done.behind)
                more, to_seal = done.applied is not None and done.applied.more, done.to_seal
        except LogDiverged as error:
            self._troubles.say_error(error)
            await asyncio.sleep(DIVERGED_PAUSE_S)
            await self._reintroduce()
            position = self.session.position
            to_seal = True
        self._perform(self.session.applied(position, self._loop.time()))
        if to_seal:
            self.wake()

    async def _load(self, effect: filework.LoadEffect) -> None:
        """Do what the session wants done with a snapshot, piece by piece, with rests for an app that writes."""
        while True:
            await self._leave_lock(applying=True)
            loaded = await self.patiently(partial(self._database.run, filework.load_some, effect))
            self._held(loaded.lock_s)
            if loaded.done:
                break
            self._on_change(False)
        self._perform(self.session.loaded(loaded.standing, self._loop.time()))
        if isinstance(effect, FinishLoad):
            _log.info("the snapshot is loaded: the log goes on after entry %d", loaded.standing.position.seq)
            await self._say_tables()
            self.wake()  # what waited for it may be sent now

    def _say_outbox(self, full: str | None) -> None:
        if full is None:
            self._troubles.clear(complaints.OUTBOX_FULL)
        else:
            self._troubles.say(complaints.outbox_full(full))

    async def _say_applied(self, applied: Applied, behind: int) -> None:
        if applied.refused or applied.parked != self._parked:
            _log.info("entry %d: %d refused, %d parked", applied.position.seq, applied.refused, applied.parked)
        if (applied.parked, behind) != (self._parked, self._behind):
            self._parked, self._behind = applied.parked, behind
            await self._say_tables()

    async def _say_tables(self) -> None:
        problems, synced = await self._database.run(lambda store: (store.tables.problems(), store.tables.shapes()))
        if problems:
            hint = "the other tables are synced" if synced else ""
            self._troubles.say(Trouble("tables_not_synced", "; ".join(problems), hint))
        else:
            self._troubles.clear("tables_not_synced")

    async def _reintroduce(self) -> None:
        self._introduce(await self._database.run(filework.read_standing))

    def _introduce(self, standing: Standing) -> None:
        """Stop sending, and say Hello anew."""
        self.incarnation = standing.incarnation
        self._newest = None
        self._perform(self.session.reintroduce(standing, self._loop.time()))

    async def patiently(self, call: Callable[[], Awaitable[R]]) -> R:
        """The call's result; while the database is locked or the disk is full it is tried again."""
        delay = self._settings.retry_delay_min_s
        while True:
            try:
                result = await call()
            except DatabaseError as error:
                if not error.retry:
                    raise
                if delay > self._settings.retry_delay_min_s or error.code != "database_busy":
                    self._troubles.say_error(error)  # a lock that is met once is no news
                await asyncio.sleep(delay)
                delay = min(delay * 2, self._settings.retry_delay_max_s)
            else:
                self._troubles.clear("database_busy")
                if self._disk.look():  # what only reads succeeds on a full disk too
                    self._troubles.clear("disk_full")
                return result

    # ── the hub ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _hub_loop(self) -> None:
        while True:
            effect = await self._to_hub.get()
            try:
                match effect:
                    case SendBatches():
                        await self._send_batches(effect)
                    case SendHello():
                        self._hello_waits = False
                        hello, standing = await self.patiently(self._read_hello)
                        self._perform(self.session.introduced(standing))
                        await self._publisher.publish(self._ask_topic, encode(hello))
                    case RequestReplay(position, pages):
                        await self._ask(
                            ReplayRequest(incarnation=self.incarnation, boot=self._boot, position=position, pages=pages)
                        )
                    case RequestSnapshot(snapshot, tables, first, chunks, least, refused_after):
                        await self._ask(
                            SnapshotRequest(
                                incarnation=self.incarnation,
                                boot=self._boot,
                                snapshot=snapshot,
                                tables=tables,
                                first=first,
                                chunks=chunks,
                                least=least,
                                refused_after=refused_after,
                            )
                        )
                    case AskFresh(nonce):
                        await self._ask(FreshRequest(incarnation=self.incarnation, boot=self._boot, nonce=nonce))
                    case VerifyRequest() | VerifyReport():
                        await self._ask(effect)
            except NotConnected:
                pass  # the link says so by an event, and the handshake begins anew
            except LinkError as error:
                self._troubles.say_error(error)

    async def _read_hello(self) -> tuple[Hello, Standing]:
        return await self._database.run(filework.introduction, self._boot)

    async def _ask(self, message: Message) -> None:
        await self._publisher.publish(self._ask_topic, encode(message))

    async def _send_batches(self, effect: SendBatches) -> None:
        newest = self._newest
        if newest is not None and effect.after + 1 == newest.batch == effect.sealed:
            batches = [newest]
        else:
            batches = await self.patiently(
                lambda: self._database.run(
                    filework.outbox, effect.after, effect.sealed, effect.count_max, effect.bytes_max
                )
            )
        sent = [SentBatch(batch.batch, batch.digest, len(batch.payload)) for batch in batches]
        # Told before it is published, as the ack may come before the broker's confirmation.
        self._perform(self.session.sending(effect.turn, sent, self._loop.time()))
        for batch in batches:
            if self._batch_bytes_max is not None and len(batch.payload) > self._batch_bytes_max:
                await self._reintroduce()  # it was sealed before the limit was heard of: it will be taken apart
                return
            await self._publisher.publish(self._up_topic, batch.payload, still=lambda: self.session.turn == effect.turn)
