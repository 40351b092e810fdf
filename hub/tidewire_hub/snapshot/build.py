"""Makes a snapshot: a copy of the state, and from it the chunks that devices fetch.

The state's file is copied in one read transaction, which holds up no commit: SQLite does it at the speed of the disk
and without Python's lock. All else is read from the copy, however long it takes. The copy stays beside the newest
chunks: it has the births, writers, tombstones and chains that the log's later entries need, so the state can be made
anew from it when the log no longer begins at its first entry.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from pydantic_core import to_json

from tidewire_hub.backup import copy_database
from tidewire_hub.catalogue import Table
from tidewire_hub.database import StorageDamaged, storage_errors
from tidewire_hub.snapshot.manifest import INCLUDED_MAX, KeptRefusals, KeptSnapshot
from tidewire_hub.state.opening import file_digest
from tidewire_hub.state.store import Limits, State
from tidewire_schemas.codec import encode_chunk_body
from tidewire_schemas.digest import message_digest
from tidewire_schemas.snapshots import IncludedBatch, RefusedRow, SnapshotTable

FRAME_BYTES: Final = 512
"""More than what stands around a chunk's body, and in it around table, columns and rows."""

CACHE_BYTES: Final = 4 * 1024 * 1024
"""Page cache for reading the copy: its rows are visited once."""


class SnapshotPlan(NamedTuple):
    """What to make."""

    snapshot: str
    """Its id."""
    log: str
    state: Path
    """The live state."""
    copy: Path
    """Where its copy goes."""
    chunks: Path
    """Where the chunks go."""
    payload_bytes_max: int
    """Chunks fit in one message of this size, unless a single row is larger."""
    at_ms: int
    conflicts_max: int
    """How many conflicts the live state keeps."""
    refused_bytes_max: int
    """About how much is told each device of its rows that were refused."""


class Stopped(Exception):
    """The hub stops: nobody needs the snapshot now."""


def build(plan: SnapshotPlan, *, stopping: Callable[[], bool]) -> KeptSnapshot:
    """Make the copy and the chunks; asks `stopping` before each chunk.

    Raises:
        StateDamaged: the disk has changed the state.
        DatabaseError: the state cannot be read, or the files cannot be written.
        Stopped: `stopping` said so.
    """
    copy_database(plan.state, plan.copy)
    with storage_errors(plan.copy):
        state = State.open(
            plan.copy, plan.log, Limits(CACHE_BYTES, chain_points_max=1, conflicts_max=plan.conflicts_max)
        )
        if state is None:
            raise StorageDamaged(f"{plan.state} is not of log {plan.log}")
        with closing(state), plan.chunks.open("xb") as file:
            state.check(_resting(stopping))
            complete_after = state.conflicts.complete_after
            writer = _ChunkWriter(plan, file, stopping)
            tables = tuple(writer.write_table(state, table) for table in state.catalogue.tables)
            kept = KeptSnapshot(
                snapshot=plan.snapshot,
                log=plan.log,
                position=state.position,
                made_at=plan.at_ms,
                tables=tables,
                sizes=tuple(writer.sizes),
                digests=tuple(writer.digests),
                included=_included(state),
                refused=refused_of(state.conflicts.refused(), plan.refused_bytes_max),
                refused_since=state.position.seq if complete_after is None else complete_after,
            )
        return kept.model_copy(update={"state_digest": file_digest(plan.copy)})


def _resting(stopping: Callable[[], bool]) -> Callable[[float], None]:
    def rest(seconds: float) -> None:
        if stopping():
            raise Stopped
        time.sleep(seconds)

    return rest


class _ChunkWriter:
    """Writes chunks one after another."""

    def __init__(self, plan: SnapshotPlan, file: BinaryIO, stopping: Callable[[], bool]) -> None:
        self._plan = plan
        self._file = file
        self._stopping = stopping
        self.sizes: list[int] = []
        self.digests: list[str] = []

    def write_table(self, state: State, table: Table) -> SnapshotTable:
        """Write the chunks of one table."""
        names = _columns(table)
        shown = [table.shown(name) for name in names]
        first = len(self.sizes)
        room = self._plan.payload_bytes_max - FRAME_BYTES - len(to_json(shown)) - len(to_json(table.shape.name))
        rows = (to_json([cells.get(name) for name in names]) for _, cells in state.rows.scan(table))
        for rows_json in _filled(rows, room):
            self._write(table, shown, rows_json)
        total = state.rows.total(table)
        return SnapshotTable(
            table=table.shape.name,
            rows=total.rows,
            bytes=sum(self.sizes[first:]),
            first=first,
            chunks=len(self.sizes) - first,
            digest=total.hex,
        )

    def _write(self, table: Table, columns: list[str], rows_json: bytes) -> None:
        if self._stopping():
            raise Stopped
        body = encode_chunk_body(
            snapshot=self._plan.snapshot,
            chunk=len(self.sizes),
            table=table.shape.name,
            key=len(table.key),
            columns=columns,
            rows_json=rows_json,
        )
        self._file.write(body)
        self.sizes.append(len(body))
        self.digests.append(message_digest(body))


def _columns(table: Table) -> list[str]:
    """The key first, as in runs."""
    return [*table.key, *(name for name in table.columns if name not in table.key)]


def _filled(rows: Iterator[bytes], room: int) -> Iterator[bytes]:
    """Lists of rows as JSON of up to `room` bytes; a larger row has one of its own."""
    held: list[bytes] = []
    size = 0
    for row in rows:
        if held and size + len(row) + 1 > room:
            yield b"[%s]" % b",".join(held)
            held, size = [], 0
        held.append(row)
        size += len(row) + 1
    if held:
        yield b"[%s]" % b",".join(held)


def _included(state: State) -> dict[str, tuple[IncludedBatch, ...]]:
    by_device: dict[str, list[IncludedBatch]] = {}
    for device, incarnation, point in state.chains.devices():
        batch = IncludedBatch(incarnation=incarnation, batch=point.batch, digest=point.digest, seq=point.seq)
        by_device.setdefault(device, []).append(batch)
    return {
        device: tuple(sorted(lives, key=lambda life: life.seq, reverse=True)[:INCLUDED_MAX])
        for device, lives in by_device.items()
    }


def refused_of(newest_first: Iterable[tuple[str, RefusedRow]], bytes_max: int) -> dict[str, KeptRefusals]:
    """For each device its newest refused rows, as many as fit in so many bytes."""
    rows: dict[str, list[bytes]] = {}
    sizes: dict[str, int] = {}
    since: dict[str, int] = {}
    for device, row in newest_first:
        if device in since:
            continue
        found = row.model_dump_json().encode()
        sizes[device] = sizes.get(device, 0) + len(found) + 1
        if sizes[device] > bytes_max:
            since[device] = row.seq
        else:
            rows.setdefault(device, []).append(found)
    return {
        device: KeptRefusals(since=since.get(device, 0), rows=f"[{b','.join(reversed(rows.get(device, []))).decode()}]")
        for device in sizes
    }
