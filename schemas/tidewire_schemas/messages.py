"""Every message that travels, as a frozen model.

One JSON document in UTF-8 per MQTT message. All carry `v`, the protocol's version, and `type`, which tells apart what
shares a topic. Whatever answers a device carries that device's `incarnation` and `boot`, so that a clone or an earlier
process ignores what was not meant for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import FailFast, Field, model_validator

from tidewire_schemas.base import PAYLOAD_BYTES_MIN, Component, Message
from tidewire_schemas.names import Id, Identifier, TopicName, fold
from tidewire_schemas.operations import Op, RefusalReason
from tidewire_schemas.positions import Count, Millis, Ordinal, Position
from tidewire_schemas.shapes import COLUMNS_MAX, TableShape
from tidewire_schemas.snapshots import LoadProgress, Snapshot, SnapshotChunk, SnapshotRequest
from tidewire_schemas.topics import Kind
from tidewire_schemas.values import WireRow, check_rows
from tidewire_schemas.verification import Verified, VerifyAnswer, VerifyNow, VerifyReport, VerifyRequest

HISTORY_MAX: Final = 64
"""Epochs that a device remembers: a hub that comes back has lost the last of them, not the last 64."""


# ── changes ───────────────────────────────────────────────────────────────────────────────────────────────────────


Ties = Annotated[tuple[Count, ...], Field(fail_fast=True)]


class Run(Component):
    """Changes of one table, one operation and one base: columns once, then row after row.

    The first `key` columns are the key in the order of the table's PRIMARY KEY. `put` carries whole rows, `set` the key
    and the changed columns, `delete` the key alone, `seed` whole rows that were there before the table was attached.
    """

    op: Op
    table: Identifier
    base: Position
    """The entry that the device had applied when the app wrote."""
    key: int = Field(ge=1, le=COLUMNS_MAX)
    columns: Annotated[tuple[Identifier, ...], FailFast()] = Field(min_length=1, max_length=COLUMNS_MAX)
    rows: Annotated[list[WireRow], FailFast()] = Field(min_length=1)
    ties: Ties | None = None
    """For each row the number of the group it belongs to, 0 for none; rows of a group are refused together. Numbers
    hold across the batch."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        width = len(self.columns)
        if self.key > width or (self.op == "delete" and self.key != width):
            raise ValueError(f"{self.op} names {width} columns and {self.key} of them as key")
        if self.op == "set" and self.key == width:
            raise ValueError("set names no column besides the key")
        if len(set(fold("\0".join(self.columns)).split("\0"))) != width:
            raise ValueError(f"{self.op} names a column twice")
        if self.ties is not None and len(self.ties) != len(self.rows):
            raise ValueError("ties must have a number for each row")
        check_rows(self.rows, width)
        return self


class Batch(Message):
    """What a device committed, sealed: whole transactions, as a net change without inner order, deletes before puts."""

    type: Literal["batch"] = "batch"
    incarnation: Id
    batch: Ordinal
    prev_digest: Id
    """Digest of the bytes of the batch before. For the first of an incarnation: of the batch, in the log, of an earlier
    incarnation of this device, after which this one goes its own way; 32 zeros where there is none."""
    sealed_at: Millis
    """Milliseconds since 1970 by the device's clock: for people only."""
    was: Position | None = None
    """The place that it had in a part of the log that the hub has lost; None for what was not in the log yet."""
    changes: Annotated[list[Run], FailFast()]


class HeldRow(Component):
    """A row as the hub holds it."""

    columns: tuple[Identifier, ...]
    values: WireRow

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_rows([self.values], len(self.columns))
        return self


class Refusal(Component):
    """A row of a batch that no device applies, and what the hub holds in its place after this entry."""

    table: Identifier
    columns: tuple[Identifier, ...]
    """Names of the key columns, as the batch spelled them."""
    key: WireRow
    op: Op
    reason: RefusalReason
    detail: str = ""
    row: HeldRow | None
    """The hub's row under that key after this entry, None where it has none."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_rows([self.key], len(self.columns))
        return self


class Parent(Component):
    """Where an incarnation of a device's database began: what the device wrote up to there is its own."""

    incarnation: Id
    batch: Ordinal
    seq: Ordinal


class Entry(Component):
    """A batch as resolved, with its place in the log."""

    seq: Ordinal
    epoch: Ordinal
    device: TopicName
    incarnation: Id
    batch: Ordinal
    digest: Id
    """Digest of the batch's bytes as the device sent them."""
    at: Millis
    """Milliseconds since 1970 by the hub's clock: for people only."""
    parent: Parent | None = None
    """In the first entry of an incarnation that goes on from another one: which, and from where."""
    was: Position | None = None
    """The place that the batch had before, where the hub had lost it and the device offered it again."""
    refused: Annotated[list[Refusal], FailFast()]
    changes: Annotated[list[Run], FailFast()]

    @property
    def position(self) -> Position:
        """The checkpoint of who has applied this entry."""
        return Position(self.epoch, self.seq)


# ── device → hub ──────────────────────────────────────────────────────────────────────────────────────────────────


class ChainPoint(Component):
    """One batch of a device as the log has it."""

    batch: Ordinal
    digest: Id
    seq: Count


class LastSealed(Component):
    """The newest batch a device has sealed."""

    batch: Ordinal
    digest: Id


class Hello(Message):
    """A device says who it is and where it stands; the hub answers with `Welcome` or `Problem`."""

    type: Literal["hello"] = "hello"
    incarnation: Id
    boot: Id
    handshake: Count = 0
    """Number of this handshake since `boot`, which the answer repeats. It rises when a handshake begins anew and when
    other tables are told; a `Hello` that is only said again has the same. 0: it is not counted."""
    log: Id | None
    """The log it follows; None before its first handshake."""
    position: Position
    """Its checkpoint."""
    epoch: Count
    """The highest epoch it has heard of."""
    last_sealed: LastSealed | None
    parent: Id | None = None
    """The digest that the first batch of this incarnation follows; None where it follows none."""
    history: tuple[Position, ...] = Field(default=(), max_length=HISTORY_MAX)
    """The last entry that it has applied of each earlier epoch, the newest first, as far as it remembers."""
    oldest_kept: Count
    """The lowest batch number it can still send again; 0 when it keeps none."""
    tables: Annotated[tuple[TableShape, ...], FailFast()]


class ReplayRequest(Message):
    """A device asks for entries after its checkpoint; `pages` is how many it will take before it asks again."""

    type: Literal["replay_request"] = "replay_request"
    incarnation: Id
    boot: Id
    position: Position
    pages: int = Field(ge=1, le=64)


class FreshRequest(Message):
    """A device asks how far the log goes now."""

    type: Literal["fresh_request"] = "fresh_request"
    incarnation: Id
    boot: Id
    nonce: Id


class DeviceState(Message):
    """How a device is: retained, and as last will with state `offline`."""

    type: Literal["device_state"] = "device_state"
    state: Literal["offline", "handshaking", "catching_up", "loading_snapshot", "live", "stopped", "halted"]
    """`offline` is the last will, `stopped` a clean stop, `halted` waits for a person (see `problem`)."""
    incarnation: Id
    boot: Id
    position: Position | None = None
    pending: Count | None = None
    """Batches sealed and not yet in the log, and changes not yet sealed."""
    outbox_bytes: Count | None = None
    """Bytes of these batches."""
    outbox_bytes_max: Count | None = None
    """The limit that a user set for them, None for no limit."""
    oldest_unsent_at: Millis | None = None
    """When the oldest of these was sealed, milliseconds since 1970 by the device's clock."""
    dead_letters: Count | None = None
    dead_letters_dropped: Count | None = None
    """Dead letters that went, as there were more than the device keeps: these versions of rows are gone."""
    snapshot: LoadProgress | None = None
    """How much of a snapshot is loaded, None while none is: meanwhile tables hold some of its rows and not others."""
    verified: Verified | None = None
    """What comparisons with the hub's rows found, of each table the last; None before the first since its start."""
    problem: str | None = None
    version: str | None = None


# ── hub → devices ─────────────────────────────────────────────────────────────────────────────────────────────────


class TableProblem(Component):
    """Why the hub does not take a table as a device declares it."""

    table: Identifier
    code: str
    message: str


class ColumnsElsewhere(Component):
    """Columns of a table that other devices have, and the one that is spoken to has not."""

    table: Identifier
    columns: tuple[Identifier, ...]


class Welcome(Message):
    """The hub's answer to `Hello`: where the device stands in this log, and what to send next."""

    type: Literal["welcome"] = "welcome"
    incarnation: Id
    boot: Id
    handshake: Count = 0
    """That of the `Hello` which this answers. A device ignores an answer to another than its newest: what holds for the
    tables it told then need not hold for those it has told since."""
    log: Id
    epoch: Ordinal
    head: Position
    oldest: Count
    """The lowest seq that replay should serve: a device that lacks entries before it takes a snapshot."""
    checkpoint: Literal["on_log", "off_log"]
    """Whether the device's checkpoint is an entry of this log, kept or not, or the start of it."""
    snapshot_advised: bool = False
    """The device is so far behind that a snapshot costs less than replay."""
    common: Position | None = None
    """With `off_log`: the newest entry that device and log have in common, the start where there is none."""
    accepted: ChainPoint | None
    """The newest batch of this incarnation in the log: the device goes on with the one after."""
    parent: Literal["known", "unknown"] = "known"
    """Whether the log holds the batch that the first one of this incarnation follows, where it follows one."""
    recent: tuple[ChainPoint, ...] = ()
    """More of them, newest first, when the chains differ: the device finds the last common one."""
    table_problems: tuple[TableProblem, ...] = ()
    columns_elsewhere: tuple[ColumnsElsewhere, ...] = ()
    """Of the device's tables: columns that it lacks, as far as the hub knows at `head`."""
    cloned: str | None = None
    """Which agents run under this device's name, where that is more than one."""
    payload_bytes_max: Annotated[Ordinal, Field(ge=PAYLOAD_BYTES_MIN)]
    """What the hub takes in one message; larger batches come in parts."""
    batch_bytes_max: Annotated[Ordinal, Field(ge=PAYLOAD_BYTES_MIN)]
    """What the hub takes as one batch, put together from its parts."""


class Ack(Message):
    """Batches up to this one are durable in the log."""

    type: Literal["ack"] = "ack"
    incarnation: Id
    boot: Id | None
    """None for a device that never said Hello (such as a batch published by hand)."""
    epoch: Ordinal
    batch: Ordinal
    digest: Id
    seq: Ordinal


class Page(Message):
    """Consecutive entries of the log; `prev` is the position before the first of them."""

    type: Literal["page"] = "page"
    log: Id
    prev: Position
    entries: Annotated[list[Entry], FailFast()]

    @model_validator(mode="after")
    def _contiguous(self) -> Self:
        expected = self.prev.seq + 1
        for entry in self.entries:
            if entry.seq != expected:
                raise ValueError(f"entry {entry.seq} stands where {expected} belongs")
            expected += 1
        return self

    @property
    def end(self) -> Position:
        """The checkpoint of who has applied this page."""
        return self.entries[-1].position if self.entries else self.prev


class Replay(Message):
    """A page for one device, the same as it went out live."""

    type: Literal["replay"] = "replay"
    incarnation: Id
    boot: Id
    last: bool
    """No entry followed this page when it was sent."""
    page: Page


class FreshAnswer(Message):
    """How far the log went when the hub read the question."""

    type: Literal["fresh_answer"] = "fresh_answer"
    incarnation: Id
    boot: Id
    nonce: Id
    head: Position


class Problem(Message):
    """The hub says what it could not do with something of this device."""

    type: Literal["problem"] = "problem"
    incarnation: Id | None = None
    boot: Id | None = None
    code: str
    """`resend`: go on from `batch`. `fork`: the digests differ at `batch`. `log_unknown`: the device follows another
    log. `hello_needed`: say Hello first. `replay_too_old`: take a snapshot. `snapshot_building`: wait for its manifest.
    `snapshot_gone`: ask for another. `cloned`: another agent speaks under this device's name. Or the code of the error
    in `message`."""
    message: str
    hint: str = ""
    retry: bool = False
    batch: Count | None = None


class Head(Message):
    """How far the log goes: retained, at every page and periodically."""

    type: Literal["head"] = "head"
    log: Id
    epoch: Ordinal
    head: Position
    oldest: Count
    leader: TopicName
    boot: Id | None = None
    """The leader's process, as in its `HubState`: tells two hubs of one name apart."""
    replaces: Id | None = None
    """Another log that this leader took the stream over from, on a person's word."""
    at: Millis
    busy: str | None = None
    """For people: what the hub has been doing for seconds, or why it cannot commit, so that acks and greetings must
    wait. None: nothing keeps it."""


class HubState(Message):
    """How a hub node is: retained, and as last will with state `offline`."""

    type: Literal["hub_state"] = "hub_state"
    state: Literal["starting", "leading", "stopped", "halted", "replaced", "offline"]
    """`starting` (never retained) asks who leads, `halted` cannot commit, `replaced` gave way to another hub."""
    node: TopicName
    boot: Id
    epoch: Count | None = None
    problem: str | None = None
    version: str | None = None


class Part(Message):
    """A slice of a message that is larger than `payload_bytes_max`. Parts follow each other on the message's topic."""

    type: Literal["part"] = "part"
    digest: Id
    """Digest of the whole message's bytes: which message this is a part of, and the check when it is whole."""
    part: Count
    """From 0."""
    parts: Annotated[int, Field(ge=2, le=1_000_000)]
    size: Ordinal
    """Bytes of the whole message."""
    text: str = Field(min_length=1)
    """Slice of the whole message's JSON text."""

    @model_validator(mode="after")
    def _counts(self) -> Self:
        if self.part >= self.parts:
            raise ValueError(f"part {self.part} of {self.parts} does not exist: they count from 0")
        return self


UpMessage = Annotated[Batch | Part, Field(discriminator="type")]
AskMessage = Annotated[
    Hello | ReplayRequest | SnapshotRequest | FreshRequest | VerifyRequest | VerifyReport | Part,
    Field(discriminator="type"),
]
LogMessage = Annotated[Page | Part, Field(discriminator="type")]
InMessage = Annotated[
    Welcome | Ack | Replay | Snapshot | SnapshotChunk | FreshAnswer | VerifyAnswer | VerifyNow | Problem | Part,
    Field(discriminator="type"),
]

ON_TOPIC: Final[Mapping[Kind, Any]] = {
    "up": UpMessage,
    "ask": AskMessage,
    "log": LogMessage,
    "head": Head,
    "in": InMessage,
    "device_state": DeviceState,
    "hub_state": HubState,
}
"""What each kind of topic carries."""
