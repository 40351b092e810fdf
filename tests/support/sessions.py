"""One device's session and the messages of its hub: made, fed and asked, each in a line."""

from __future__ import annotations

from typing import Any, Final

from tidewire_agent.session.effects import Effect, RequestReplay, SayProblem
from tidewire_agent.session.limits import SessionLimits
from tidewire_agent.session.session import Session
from tidewire_agent.session.standing import Standing
from tidewire_agent.session.states import State
from tidewire_agent.session.window import SentBatch
from tidewire_agent.settings import AgentSettings
from tidewire_schemas.messages import Ack, ChainPoint, Entry, Head, Page, Problem, Replay, Welcome
from tidewire_schemas.positions import START, Position

ME: Final = "a" * 32
OTHER: Final = "b" * 32
BOOT: Final = "c" * 32
LOG: Final = "d" * 32
EPOCH: Final = 1000
LIMITS: Final = AgentSettings.of(db="unused.db", window_batches=3, window_bytes=1024, hub_silence_s=0).session_limits()


def at(seq: int, epoch: int = EPOCH) -> Position:
    """The entry of this number, START for 0."""
    return Position(epoch, seq) if seq else START


def digest(batch: int) -> str:
    """Of a batch of this device."""
    return f"{batch:032x}"


def page(prev: Position, count: int, *, epoch: int = EPOCH, log: str = LOG) -> Page:
    """So many empty entries of another device, after `prev`."""
    entries = [
        Entry(
            seq=prev.seq + 1 + i,
            epoch=epoch,
            device="x",
            incarnation=OTHER,
            batch=1,
            digest=digest(1),
            at=0,
            refused=[],
            changes=[],
        )
        for i in range(count)
    ]
    return Page(v=1, type="page", log=log, prev=prev, entries=entries)


def joined(first: Page, *others: Page) -> Page:
    """Pages that follow each other, as one."""
    return first.model_copy(update={"entries": [entry for one in (first, *others) for entry in one.entries]})


def replay(of: Page, *, last: bool, boot: str = BOOT) -> Replay:
    """A page that this device has asked for."""
    return Replay(v=1, type="replay", incarnation=ME, boot=boot, last=last, page=of)


def welcome(head: Position = START, accepted: int = 0, **changes: Any) -> Welcome:
    """The hub has batches up to `accepted` of this device, none for 0."""
    values: dict[str, Any] = {
        "v": 1,
        "type": "welcome",
        "incarnation": ME,
        "boot": BOOT,
        "handshake": 1,
        "log": LOG,
        "epoch": EPOCH,
        "head": head,
        "oldest": 1,
        "checkpoint": "on_log",
        "accepted": ChainPoint(batch=accepted, digest=digest(accepted), seq=1) if accepted else None,
        "payload_bytes_max": 50_000,
        "batch_bytes_max": 1_000_000,
    }
    return Welcome(**(values | changes))


def ack(number: int, **changes: Any) -> Ack:
    """Of a batch of this device."""
    values: dict[str, Any] = {
        "v": 1,
        "type": "ack",
        "incarnation": ME,
        "boot": BOOT,
        "epoch": EPOCH,
        "batch": number,
        "digest": digest(number),
        "seq": number,
    }
    return Ack(**(values | changes))


def head(seq: int, *, epoch: int = EPOCH, log: str = LOG, busy: str | None = None) -> Head:
    """The log goes up to here, says the hub by itself."""
    position = Position(epoch, seq)
    return Head(v=1, type="head", log=log, epoch=epoch, head=position, oldest=1, leader="hub", at=0, busy=busy)


def problem(code: str, **changes: Any) -> Problem:
    """Something that the hub says of this device."""
    values: dict[str, Any] = {"v": 1, "type": "problem", "incarnation": ME, "boot": BOOT, "code": code}
    return Problem(**(values | {"message": "why"} | changes))


def session(
    position: Position = START,
    sealed: int = 0,
    log: str | None = LOG,
    epoch: int = 0,
    limits: SessionLimits = LIMITS,
) -> Session:
    """Of a device that stands there and is not connected."""
    return Session(limits, BOOT, Standing(ME, log, epoch, position, sealed))


def live(position: Position = START, sealed: int = 0, limits: SessionLimits = LIMITS) -> Session:
    """Of a device that stands where the hub is."""
    made = session(position, sealed, limits=limits)
    made.connected(0.0)
    made.welcomed(welcome(position), {}, 0.0)
    assert made.state is State.LIVE
    return made


def feed(target: Session, message: Any, now: float = 0.0, random: float = 0.0, size: int = 10) -> list[Effect]:
    """Give it a message of the hub."""
    return target.received(message, size, now, random)


def only(effects: list[Effect], kind: type) -> list[Any]:
    """The effects of one kind."""
    return [effect for effect in effects if isinstance(effect, kind)]


def codes(effects: list[Effect]) -> set[str]:
    """Of the problems that are said."""
    return {effect.trouble.code for effect in only(effects, SayProblem)}


def sent(first: int, last: int, size: int = 10) -> list[SentBatch]:
    """Batches of this device, as they went out."""
    return [SentBatch(number, digest(number), size) for number in range(first, last + 1)]


def behind(by: int = 5) -> Session:
    """Of a device that has asked for the entries it lacks."""
    made = session()
    made.connected(0.0)
    effects = made.welcomed(welcome(at(by)), {}, 0.0)
    assert only(effects, RequestReplay) == [RequestReplay(START, LIMITS.replay_pages)]
    assert made.state is State.CATCHING_UP
    return made
