"""What the hub knows of a snapshot that it keeps: what the manifest says, and where each chunk is. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import Final

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from tidewire_schemas.digest import message_digest
from tidewire_schemas.names import Id, TopicName, fold
from tidewire_schemas.positions import Count, Millis, Ordinal, Position
from tidewire_schemas.snapshots import IncludedBatch, RefusedRow, Snapshot, SnapshotRequest, SnapshotTable

INCLUDED_MAX: Final = 256
"""Lives of one database that a manifest names, the newest: a device has one, and a few more where it was copied."""


class KeptRefusals(BaseModel):
    """What a device is told of its rows that were refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    since: Count
    """Those of entries up to this one are left out."""
    rows: str
    """JSON of the rows, in the order of the log: read only for a device that asks."""


class KeptSnapshot(BaseModel):
    """A snapshot as `manifest.json` beside its chunks describes it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    snapshot: Id
    log: Id
    position: Position
    made_at: Millis
    """By the hub's clock: for people only."""
    tables: tuple[SnapshotTable, ...]
    sizes: tuple[Ordinal, ...]
    """Bytes of each chunk; in their file they follow each other."""
    digests: tuple[Id, ...]
    """Digest of each chunk's bytes, by which a damaged file is noticed."""
    included: dict[TopicName, tuple[IncludedBatch, ...]]
    """The last batch of each life of each device, the newest life first."""
    refused: dict[TopicName, KeptRefusals] = {}
    """Of each device that was refused rows."""
    state_digest: Id | None = None
    """Digest of the file with the copy of the state."""
    refused_since: Count = 0
    """Of entries up to this one it is not known any more which rows of any device were refused."""

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Where each chunk ends in the file."""
        return tuple(accumulate(self.sizes))

    @property
    def bytes(self) -> int:
        """Bytes of all chunks."""
        return self.ends[-1] if self.ends else 0

    def span(self, chunk: int) -> tuple[int, int]:
        """Offset and size of a chunk in the file."""
        return self.ends[chunk] - self.sizes[chunk], self.sizes[chunk]

    def manifest_for(self, device: str, request: SnapshotRequest) -> Snapshot:
        """The answer to a device that asked for the manifest."""
        wanted = None if request.tables is None else set(map(fold, request.tables))
        refused = self.refused.get(device)
        rows = () if refused is None else _REFUSED.validate_json(refused.rows)
        return Snapshot(
            incarnation=request.incarnation,
            boot=request.boot,
            snapshot=self.snapshot,
            log=self.log,
            position=self.position,
            chunks=len(self.sizes),
            bytes=self.bytes,
            tables=tuple(t for t in self.tables if wanted is None or fold(t.table) in wanted),
            included=self.included.get(device, ()),
            refused=tuple(row for row in rows if row.seq > request.refused_after),
            refused_since=max(self.refused_since, 0 if refused is None else refused.since),
        )


def manifest_text(kept: KeptSnapshot) -> bytes:
    """A manifest's file: one line, and a line with its digest."""
    text = kept.model_dump_json().encode()
    return b"%s\n%s\n" % (text, message_digest(text).encode())


def read_manifest(file: bytes) -> KeptSnapshot | None:
    """The manifest in a file, None where it cannot be understood or is not as it was written."""
    text, _, rest = file.partition(b"\n")
    if rest and rest != message_digest(text).encode() + b"\n":
        return None
    try:
        return _KEPT.validate_json(text)
    except ValidationError:
        return None


def newest_first(snapshots: Sequence[KeptSnapshot]) -> list[KeptSnapshot]:
    """By how far they reach."""
    return sorted(snapshots, key=lambda kept: kept.position.seq, reverse=True)


_REFUSED: Final = TypeAdapter(tuple[RefusedRow, ...])

_KEPT: Final = TypeAdapter(KeptSnapshot)
