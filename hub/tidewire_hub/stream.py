"""One stream: its durable log, and the state that is the log's fold. Everything the hub decides about data is here.

    incoming batches → parse → dedupe → resolve + fold (open state transaction) → durable append → commit state → Commit

The log is the truth. The state is a cache of its fold: if the append fails the state is rolled back and nothing is
acked; if the process dies between append and commit, the state folds what the log has beyond it when it is opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from tidewire_hub.log.port import HubLog, StoredEntry
from tidewire_schemas.messages import ChainPoint, TableProblem
from tidewire_schemas.positions import Epoch, Position, Seq
from tidewire_schemas.shapes import TableShape


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Limits of one stream."""

    batch_bytes_max: int = 16 * 1024 * 1024
    """A larger batch is a problem of its sender; as in the protocol."""
    conflicts_max: int = 100_000
    """Conflict records kept; the oldest go first. About 300 bytes each."""
    chain_points_max: int = 1_000
    """Batches of each (device, incarnation) whose digest is remembered, to find where a restored copy branched off."""
    state_cache_bytes: int = 16 * 1024 * 1024
    """Page cache of the state database."""


class Incoming(NamedTuple):
    """A whole batch as it came; `device` is from the topic, never from the payload."""

    device: str
    payload: bytes


class Acked(NamedTuple):
    """A batch that is durable in the log: new ones and repeated ones alike."""

    device: str
    incarnation: str
    batch: int
    digest: str
    seq: Seq


class BatchProblem(NamedTuple):
    """What could not be done with an incoming batch; the fields are those of the `Problem` message.

    Codes: `resend` (go on from `batch`), `fork` (digests differ at `batch`), `internal`, or a `MessageError`'s code.
    """

    device: str
    incarnation: str | None
    code: str
    message: str
    hint: str = ""
    retry: bool = False
    batch: int | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """What one group commit did. All of `entries` and `acks` are durable when the caller sees this."""

    prev: Position
    """The head before the first of `entries`."""
    entries: list[StoredEntry] = field(default_factory=list)
    """New entries, consecutive, with their positions and wire bytes."""
    acks: list[Acked] = field(default_factory=list)
    problems: list[BatchProblem] = field(default_factory=list)
    rows: int = 0
    """Rows of accepted batches, refused ones included."""
    refused: int = 0
    conflicts: int = 0
    """Conflict records made, refusals included."""

    @property
    def head(self) -> Position:
        """The head after this commit."""
        return self.entries[-1].position if self.entries else self.prev


class TableDigest(NamedTuple):
    """How many rows a table has at the head, and the sum of their digests as 32 hexadecimal digits."""

    table: str
    rows: int
    digest: str


class Conflict(NamedTuple):
    """A write that lost: refused, or overwritten by a concurrent one."""

    id: int
    """Increasing in log order; pass the last one to `Stream.conflicts` to go on from there."""
    seq: Seq
    """The entry that decided it."""
    at: int
    """Milliseconds since 1970 by the hub's clock: for people only."""
    device: str
    """Whose entry that is."""
    table: str
    key: list[Any]
    """Wire values of the key columns."""
    kind: str
    """`overwritten`, or the reason of the refusal."""
    loser: str
    """Whose values lost."""
    lost: dict[str, Any]
    """The values that lost, by column; empty when it was a refused delete."""


class DeviceChain(NamedTuple):
    """One incarnation of a device and its newest batch in the log."""

    device: str
    incarnation: str
    accepted: ChainPoint


class Stream:
    """A stream's log and state. Synchronous, used from one thread; every method may raise a `DatabaseError`."""

    @classmethod
    def open(cls, log: HubLog, state_path: Path | None, *, settings: StreamSettings | None = None) -> Self:
        """Open the state beside `log` and fold into it what the log has beyond it.

        A state that is missing, damaged, of another log or ahead of this one is made anew from the log.
        `state_path` None keeps the state in memory.
        """
        raise NotImplementedError

    @property
    def log_id(self) -> str:
        """Identity of the log: what devices follow."""
        raise NotImplementedError

    @property
    def head(self) -> Position:
        """Position of the newest entry, `START` while there is none."""
        raise NotImplementedError

    @property
    def oldest(self) -> Seq:
        """The lowest seq that `read` can give."""
        raise NotImplementedError

    @property
    def epoch(self) -> Epoch:
        """This leadership's epoch; 0 before `lead`."""
        raise NotImplementedError

    def lead(self, now_ms: int, random_10_bits: int, heard_epoch: int = 0) -> Epoch:
        """Acquire leadership: a new epoch above all that were stored or heard. May be called again to raise it."""
        raise NotImplementedError

    def sequence(self, incoming: Sequence[Incoming], at_ms: int) -> Commit:
        """One group commit: dedupe, resolve, number, append durably, fold.

        A batch that cannot be used gives a problem and holds up no other.

        Raises:
            StaleLeader: another hub leads; nothing was stored, nothing may be acked.
            DatabaseError: the storage failed; nothing may be acked. The stream stays usable: the same call may
                succeed once the cause (a full disk) is gone.
        """
        raise NotImplementedError

    def read(self, after: Seq, *, bytes_max: int, entries_max: int) -> list[StoredEntry]:
        """Entries after `after` within both limits, at least one if there is one; as `HubLog.read`."""
        raise NotImplementedError

    def checkpoint_known(self, position: Position) -> bool:
        """Whether a device's checkpoint is an entry of this log; `START` always is."""
        raise NotImplementedError

    def accepted(self, device: str, incarnation: str) -> ChainPoint | None:
        """The newest batch of this incarnation in the log."""
        raise NotImplementedError

    def recent(self, device: str, incarnation: str, count: int) -> list[ChainPoint]:
        """Up to `count` of its newest batches, newest first."""
        raise NotImplementedError

    def declare(self, device: str, shapes: Sequence[TableShape]) -> list[TableProblem]:
        """Merge the tables a device declares into the catalogue, durably; what of them cannot be taken, and why.

        Declaring what is known already costs no write.
        """
        raise NotImplementedError

    def tables(self) -> list[TableShape]:
        """The catalogue: for each table the union of what devices declared and what is in force."""
        raise NotImplementedError

    def digests(self) -> list[TableDigest]:
        """Rows and digest of each table at the head, in order of table name."""
        raise NotImplementedError

    def rows(self, table: str) -> Iterator[dict[str, Any]]:
        """Rows of a table at the head as wire values by column, in key order; NULL columns are left out."""
        raise NotImplementedError

    def conflicts(self, after_id: int = 0, limit: int = 100) -> list[Conflict]:
        """Conflict records after `after_id`, oldest first."""
        raise NotImplementedError

    def devices(self) -> list[DeviceChain]:
        """Every (device, incarnation) that has a batch in the log, by name."""
        raise NotImplementedError

    def close(self) -> None:
        """Close state and log."""
        raise NotImplementedError
