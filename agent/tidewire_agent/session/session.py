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

from tidewire_agent.session.chain import Chain
from tidewire_agent.session.complaints import (
    HUB_BUSY,
    NO_ACK,
    NO_LIVE_PAGES,
    NO_PAGES,
    NO_WELCOME,
    SOLVED_BY_WELCOME,
)
from tidewire_agent.session.effects import (
    AnswerFresh,
    ApplyPage,
    AskFresh,
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
from tidewire_agent.session.pages import Next, PageBuffer
from tidewire_agent.session.standing import Standing
from tidewire_agent.session.states import ASKING, FOLLOWING, TRANSITIONS, Cause, State
from tidewire_agent.session.window import SendWindow, SentBatch
from tidewire_schemas.messages import Ack, FreshAnswer, Head, Page, Problem, Replay, Welcome
from tidewire_schemas.positions import START, Position

STALLS_MAX: Final = 2
"""So many times in a row entries had to be asked for after a stall, until that is a problem and not a lost message."""

FRUITLESS_MAX: Final = 2
"""So many replays may end before a place that was heard of, until that place is no longer believed in."""


Incoming = Welcome | Ack | Replay | FreshAnswer | Problem | Page | Head


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
        # questions of freshness, oldest first
        self._fresh: dict[str, float] = {}
        self.fresh_waits = False
        """Whether more questions are open than are asked at once."""

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
    def wake_at(self) -> float:
        """When `tick` has something to do; infinity for never."""
        fresh_at = min(self._fresh.values(), default=inf) if self.state in FOLLOWING else inf
        hello_at = self._hello_at if self.state in ASKING else inf
        return min(hello_at, self._ack_deadline, self._pages_deadline, fresh_at)

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
        self._clear(NO_PAGES.code)
        if self._pages_deadline != inf:
            self._pages_deadline = now + self._limits.stall_timeout_s
        self._advance(now)
        return self._out()

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
        still_open = list(nonces)
        self._fresh = {nonce: self._fresh.get(nonce, now) for nonce in still_open[: self._limits.fresh_questions_max]}
        self.fresh_waits = len(still_open) > len(self._fresh)
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
            text = f"a hub of an earlier leadership answers (epoch {welcome.epoch}, known is {self._epoch})"
            self._say(Trouble("leader_stale", text, "two hubs lead this stream: stop the older one"))
        elif self._log not in (None, welcome.log):
            self._halt(
                "log_foreign",
                f"the hub's log is {welcome.log}, this database follows {self._log}",
                "start the hub with its own data directory again; or take the new log over with `adopt`",
            )
        elif welcome.checkpoint == "off_log":
            self._halt(
                "checkpoint_off_log",
                f"the hub's log does not hold this device's checkpoint {tuple(self._position)}",
                "the hub has lost the end of its log: restore its newest backup",
            )
        elif (renumber := self._chain.judge(welcome, ours, self._sealed, too_large=too_large)) is not None:
            self._renumbering = True
            self._hello_at = inf
            self._effects.append(renumber)
        else:
            self._follow(welcome, now)
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
                self._clear(HUB_BUSY)
                self._say(NO_WELCOME)
            self._say_hello(now, random)
        if now >= self._ack_deadline:
            self._clear(HUB_BUSY)
            self._say(NO_ACK)
            self._doubt(now)
        if now >= self._pages_deadline:
            self._pages_overdue(now)
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

    def _halt(self, code: str, message: str, hint: str) -> None:
        self._enter(Cause.FOREIGN_LOG)
        self._clear(NO_WELCOME.code)
        self._pages.clear()
        self._say(Trouble(code, message, hint))

    def _follow(self, welcome: Welcome, now: float) -> None:
        for code in SOLVED_BY_WELCOME:
            self._clear(code)
        self._say_tables(welcome)
        self._log, self._epoch = welcome.log, welcome.epoch
        self._welcome_head = welcome.head
        self._effects.append(Follow(welcome.log, welcome.epoch, welcome.head))
        self._effects.append(Limits(welcome.payload_bytes_max, welcome.batch_bytes_max))
        self._next_batch = 1 if welcome.accepted is None else welcome.accepted.batch + 1
        if self._next_batch > self._sealed:
            self._clear(NO_ACK.code)
        self._pages.keep(self._belongs)
        self._heard = max(welcome.head.seq, self._pages.last_seq)
        behind = self._tail.seq < welcome.head.seq
        self._enter(Cause.WELCOME_BEHIND if behind else Cause.WELCOME_LEVEL)
        if behind:
            self._request_replay(now)
        else:
            self._clear(NO_PAGES.code)
        self._advance(now)
        self._send_more(now)
        self._ask_fresh_due(now, all_of_them=True)

    def _say_tables(self, welcome: Welcome) -> None:
        if not welcome.table_problems:
            self._clear("tables_refused")
            return
        first = "; ".join(f"{problem.table}: {problem.message}" for problem in welcome.table_problems[:3])
        count = len(welcome.table_problems)
        hint = "make the table's shape equal on all devices, or detach it"
        self._say(Trouble("tables_refused", f"the hub does not take {count} table(s) as declared: {first}", hint))

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
        self._clear(NO_ACK.code)
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
            case "resend" | "fork" | "hello_needed":
                if self.state in FOLLOWING:
                    self._doubt(now)
            case "log_unknown" | "epoch_impossible" if self.state in ASKING:
                self._halt("log_foreign", problem.message, problem.hint)
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
        elif not self._belongs(page):
            self._doubt(now)
        else:
            self._stalls = 0
            self._clear(NO_LIVE_PAGES.code)
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
        if not self._belongs(page):
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
            self._clear(HUB_BUSY)
            return
        limits = self._limits
        if self.state is State.HANDSHAKING and self._hellos:
            self._asking_since = now
            self._hello_at = max(self._hello_at, now + limits.welcome_timeout_s)
        if self._ack_deadline != inf:
            self._ack_deadline = max(self._ack_deadline, now + limits.ack_timeout_s)
        if self._pages_deadline != inf:
            self._pages_deadline = max(self._pages_deadline, now + limits.stall_timeout_s)
        if self.state in (State.HANDSHAKING, State.CATCHING_UP) or len(self._window):
            self._say(Trouble(HUB_BUSY, f"the hub is busy: {busy}", "wait: nothing is lost, it goes on by itself"))

    def _is_of_another_epoch(self, epoch: int, now: float, random: float) -> bool:
        """A later epoch than the Welcome's raises doubt; what a stale leader says is ignored. (Guarantee 8.)"""
        if epoch > self._epoch:
            self._doubt(now, delay_s=random * self._limits.hello_spread_s)
        return epoch != self._epoch

    def _belongs(self, page: Page) -> bool:
        """Whether a page can be of the log that the Welcome described.

        What lies after the Welcome's head was numbered by the leader who sent it; its head is an entry of the log.
        """
        if page.log != self._log or page.end.epoch > self._epoch:
            return False
        head = self._welcome_head
        if page.end.seq <= head.seq:
            return page.end.seq < head.seq or page.end == head
        if page.end.epoch != self._epoch:
            return False
        at_head = head.seq - page.prev.seq  # how many of its entries lie at or before the head
        if at_head < 0:
            return page.prev.epoch == self._epoch
        before = page.prev if at_head == 0 else page.entries[at_head - 1].position
        return before == head and page.entries[at_head].epoch == self._epoch

    def _advance(self, now: float) -> None:
        """Apply what continues the position, ask for what is missing, notice what is overdue."""
        if self.state not in FOLLOWING:
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
            self._clear(NO_PAGES.code)
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
                self._say(NO_LIVE_PAGES)
            self._enter(Cause.GAP)
            self._request_replay(now)
        else:
            self._say(NO_PAGES)
            self._doubt(now)

    # ── freshness ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _ask_fresh_due(self, now: float, *, all_of_them: bool = False) -> None:
        if self.state not in FOLLOWING:
            return
        for nonce, due in self._fresh.items():
            if all_of_them or now >= due:
                self._fresh[nonce] = now + self._limits.ack_timeout_s
                self._effects.append(AskFresh(nonce))

    def _take_answer(self, answer: FreshAnswer, now: float) -> None:
        if self._fresh.pop(answer.nonce, None) is None:
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
        self._sealed = standing.sealed

    def _is_mine(self, message: Welcome | Replay | FreshAnswer) -> bool:
        return message.incarnation == self._incarnation and message.boot == self._boot

    def _lose(self) -> None:
        self._enter(Cause.DISCONNECTED)
        self._clear(HUB_BUSY)
        self._forget()
        self._hello_at = inf

    def _forget(self) -> None:
        """Drop what holds only within one handshake. A page that is being applied goes on."""
        self._stop_sending()
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
