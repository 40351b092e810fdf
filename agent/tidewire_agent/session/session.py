"""A device's conversation with the hub: what to do next, decided from what came in and what time it is.

Pure: no asyncio, no paho, no SQLite, no clock, no randomness. The shell (`runtime.py`) feeds each input together with
`now` (monotonic seconds) and, where delays are spread, `random` (0 to 1), performs the effects that come back in their
order, and calls `tick` when `wake_at` has come. The states and the theory of operation are in `states.py`.

What it holds is bounded: the window of unacked batches, the buffer of pages that wait, the questions of freshness.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Final

from tidewire_agent.load_standing import LoadStanding
from tidewire_agent.session import complaints
from tidewire_agent.session.chain import Chain
from tidewire_agent.session.effects import (
    AnswerFresh,
    ApplyPage,
    AskFresh,
    AwaitSnapshot,
    ClearProblem,
    Effect,
    Follow,
    Limits,
    PublishState,
    RequestReplay,
    SayProblem,
    SendBatches,
    SendHello,
    Trouble,
)
from tidewire_agent.session.limits import SessionLimits
from tidewire_agent.session.pages import Next, PageBuffer, belongs
from tidewire_agent.session.questions import Questions
from tidewire_agent.session.snapshot_fetch import Plan, SnapshotFetch
from tidewire_agent.session.standing import Standing
from tidewire_agent.session.states import ASKING, FOLLOWING, TRANSITIONS, Cause, State
from tidewire_agent.session.window import SendWindow, SentBatch
from tidewire_schemas.messages import Ack, FreshAnswer, Head, Page, Problem, Replay, Welcome
from tidewire_schemas.positions import START, Position
from tidewire_schemas.snapshots import Snapshot, SnapshotChunk

STALLS_MAX: Final = 2
"""So many times in a row entries had to be asked for after a stall, until that is a problem and not a lost message."""

FRUITLESS_MAX: Final = 2
"""So many replays may end before a place that was heard of, until that place is no longer believed in."""

Incoming = Welcome | Ack | Replay | Snapshot | SnapshotChunk | FreshAnswer | Problem | Page | Head


class Session:
    """The device's side of the protocol.

    Args:
        limits: how long to wait and how much to hold.
        boot: random, of this start of the agent.
        standing: what the file says.
    """

    def __init__(self, limits: SessionLimits, boot: str, standing: Standing) -> None:
        self._limits = limits
        self._boot = boot
        self._effects: list[Effect] = []
        self._troubles: set[str] = set()
        self.state = State.OFFLINE
        self._incarnation: str
        self._log: str | None
        self._epoch: int
        self._position: Position
        self._sealed: int
        self._checkpoint: Position
        self._fetch = SnapshotFetch(limits)
        self._stand(standing)
        # handshake
        self._hello_at = inf
        self._last_hello = -inf
        self._asking_since = -inf
        self._hellos = 0
        self._renumbering = False
        self._welcome_head = START
        self._head_epoch = 0
        # batches going up
        self._window = SendWindow(limits.window_batches, limits.window_bytes)
        self._turn = 0
        self._next_batch = 1
        self._reading = False
        self._ack_deadline = inf
        self._chain = Chain()
        self._resent: tuple[int, float] = (0, -inf)
        # pages coming down
        self._pages = PageBuffer(limits.pages_held_max, limits.pages_held_bytes_max)
        self._applying: Position | None = None
        self._set_back = False
        """Whether the page that is being applied no longer continues what the file holds."""
        self._heard = 0
        self._credit = 0
        self._asked_from = START
        self._replay_end: Position | None = None
        self._fruitless = 0
        self._stalls = 0
        self._pages_deadline = inf
        self._questions = Questions(limits.fresh_questions_max, limits.ack_timeout_s)

    # ── what the shell may look at ────────────────────────────────────────────────────────────────────────────────

    @property
    def position(self) -> Position:
        """After which entry the next page must go on."""
        return self._position

    @property
    def epoch(self) -> int:
        """The epoch of the last `Welcome`."""
        return self._epoch

    @property
    def turn(self) -> int:
        """Of sending: what was read for an earlier turn must not be published any more."""
        return self._turn

    @property
    def heard(self) -> int:
        """The highest place in the log that was heard of."""
        return self._heard

    @property
    def fresh_waits(self) -> bool:
        """Whether more questions are open than are asked at once."""
        return self._questions.more_wait

    @property
    def loading(self) -> LoadStanding | None:
        """How far the snapshot is that is being loaded, or None."""
        return self._fetch.standing

    @property
    def wake_at(self) -> float:
        """When `tick` has something to do; infinity for never."""
        fresh_at = self._questions.due_at if self.state in FOLLOWING else inf
        hello_at = self._hello_at if self.state in ASKING else inf
        return min(hello_at, self._ack_deadline, self._pages_deadline, self._fetch.deadline, fresh_at)

    # ── inputs: the connection ────────────────────────────────────────────────────────────────────────────────────

    def connected(self, now: float) -> list[Effect]:
        """The broker is there, and all subscriptions are granted."""
        if self.state is not State.OFFLINE:
            self._lose()
        self._enter(Cause.CONNECTED)
        self._hellos = 0
        if not self._renumbering:
            self._say_hello(now, 0.0)
        return self._out()

    def disconnected(self) -> list[Effect]:
        """The connection is gone."""
        if self.state is not State.OFFLINE:
            self._lose()
        return self._out()

    # ── inputs: the file ──────────────────────────────────────────────────────────────────────────────────────────

    def sealed(self, batch: int, now: float) -> list[Effect]:
        """Batches up to this one are sealed and durable."""
        self._sealed = max(self._sealed, batch)
        self._send_more(now)
        return self._out()

    def sending(self, turn: int, batches: Sequence[SentBatch], now: float) -> list[Effect]:
        """The batches that `SendBatches` asked for were read, and are published from now on."""
        if turn != self._turn:
            return self._out()
        self._reading = False
        if not batches:
            self._sealed = self._next_batch - 1  # there are none after all
            return self._out()
        self._window.add(batches)
        self._next_batch = batches[-1].batch + 1
        if self._ack_deadline == inf:
            self._ack_deadline = now + self._limits.ack_timeout_s
        self._send_more(now)
        return self._out()

    def applied(self, position: Position, now: float) -> list[Effect]:
        """A page was applied; the next must go on after `position`."""
        self._applying = None
        self._set_back = False
        self._position = position
        self._clear(complaints.NO_PAGES.code)
        if self._pages_deadline != inf:
            self._pages_deadline = now + self._limits.stall_timeout_s
        self._effects += self._fetch.moved(position, now)
        self._advance(now)
        return self._out()

    def loaded(self, standing: Standing, now: float) -> list[Effect]:
        """The file has done what it was told to do with a snapshot."""
        self._effects += self._fetch.loaded(standing.loading, self._position, now)
        # Where it is over, the hub says how to go on.
        return self.reintroduce(standing, now) if self._fetch.is_over else self._out()

    def reintroduce(self, standing: Standing, now: float) -> list[Effect]:
        """What `Hello` said has changed (tables, numbering): say it again."""
        if self._renumbering and standing.incarnation == self._incarnation:
            return self._out()  # it is said with the new numbers, once they are made
        self._renumbering = False
        self._set_back = self._applying is not None and (self._set_back or standing.position.seq < self._position.seq)
        self._stand(standing)
        if self.state is not State.OFFLINE:
            self._doubt(now, at_once=True)
        return self._out()

    def ask_fresh(self, nonces: Iterable[str], now: float) -> list[Effect]:
        """Apps want to know how far the log goes: all questions that are open. Known ones are not asked twice."""
        self._questions.open(nonces, now)
        self._ask_fresh_due(now)
        return self._out()

    # ── inputs: the hub ───────────────────────────────────────────────────────────────────────────────────────────

    def welcomed(
        self, welcome: Welcome, ours: Mapping[int, str], now: float, *, too_large: bool = False
    ) -> list[Effect]:
        """A `Welcome` came; `ours` holds our digests of the batches it names (see `chain.parted`).

        `too_large` says that one of the batches to be sent is above what the hub takes.
        """
        if self.state not in ASKING or self._hellos == 0 or self._renumbering or not self._is_mine(welcome):
            return self._out()
        if welcome.epoch < self._epoch:
            self._say(complaints.leader_stale(welcome.epoch, self._epoch))
        elif self._log not in (None, welcome.log):
            self._halt(complaints.log_foreign(welcome.log, self._log))
        elif (renumber := self._chain.judge(welcome, ours, self._sealed, too_large=too_large)) is not None:
            if welcome.checkpoint == "off_log":
                self._say(complaints.log_lost_its_end(self._position, welcome))
            self._renumbering = True
            self._hello_at = inf
            self._effects.append(renumber)
        elif (plan := self._fetch.plan(welcome, self._position, self._checkpoint)) is Plan.WAIT:
            self._effects.append(AwaitSnapshot())
        else:
            self._follow(welcome, plan, now)
        return self._out()

    def received(self, message: Incoming, size: int, now: float, random: float) -> list[Effect]:
        """A message came in, `size` bytes long; a `Welcome` goes to `welcomed` instead."""
        match message:
            case Page():
                self._take_page(message, size, now, random)
            case Head():
                self._take_head(message, now, random)
            case Ack():
                self._take_ack(message, now, random)
            case Replay():
                if self._is_mine(message):
                    self._take_replay(message, size, now, random)
            case Snapshot() | SnapshotChunk():
                if self._is_mine(message) and self.state in FOLLOWING:
                    self._take_snapshot(message, now)
            case FreshAnswer():
                if self._is_mine(message):
                    self._take_answer(message, now)
            case Problem():
                self._take_problem(message, now)
            case Welcome():
                raise TypeError("a Welcome comes in through welcomed()")
        return self._out()

    # ── inputs: time ──────────────────────────────────────────────────────────────────────────────────────────────

    def tick(self, now: float, random: float) -> list[Effect]:
        """Time has passed."""
        if self.state in ASKING and now >= self._hello_at:
            overdue = self._hellos > 0 and now >= self._asking_since + self._limits.welcome_timeout_s
            if self.state is State.HANDSHAKING and overdue:
                self._clear(complaints.HUB_BUSY)
                self._say(complaints.NO_WELCOME)
            self._say_hello(now, random)
        if now >= self._ack_deadline:
            self._clear(complaints.HUB_BUSY)
            self._say(complaints.NO_ACK)
            self._doubt(now)
        if now >= self._pages_deadline:
            self._pages_overdue(now)
        if now >= self._fetch.deadline:
            self._effects += self._fetch.overdue(self._position, now)
        if self.state in FOLLOWING:
            self._ask_fresh_due(now)
        return self._out()

    # ── handshake ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _say_hello(self, now: float, random: float) -> None:
        self._effects.append(SendHello())
        self._last_hello = now
        if self._hellos == 0:
            self._asking_since = now
        backoff = min(self._limits.hello_backoff_max_s, self._limits.welcome_timeout_s * 2.0 ** min(self._hellos, 30))
        if self.state is State.HALTED:
            backoff = self._limits.hello_backoff_max_s
        self._hellos += 1
        self._hello_at = now + self._limits.welcome_timeout_s + random * backoff

    def _doubt(self, now: float, *, at_once: bool = False, delay_s: float = 0.0) -> None:
        """Back to the handshake: never more often than `hello_pause_s`, unless our own file asks for it."""
        self._enter(Cause.DOUBT)
        self._forget()
        self._hellos = 0
        due = now + delay_s
        self._hello_at = due if at_once else max(due, self._last_hello + self._limits.hello_pause_s)
        if self._renumbering:
            self._hello_at = inf
        elif self._hello_at <= now:
            self._say_hello(now, 0.0)

    def _halt(self, trouble: Trouble) -> None:
        self._enter(Cause.FOREIGN_LOG)
        self._clear(complaints.NO_WELCOME.code)
        self._pages.clear()
        self._say(trouble)

    def _follow(self, welcome: Welcome, plan: Plan, now: float) -> None:
        for code in complaints.SOLVED_BY_WELCOME:
            self._clear(code)
        if welcome.table_problems:
            self._say(complaints.tables_refused(welcome.table_problems))
        else:
            self._clear(complaints.TABLES_REFUSED)
        self._log, self._epoch = welcome.log, welcome.epoch
        self._welcome_head = welcome.head
        self._effects.append(Follow(welcome.log, welcome.epoch, welcome.head))
        self._effects.append(Limits(welcome.payload_bytes_max, welcome.batch_bytes_max))
        self._next_batch = 1 if welcome.accepted is None else welcome.accepted.batch + 1
        if self._next_batch > self._sealed:
            self._clear(complaints.NO_ACK.code)
        self._pages.keep(lambda page: belongs(page, welcome.log, welcome.epoch, welcome.head))
        self._heard = max(welcome.head.seq, self._pages.last_seq)
        behind = self._tail.seq < welcome.head.seq
        if plan is Plan.SNAPSHOT:
            self._enter(Cause.WELCOME_SNAPSHOT)
        else:
            self._enter(Cause.WELCOME_BEHIND if behind else Cause.WELCOME_LEVEL)
        if plan is not Plan.REPLAY:
            self._effects += self._fetch.start(whole=plan is Plan.SNAPSHOT, position=self._position, now=now)
        if behind and plan is not Plan.SNAPSHOT:
            self._request_replay(now)
        else:
            self._clear(complaints.NO_PAGES.code)
        self._advance(now)
        self._send_more(now)
        self._ask_fresh_due(now, all_of_them=True)

    # ── batches going up ──────────────────────────────────────────────────────────────────────────────────────────

    def _send_more(self, now: float) -> None:
        if self.state not in FOLLOWING or self._reading or self._next_batch > self._sealed:
            return
        count, size = self._window.room
        if count:
            self._reading = True
            self._effects.append(SendBatches(self._turn, self._next_batch - 1, self._sealed, count, size))

    def _take_ack(self, ack: Ack, now: float, random: float) -> None:
        if ack.incarnation != self._incarnation or ack.boot not in (None, self._boot) or self.state not in FOLLOWING:
            return
        if self._is_of_another_epoch(ack.epoch, now, random) or not self._window.ack(ack.batch, ack.digest):
            return
        self._clear(complaints.NO_ACK.code)
        self._clear("hub_problem")
        self._ack_deadline = now + self._limits.ack_timeout_s if len(self._window) else inf
        self._send_more(now)

    def _take_problem(self, problem: Problem, now: float) -> None:
        if problem.incarnation not in (None, self._incarnation) or problem.boot not in (None, self._boot):
            return
        if self.state is State.OFFLINE:
            return
        match problem.code:
            case "resend" if problem.batch:
                self._resend(problem.batch, now)
            case "snapshot_building":
                self._fetch.wait(now)
            case "snapshot_gone":
                self._effects += self._fetch.gone(self._position, now)
            case "resend" | "fork" | "hello_needed" | "replay_too_old":
                if self.state in FOLLOWING:
                    self._doubt(now)
            case "log_unknown" | "epoch_impossible" if self.state in ASKING:
                self._halt(Trouble("log_foreign", problem.message, problem.hint))
            case "cloned":  # holds until a Welcome comes without it
                self._say(Trouble("cloned", f"device {problem.message}", problem.hint))
            case _:
                if problem.batch and problem.batch <= self._sealed and self.state in FOLLOWING:
                    self._chain.cannot_take(problem.batch)
                    self._doubt(now)
                self._say(Trouble("hub_problem", f"the hub says {problem.code}: {problem.message}", problem.hint))

    def _resend(self, batch: int, now: float) -> None:
        """Go on from `batch`. The hub says so for each batch that was in flight: only the first time counts."""
        again_from, until = self._resent
        if self.state not in FOLLOWING or batch > self._next_batch or (batch == again_from and now < until):
            return
        self._resent = (batch, now + self._limits.hello_pause_s)
        self._stop_sending()
        self._next_batch = batch
        self._send_more(now)

    def _stop_sending(self) -> None:
        self._turn += 1
        self._reading = False
        self._window.clear()
        self._ack_deadline = inf

    # ── pages coming down ─────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _tail(self) -> Position:
        """Where the device is once the page that is being applied is done (unless the file was set back meanwhile)."""
        return self._position if self._applying is None or self._set_back else self._applying

    def _take_page(self, page: Page, size: int, now: float, random: float) -> None:
        if self.state is State.HANDSHAKING and page.log == self._log:
            self._pages.add(page, size)  # judged when the Welcome is there
        if self.state not in FOLLOWING:
            return
        if page.log != self._log:
            self._doubt(now)
        elif self._is_of_another_epoch(page.end.epoch, now, random):
            return
        elif not belongs(page, self._log, self._epoch, self._welcome_head):
            self._doubt(now)
        else:
            self._stalls = 0
            self._clear(complaints.NO_LIVE_PAGES.code)
            self._heard = max(self._heard, page.end.seq)
            self._pages.add(page, size)
            self._advance(now)

    def _take_replay(self, replay: Replay, size: int, now: float, random: float) -> None:
        page = replay.page
        if self.state not in FOLLOWING or page.log != self._log:
            return
        if page.end.epoch > self._epoch:
            self._doubt(now, delay_s=random * self._limits.hello_spread_s)
            return
        if not belongs(page, self._log, self._epoch, self._welcome_head):
            return
        self._credit = max(0, self._credit - 1)
        if self.state is State.CATCHING_UP:
            self._pages_deadline = now + self._limits.stall_timeout_s
            if replay.last and page.prev.seq >= self._asked_from.seq:
                self._replay_end = page.end
        self._heard = max(self._heard, page.end.seq)
        if page.entries:
            self._pages.add(page, size)
        self._advance(now)

    def _take_head(self, head: Head, now: float, random: float) -> None:
        self._take_busy(head.busy, now)
        if self.state is State.HANDSHAKING and head.epoch != self._head_epoch:
            # A leader that was not heard before: no need to wait out the backoff, but not everyone at once.
            self._head_epoch = head.epoch
            soon = max(now + random * self._limits.hello_spread_s, self._last_hello + self._limits.hello_pause_s)
            self._hello_at = min(self._hello_at, soon)
        if self.state not in FOLLOWING:
            return
        if head.log != self._log:
            self._doubt(now)
        elif not self._is_of_another_epoch(head.epoch, now, random):
            self._heard = max(self._heard, head.head.seq)
            self._advance(now)

    def _take_busy(self, busy: str | None, now: float) -> None:
        """The hub has so much to do that its answers take long: what is waited for is waited for anew."""
        if busy is None:
            self._clear(complaints.HUB_BUSY)
            return
        limits = self._limits
        if self.state is State.HANDSHAKING and self._hellos:
            self._asking_since = now
            self._hello_at = max(self._hello_at, now + limits.welcome_timeout_s)
        if self._ack_deadline != inf:
            self._ack_deadline = max(self._ack_deadline, now + limits.ack_timeout_s)
        if self._pages_deadline != inf:
            self._pages_deadline = max(self._pages_deadline, now + limits.stall_timeout_s)
        self._fetch.wait(now)
        if self.state in (State.HANDSHAKING, State.CATCHING_UP) or len(self._window):
            self._say(complaints.hub_busy(busy))

    def _is_of_another_epoch(self, epoch: int, now: float, random: float) -> bool:
        """A later epoch than the Welcome's raises doubt; what a stale leader says is ignored. (Guarantee 8.)"""
        if epoch > self._epoch:
            self._doubt(now, delay_s=random * self._limits.hello_spread_s)
        return epoch != self._epoch

    def _advance(self, now: float) -> None:
        """Apply what continues the position, ask for what is missing, notice what is overdue."""
        if self.state not in FOLLOWING or self.state is State.LOADING:
            return
        found = Next.NOTHING if self._applying else self._pages.take(self._position)
        if isinstance(found, Page):
            self._applying = found.end
            self._effects.append(ApplyPage(found))
        elif found is Next.FORK:
            self._doubt(now)
            return
        if self.state is State.CATCHING_UP:
            self._catch_up(now)
        elif found is Next.GAP and not self._fruitless:
            self._enter(Cause.GAP)
            self._request_replay(now)
        elif self._heard <= self._tail.seq or self._applying:
            self._pages_deadline = inf
        elif self._pages_deadline == inf:
            self._pages_deadline = now + self._limits.stall_timeout_s

    def _catch_up(self, now: float) -> None:
        end = self._replay_end
        if end is not None and self._position.seq >= end.seq:
            self._enter(Cause.CAUGHT_UP)
            self._replay_end = None
            self._credit = 0
            self._pages_deadline = inf
            self._clear(complaints.NO_PAGES.code)
            self._judge_what_was_heard()
            self._advance(now)
            return
        reach = self._pages.reach(self._tail)
        all_asked_for = end is not None and reach.seq >= end.seq
        waiting = self._pages.ready(self._tail)
        if not self._credit and not all_asked_for and waiting <= self._limits.replay_pages // 2:
            self._request_replay(now)

    def _judge_what_was_heard(self) -> None:
        """A replay has ended before a place that was heard of.

        Once, that can be as it crossed with a lost page: it is asked for again after a while. Twice, there is no such
        place in the log, whoever said so: it is forgotten, rather than asked for without end.
        """
        if self._heard <= self._position.seq:
            self._fruitless = 0
            return
        self._fruitless += 1
        if self._fruitless == FRUITLESS_MAX:
            self._fruitless = 0
            self._pages.clear()
            self._heard = self._position.seq

    def _request_replay(self, now: float) -> None:
        self._asked_from = self._pages.reach(self._tail)
        self._replay_end = None
        self._credit = self._limits.replay_pages
        self._pages_deadline = now + self._limits.stall_timeout_s
        self._effects.append(RequestReplay(self._asked_from, self._credit))

    def _pages_overdue(self, now: float) -> None:
        if self._applying:  # a large page takes its time
            self._pages_deadline = now + self._limits.stall_timeout_s
        elif self.state is State.LIVE:
            self._stalls += 1
            if self._stalls == STALLS_MAX:
                self._say(complaints.NO_LIVE_PAGES)
            self._enter(Cause.GAP)
            self._request_replay(now)
        else:
            self._say(complaints.NO_PAGES)
            self._doubt(now)

    # ── a snapshot ────────────────────────────────────────────────────────────────────────────────────────────────

    def _take_snapshot(self, message: Snapshot | SnapshotChunk, now: float) -> None:
        if isinstance(message, SnapshotChunk):
            self._effects += self._fetch.take_chunk(message, self._position, now)
        elif message.log != self._log or message.position.epoch > self._epoch:
            self._doubt(now)
        elif self.state is State.LOADING and self.loading is None and message.position.seq <= self._tail.seq:
            self._fetch.pause()
            self._enter(Cause.NOT_NEEDED)
            self._request_replay(now)
        else:
            self._effects += self._fetch.take_manifest(message, self._position, now)

    # ── freshness ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _ask_fresh_due(self, now: float, *, all_of_them: bool = False) -> None:
        if self.state in FOLLOWING:
            self._effects.extend(map(AskFresh, self._questions.due(now, all_of_them=all_of_them)))

    def _take_answer(self, answer: FreshAnswer, now: float) -> None:
        if not self._questions.answered(answer.nonce):
            return
        self._effects.append(AnswerFresh(answer.nonce, answer.head))
        if self.state in FOLLOWING and answer.head.epoch == self._epoch:
            # Its entries may have been lost on the way: then nothing else tells of them until the next head.
            self._heard = max(self._heard, answer.head.seq)
            self._advance(now)

    # ── common ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _stand(self, standing: Standing) -> None:
        self._incarnation = standing.incarnation
        self._log = standing.log
        self._epoch = standing.epoch
        self._position = standing.position
        self._checkpoint = standing.checkpoint or standing.position
        self._sealed = standing.sealed
        self._fetch.stand(standing.loading)

    def _is_mine(self, message: Welcome | Replay | Snapshot | SnapshotChunk | FreshAnswer) -> bool:
        return message.incarnation == self._incarnation and message.boot == self._boot

    def _lose(self) -> None:
        self._enter(Cause.DISCONNECTED)
        self._clear(complaints.HUB_BUSY)
        self._forget()
        self._hello_at = inf

    def _forget(self) -> None:
        """Drop what holds only within one handshake. A page that is being applied goes on."""
        self._stop_sending()
        self._fetch.pause()
        self._pages.clear()
        self._credit = 0
        self._replay_end = None
        self._fruitless = 0
        self._pages_deadline = inf

    def _enter(self, cause: Cause) -> None:
        before, self.state = self.state, TRANSITIONS[self.state, cause]
        if self.state is not before:
            self._effects.append(PublishState(self.state))

    def _say(self, trouble: Trouble) -> None:
        self._troubles.add(trouble.code)
        self._effects.append(SayProblem(trouble))

    def _clear(self, code: str) -> None:
        if code in self._troubles:
            self._troubles.discard(code)
            self._effects.append(ClearProblem(code))

    def _out(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects
