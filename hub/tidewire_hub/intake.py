"""The way up: batches wait in a queue, are committed in groups, go out to everybody, and are acked to who sent them.

While one group commits the next gathers: that is the group commit, without any fixed delay. An ack leaves only in
`appended`, so only after the group is durable.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from tidewire_hub.actions import Now, QueuedBatch, Settle
from tidewire_hub.batch_problems import pass_on
from tidewire_hub.pages import pages
from tidewire_schemas import topics
from tidewire_schemas.messages import Ack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidewire_hub.announcer import Announcer
    from tidewire_hub.commits import GroupCommits
    from tidewire_hub.device_watch import DeviceWatch
    from tidewire_hub.sessions import Session, Sessions
    from tidewire_hub.settings import HubSettings
    from tidewire_hub.situation import Situation
    from tidewire_hub.stream import Acked, BatchProblem, Commit
    from tidewire_hub.voice import Voice
    from tidewire_schemas.errors import TidewireError


class Intake:
    """Takes batches into the log.

    Args:
        settings: limits and names.
        log: id of the log.
        voice, announcer: through which it speaks.
        sessions, devices: who sends.
        situation: its head follows the commits.
        commits: which batches are committed together, and its queue.
    """

    def __init__(
        self,
        settings: HubSettings,
        log: str,
        *,
        voice: Voice,
        announcer: Announcer,
        sessions: Sessions,
        devices: DeviceWatch,
        situation: Situation,
        commits: GroupCommits,
    ) -> None:
        self._settings = settings
        self._log = log
        self._voice = voice
        self._announcer = announcer
        self._sessions = sessions
        self._devices = devices
        self._situation = situation
        self._commits = commits
        self._queue = commits.queue
        self._held_off: set[str] = set()
        """Devices of which batches were dropped because the queue was full."""
        self._settle_at = inf

    @property
    def wake_at(self) -> float:
        """When `on_time` has something to do."""
        return min(self._commits.retry_at, self._settle_at)

    def take(self, session: Session, batch: bytes, now: Now) -> None:
        """A whole batch came."""
        for device in self._queue.put(session.device, batch):
            self._hold_off(device)
        self.append_next(now)

    def append_next(self, now: Now) -> None:
        """Commit what waits, unless something is under way or in the way."""
        self._voice.add(*self._commits.next(now.s))

    def hold_back(self, now: Now, *, full: bool) -> None:
        """What goes out has become too much (`full`), or has been sent."""
        self._commits.held_back = full
        self.append_next(now)

    def stop(self) -> None:
        """Commit nothing any more. What waits was not acked: its devices send it again."""
        self._commits.held_back = True

    def on_time(self, now: Now) -> None:
        """Time has passed."""
        if now.s >= self._commits.retry_at:
            self._commits.retry_at = inf
            self.append_next(now)
        if now.s >= self._settle_at:
            self._settle_at = inf
            self._voice.add(Settle())

    # ── what became of a group ────────────────────────────────────────────────────────────────────────────────────

    def appended(self, group: Sequence[QueuedBatch], commit: Commit, now: Now) -> None:
        """A group is durable: it goes out, and its batches are acked. What is left of it waits again."""
        group, left = group[: len(group) - commit.left], group[len(group) - commit.left :]
        self._commits.succeeded(left)
        self._settle_at = now.s + self._settings.settle_after_s
        self._situation.head = commit.head
        self._fan_out(commit)
        self._ack(commit, now)
        self._pass_on_problems(group, commit.problems, now)
        if self._situation.state == "halted":
            self._voice.report("info", "commits succeed again")
            self._situation.is_now("leading", None)
        if (commit.entries and self._announcer.head_moved(now)) or self._announcer.said_busy:
            self._situation.say_head(now)
        self._let_go_on()
        self.append_next(now)

    def failed(self, group: Sequence[QueuedBatch], error: TidewireError, now: Now, *, storage: bool) -> None:
        """Nothing of a group was stored, so nothing is acked; `storage` says that it is the disk's fault."""
        delay_s = self._commits.retry_delay_s
        match self._commits.failed(group, now.s, storage=storage):
            case "retry":
                self._voice.report("error", f"cannot commit: {error}", retry_in_s=delay_s, batches=len(group))
                if (self._situation.state, self._situation.problem) != ("halted", str(error)):
                    self._situation.is_now("halted", str(error))
            case "alone":
                self._voice.report("error", f"cannot commit a group, trying each batch alone: {error}")
            case "set_aside":
                (batch,) = group
                topic = self._voice.up_topic(batch.device)
                self._voice.reject(self._sessions.of(batch.device), topic, batch.payload, error, now)
                self._devices.save_soon(now)
        if self._announcer.said_busy or self._situation.state == "halted":
            self._situation.say_head(now)
        self.append_next(now)

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
        for ack in newest.values():
            message = Ack(
                incarnation=ack.incarnation,
                boot=self._devices.was_accepted(self._sessions.of(ack.device), ack, now),
                epoch=self._situation.epoch,
                batch=ack.batch,
                digest=ack.digest,
                seq=ack.seq,
            )
            self._voice.tell(ack.device, message)
        if newest:
            self._devices.save_soon(now)

    def _pass_on_problems(self, group: Sequence[QueuedBatch], problems: Sequence[BatchProblem], now: Now) -> None:
        for device in dict.fromkeys(problem.device for problem in problems):
            sent = [batch.payload for batch in group if batch.device == device]
            theirs = [problem for problem in problems if problem.device == device]
            if pass_on(self._voice, self._sessions.of(device), theirs, sent, now):
                self._devices.save_soon(now)

    # ── a full queue ──────────────────────────────────────────────────────────────────────────────────────────────

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
