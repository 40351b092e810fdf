"""A device's conversation with the hub: what to do next, decided from what came in and what time it is.

Pure: no asyncio, no paho, no SQLite, no clock, no randomness. The shell (`runtime/session_shell.py`) feeds each input
together with `now` (monotonic seconds) and, where delays are spread, `random` (0 to 1), performs the effects that come
back in their order, and calls `tick` when `wake_at` has come. The states and the theory of operation stand in
`states.py`.

Each kind of work has its part: handshakes (`hellos.py`), batches going up (`uplink.py`), pages coming down
(`downlink.py`), a snapshot (`snapshot_fetch.py`), freshness (`questions.py`). What they share is in `conversation.py`.
Here is decided what concerns more than one: whether a message is for this session, and what doubt does to all of them.

What a session holds is bounded: the window of unacked batches, the buffer of pages that wait, the questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tidewire_agent.load_standing import LoadStanding
from tidewire_agent.session import complaints
from tidewire_agent.session.chain import Chain
from tidewire_agent.session.conversation import Conversation
from tidewire_agent.session.downlink import Downlink
from tidewire_agent.session.effects import AnswerFresh, AskFresh, AwaitSnapshot, Effect, Follow, Limits, Trouble
from tidewire_agent.session.hellos import Hellos
from tidewire_agent.session.limits import SessionLimits
from tidewire_agent.session.questions import Questions
from tidewire_agent.session.silence import Silence
from tidewire_agent.session.snapshot_fetch import Plan, SnapshotFetch
from tidewire_agent.session.standing import Standing
from tidewire_agent.session.states import ASKING, Cause, State
from tidewire_agent.session.uplink import Uplink
from tidewire_agent.session.window import SentBatch
from tidewire_schemas.messages import Ack, FreshAnswer, Head, Page, Problem, Replay, TableProblem, Welcome
from tidewire_schemas.positions import Position
from tidewire_schemas.snapshots import Snapshot, SnapshotChunk

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
        self._conversation = Conversation(boot, standing)
        self._hellos = Hellos(self._conversation, limits)
        self._uplink = Uplink(self._conversation, limits)
        self._chain = Chain()
        self._downlink = Downlink(self._conversation, limits)
        self._fetch = SnapshotFetch(limits)
        self._fetch.stand(standing.loading)
        self._silence = Silence(limits.hub_silence_s)
        self._questions = Questions(limits.fresh_questions_max, limits.ack_timeout_s)
        self.refused: tuple[TableProblem, ...] = ()
        """Tables that the hub, as of its last `Welcome`, does not take as they are declared."""

    # ── what the shell may look at ────────────────────────────────────────────────────────────────────────────────

    @property
    def state(self) -> State:
        """Where the agent is."""
        return self._conversation.state

    @property
    def position(self) -> Position:
        """After which entry the next page must go on."""
        return self._conversation.position

    @property
    def epoch(self) -> int:
        """The epoch of the last `Welcome`."""
        return self._conversation.epoch

    @property
    def handshake(self) -> int:
        """Number of the handshake, which a `Hello` says."""
        return self._hellos.number

    @property
    def turn(self) -> int:
        """Of sending: what was read for an earlier turn must not be published any more."""
        return self._uplink.turn

    @property
    def takes_batches(self) -> bool:
        """Whether a batch that is sealed now could be sent: otherwise changes may gather."""
        return self._uplink.has_room

    @property
    def heard(self) -> int:
        """The highest place in the log that was heard of."""
        return self._downlink.heard

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
        deadlines = (self._uplink.deadline, self._downlink.deadline, self._fetch.deadline)
        due = min(self._hellos.wake_at, *deadlines)
        return min(due, self._questions.due_at, self._silence.deadline) if self._conversation.follows else due

    # ── inputs: the connection ────────────────────────────────────────────────────────────────────────────────────

    def connected(self, now: float) -> list[Effect]:
        """The broker is there, and all subscriptions are granted."""
        if self.state is not State.OFFLINE:
            self._lose()
        self._conversation.enter(Cause.CONNECTED)
        self._hellos.begin(now)
        return self._conversation.take()

    def disconnected(self) -> list[Effect]:
        """The connection is gone."""
        if self.state is not State.OFFLINE:
            self._lose()
        return self._conversation.take()

    # ── inputs: the file ──────────────────────────────────────────────────────────────────────────────────────────

    def sealed(self, batch: int, now: float) -> list[Effect]:
        """Batches up to this one are sealed and durable."""
        self._conversation.sealed = max(self._conversation.sealed, batch)
        self._uplink.send(now)
        return self._conversation.take()

    def sending(self, turn: int, batches: Sequence[SentBatch], now: float) -> list[Effect]:
        """The batches that `SendBatches` asked for were read, and are published from now on."""
        self._uplink.sending(turn, batches, now)
        return self._conversation.take()

    def applied(self, position: Position, now: float) -> list[Effect]:
        """A page was applied; the next must go on after `position`."""
        self._downlink.applied(position, now)
        self._conversation.do(*self._fetch.moved(position, now))
        self._doubt_if(self._downlink.advance(now), now)
        return self._conversation.take()

    def loaded(self, standing: Standing, now: float) -> list[Effect]:
        """The file has done what it was told to do with a snapshot."""
        self._conversation.do(*self._fetch.loaded(standing.loading, self.position, now))
        # Where it is over, the hub says how to go on.
        return self.reintroduce(standing, now) if self._fetch.is_over else self._conversation.take()

    def reintroduce(self, standing: Standing, now: float) -> list[Effect]:
        """What `Hello` said has changed (tables, numbering): say it again."""
        if self._hellos.renumbering and standing.incarnation == self._conversation.incarnation:
            return self._conversation.take()  # it is said with the new numbers, once they are made
        self._hellos.renumbering = False
        self._downlink.stands_at(standing.position)
        self._conversation.stand(standing)
        self._fetch.stand(standing.loading)
        if self.state is not State.OFFLINE:
            self._doubt(now, at_once=True)
        return self._conversation.take()

    def introduced(self, standing: Standing, now: float) -> list[Effect]:
        """What `Hello` says, read from the file just now: since it was asked last, tables may have come to wait for a
        snapshot, or to stand before the others. If they are others than it was told, answers up to now do not count."""
        here = self._conversation
        if here.told not in (0, standing.told):
            if here.follows:
                self._doubt(now, at_once=True)
            self._hellos.tells_other_tables()
        if self.state in ASKING and not self._hellos.renumbering:
            self._downlink.stands_at(standing.position)
            self._conversation.stand(standing)
            self._fetch.stand(standing.loading)
        return self._conversation.take()

    def ask_fresh(self, nonces: Iterable[str], now: float) -> list[Effect]:
        """Apps want to know how far the log goes: all questions that are open. Known ones are not asked twice."""
        self._questions.open(nonces, now)
        self._ask_fresh_due(now)
        return self._conversation.take()

    # ── inputs: the hub ───────────────────────────────────────────────────────────────────────────────────────────

    def welcomed(
        self, welcome: Welcome, ours: Mapping[int, str], now: float, *, too_large: bool = False
    ) -> list[Effect]:
        """A `Welcome` came; `ours` holds our digests of the batches it names (see `chain.parted`).

        `too_large` says that one of the batches to be sent is above what the hub takes.
        """
        here = self._conversation
        if not self._hellos.expects(welcome):
            return here.take()
        if welcome.epoch < here.epoch:
            here.say(complaints.leader_stale(welcome.epoch, here.epoch))
        elif here.log not in (None, welcome.log):
            self._halt(complaints.log_foreign(welcome.log, here.log))
        elif (renumber := self._chain.judge(welcome, ours, here.sealed, too_large=too_large)) is not None:
            if welcome.checkpoint == "off_log":
                here.say(complaints.log_lost_its_end(here.position, welcome))
            self._hellos.await_numbers()
            here.do(renumber)
        elif (plan := self._fetch.plan(welcome, here.position, here.checkpoint)) is Plan.WAIT:
            here.do(AwaitSnapshot())
        else:
            self._follow(welcome, plan, now)
        return here.take()

    def received(self, message: Incoming, size: int, now: float, random: float) -> list[Effect]:
        """A message came in, `size` bytes long; a `Welcome` goes to `welcomed` instead."""
        here = self._conversation
        if here.follows and self._is_word_of_the_leader(message):
            self._silence.heard(now)
        match message:
            case Page():
                self._take_page(message, size, now, random)
            case Head():
                self._take_head(message, now, random)
            case Ack():
                self._take_ack(message, now, random)
            case Replay():
                if here.is_mine(message) and here.follows:
                    self._take_replay(message, size, now, random)
            case Snapshot() | SnapshotChunk():
                if here.is_mine(message) and here.follows:
                    self._take_snapshot(message, now)
            case FreshAnswer():
                if here.is_mine(message):
                    self._take_answer(message, now)
            case Problem():
                self._take_problem(message, now)
            case Welcome():
                raise TypeError("a Welcome comes in through welcomed()")
        return here.take()

    def moving(self, now: float) -> None:
        """Something large is on its way, up or down: what is waited for comes behind it, and is waited for anew."""
        self._wait_longer(now)

    # ── inputs: time ──────────────────────────────────────────────────────────────────────────────────────────────

    def tick(self, now: float, random: float) -> list[Effect]:
        """Time has passed."""
        self._hellos.tick(now, random)
        if now >= self._uplink.deadline:
            self._conversation.clear(complaints.HUB_BUSY)
            self._conversation.say(complaints.NO_ACK)
            self._doubt(now)
        if now >= self._downlink.deadline:
            self._doubt_if(self._downlink.overdue(now), now)
        if now >= self._fetch.deadline:
            self._conversation.do(*self._fetch.overdue(self.position, now))
        if self._conversation.follows and now >= self._silence.deadline:
            self._doubt_silence(now, random)
        self._ask_fresh_due(now)
        return self._conversation.take()

    # ── handshakes ────────────────────────────────────────────────────────────────────────────────────────────────

    def _doubt(self, now: float, *, at_once: bool = False, delay_s: float = 0.0) -> None:
        """Back to the handshake."""
        self._conversation.enter(Cause.DOUBT)
        self._forget()
        self._hellos.begin_anew(now, at_once=at_once, delay_s=delay_s)

    def _doubt_if(self, doubt: bool, now: float) -> None:
        """What one of the parts has said."""
        if doubt:
            self._doubt(now)

    def _doubt_silence(self, now: float, random: float) -> None:
        """Nothing was heard for long: ask, and do not go on saying `live` meanwhile. Not all devices at once."""
        since = self._silence.since(now)
        if since is not None:
            self._hellos.heard_nothing_since(since)
            self._doubt(now, delay_s=random * self._limits.hello_spread_s)

    def _is_word_of_the_leader(self, message: Incoming) -> bool:
        """Whether the hub of the last `Welcome` has said this: what a stale one says tells nothing of it."""
        match message:
            case Page():
                return message.end.epoch == self.epoch
            case Head() | Ack():
                return message.epoch == self.epoch
            case Replay() | Snapshot() | SnapshotChunk() | FreshAnswer():
                return self._conversation.is_mine(message)
            case _:
                return True

    def _is_of_another_epoch(self, epoch: int, now: float, random: float) -> bool:
        """A later epoch than the Welcome's raises doubt; what a stale leader says is ignored. (Guarantee 8.)"""
        if epoch > self.epoch:
            self._doubt(now, delay_s=random * self._limits.hello_spread_s)
        return epoch != self.epoch

    def _halt(self, trouble: Trouble) -> None:
        self._conversation.enter(Cause.FOREIGN_LOG)
        self._conversation.clear(complaints.NO_WELCOME.code)
        self._conversation.clear(complaints.HUB_SILENT.code)
        self._downlink.pages.clear()
        self._conversation.say(trouble)

    def _lose(self) -> None:
        self._conversation.enter(Cause.DISCONNECTED)
        self._conversation.clear(complaints.HUB_BUSY)
        self._forget()
        self._hellos.stop()

    def _forget(self) -> None:
        """Drop what holds only within one handshake."""
        self._uplink.stop()
        self._fetch.pause()
        self._downlink.stop()
        self._silence.stop()

    def _follow(self, welcome: Welcome, plan: Plan, now: float) -> None:
        here = self._conversation
        for code in complaints.SOLVED_BY_WELCOME:
            here.clear(code)
        self.refused = welcome.table_problems
        if welcome.table_problems:
            here.say(complaints.tables_refused(welcome.table_problems))
        else:
            here.clear(complaints.TABLES_REFUSED)
        if welcome.cloned:
            here.say(complaints.cloned(welcome.cloned))
        else:
            here.clear(complaints.CLONED)
        here.log, here.epoch = welcome.log, welcome.epoch
        self._hellos.heard_nothing_since(None)
        self._silence.heard(now)
        here.do(
            Follow(welcome.log, welcome.epoch, welcome.head, welcome.columns_elsewhere),
            Limits(welcome.payload_bytes_max, welcome.batch_bytes_max),
        )
        self._uplink.go_on_after(0 if welcome.accepted is None else welcome.accepted.batch)
        behind = self._downlink.welcomed(welcome.head)
        if plan is Plan.SNAPSHOT:
            here.enter(Cause.WELCOME_SNAPSHOT)
        else:
            here.enter(Cause.WELCOME_BEHIND if behind else Cause.WELCOME_LEVEL)
        if plan is not Plan.REPLAY:
            here.do(*self._fetch.start(whole=plan is Plan.SNAPSHOT, position=here.position, now=now))
        if behind and plan is not Plan.SNAPSHOT:
            self._downlink.request_replay(now)
        else:
            here.clear(complaints.NO_PAGES.code)
        self._doubt_if(self._downlink.advance(now), now)
        self._uplink.send(now)
        self._ask_fresh_due(now, all_of_them=True)

    # ── messages ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _take_ack(self, ack: Ack, now: float, random: float) -> None:
        here = self._conversation
        if ack.incarnation != here.incarnation or ack.boot not in (None, here.boot) or not here.follows:
            return
        if not self._is_of_another_epoch(ack.epoch, now, random):
            self._uplink.acked(ack, now)

    def _take_problem(self, problem: Problem, now: float) -> None:
        here = self._conversation
        if problem.incarnation not in (None, here.incarnation) or problem.boot not in (None, here.boot):
            return
        if self.state is State.OFFLINE:
            return
        match problem.code:
            case "resend" if problem.batch:
                self._uplink.resend(problem.batch, now)
            case "snapshot_building":
                self._fetch.wait(now)
            case "snapshot_gone":
                here.do(*self._fetch.gone(here.position, now))
            case "resend" | "fork" | "hello_needed" | "replay_too_old":
                self._doubt_if(here.follows, now)
            case "log_unknown" | "epoch_impossible" if self.state in ASKING:
                self._halt(Trouble("log_foreign", problem.message, problem.hint))
            case complaints.CLONED:  # holds until a Welcome comes without it
                here.say(complaints.cloned(problem.message))
            case _:
                if problem.batch and problem.batch <= here.sealed and here.follows:
                    self._chain.cannot_take(problem.batch)
                    self._doubt(now)
                here.say(Trouble("hub_problem", f"the hub says {problem.code}: {problem.message}", problem.hint))

    def _take_page(self, page: Page, size: int, now: float, random: float) -> None:
        here = self._conversation
        if here.state is State.HANDSHAKING and page.log == here.log:
            self._downlink.keep(page, size)
        if not here.follows:
            return
        if page.log != here.log:
            self._doubt(now)
        elif not self._is_of_another_epoch(page.end.epoch, now, random):
            self._doubt_if(self._downlink.take_page(page, size, now), now)

    def _take_replay(self, replay: Replay, size: int, now: float, random: float) -> None:
        if replay.page.log != self._conversation.log:
            return
        if replay.page.end.epoch > self.epoch:
            self._doubt(now, delay_s=random * self._limits.hello_spread_s)
        else:
            self._doubt_if(self._downlink.take_replay(replay, size, now), now)

    def _take_head(self, head: Head, now: float, random: float) -> None:
        here = self._conversation
        self._take_busy(head.busy, now)
        self._hellos.heard_leader(head.epoch, now, random)
        if not here.follows:
            return
        if head.log != here.log:
            self._doubt(now)
        elif not self._is_of_another_epoch(head.epoch, now, random):
            self._doubt_if(self._downlink.take_head(head.head.seq, now), now)

    def _take_busy(self, busy: str | None, now: float) -> None:
        """The hub has so much to do that its answers take long: what is waited for is waited for anew."""
        if busy is None:
            self._conversation.clear(complaints.HUB_BUSY)
            return
        self._wait_longer(now)
        if self.state in (State.HANDSHAKING, State.CATCHING_UP) or len(self._uplink.window):
            self._conversation.say(complaints.hub_busy(busy))

    def _wait_longer(self, now: float) -> None:
        self._hellos.wait_longer(now)
        self._uplink.wait_longer(now)
        self._downlink.wait_longer(now)
        self._fetch.wait(now)
        self._silence.wait_longer(now)

    def _take_snapshot(self, message: Snapshot | SnapshotChunk, now: float) -> None:
        here = self._conversation
        if isinstance(message, SnapshotChunk):
            here.do(*self._fetch.take_chunk(message, here.position, now))
        elif message.log != here.log or message.position.epoch > here.epoch:
            self._doubt(now)
        elif self._fetch.is_outdated(message):
            return
        elif here.state is State.LOADING and not self._fetch.is_needed(
            message, max(self._downlink.tail, here.checkpoint)
        ):
            self._go_on_by_entries(message, now)
        else:
            here.do(*self._fetch.take_manifest(message, here.position, now))

    def _go_on_by_entries(self, manifest: Snapshot, now: float) -> None:
        """All tables together stand at this snapshot or beyond; those that wait for one may take it."""
        here = self._conversation
        self._fetch.pause()
        here.enter(Cause.NOT_NEEDED)
        plan = self._fetch.plan_by_entries(self._downlink.tail, here.checkpoint)
        if plan is Plan.WAIT:
            here.do(AwaitSnapshot())
            return
        if plan is Plan.TABLES:
            here.do(*self._fetch.start(whole=False, position=here.position, now=now))
            here.do(*self._fetch.take_manifest(manifest, here.position, now))
        self._downlink.request_replay(now)

    # ── freshness ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _ask_fresh_due(self, now: float, *, all_of_them: bool = False) -> None:
        if self._conversation.follows:
            self._conversation.do(*map(AskFresh, self._questions.due(now, all_of_them=all_of_them)))

    def _take_answer(self, answer: FreshAnswer, now: float) -> None:
        here = self._conversation
        if not self._questions.answered(answer.nonce):
            return
        here.do(AnswerFresh(answer.nonce, answer.head))
        if here.follows and answer.head.epoch == here.epoch:
            # Its entries may have been lost on the way: then nothing else tells of them until the next head.
            self._doubt_if(self._downlink.take_head(answer.head.seq, now), now)
