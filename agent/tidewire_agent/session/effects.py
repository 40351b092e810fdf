"""What a `Session` tells its shell to do. Plain values; the shell performs them in the order they are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from tidewire_agent.session.states import State
from tidewire_agent.store.taking_apart import TakeApart
from tidewire_schemas.messages import ChainPoint, ColumnsElsewhere, Page
from tidewire_schemas.positions import Position
from tidewire_schemas.snapshots import Snapshot, SnapshotChunk


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something a person should know about, under a stable code; it stays until it is cleared."""

    code: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


@dataclass(frozen=True, slots=True)
class SendHello:
    """Say `Hello` with what the store holds now."""


@dataclass(frozen=True, slots=True)
class SendBatches:
    """Read batches after number `after` from the outbox, publish them in order, and say `sending` with the same `turn`.

    None above `sealed`: what was sealed since may be of tables that the hub has not been told of.
    """

    turn: int
    after: int
    sealed: int
    count_max: int
    bytes_max: int


@dataclass(frozen=True, slots=True)
class RequestReplay:
    """Ask the hub for entries after `position`."""

    position: Position
    pages: int


@dataclass(frozen=True, slots=True)
class AskFresh:
    """Ask the hub how far the log goes."""

    nonce: str


@dataclass(frozen=True, slots=True)
class AnswerFresh:
    """Write into the file how far the log went when `nonce` was asked."""

    nonce: str
    head: Position


@dataclass(frozen=True, slots=True)
class ApplyPage:
    """Apply a page that continues the position, and say `applied`. Never two at a time.

    Only while the tables are those that the hub was told when it said how to go on, see `Standing.told`: what it said
    need not hold for others, so the page is then not applied.
    """

    page: Page
    told: int = 0


@dataclass(frozen=True, slots=True)
class RequestSnapshot:
    """Ask the hub for a snapshot's manifest, or for `chunks` chunks of it from `first` on."""

    snapshot: str | None
    tables: tuple[str, ...] | None
    first: int
    chunks: int
    least: int = 0
    """An entry that the snapshot must hold, where the newest is asked for."""
    refused_after: int = 0
    """Of entries after this one the manifest shall say which rows were refused."""


@dataclass(frozen=True, slots=True)
class AwaitSnapshot:
    """Tables that stand before the checkpoint wait for a snapshot from now on. Then say `reintroduce`."""


@dataclass(frozen=True, slots=True)
class BeginLoad:
    """Begin to load this snapshot, and say `loaded`; so after each of the following."""

    manifest: Snapshot
    whole: bool


@dataclass(frozen=True, slots=True)
class LoadChunk:
    """Load a chunk."""

    chunk: SnapshotChunk


@dataclass(frozen=True, slots=True)
class FinishLoad:
    """All chunks are loaded: do the rest."""


@dataclass(frozen=True, slots=True)
class ForgetLoad:
    """The hub does not have the snapshot any more."""


@dataclass(frozen=True, slots=True)
class Follow:
    """Store what a `Welcome` said."""

    log: str
    epoch: int
    head: Position
    elsewhere: tuple[ColumnsElsewhere, ...] = ()
    """Columns that other devices have."""


@dataclass(frozen=True, slots=True)
class Renumber:
    """Make a new incarnation, which goes on after batch `after`; then say `reintroduce`. See `chain.Parted`."""

    after: int | None
    digest: str | None
    apart: TakeApart | None = None
    """Which of the batches that follow are to become smaller ones."""


@dataclass(frozen=True, slots=True)
class Heal:
    """Go back to the last entry in common, offer again what the hub has lost; then say `reintroduce`."""

    common: Position
    points: tuple[ChainPoint, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """Honour what the hub takes in one message and in one batch."""

    payload_bytes_max: int
    batch_bytes_max: int


@dataclass(frozen=True, slots=True)
class PublishState:
    """The state has changed: let it be known."""

    state: State


@dataclass(frozen=True, slots=True)
class SayProblem:
    """Something is wrong: let it be known, and keep it until it is cleared."""

    trouble: Trouble
    since: float | None = None
    """The time, by the clock of the session's inputs, since when it is so; None where that does not matter."""


@dataclass(frozen=True, slots=True)
class ClearProblem:
    """The trouble under this code is over."""

    code: str


Effect: TypeAlias = (
    SendHello
    | SendBatches
    | RequestReplay
    | RequestSnapshot
    | AskFresh
    | AnswerFresh
    | ApplyPage
    | Follow
    | AwaitSnapshot
    | BeginLoad
    | LoadChunk
    | FinishLoad
    | ForgetLoad
    | Renumber
    | Heal
    | Limits
    | PublishState
    | SayProblem
    | ClearProblem
)
