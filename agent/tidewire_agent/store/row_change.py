"""One row of an entry, in this device's columns; and the letters that tell what became of local versions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from tidewire_agent.store import rows as rows_of
from tidewire_agent.store.catalogue import Synced
from tidewire_agent.store.dead_letters import DeadLetter
from tidewire_agent.store.parked import ParkedRow
from tidewire_agent.store.pending import Overlay
from tidewire_schemas.codec import parse_batch
from tidewire_schemas.messages import Entry, Refusal, Run
from tidewire_schemas.names import fold
from tidewire_schemas.snapshots import RefusedRow
from tidewire_schemas.values import Value, WireRow, WireValue, decode, decode_row, encode


class RowChange(NamedTuple):
    """One row of an entry, in this device's columns."""

    synced: Synced
    op: str
    columns: tuple[str, ...]
    """Empty cells are not named; the key's columns come first."""
    values: tuple[Value, ...]
    unknown: dict[str, WireValue]
    """Cells of columns that this device does not have, by folded name."""
    seq: int

    @property
    def key(self) -> tuple[Value, ...]:
        """Values of the key."""
        return self.values[: len(self.synced.table.key)]

    @property
    def named(self) -> dict[str, Value]:
        """Values by column."""
        return dict(zip(self.columns, self.values, strict=True))

    def without(self, overlay: Overlay) -> tuple[tuple[str, ...], tuple[Value, ...]]:
        """Columns and values less the cells that are pending locally."""
        if not overlay.columns:
            return self.columns, self.values
        width = len(self.synced.table.key)
        pairs = [
            (name, value)
            for place, (name, value) in enumerate(zip(self.columns, self.values, strict=True))
            if place < width or fold(name) not in overlay.columns
        ]
        return tuple(name for name, _ in pairs), tuple(value for _, value in pairs)

    def differs_from(self, local: tuple[Value, ...]) -> bool:
        """Whether a row, in the table's order of columns, has other values in these columns."""
        here = {fold(n): v for n, v in zip(self.synced.table.column_names, local, strict=True)}
        return any(
            (type(here[fold(name)]), here[fold(name)]) != (type(value), value) for name, value in self.named.items()
        )


def row_changes(synced: Synced, run: Run, seq: int) -> Iterator[RowChange]:
    """The rows of a run."""
    return _changes(synced, run.op, run.columns, run.rows, seq)


def put_changes(synced: Synced, columns: Sequence[str], rows: Sequence[WireRow], seq: int) -> Iterator[RowChange]:
    """Whole rows."""
    return _changes(synced, "put", columns, rows, seq)


def _changes(synced: Synced, op: str, named: Sequence[str], rows: Sequence[WireRow], seq: int) -> Iterator[RowChange]:
    columns, unknown = rows_of.local_columns(synced.table, named)
    for wire_row in rows:
        row = decode_row(wire_row)
        if unknown:
            extra = {fold(named[place]): wire_row[place] for place in unknown}
            row = [value for place, value in enumerate(row) if place not in unknown]
        else:
            extra = {}
        yield RowChange(synced, op, columns, tuple(row), extra, seq)


def from_parked(synced: Synced, parked: ParkedRow) -> RowChange:
    """A parked change, as it would be applied now."""
    table = synced.table
    key = [fold(name) for name in table.key]
    order = [*key, *(name for name in parked.cells if name not in key)]
    known = [name for name in order if name in table.by_name]
    return RowChange(
        synced=synced,
        op=parked.op,
        columns=tuple(table.by_name[name].name for name in known),
        values=tuple(decode(parked.cells[name]) for name in known),
        unknown={name: value for name, value in parked.cells.items() if name not in table.by_name},
        seq=parked.seq,
    )


def hub_row(synced: Synced, refusal: Refusal, key: tuple[Value, ...], seq: int) -> RowChange:
    """What puts the hub's row, or its absence, in place of a refused one."""
    table = synced.table
    if refusal.row is None:
        return RowChange(synced, "delete", table.key, key, {}, seq)
    cells = {fold(n): v for n, v in zip(refusal.row.columns, refusal.row.values, strict=True)}
    return from_parked(synced, ParkedRow(synced.attached.id, b"", "put", cells, "", seq))


def overtaken_letter(change: RowChange, op: str, cells: dict[str, WireValue], reason: str, detail: str) -> DeadLetter:
    """The letter for a local version that a change from the log has overtaken."""
    return DeadLetter(
        at=_now_ms(),
        table=change.synced.table.name,
        op=op,
        key=[encode(value) for value in change.key],
        cells=cells,
        reason=reason,
        detail=detail,
        seq=change.seq,
    )


def refused_letter(refusal: Refusal | RefusedRow, seq: int, batch: int, cells: dict[str, WireValue]) -> DeadLetter:
    """The letter for a row that the hub refused; `cells` is this device's version, besides the key."""
    return DeadLetter(
        at=_now_ms(),
        table=refusal.table,
        op=refusal.op,
        key=refusal.key,
        cells=cells,
        reason=refusal.reason,
        detail=refusal.detail,
        batch=batch,
        seq=seq,
    )


def held_row(refusal: Refusal) -> dict[str, WireValue] | None:
    """The row that the hub holds under the key of a refused one, by column; None where it holds none."""
    return None if refusal.row is None else dict(zip(refusal.row.columns, refusal.row.values, strict=True))


def says_nothing_new(
    op: str, cells: Mapping[str, WireValue], hub: Mapping[str, WireValue] | None, *, again: bool
) -> bool:
    """Whether nothing is lost with a refused row, as the hub holds a row with all of its cells.

    One that was offered `again`, to a hub that had lost it, is but a copy: changes of it are offered by themselves.
    """
    if hub is None:
        return False
    if again and op == "seed":
        return True
    held = {fold(name): json.dumps(value) for name, value in hub.items()}  # as JSON, 1 and 1.0 are two values
    return bool(cells) and all(held.get(fold(name), "null") == json.dumps(value) for name, value in cells.items())


def has_key_of(synced: Synced, run: Run) -> bool:
    """Whether a run names its rows by the key that the table has on this device."""
    return [fold(name) for name in run.columns[: run.key]] == [fold(name) for name in synced.table.key]


def wrong_key_letters(entry: Entry, run: Run) -> list[DeadLetter]:
    """The letters for rows of the log that no key of this device's table finds."""
    names = ", ".join(run.columns[: run.key])
    return [
        DeadLetter(
            at=_now_ms(),
            table=run.table,
            op=run.op,
            key=row[: run.key],
            cells=dict(zip(run.columns[run.key :], row[run.key :], strict=True)),
            reason="wrong_key",
            detail=f"{entry.device} wrote it under the key ({names}), which is not the table's key on this device",
            seq=entry.seq,
        )
        for row in run.rows
    ]


def batch_cells(payload: bytes) -> dict[tuple[str, str, str], dict[str, WireValue]]:
    """The cells besides the key of each row of a batch, by (folded table, op, key as JSON)."""
    return {
        (fold(run.table), run.op, json.dumps(row[: run.key])): dict(
            zip(run.columns[run.key :], row[run.key :], strict=True)
        )
        for run in parse_batch(payload, bytes_max=len(payload)).batch.changes
        for row in run.rows
    }


def _now_ms() -> int:
    return int(time.time() * 1000)
