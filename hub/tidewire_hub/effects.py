"""What an entry does to the state: rows made, changed, deleted; whose values it overwrote. Pure.

Computed from the entry's changes and the state before it, never from anything else, both when the hub makes the entry
and when it folds the log again: so the state is a function of the log.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tidewire_hub.catalogue import Table
from tidewire_hub.resolve_ops import RowOp
from tidewire_hub.resolve_rows import with_values
from tidewire_hub.resolve_view import Cells, Row, RowId, View, Writer, same
from tidewire_schemas.values import WireValue


class Overwritten(NamedTuple):
    """Values that a concurrent write put an end to; names are folded."""

    table: Table
    key: list[WireValue]
    loser: str
    lost: dict[str, WireValue]


@dataclass(slots=True)
class Effects:
    """The rows an entry touched, as they are after it, and what was lost."""

    rows: dict[RowId, Row] = field(default_factory=dict)
    tables: dict[int, Table] = field(default_factory=dict)
    overwritten: list[Overwritten] = field(default_factory=list)


def effects_of(accepted: Iterable[RowOp], writer: Writer, view: View) -> Effects:
    """The effects of an entry's changes (in phases); `writer` is the entry's seq and device."""
    effects = Effects()
    for op in accepted:
        if op.table is None:
            continue
        row = effects.rows.get(op.id) or view.row(op.id)
        after = _APPLY[op.run.op](op, op.table, row, writer, effects)
        if after is not None:
            effects.rows[op.id] = after
            effects.tables[op.table.id] = op.table
    return effects


def _put(op: RowOp, table: Table, row: Row | None, writer: Writer, effects: Effects) -> Row:
    cells = op.cells()
    if row is None or row.cells is None:
        return Row(cells, writer, writer)
    _note_overwritten(op, table, row, row.cells, writer, effects)
    return Row(cells, row.born, writer)


def _set(op: RowOp, table: Table, row: Row | None, writer: Writer, effects: Effects) -> Row | None:
    if row is None or row.cells is None:
        return None
    _note_overwritten(op, table, row, row.cells, writer, effects)
    columns = {name: writer for name in op.values if name not in table.key}
    return Row(with_values(row.cells, op), row.born, row.written, {**row.cells_by, **columns})


def _delete(op: RowOp, table: Table, row: Row | None, writer: Writer, effects: Effects) -> Row | None:
    if row is None or row.cells is None:
        return None
    concurrent = [w for name in table.columns if (w := row.writer(name)).concurrent_to(writer.device, op.base)]
    if concurrent:
        _note(op, table, row.cells, max(concurrent).device, dict(row.cells), effects)
    return Row(None, row.born, writer)


def _note_overwritten(op: RowOp, table: Table, row: Row, cells: Cells, writer: Writer, effects: Effects) -> None:
    """Note the values of others that the op's writer had not seen, where they differ from what it writes."""
    if not row.cells_by and not row.written.concurrent_to(writer.device, op.base):
        return
    lost: dict[str, dict[str, WireValue]] = {}
    for name, value in op.values.items():
        by = row.writer(name)
        if name in table.key or not by.concurrent_to(writer.device, op.base) or same(cells.get(name), value):
            continue
        lost.setdefault(by.device, {})[name] = cells.get(name)
    for loser, values in lost.items():
        _note(op, table, cells, loser, values, effects)


def _note(op: RowOp, table: Table, cells: Cells, loser: str, lost: dict[str, WireValue], effects: Effects) -> None:
    key = [cells.get(name) for name in table.key]
    effects.overwritten.append(Overwritten(table, key, loser, lost))


_APPLY: Final = {"put": _put, "seed": _put, "set": _set, "delete": _delete}
