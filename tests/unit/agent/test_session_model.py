"""Random histories of a session against a small model of the hub: whatever is dropped, repeated or reordered.

The model holds the log and the device's file; the machine decides what happens to each message. After any history,
once messages travel again, every batch is in the log once and in order, and every entry was applied once and in order.
"""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tidewire_agent.session.effects import (
    AnswerFresh,
    ApplyPage,
    AskFresh,
    Effect,
    Follow,
    Renumber,
    RequestReplay,
    SendBatches,
    SendHello,
)
from tidewire_agent.session.session import Incoming, Session
from tidewire_agent.session.standing import Standing
from tidewire_agent.session.states import FOLLOWING, State
from tidewire_agent.session.window import SentBatch
from tidewire_agent.settings import AgentSettings
from tidewire_schemas.messages import Ack, ChainPoint, Entry, Head, Page, Problem, Replay, Welcome
from tidewire_schemas.positions import START, Position

LOG = "c" * 32
BOOT = "b" * 32
LIMITS = AgentSettings.of(
    db="unused.db", window_batches=3, window_bytes=1024, replay_pages=2, pages_held_max=3
).session_limits()
PAGE_ENTRIES = 2
SETTLE_ROUNDS = 400


class SaidHello(NamedTuple):
    """What matters of a Hello here."""

    handshake: int


class Hub:
    """A log, and what its leader says."""

    def __init__(self) -> None:
        self.epoch = 10
        self.log: list[Entry] = []

    @property
    def head(self) -> Position:
        return self.log[-1].position if self.log else START

    def accepted(self, incarnation: str) -> Entry | None:
        mine = [entry for entry in self.log if entry.incarnation == incarnation]
        return mine[-1] if mine else None

    def append(self, incarnation: str, batch: int, digest: str) -> Page:
        prev = self.head
        entry = Entry(
            seq=len(self.log) + 1,
            epoch=self.epoch,
            device="x",
            incarnation=incarnation,
            batch=batch,
            digest=digest,
            at=0,
            refused=[],
            changes=[],
        )
        self.log.append(entry)
        return Page(v=1, type="page", log=LOG, prev=prev, entries=[entry])

    def pages_after(self, position: Position, count: int) -> list[tuple[Page, bool]]:
        pages, seq = [], position.seq
        for _ in range(count):
            entries = self.log[seq : seq + PAGE_ENTRIES]
            prev = self.log[seq - 1].position if seq else START
            seq += len(entries)
            last = seq == len(self.log)
            pages.append((Page(v=1, type="page", log=LOG, prev=prev, entries=entries), last))
            if last:
                break
        return pages


class Device:
    """The device's file: sealed batches and what was applied."""

    def __init__(self) -> None:
        self.incarnation = "0" * 31 + "1"
        self.incarnations = 1
        self.batches: dict[int, str] = {}
        self.log: str | None = None
        self.epoch = 0
        self.applied: list[Entry] = []
        self.made: list[str] = []
        self.tables_change = True
        """Whether they are others than the hub was told."""
        self.told = 0

    @property
    def position(self) -> Position:
        return self.applied[-1].position if self.applied else START

    @property
    def standing(self) -> Standing:
        sealed = max(self.batches, default=0)
        return Standing(self.incarnation, self.log, self.epoch, self.position, sealed, told=self.told)

    def tell(self) -> None:
        self.told += self.tables_change
        self.tables_change = False

    def seal(self) -> int:
        number = max(self.batches, default=0) + 1
        digest = f"{len(self.made) + 1:032x}"
        self.made.append(digest)
        self.batches[number] = digest
        return number

    def apply(self, page: Page) -> None:
        assert page.prev == self.position, "a page was applied that does not continue the checkpoint"
        self.applied.extend(page.entries)

    def renumber(self, after: int | None) -> None:
        self.incarnations += 1
        self.incarnation = f"{self.incarnations:032x}"
        rest = [digest for number, digest in sorted(self.batches.items()) if number > (after or 0)]
        self.batches = dict(enumerate(rest, start=1))


class Conversation(RuleBasedStateMachine):
    """One device, one hub, and a network that loses, repeats and reorders."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.hub = Hub()
        self.device = Device()
        self.session = Session(LIMITS, BOOT, self.device.standing)
        self.to_hub: list[Any] = []
        self.to_device: list[Incoming] = []
        self.applying: Page | None = None
        self.heard_hello = False
        self.hello_waits = False
        self.told_in: dict[int, int] = {}
        """Which tables were told in which handshake."""
        self.follows_told = 0

    # ── the shell ─────────────────────────────────────────────────────────────────────────────────────────────────

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendHello():
                    self.hello_waits = True
                case RequestReplay() | AskFresh():
                    self.to_hub.append((effect, self.device.incarnation))
                case SendBatches(turn, after, sealed, count_max, _):
                    numbers = [n for n in sorted(self.device.batches) if after < n <= sealed][:count_max]
                    batches = [SentBatch(n, self.device.batches[n], 10) for n in numbers]
                    self.to_hub.extend((batch, self.device.incarnation) for batch in batches)
                    self.perform(self.session.sending(turn, batches, self.now))
                case ApplyPage(page):
                    assert self.applying is None, "two pages are applied at a time"
                    self.applying = page
                case Follow(log, epoch, _):
                    self.device.log, self.device.epoch = log, epoch
                case Renumber(after, _):
                    self.device.renumber(after)
                    self.perform(self.session.reintroduce(self.device.standing, self.now))
                case AnswerFresh():
                    raise AssertionError("nobody asked")

    def read_hello(self) -> None:
        if self.hello_waits:
            self.hello_waits = False
            self.device.tell()
            self.perform(self.session.introduced(self.device.standing, self.now))
            if self.session.state is not State.OFFLINE:
                self.told_in[self.session.handshake] = self.device.told
                self.to_hub.append((SaidHello(self.session.handshake), self.device.incarnation))

    def look_at_tables(self) -> None:
        if self.device.tables_change and self.device.told:
            self.perform(self.session.reintroduce(self.device.standing, self.now))

    def finish_page(self) -> None:
        if self.applying is not None:
            page, self.applying = self.applying, None
            self.device.apply(page)
            self.perform(self.session.applied(self.device.position, self.now))

    # ── the hub ───────────────────────────────────────────────────────────────────────────────────────────────────

    def hub_takes(self, message: Any, incarnation: str) -> None:
        mine: dict[str, Any] = {"v": 1, "incarnation": incarnation, "boot": BOOT}
        match message:
            case SaidHello(handshake):
                self.heard_hello = True
                self.to_device.append(self.welcome(mine, handshake))
            case RequestReplay(position, pages):
                if not self.heard_hello:
                    self.to_device.append(Problem(type="problem", code="hello_needed", message="", **mine))
                    return
                for page, last in self.hub.pages_after(position, pages):
                    self.to_device.append(Replay(type="replay", last=last, page=page, **mine))
            case SentBatch(batch, digest, _):
                self.sequence(batch, digest, incarnation, mine)

    def welcome(self, mine: dict[str, Any], handshake: int) -> Welcome:
        recent = [
            ChainPoint(batch=entry.batch, digest=entry.digest, seq=entry.seq)
            for entry in reversed(self.hub.log)
            if entry.incarnation == mine["incarnation"]
        ]
        return Welcome(
            type="welcome",
            handshake=handshake,
            log=LOG,
            epoch=self.hub.epoch,
            head=self.hub.head,
            oldest=1,
            checkpoint="on_log",
            accepted=recent[0] if recent else None,
            recent=tuple(recent),
            payload_bytes_max=100_000,
            batch_bytes_max=100_000,
            **mine,
        )

    def sequence(self, batch: int, digest: str, incarnation: str, mine: dict[str, Any]) -> None:
        accepted = self.hub.accepted(incarnation)
        last = accepted.batch if accepted else 0
        if batch > last + 1:
            self.to_device.append(Problem(type="problem", code="resend", message="", batch=last + 1, **mine))
            return
        known = next((e for e in self.hub.log if (e.incarnation, e.batch) == (incarnation, batch)), None)
        if known is not None and known.digest != digest:
            self.to_device.append(Problem(type="problem", code="fork", message="", batch=batch, **mine))
            return
        if known is None:
            page = self.hub.append(incarnation, batch, digest)
            self.to_device += [page, self.head()]
        seq = known.seq if known else len(self.hub.log)
        self.to_device.append(Ack(type="ack", epoch=self.hub.epoch, batch=batch, digest=digest, seq=seq, **mine))

    def head(self) -> Head:
        return Head(v=1, type="head", log=LOG, epoch=self.hub.epoch, head=self.hub.head, oldest=1, leader="h", at=0)

    def device_takes(self, message: Incoming) -> None:
        if isinstance(message, Welcome):
            effects = self.session.welcomed(message, self.device.batches, self.now)
            if any(isinstance(effect, Follow) for effect in effects):
                self.follows_told = self.told_in[message.handshake]
            self.perform(effects)
        else:
            self.perform(self.session.received(message, 10, self.now, 0.5))

    # ── what may happen ───────────────────────────────────────────────────────────────────────────────────────────

    @rule(count=st.integers(1, 4))
    def the_app_writes(self, count: int) -> None:
        for _ in range(count):
            number = self.device.seal()
        self.perform(self.session.sealed(number, self.now))

    @rule(count=st.integers(1, 3))
    def another_device_writes(self, count: int) -> None:
        for _ in range(count):
            self.to_device.append(self.hub.append("f" * 32, len(self.hub.log) + 1, "e" * 32))

    @precondition(lambda self: self.session.state is State.OFFLINE)
    @rule()
    def the_broker_comes_back(self) -> None:
        self.perform(self.session.connected(self.now))

    @rule()
    def the_connection_is_lost(self) -> None:
        self.to_device.clear()
        self.to_hub.clear()
        self.perform(self.session.disconnected())

    @rule()
    def a_new_leader(self) -> None:
        self.hub.epoch += 5
        self.heard_hello = False
        self.to_device.append(self.head())

    @precondition(lambda self: self.to_hub)
    @rule(at=st.integers(0, 5), fate=st.sampled_from(["deliver", "deliver", "deliver", "drop", "twice"]))
    def something_reaches_the_hub(self, at: int, fate: str) -> None:
        if at < len(self.to_hub):
            message, incarnation = self.to_hub[at] if fate == "twice" else self.to_hub.pop(at)
            if fate != "drop":
                self.hub_takes(message, incarnation)

    @precondition(lambda self: self.to_device)
    @rule(at=st.integers(0, 5), fate=st.sampled_from(["deliver", "deliver", "deliver", "drop", "twice"]))
    def something_reaches_the_device(self, at: int, fate: str) -> None:
        if at < len(self.to_device) and self.session.state is not State.OFFLINE:
            message = self.to_device[at] if fate == "twice" else self.to_device.pop(at)
            if fate != "drop":
                self.device_takes(message)

    @precondition(lambda self: self.hello_waits)
    @rule()
    def a_hello_is_read(self) -> None:
        self.read_hello()

    @rule(noticed=st.booleans())
    def a_table_changes(self, noticed: bool) -> None:
        self.device.tables_change = True
        if noticed:
            self.look_at_tables()

    @rule()
    def a_page_is_applied(self) -> None:
        self.finish_page()

    @precondition(lambda self: self.session.wake_at != inf)
    @rule(random=st.floats(0, 1))
    def time_passes(self, random: float) -> None:
        self.now = max(self.now, self.session.wake_at)
        self.perform(self.session.tick(self.now, random))

    @rule()
    def the_file_comes_from_a_backup(self) -> None:
        """The newest batch is lost, and another one gets its number: the digests part."""
        if self.device.batches and self.session.state is State.OFFLINE and self.applying is None:
            number = max(self.device.batches)
            lost = self.device.batches.pop(number)
            if all(entry.digest != lost for entry in self.hub.log):
                self.device.made.remove(lost)
            self.session = Session(LIMITS, BOOT, self.device.standing)

    # ── what must hold ────────────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def entries_are_applied_once_and_in_order(self) -> None:
        """Guarantee 3."""
        assert self.device.applied == self.hub.log[: len(self.device.applied)]

    @invariant()
    def what_the_hub_says_is_followed_only_if_it_was_told_the_same_tables(self) -> None:
        assert self.session.state not in FOLLOWING or self.follows_told == self.device.told

    @invariant()
    def batches_are_in_the_log_once_and_in_order(self) -> None:
        """Guarantees 2 and 5."""
        mine = [int(entry.digest, 16) for entry in self.hub.log if entry.incarnation != "f" * 32]
        assert mine == sorted(set(mine))

    def teardown(self) -> None:
        """Everything works again: the two sides agree, whatever happened before."""
        self.to_hub.clear()
        self.to_device.clear()
        self.look_at_tables()
        if self.session.state is State.OFFLINE:
            self.perform(self.session.connected(self.now))
        for _ in range(SETTLE_ROUNDS):
            while self.to_hub or self.to_device or self.applying or self.hello_waits:
                self.read_hello()
                if self.to_hub:
                    self.hub_takes(*self.to_hub.pop(0))
                if self.to_device:
                    self.device_takes(self.to_device.pop(0))
                self.finish_page()
            if self.settled:
                break
            if self.session.wake_at == inf:
                self.device_takes(self.head())  # the hub says it now and then
            else:
                self.now = max(self.now, self.session.wake_at)
                self.perform(self.session.tick(self.now, 0.0))
        assert self.settled, (self.session.state, self.device.position, self.hub.head)
        self.entries_are_applied_once_and_in_order()
        self.batches_are_in_the_log_once_and_in_order()
        logged = {entry.digest for entry in self.hub.log}
        assert set(self.device.made) <= logged, "a batch never reached the log"

    @property
    def settled(self) -> bool:
        logged = {entry.digest for entry in self.hub.log}
        return (
            self.session.state is State.LIVE
            and self.device.applied == self.hub.log
            and set(self.device.batches.values()) <= logged
        )


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
