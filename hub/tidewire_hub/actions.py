"""What `HubCore` asks of its shell, and what the shell tells it: values only.

The core returns effects in the order in which the shell must begin them. Stream effects (`Append`, `Greet`, `ReadPage`,
`Trim`, `Lead`) run one after another on the stream's thread. Each comes back to the core as the input named in its
docstring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from tidewire_hub.clones import Agents
from tidewire_hub.snapshot.manifest import KeptSnapshot
from tidewire_schemas.errors import LedElsewhere
from tidewire_schemas.messages import ChainPoint, ColumnsElsewhere, Head, Hello, TableProblem
from tidewire_schemas.positions import Position
from tidewire_schemas.verification import VerifyRequest


class Now(NamedTuple):
    """The time of an input, by the two clocks that matter."""

    s: float
    """Seconds of a clock that never goes back: for timers and limits."""
    ms: int
    """Milliseconds since 1970: shown to people, never compared."""


class QueuedBatch(NamedTuple):
    """A whole batch that waits for its group commit."""

    device: str
    payload: bytes


class Standing(NamedTuple):
    """Where a device stands in the log, as the stream knows it."""

    table_problems: tuple[TableProblem, ...]
    on_log: bool
    """Whether its checkpoint is an entry of this log, or the start of it."""
    accepted: ChainPoint | None
    recent: tuple[ChainPoint, ...]
    common: Position | None = None
    """Where it is not: the newest entry that both have in common."""
    whole_since: int = 0
    """The newest entry before which the log says of columns what does not count any more."""
    columns_elsewhere: tuple[ColumnsElsewhere, ...] = ()
    """Columns of its tables that other devices have."""
    parent_known: bool = True
    """Whether the log holds what the first batch of this incarnation follows, where it follows anything."""


class EntriesRead(NamedTuple):
    """Consecutive entries after a position, as they are stored."""

    known: bool
    """Whether the position is an entry of this log, or the start of it."""
    entries: Sequence[tuple[Position, bytes]]


@dataclass(frozen=True, slots=True)
class Publish:
    """Send a payload. Comes back as `on_paced_sent` if it is `paced`."""

    topic: str
    payload: bytes
    retain: bool = False
    paced: bool = False
    """Replay goes out a few pages at a time, so that devices coming back do not fill the hub's memory."""


@dataclass(frozen=True, slots=True)
class Append:
    """Commit a group of batches. Comes back as `on_appended` or `on_append_failed`."""

    group: tuple[QueuedBatch, ...]


@dataclass(frozen=True, slots=True)
class Greet:
    """Take a device's table shapes and look up where it stands. Comes back as `on_greeted` or `on_greet_failed`."""

    device: str
    hello: Hello
    connected: frozenset[str] = frozenset()
    """Devices that are there, as far as is known."""
    agents: Agents = "one"
    """How many live under this device's name: it may not speak for all."""


@dataclass(frozen=True, slots=True)
class ReadPage:
    """Read entries. Comes back as `on_page_read` or `on_read_failed`."""

    after: Position
    entries_max: int
    bytes_max: int


@dataclass(frozen=True, slots=True)
class MakeSnapshot:
    """Make a snapshot, on a thread of its own. Comes back as `on_snapshot_made` or `on_snapshot_failed`."""


@dataclass(frozen=True, slots=True)
class ReadChunk:
    """Read a chunk of a snapshot. Comes back as `on_chunk_read` or `on_chunk_failed`."""

    snapshot: KeptSnapshot
    chunk: int


@dataclass(frozen=True, slots=True)
class RemoveSnapshot:
    """Remove a snapshot from the disk."""

    snapshot: str


@dataclass(frozen=True, slots=True)
class Trim:
    """Take a step of removing what retention does not keep. Comes back as `on_trimmed` or `on_trim_failed`."""

    needed_from: int
    """The lowest seq that a device which begins with a snapshot may ask for: it and what follows stays."""


@dataclass(frozen=True, slots=True)
class Lead:
    """Acquire an epoch above one that was heard of. Comes back as `on_led` or `on_lead_failed`."""

    heard_epoch: int


@dataclass(frozen=True, slots=True)
class Settle:
    """Commit what the state holds open, as no group came for a while: commands read the state's file."""


@dataclass(frozen=True, slots=True)
class CheckState:
    """Compare the state's rows with their digests, and its copies with theirs, beside the stream. Comes back as
    `on_checked` or `on_check_failed`."""


@dataclass(frozen=True, slots=True)
class RemakeState:
    """Make the state anew. Comes back as `on_remade` or `on_remake_failed`."""


@dataclass(frozen=True, slots=True)
class Verify:
    """Say what the state holds of some rows. Comes back as `on_verified` or `on_verify_failed`."""

    device: str
    request: VerifyRequest


@dataclass(frozen=True, slots=True)
class Serve:
    """Subscribe to what devices send: this hub leads. Comes back as `on_connected`."""


@dataclass(frozen=True, slots=True)
class StepDown:
    """End with `error`: another hub leads. `mark` is its head if it took this very log over, to be remembered."""

    error: LedElsewhere
    mark: Head | None


@dataclass(frozen=True, slots=True)
class SaveDevices:
    """Write what is known of devices where `tidewire-hub devices` finds it; losing it loses nothing that matters."""

    document: bytes


@dataclass(frozen=True, slots=True)
class Report:
    """Say something in the hub's log."""

    level: Literal["info", "warning", "error"]
    message: str
    fields: Mapping[str, object] = field(default_factory=dict)


Effect = (
    Publish
    | Append
    | Greet
    | ReadPage
    | MakeSnapshot
    | ReadChunk
    | RemoveSnapshot
    | Trim
    | Lead
    | Settle
    | CheckState
    | RemakeState
    | Verify
    | Serve
    | StepDown
    | SaveDevices
    | Report
)
