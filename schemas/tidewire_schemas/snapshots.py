"""Messages about snapshots: all rows of the synced tables at one position, in numbered chunks that never change.

A device asks for the manifest first, then for chunks, a few at a time and only of the tables it holds. Chunks are the
same bytes for every device.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import FailFast, Field, model_validator

from tidewire_schemas.base import Component, Message
from tidewire_schemas.names import Id, Identifier
from tidewire_schemas.operations import Op, RefusalReason
from tidewire_schemas.positions import Count, Ordinal, Position
from tidewire_schemas.shapes import COLUMNS_MAX
from tidewire_schemas.values import WireRow, check_rows

CHUNKS_ASKED_MAX: Final = 64
"""Chunks that a device may ask for at once."""


class SnapshotRequest(Message):
    """A device asks for a snapshot's manifest or for some of its chunks. A new request replaces the one before."""

    type: Literal["snapshot_request"] = "snapshot_request"
    incarnation: Id
    boot: Id
    snapshot: Id | None
    """Which one; None for the newest, which the hub makes if it has none that is young enough."""
    tables: tuple[Identifier, ...] | None = None
    """The tables that the manifest shall list; None for all."""
    least: Count = 0
    """The newest will not do if it does not hold this entry: the device would go back behind what it has applied."""
    first: Count = 0
    """Number of the first chunk that the device wants."""
    chunks: int = Field(default=0, ge=0, le=CHUNKS_ASKED_MAX)
    """How many chunks it takes, from `first` on, before it asks again; 0 asks for the manifest."""
    refused_after: Count = 0
    """The manifest shall list rows of the device that were refused in entries after this one."""

    @model_validator(mode="after")
    def _names_what_it_wants_chunks_of(self) -> Self:
        if self.snapshot is None and self.chunks:
            raise ValueError("chunks can be asked for of a named snapshot alone")
        return self


class SnapshotTable(Component):
    """One table of a snapshot: its chunks follow each other."""

    table: Identifier
    rows: Count
    bytes: Count
    """Of its chunks, as they travel."""
    first: Count
    """Number of its first chunk."""
    chunks: Count
    digest: Id
    """Digest of its rows, as `tidewire-agent verify` computes it."""


class IncludedBatch(Component):
    """The last batch of one life of the device's database whose effect is in the snapshot."""

    incarnation: Id
    batch: Ordinal
    digest: Id
    seq: Ordinal


class RefusedRow(Component):
    """A row of one of the device's batches that no device applies; the snapshot has the hub's row in its place."""

    seq: Ordinal
    """The entry that refused it."""
    incarnation: Id
    batch: Ordinal
    table: Identifier
    key: WireRow
    op: Op
    reason: RefusalReason
    detail: str = ""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_rows([self.key], len(self.key))
        return self


class Snapshot(Message):
    """The manifest: what is in a snapshot, and which of the device's own batches it includes."""

    type: Literal["snapshot"] = "snapshot"
    incarnation: Id
    boot: Id
    snapshot: Id
    log: Id
    position: Position
    """The entry up to which the snapshot holds everything: replay goes on after it."""
    chunks: Count
    """Of the whole snapshot; they are numbered from 0."""
    bytes: Count
    """Of all chunks, as they travel."""
    tables: Annotated[tuple[SnapshotTable, ...], FailFast()]
    """The tables that the device asked about, as far as the hub knows them, in the order of their chunks."""
    included: tuple[IncludedBatch, ...] = ()
    """One for each incarnation of this device, the newest first."""
    refused: Annotated[tuple[RefusedRow, ...], FailFast()] = ()
    """Rows of this device that entries up to `position` refused, in their order: of those after `refused_since`, and
    after the one that the device named."""
    refused_since: Count = 0
    """Of entries up to this one the hub cannot say any more which rows were refused."""


class SnapshotChunk(Message):
    """Some rows of one table of a snapshot, whole, in the order of their keys."""

    type: Literal["snapshot_chunk"] = "snapshot_chunk"
    incarnation: Id
    boot: Id
    snapshot: Id
    chunk: Count
    """From 0."""
    table: Identifier
    key: int = Field(ge=1, le=COLUMNS_MAX)
    """How many of the columns, from the first, are the key."""
    columns: Annotated[tuple[Identifier, ...], FailFast()] = Field(min_length=1, max_length=COLUMNS_MAX)
    digest: Id
    """BLAKE2b-128 of `rows` as compact JSON (`codec.rows_digest`): a checksum."""
    rows: Annotated[list[WireRow], FailFast()] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.key > len(self.columns):
            raise ValueError(f"a chunk names {len(self.columns)} columns and {self.key} of them as key")
        check_rows(self.rows, len(self.columns))
        return self


class LoadProgress(Component):
    """How far a device is in loading a snapshot."""

    snapshot: Id
    loaded: Count
    """Chunks of its tables that are loaded."""
    chunks: Count
    """Chunks of its tables."""
