"""Snapshots of a fleet's hub in one process, and how a device of the fleet takes one, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from tidewire_schemas.codec import rows_digest
from tidewire_schemas.names import fold
from tidewire_schemas.positions import Position
from tidewire_schemas.snapshots import IncludedBatch, Snapshot, SnapshotChunk, SnapshotTable

if TYPE_CHECKING:
    from support.fleet import Edge, Fleet

BOOT = "b" * 32


class FleetSnapshot:
    """The hub's rows as they are now, in chunks of a few rows; it stays as it is while the fleet goes on."""

    def __init__(self, fleet: Fleet, *, rows_per_chunk: int = 3) -> None:
        stream = fleet.stream
        self.position: Position = stream.head
        self.id = f"{self.position.seq:032x}"
        self._log = stream.log_id
        self._points = stream.devices()
        self._refused = list(reversed(stream.refused()))
        self._chunks: list[SnapshotChunk] = []
        self._tables: list[SnapshotTable] = []
        digests = {fold(digest.table): digest.digest for digest in stream.digests()}
        for shape in stream.tables():
            folded = {fold(name) for name in shape.key}
            columns = (*shape.key, *(c.name for c in shape.columns if fold(c.name) not in folded))
            rows = [[row.get(name) for name in columns] for row in stream.rows(shape.name)]
            first = len(self._chunks)
            for start in range(0, len(rows), rows_per_chunk):
                part = rows[start : start + rows_per_chunk]
                self._chunks.append(
                    SnapshotChunk(
                        incarnation="a" * 32,
                        boot=BOOT,
                        snapshot=self.id,
                        chunk=len(self._chunks),
                        table=shape.name,
                        key=len(shape.key),
                        columns=columns,
                        digest=rows_digest(part),
                        rows=part,
                    )
                )
            self._tables.append(
                SnapshotTable(
                    table=shape.name,
                    rows=len(rows),
                    bytes=0,
                    first=first,
                    chunks=len(self._chunks) - first,
                    digest=digests[fold(shape.name)],
                )
            )

    def manifest(self, edge: Edge) -> Snapshot:
        """What the hub tells this device about it."""
        return Snapshot(
            incarnation=edge.store.incarnation,
            boot=BOOT,
            snapshot=self.id,
            log=self._log,
            position=self.position,
            chunks=len(self._chunks),
            bytes=0,
            tables=tuple(self._tables),
            included=tuple(
                IncludedBatch(
                    incarnation=chain.incarnation,
                    batch=chain.accepted.batch,
                    digest=chain.accepted.digest,
                    seq=chain.accepted.seq,
                )
                for chain in self._points
                if chain.device == edge.device
            ),
            refused=tuple(row for device, row in self._refused if device == edge.device),
        )

    def chunk(self, number: int) -> SnapshotChunk:
        """One chunk."""
        return self._chunks[number]

    def take(self, edge: Edge, *, whole: bool = True, between: Callable[[], None] = lambda: None) -> None:
        """Load it on this device; `between` is called before each piece."""
        edge.store.load_begin(self.manifest(edge), whole=whole)
        for _ in self.pieces(edge):
            between()

    def pieces(self, edge: Edge) -> Iterator[None]:
        """Go on loading, from wherever the device stands; yields before each piece."""
        while (standing := edge.store.loading) is not None and standing.snapshot == self.id:
            yield
            due = next((number for numbers in standing.missing for number in numbers), None)
            if due is None:
                edge.store.load_finish()
            else:
                edge.store.load(self.chunk(due))
