"""The hub's decisions: a message, a result or the time goes in, effects come out.

    up      assemble parts → queue → Append, one group at a time → pages on `log`, acks, problems, head
    ask     Hello → Lead (if it heard of a higher epoch), Greet → Welcome
            ReplayRequest → ReadPage → Replay, within its credit and fair between devices
            SnapshotRequest → MakeSnapshot → Snapshot; ReadChunk → SnapshotChunk, in the same window
            FreshRequest → FreshAnswer; VerifyRequest → Verify → VerifyAnswer
    state   what is known of devices

Pure: no asyncio, no paho, no SQLite, no clock, no randomness. The shell (`runtime.py`) performs the effects in order
and brings their results back. While one group commits the next gathers: that is the group commit, without any fixed
delay. An ack leaves only in `on_appended`, so only after the group is durable.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from tidewire_hub import handshake
from tidewire_hub.actions import (
    Effect,
    EntriesRead,
    Greet,
    Lead,
    Now,
    QueuedBatch,
    ReadPage,
    SaveDevices,
    Settle,
    Standing,
)
from tidewire_hub.announcer import Announcer, State
from tidewire_hub.batch_problems import pass_on
from tidewire_hub.clones import CLONED_HINT
from tidewire_hub.commits import GroupCommits
from tidewire_hub.devices import DeviceRegistry, DevicesDocument
from tidewire_hub.ingest import IngestQueue
from tidewire_hub.leadership import Leadership
from tidewire_hub.log.port import StaleLeader
from tidewire_hub.paced import Window
from tidewire_hub.pages import pages
from tidewire_hub.replay import Cursor, Replayer
from tidewire_hub.rivals import Rivals
from tidewire_hub.sessions import Reassembly, Session, Sessions, may_be_part
from tidewire_hub.snapshot.service import SnapshotService
from tidewire_hub.verify_service import VerifyService
from tidewire_hub.voice import Voice
from tidewire_schemas import codec, topics
from tidewire_schemas.errors import MessageTooLarge, SequenceGap, TidewireError
from tidewire_schemas.messages import (
    Ack,
    DeviceState,
    FreshAnswer,
    FreshRequest,
    Head,
    Hello,
    HubState,
    Part,
    ReplayRequest,
)
from tidewire_schemas.positions import Position
from tidewire_schemas.snapshots import SnapshotRequest
from tidewire_schemas.verification import VerifyRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidewire_hub.actions import ReadChunk
    from tidewire_hub.log.retention import Kept
    from tidewire_hub.settings import HubSettings
    from tidewire_hub.snapshot.manifest import KeptSnapshot
    from tidewire_hub.stream import Acked, BatchProblem, Commit
    from tidewire_schemas.topics import Kind


class HubCore:
    """One stream's protocol at the hub.

    Args:
        settings: limits and names.
        log: id of the log.
        epoch: the epoch acquired at start.
        head: position of the newest entry.
        oldest: the lowest seq that replay can serve.
        boot: random id of this process.
        version: of the software, for people.
        previous: boot of the process that had this data directory before, if that is known.
        take_over: lead even if another hub does.
        log_bytes: size of the log.
        snapshots: those on disk.
    """

    def __init__(
        self,
        settings: HubSettings,
        *,
        log: str,
        epoch: int,
        head: Position,
        oldest: int,
        boot: str,
        version: str,
        previous: str | None = None,
        take_over: bool = False,
        log_bytes: int = 0,
        snapshots: Sequence[KeptSnapshot] = (),
    ) -> None:
        self._settings = settings
        self._log = log
        self.epoch = epoch
        self.head = head
        self.oldest = oldest
        self.state: State = "leading"
        self.problem: str | None = None
        """What keeps the hub from committing, None when nothing does."""
        self.devices = DeviceRegistry(settings.devices_max)
        self._voice = Voice(settings)
        self._sessions = Sessions(settings.devices_max)
        self._held_off: set[str] = set()
        """Devices of which batches were dropped because the queue was full."""
        self._reassembly = Reassembly(bytes_max=settings.parts_bytes_max, timeout_s=settings.parts_timeout_s)
        self._queue = IngestQueue(batches_max=settings.ingest_batches_max, bytes_max=settings.ingest_bytes_max)
        self._commits = GroupCommits(
            self._queue,
            batches_max=settings.commit_batches_max,
            bytes_max=settings.commit_bytes_max,
            busy_s=settings.commit_busy_s,
            retry_min_s=settings.commit_retry_min_s,
            retry_max_s=settings.commit_retry_max_s,
        )
        self._window = Window(settings.replay_in_flight_max)
        self._replayer = Replayer(
            log,
            payload_bytes_max=settings.payload_bytes_max,
            block_entries=settings.replay_block_entries,
            cache_bytes_max=settings.replay_cache_bytes_max,
            window=self._window,
        )
        self._snapshots = SnapshotService(
            settings, self._voice, self._window, snapshots, log_bytes=log_bytes, entries=max(0, head.seq - oldest + 1)
        )
        self._snapshots_turn = False
        self.verifications = VerifyService(self._voice, settings.verify_waiting_max)
        self._announcer = Announcer(self._voice, settings, log=log, boot=boot, version=version)
        rivals = Rivals(log=log, boot=boot, previous=previous, take_over=take_over, wait_s=settings.rival_wait_s)
        self._leadership = Leadership(
            self, rivals, voice=self._voice, announcer=self._announcer, settings=settings, log=log, boot=boot
        )
        self._save_at = inf
        self._settle_at = inf

    @property
    def waits_for(self) -> Head | None:
        """The head of another hub that may still answer, while this one looks who leads."""
        return self._leadership.waits_for

    def restore(self, document: DevicesDocument) -> None:
        """Begin with what an earlier hub process knew of devices."""
        self.devices.load(document.devices)
        self._voice.rejected.load(document.rejected, document.rejected_total)

    # ── inputs: the connection ────────────────────────────────────────────────────────────────────────────────────

    def on_watching(self, now: Now) -> list[Effect]:
        """Connected and subscribed to what other hubs say: look who leads."""
        self._leadership.look(now)
        return self._voice.take()

    def on_connected(self, payload_bytes_max: int, now: Now) -> list[Effect]:
        """Leading, and subscribed to what devices send; the broker takes messages up to `payload_bytes_max`."""
        self._voice.payload_bytes_max = min(self._settings.payload_bytes_max, payload_bytes_max)
        self._replayer.set_payload_bytes_max(self._voice.payload_bytes_max)
        self.say_state()
        self.say_head(now)
        return self._voice.take()

    def on_disconnected(self, now: Now) -> list[Effect]:
        """The connection is lost, and with it what was between: devices ask and send again."""
        self._reassembly.drop_all()
        self._replayer.forget_all()
        self._snapshots.forget_all()
        self.verifications.forget_all()
        self._announcer.silence()
        self._leadership.lost()
        return self._voice.take()

    def on_paced_sent(self, now: Now) -> list[Effect]:
        """A paced publish is with the broker, or failed."""
        self._window.sent()
        self._send_paced()
        return self._voice.take()

    def on_outbox(self, now: Now, *, full: bool) -> list[Effect]:
        """The shell has too much to publish (`full`), or has caught up: commits wait meanwhile."""
        self._commits.held_back = full
        self._append_next(now)
        return self._voice.take()

    # ── inputs: messages ──────────────────────────────────────────────────────────────────────────────────────────

    def on_message(self, topic: str, payload: bytes, now: Now, *, retained: bool = False) -> list[Effect]:
        """A message came in. Whatever it is, no other is held up by it."""
        place = topics.parse(topic)
        if place is None or place.stream not in (None, self._settings.stream) or self.state == "replaced":
            return []  # a broker may deliver what nobody asked for
        if place.kind in ("head", "hub_state"):
            self._take_rival(payload, place.kind, now, retained=retained)
            return self._voice.take()
        if place.device is None:
            return []
        if place.kind not in ("up", "ask", "device_state"):
            return []
        session = self._sessions.of(place.device)
        try:
            self._check_payload(payload)
            match place.kind:
                case "up":
                    self._take_up(session, payload, now)
                case "ask":
                    self._take_ask(session, payload, now)
                case "device_state":
                    self._take_state(session, payload, now, retained=retained)
        except SequenceGap as gap:
            self._voice.ask_to_resend(session, f"{gap.message}: a part was lost on the way")
        except TidewireError as error:
            self._voice.reject(session, topic, payload, error, now)
            self._save_soon(now)
        return self._voice.take()

    def _take_rival(self, payload: bytes, kind: Kind, now: Now, *, retained: bool) -> None:
        try:
            message = codec.parse(kind, payload) if payload else None
        except TidewireError as error:
            self._voice.report("warning", f"another hub cannot be understood: {error}")
            return
        match message:
            case Head():
                self._leadership.heard_head(message, now, retained=retained)
            case HubState():
                self._leadership.heard_state(message, now, retained=retained)

    def _take_up(self, session: Session, payload: bytes, now: Now) -> None:
        batch: bytes | None = payload
        if may_be_part(payload):
            message = codec.parse("up", payload, bytes_max=len(payload))
            if isinstance(message, Part):
                batch = self._reassembly.feed(session.device, "up", message, self._settings.batch_bytes_max, now.s)
        if batch is None:
            return
        for device in self._queue.put(session.device, batch):
            self._hold_off(device)
        self._append_next(now)

    def _take_ask(self, session: Session, payload: bytes, now: Now) -> None:
        message = codec.parse("ask", payload, bytes_max=len(payload))
        if isinstance(message, Part):
            limit = self._settings.hello_bytes_max
            whole = self._reassembly.feed(session.device, "ask", message, limit, now.s)
            if whole is None:
                return
            message = codec.parse("ask", whole, bytes_max=limit)
        match message:
            case Hello():
                self._take_hello(session, message, now)
            case ReplayRequest():
                self._heard(session, message.boot, message.incarnation, now)
                self._take_replay_request(session, message)
            case SnapshotRequest():
                self._snapshots.ask(session.device, message, self.head, self.oldest, now)
                self._send_paced()
            case FreshRequest(incarnation=incarnation, boot=boot, nonce=nonce):
                self._heard(session, boot, incarnation, now)
                # All that was acked is at or before this head: acks and head move in the same step.
                answer = FreshAnswer(incarnation=incarnation, boot=boot, nonce=nonce, head=self.head)
                self._voice.tell(session.device, answer)
            case VerifyRequest():
                self.verifications.take(session.device, message)

    def _take_state(self, session: Session, payload: bytes, now: Now, *, retained: bool) -> None:
        if not payload:  # a person removed the retained message
            self.devices.forget(session.device)
        else:
            message = codec.parse("device_state", payload, bytes_max=len(payload))
            if isinstance(message, DeviceState):
                self.devices.said_state(session.device, message, None if retained else now.ms)
                if message.state in ("offline", "stopped"):
                    session.clones.ended(message.boot)
                    self._say_clones(session, now)
                elif not retained:
                    self._heard(session, message.boot, message.incarnation, now)
        self._save_soon(now)

    def _take_hello(self, session: Session, hello: Hello, now: Now) -> None:
        problem = handshake.objection(hello, self._log)
        if problem is not None:
            self._voice.report("warning", problem.message, device=session.device, code=problem.code)
            self._voice.tell(session.device, problem)
            return
        session.met(hello.incarnation, hello.boot)
        self.devices.said_hello(session.device, hello, now.ms)
        self._heard(session, hello.boot, hello.incarnation, now)
        self._save_soon(now)
        if session.greeting:
            session.next_hello = hello
        else:
            self._greet(session, hello)

    def _heard(self, session: Session, boot: str, incarnation: str, now: Now) -> None:
        """Notice when more than one agent speaks under this name."""
        session.clones.heard(boot, incarnation, now.s, memory_s=self._settings.clone_memory_s)
        self._say_clones(session, now)

    def _say_clones(self, session: Session, now: Now) -> None:
        found = session.clones.clones()
        record = self.devices.get(session.device)
        known = record.clone if record is not None else None
        if found == known:
            return
        self.devices.is_run_by(session.device, found)
        self._save_soon(now)
        if found is None:
            self._voice.report("info", "one agent runs under this name again", device=session.device)
        else:
            self._voice.report("warning", found, device=session.device)
            self._voice.complain(session, "cloned", found, hint=CLONED_HINT, retry=False)

    def _greet(self, session: Session, hello: Hello) -> None:
        if hello.epoch > self.epoch:
            self._voice.add(Lead(hello.epoch))
        session.greeting = True
        self._voice.add(Greet(session.device, hello))

    def _take_replay_request(self, session: Session, request: ReplayRequest) -> None:
        incarnation, boot, position = request.incarnation, request.boot, request.position
        if position.seq + 1 < self.oldest:
            text = f"entry {position.seq + 1} is no longer in the log, which begins at {self.oldest}"
            hint = "the device takes a snapshot"
            self._voice.complain(session, "replay_too_old", text, hint=hint, incarnation=incarnation, boot=boot)
            return
        self._replayer.request(Cursor(session.device, incarnation, boot, position, request.pages))
        self._send_paced()

    # ── inputs: what became of effects ────────────────────────────────────────────────────────────────────────────

    def on_appended(self, group: Sequence[QueuedBatch], commit: Commit, now: Now) -> list[Effect]:
        """A group is durable: it goes out, and its batches are acked. What is left of it waits again."""
        group, left = group[: len(group) - commit.left], group[len(group) - commit.left :]
        self._commits.succeeded(left)
        self._settle_at = now.s + self._settings.settle_after_s
        self.head = commit.head
        self._snapshots.appended(len(entry.data) for entry in commit.entries)
        self._fan_out(commit)
        self._ack(commit, now)
        self._pass_on_problems(group, commit.problems, now)
        if (commit.entries and self._announcer.head_moved(now)) or self._announcer.said_busy:
            self.say_head(now)
        if self.state == "halted":
            self.state, self.problem = "leading", None
            self._voice.report("info", "commits succeed again")
            self.say_state()
        self._let_go_on()
        self._append_next(now)
        return self._voice.take()

    def on_append_failed(
        self, group: Sequence[QueuedBatch], error: TidewireError, now: Now, *, storage: bool
    ) -> list[Effect]:
        """Nothing of a group was stored, so nothing is acked; `storage` says that it is the disk's fault."""
        if error.code == StaleLeader.code:
            self._leadership.fenced(error.message)
            return self._voice.take()
        delay_s = self._commits.retry_delay_s
        match self._commits.failed(group, now.s, storage=storage):
            case "retry":
                self._voice.report("error", f"cannot commit: {error}", retry_in_s=delay_s, batches=len(group))
                if (self.state, self.problem) != ("halted", str(error)):
                    self.state, self.problem = "halted", str(error)
                    self.say_state()
            case "alone":
                self._voice.report("error", f"cannot commit a group, trying each batch alone: {error}")
            case "set_aside":
                (batch,) = group
                topic = self._voice.up_topic(batch.device)
                self._voice.reject(self._sessions.of(batch.device), topic, batch.payload, error, now)
                self._save_soon(now)
        if self._announcer.said_busy:
            self.say_head(now)
        self._append_next(now)
        return self._voice.take()

    def on_led(self, epoch: int, now: Now) -> list[Effect]:
        """A higher epoch is acquired; it counts from the next commit on."""
        self.epoch = epoch
        if self._leadership.serving:
            self.say_state()
            self.say_head(now)
        self._leadership.led()
        return self._voice.take()

    def on_lead_failed(self, error: TidewireError, now: Now) -> list[Effect]:
        """It could not be."""
        self._voice.report("error", f"cannot acquire a higher epoch: {error}")
        self._leadership.not_led(now)
        return self._voice.take()

    def on_greeted(self, device: str, hello: Hello, standing: Standing, now: Now) -> list[Effect]:
        """The stream says where a device stands."""
        session = self._greeting_over(device)
        if standing.accepted is not None:
            session.was_accepted(hello.incarnation, standing.accepted.batch)
        handshake.report(self._voice, device, hello, standing)
        answer = handshake.welcome(
            hello,
            standing,
            log=self._log,
            epoch=self.epoch,
            head=self.head,
            oldest=self.oldest,
            snapshot_advised=self._snapshots.advised(hello.position, self.head, self.oldest),
            payload_bytes_max=self._voice.payload_bytes_max,
            batch_bytes_max=self._settings.batch_bytes_max,
        )
        self._voice.tell(device, answer)
        found = session.clones.clones()
        if found:
            self._voice.complain(session, "cloned", found, hint=CLONED_HINT, retry=False)
        return self._voice.take()

    def on_greet_failed(self, device: str, hello: Hello, error: TidewireError, now: Now) -> list[Effect]:
        """The stream could not answer (a full disk, a bug): the device says Hello again."""
        session = self._greeting_over(device)
        self._voice.report("error", f"cannot answer Hello: {error}", device=device)
        self._voice.complain(
            session, error.code, error.message, hint=error.hint, incarnation=hello.incarnation, boot=hello.boot
        )
        return self._voice.take()

    def on_page_read(self, after: Position, read: EntriesRead, now: Now) -> list[Effect]:
        """Entries for replay came."""
        text = f"the checkpoint {list(after)} is not an entry of this log"
        for cursor in self._replayer.page_read(after, read):
            session = self._sessions.of(cursor.device)
            self._voice.complain(session, "hello_needed", text, incarnation=cursor.incarnation, boot=cursor.boot)
        self._send_paced()
        return self._voice.take()

    def on_read_failed(self, after: Position, error: TidewireError, now: Now) -> list[Effect]:
        """Entries for replay could not be read: the devices ask again."""
        self._voice.report("error", f"cannot read the log: {error}", after=after.seq)
        for cursor in self._replayer.read_failed(after):
            session = self._sessions.of(cursor.device)
            self._voice.complain(
                session, error.code, error.message, hint=error.hint, incarnation=cursor.incarnation, boot=cursor.boot
            )
        self._send_paced()
        return self._voice.take()

    def on_snapshot_made(self, snapshot: KeptSnapshot, now: Now) -> list[Effect]:
        """A snapshot is on the disk."""
        self._snapshots.made(snapshot, now)
        return self._voice.take()

    def on_snapshot_failed(self, error: TidewireError, now: Now) -> list[Effect]:
        """A snapshot could not be made."""
        self._snapshots.make_failed(error, now)
        return self._voice.take()

    def on_chunk_read(self, chunk: ReadChunk, body: bytes, now: Now) -> list[Effect]:
        """A chunk of a snapshot came."""
        self._snapshots.chunk_read(chunk.snapshot.snapshot, chunk.chunk, body)
        self._send_paced()
        return self._voice.take()

    def on_chunk_failed(self, chunk: ReadChunk, error: TidewireError, now: Now, *, damaged: bool) -> list[Effect]:
        """A chunk of a snapshot could not be read; `damaged` says that it never will be."""
        self._snapshots.chunk_failed(chunk.snapshot.snapshot, error, damaged=damaged)
        self._send_paced()
        return self._voice.take()

    def on_trimmed(self, kept: Kept, now: Now) -> list[Effect]:
        """A step of trimming the log was taken."""
        self.oldest = kept.oldest
        self._snapshots.trimmed(kept, now)
        return self._voice.take()

    def on_trim_failed(self, error: TidewireError, now: Now) -> list[Effect]:
        """The log could not be trimmed."""
        self._snapshots.trim_failed(error)
        return self._voice.take()

    # ── inputs: time, and the end ─────────────────────────────────────────────────────────────────────────────────

    def wake_at(self) -> float:
        """When `on_time` has something to do, in seconds of `Now.s`; infinite for never."""
        timers = (self._commits.retry_at, self._head_at, self._save_at, self._settle_at)
        snapshots_at = self._snapshots.wake_at() if self._leadership.serving else inf
        return min(*timers, self._reassembly.wake_at(), self._leadership.wake_at, snapshots_at)

    def on_time(self, now: Now) -> list[Effect]:
        """Time has passed."""
        if now.s >= self._commits.retry_at:
            self._commits.retry_at = inf
            self._append_next(now)
        if now.s >= self._head_at:
            self.say_head(now)
        if now.s >= self._save_at:
            self._save(now)
        if now.s >= self._settle_at:
            self._settle_at = inf
            self._voice.add(Settle())
        self._leadership.on_time(now)
        if self._leadership.serving:
            self._snapshots.on_time(now, self.oldest)
        for device in self._reassembly.drop_stale(now.s):
            self._voice.report("warning", "the rest of a message did not come in time", device=device)
        return self._voice.take()

    def stop(self, now: Now) -> list[Effect]:
        """The last words. What waits in the queue was not acked: its devices send it again."""
        if self.state != "replaced":
            self.state = "stopped"
        self._commits.held_back = True
        self.say_state()
        self._save(now)
        return self._voice.take()

    def last_will(self) -> bytes:
        """What the broker publishes on the hub's state topic when the hub vanishes."""
        return self._announcer.hub_state("offline", self.epoch, None)

    # ── commits ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _append_next(self, now: Now) -> None:
        self._voice.add(*self._commits.next(now.s))

    def _fan_out(self, commit: Commit) -> None:
        entries = [(entry.position, entry.data) for entry in commit.entries]
        topic = topics.log(self._settings.stream)
        for page in pages(self._log, commit.prev, entries, self._voice.payload_bytes_max):
            self._voice.publish(topic, page.payload)

    def _ack(self, commit: Commit, now: Now) -> None:
        newest: dict[tuple[str, str], Acked] = {}
        for ack in commit.acks:  # a batch that came again behind a newer one must not hide that one's ack
            known = newest.get((ack.device, ack.incarnation))
            if known is None or ack.batch > known.batch:
                newest[ack.device, ack.incarnation] = ack
        for (device, incarnation), ack in newest.items():
            session = self._sessions.of(device)
            session.was_accepted(incarnation, ack.batch)
            self.devices.was_accepted(device, ack.batch, ack.seq, now.ms)
            boot = session.boots.get(incarnation)
            if boot is not None:
                self._heard(session, boot, incarnation, now)
            message = Ack(
                incarnation=incarnation, boot=boot, epoch=self.epoch, batch=ack.batch, digest=ack.digest, seq=ack.seq
            )
            self._voice.tell(device, message)
        if newest:
            self._save_soon(now)

    def _pass_on_problems(self, group: Sequence[QueuedBatch], problems: Sequence[BatchProblem], now: Now) -> None:
        for device in dict.fromkeys(problem.device for problem in problems):
            sent = [batch.payload for batch in group if batch.device == device]
            theirs = [problem for problem in problems if problem.device == device]
            if pass_on(self._voice, self._sessions.of(device), theirs, sent, now):
                self._save_soon(now)

    def _hold_off(self, device: str) -> None:
        """A batch of this device had to go, as the queue is full."""
        if device in self._held_off:
            return
        self._held_off.add(device)
        self._voice.report("warning", "the queue is full: batches of this device must wait", device=device)
        text = f"{len(self._queue)} batches wait for their commit"
        hint = "nothing is lost: the hub asks for them when there is room"
        self._voice.complain(self._sessions.of(device), "busy", text, hint=hint)

    def _let_go_on(self) -> None:
        """Once half of the queue is free, whoever had to give up batches may send them again."""
        settings = self._settings
        if self._queue.bytes_held * 2 > settings.ingest_bytes_max or len(self._queue) * 2 > settings.ingest_batches_max:
            return
        held_off, self._held_off = self._held_off, set()
        for device in held_off:
            self._voice.ask_to_resend(self._sessions.of(device), "there is room again")

    # ── helpers ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _check_payload(self, payload: bytes) -> None:
        limit = self._settings.payload_bytes_max
        if len(payload) > limit:
            raise MessageTooLarge(size=len(payload), limit=limit, limit_name="payload_bytes_max")

    def _send_paced(self) -> None:
        """Send what fits in the window: pages and chunks in turns, so that neither waits for all of the other."""
        idle = 0
        while idle < 2:
            self._snapshots_turn = not self._snapshots_turn
            found = self._snapshots.send_next() if self._snapshots_turn else self._replay_next()
            idle = 0 if found else idle + 1

    def _replay_next(self) -> bool:
        step = self._replayer.next(self.head)
        if isinstance(step, ReadPage):
            self._voice.add(step)
        elif step is not None:
            self._voice.publish(topics.inbox(step.device, self._settings.stream), step.payload, paced=True)
        return step is not None

    def _greeting_over(self, device: str) -> Session:
        session = self._sessions.of(device)
        session.greeting = False
        if session.next_hello is not None:
            hello, session.next_hello = session.next_hello, None
            self._greet(session, hello)
        return session

    def say_state(self) -> None:
        """Say how the hub is."""
        self._announcer.say_state(self.state, self.epoch, self.problem)

    def say_head(self, now: Now) -> None:
        """Say how far the log goes."""
        self._announcer.say_head(self.head, self.epoch, self.oldest, now, busy=self._commits.busy(now.s))

    @property
    def _head_at(self) -> float:
        """When a head is due: the next one, or the word that a commit takes long if there is anybody to say it to."""
        busy_at = self._commits.busy_at if self._leadership.serving else inf
        return min(busy_at, self._announcer.head_at)

    def _save_soon(self, now: Now) -> None:
        if self._save_at == inf:
            self._save_at = now.s + self._settings.devices_save_interval_s

    def _save(self, now: Now) -> None:
        self._save_at = inf
        document = DevicesDocument(
            saved_at=now.ms,
            head=self.head,
            epoch=self.epoch,
            oldest=self.oldest,
            devices=self.devices.records(),
            rejected_total=self._voice.rejected.total,
            rejected=self._voice.rejected.newest_first(),
        )
        self._voice.add(SaveDevices(codec.encode(document)))
