"""The hub's decisions: a message, a result or the time goes in, effects come out.

    up      assemble parts → queue → Append, one group at a time → pages on `log`, acks, problems, head  (`intake.py`)
    ask     Hello → Lead (if it heard of a higher epoch), Greet → Welcome  (`greetings.py`)
            ReplayRequest → ReadPage → Replay, within its credit and fair between devices  (`downloads.py`)
            SnapshotRequest → MakeSnapshot → Snapshot; ReadChunk → SnapshotChunk, in the same window
            FreshRequest → FreshAnswer; VerifyRequest → Verify → VerifyAnswer  (`verify_service.py`)
    state   what is known of devices  (`device_watch.py`)
    head    who leads  (`leadership.py`)

Pure: no asyncio, no paho, no SQLite, no clock, no randomness. The shell (`runtime.py`) performs the effects in order
and brings their results back, each to the part that wanted it: `greetings`, `downloads`, `verifications`, `upkeep`,
or here.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from tidewire_hub.actions import Effect, Now, QueuedBatch
from tidewire_hub.announcer import Announcer, State
from tidewire_hub.commits import GroupCommits
from tidewire_hub.device_watch import DeviceWatch
from tidewire_hub.downloads import Downloads
from tidewire_hub.greetings import Greetings
from tidewire_hub.ingest import IngestQueue
from tidewire_hub.intake import Intake
from tidewire_hub.leadership import Leadership
from tidewire_hub.log.port import StaleLeader
from tidewire_hub.rivals import Rivals
from tidewire_hub.sessions import Reassembly, Session, Sessions, may_be_part
from tidewire_hub.situation import Situation
from tidewire_hub.upkeep import Upkeep
from tidewire_hub.verify_service import VerifyService
from tidewire_hub.voice import Voice
from tidewire_schemas import codec, topics
from tidewire_schemas.errors import MessageTooLarge, SequenceGap, TidewireError
from tidewire_schemas.messages import FreshAnswer, FreshRequest, Head, Hello, HubState, Part, ReplayRequest
from tidewire_schemas.snapshots import SnapshotRequest
from tidewire_schemas.verification import VerifyReport, VerifyRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidewire_hub.devices import DeviceRegistry, DevicesDocument
    from tidewire_hub.settings import HubSettings
    from tidewire_hub.snapshot.manifest import KeptSnapshot
    from tidewire_hub.stream import Commit
    from tidewire_schemas.positions import Position
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
        spare: whether beside one of them is a copy of the state that this log can follow.
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
        spare: bool = True,
    ) -> None:
        self._settings = settings
        self._voice = voice = Voice(settings)
        self._announcer = announcer = Announcer(voice, settings, log=log, boot=boot, version=version)
        self._sessions = sessions = Sessions(settings.devices_max)
        self._reassembly = Reassembly(bytes_max=settings.parts_bytes_max, timeout_s=settings.parts_timeout_s)
        self._commits = commits = _group_commits(settings)
        self._situation = situation = Situation(announcer, commits, epoch=epoch, head=head, oldest=oldest)
        self._devices = devices = DeviceWatch(settings, voice, situation)
        self._intake = Intake(
            settings,
            log,
            voice=voice,
            announcer=announcer,
            sessions=sessions,
            devices=devices,
            situation=situation,
            commits=commits,
        )
        self.downloads = downloads = Downloads(
            settings,
            log,
            voice=voice,
            sessions=sessions,
            situation=situation,
            snapshots=snapshots,
            spare=spare,
            log_bytes=log_bytes,
        )
        self.greetings = Greetings(
            settings,
            log,
            voice=voice,
            sessions=sessions,
            devices=devices,
            situation=situation,
            downloads=downloads,
        )
        self.verifications = VerifyService(voice, settings.verify_waiting_max)
        self.upkeep = Upkeep(settings, voice, downloads.snapshots)
        rivals = Rivals(log=log, boot=boot, previous=previous, take_over=take_over, wait_s=settings.rival_wait_s)
        self._leadership = Leadership(
            situation, rivals, voice=voice, announcer=announcer, settings=settings, log=log, boot=boot
        )

    # ── what the shell may look at ────────────────────────────────────────────────────────────────────────────────

    @property
    def state(self) -> State:
        """How the hub is."""
        return self._situation.state

    @property
    def problem(self) -> str | None:
        """What keeps the hub from committing, None when nothing does."""
        return self._situation.problem

    @property
    def epoch(self) -> int:
        """The epoch of this hub's leadership."""
        return self._situation.epoch

    @property
    def head(self) -> Position:
        """Position of the newest entry."""
        return self._situation.head

    @property
    def oldest(self) -> int:
        """The lowest seq that replay can serve."""
        return self._situation.oldest

    @property
    def devices(self) -> DeviceRegistry:
        """What is known of devices."""
        return self._devices.registry

    @property
    def waits_for(self) -> Head | None:
        """The head of another hub that may still answer, while this one looks who leads."""
        return self._leadership.waits_for

    def restore(self, document: DevicesDocument) -> None:
        """Begin with what an earlier hub process knew of devices."""
        self._devices.restore(document)

    # ── inputs: the connection ────────────────────────────────────────────────────────────────────────────────────

    def on_watching(self, now: Now) -> list[Effect]:
        """Connected and subscribed to what other hubs say: look who leads."""
        self._leadership.look(now)
        return self._voice.take()

    def on_connected(self, payload_bytes_max: int, now: Now) -> list[Effect]:
        """Leading, and subscribed to what devices send; the broker takes messages up to `payload_bytes_max`."""
        self._voice.payload_bytes_max = min(self._settings.payload_bytes_max, payload_bytes_max)
        self.downloads.set_payload_bytes_max(self._voice.payload_bytes_max)
        self._situation.say_state()
        self._situation.say_head(now)
        self.upkeep.begin(now)
        return self._voice.take()

    def on_disconnected(self, now: Now) -> list[Effect]:
        """The connection is lost, and with it what was between: devices ask and send again."""
        self._reassembly.drop_all()
        self.downloads.forget_all()
        self.verifications.forget_all()
        self._announcer.silence()
        self._leadership.lost()
        return self._voice.take()

    def on_outbox(self, now: Now, *, full: bool) -> list[Effect]:
        """The shell has too much to publish (`full`), or has caught up: commits wait meanwhile."""
        self._intake.hold_back(now, full=full)
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
                    self._devices.said_state(session, payload, now, retained=retained)
        except SequenceGap as gap:
            self._voice.ask_to_resend(session, f"{gap.message}: a part was lost on the way")
        except TidewireError as error:
            self._voice.reject(session, topic, payload, error, now)
            self._devices.save_soon(now)
        return self._voice.take()

    def _check_payload(self, payload: bytes) -> None:
        limit = self._settings.payload_bytes_max
        if len(payload) > limit:
            raise MessageTooLarge(size=len(payload), limit=limit, limit_name="payload_bytes_max")

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
        if batch is not None:
            self._intake.take(session, batch, now)

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
                self.greetings.take(session, message, now)
            case ReplayRequest():
                self._devices.heard(session, message.boot, message.incarnation, now)
                self.downloads.ask_replay(session, message)
            case SnapshotRequest():
                self.downloads.ask_snapshot(session, message, now)
            case FreshRequest(incarnation=incarnation, boot=boot, nonce=nonce):
                self._devices.heard(session, boot, incarnation, now)
                # All that was acked is at or before this head: acks and head move in the same step.
                answer = FreshAnswer(incarnation=incarnation, boot=boot, nonce=nonce, head=self.head)
                self._voice.tell(session.device, answer)
            case VerifyRequest():
                self.verifications.take(session.device, message)
            case VerifyReport():
                pass  # for `tidewire-hub verify`, which hears it itself

    # ── inputs: what became of effects ────────────────────────────────────────────────────────────────────────────

    def on_appended(self, group: Sequence[QueuedBatch], commit: Commit, now: Now) -> list[Effect]:
        """A group is durable: it goes out, and its batches are acked. What is left of it waits again."""
        self.downloads.snapshots.appended(len(entry.data) for entry in commit.entries)
        self._intake.appended(group, commit, now)
        return self._voice.take()

    def on_append_failed(
        self, group: Sequence[QueuedBatch], error: TidewireError, now: Now, *, storage: bool
    ) -> list[Effect]:
        """Nothing of a group was stored, so nothing is acked; `storage` says that it is the disk's fault."""
        if error.code == StaleLeader.code:
            self._leadership.fenced(error.message)
        else:
            self._intake.failed(group, error, now, storage=storage)
        return self._voice.take()

    def on_led(self, epoch: int, now: Now) -> list[Effect]:
        """A higher epoch is acquired; it counts from the next commit on."""
        self._situation.epoch = epoch
        if self._leadership.serving:
            self._situation.say_state()
            self._situation.say_head(now)
        self._leadership.led()
        return self._voice.take()

    def on_lead_failed(self, error: TidewireError, now: Now) -> list[Effect]:
        """It could not be."""
        self._voice.report("error", f"cannot acquire a higher epoch: {error}")
        self._leadership.not_led(now)
        return self._voice.take()

    # ── inputs: time, and the end ─────────────────────────────────────────────────────────────────────────────────

    def wake_at(self) -> float:
        """When `on_time` has something to do, in seconds of `Now.s`; infinite for never."""
        beside_at = min(self.downloads.snapshots.wake_at(), self.upkeep.wake_at) if self._works_beside else inf
        timers = (self._intake.wake_at, self._head_at, self._devices.save_at, self._reassembly.wake_at())
        return min(*timers, self._leadership.wake_at, beside_at)

    def on_time(self, now: Now) -> list[Effect]:
        """Time has passed."""
        self._intake.on_time(now)
        if now.s >= self._head_at:
            self._situation.say_head(now)
        if now.s >= self._devices.save_at:
            self._devices.save(now)
        self._leadership.on_time(now)
        if self._works_beside:
            self.downloads.snapshots.on_time(now, self.oldest)
            self.upkeep.on_time(now)
        for device in self._reassembly.drop_stale(now.s):
            self._voice.report("warning", "the rest of a message did not come in time", device=device)
        return self._voice.take()

    @property
    def _works_beside(self) -> bool:
        """Whether it looks after snapshots and the state: while it leads."""
        return self._leadership.serving and self.state != "replaced"

    @property
    def _head_at(self) -> float:
        """When a head is due: the next one, or the word that a commit takes long if there is anybody to say it to."""
        busy_at = self._commits.busy_at if self._leadership.serving else inf
        return min(busy_at, self._announcer.head_at)

    def stop(self, now: Now) -> list[Effect]:
        """The last words. What waits in the queue was not acked: its devices send it again."""
        if self.state != "replaced":
            self._situation.state = "stopped"
        self._intake.stop()
        self._situation.say_state()
        self._devices.save(now)
        return self._voice.take()

    def last_will(self) -> bytes:
        """What the broker publishes on the hub's state topic when the hub vanishes."""
        return self._announcer.hub_state("offline", self.epoch, None)


def _group_commits(settings: HubSettings) -> GroupCommits:
    return GroupCommits(
        IngestQueue(batches_max=settings.ingest_batches_max, bytes_max=settings.ingest_bytes_max),
        batches_max=settings.commit_batches_max,
        bytes_max=settings.commit_bytes_max,
        busy_s=settings.commit_busy_s,
        retry_min_s=settings.commit_retry_min_s,
        retry_max_s=settings.commit_retry_max_s,
    )
