"""What goes into a group commit and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from tidewire_hub.log.port import StoredEntry
from tidewire_schemas.positions import Position, Seq


class Incoming(NamedTuple):
    """A whole batch as it came; `device` is from the topic, never from the payload."""

    device: str
    payload: bytes
    greeted: bool = True
    """Whether the device has told this leader its tables: what is still unknown then is refused."""


class Acked(NamedTuple):
    """A batch that is durable in the log: new ones and repeated ones alike."""

    device: str
    incarnation: str
    batch: int
    digest: str
    seq: Seq


class BatchProblem(NamedTuple):
    """What could not be done with an incoming batch; the fields are those of the `Problem` message.

    Codes: `resend` (go on from `batch`), `fork` (digests differ at `batch`), `hello_needed` (say which tables there
    are), `internal`, or a `MessageError`'s code.
    """

    device: str
    incarnation: str | None
    code: str
    message: str
    hint: str = ""
    retry: bool = False
    batch: int | None = None


@dataclass(slots=True)
class Commit:
    """What one group commit did. All of `entries` and `acks` are durable when the caller sees this."""

    prev: Position
    """The head before the first of `entries`."""
    entries: list[StoredEntry] = field(default_factory=list)
    """New entries, consecutive, with their positions and wire bytes."""
    acks: list[Acked] = field(default_factory=list)
    problems: list[BatchProblem] = field(default_factory=list)
    left: int = 0
    """So many of what came, at its end, were left for the next group: the time of this one was up."""
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
