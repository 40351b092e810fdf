"""What an entry does to the state: rows made, changed, deleted; whose values it overwrote. Pure.

Computed from the entry's changes and the state before it, never from anything else, both when the hub makes the entry
and when it folds the log again: so the state is a function of the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tidewire_hub.catalogue import Table
from tidewire_hub.resolve_ops import RowOp
from tidewire_hub.resolve_rows import with_values
from tidewire_hub.resolve_view import Cells, Life, Row, RowId, View, Writer, same
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

    writer: Writer
    """The entry's seq and device."""
    life: Life
    """Whose the entry is, and what that one knew."""
    rows: dict[RowId, Row] = field(default_factory=dict)
    tables: dict[int, Table] = field(default_factory=dict)
    overwritten: list[Overwritten] = field(default_factory=list)

    def put(self, op: RowOp, table: Table, row: Row | None) -> Row:
        """A whole row: made anew where there is none, else the same thing with other values."""
        if row is None or row.cells is None:
            return Row(op.cells(), self.writer, self.writer)
        self._note_overwritten(op, table, row, row.cells)
        return Row(op.cells(row.cells), row.born, self.writer)

    def set(self, op: RowOp, table: Table, row: Row | None) -> Row | None:
        """Some columns of a row."""
        if row is None or row.cells is None:
            return None
        self._note_overwritten(op, table, row, row.cells)
        columns = {name: self.writer for name in op.values if name not in table.key}
        return Row(with_values(row.cells, op), row.born, row.written, {**row.cells_by, **columns})

    def delete(self, op: RowOp, table: Table, row: Row | None) -> Row | None:
        """A tombstone in the row's place."""
        if row is None or row.cells is None:
            return Row(None, self.writer, self.writer) if self.life.again else None
        concurrent = [w for name in table.columns if self._unseen(w := row.writer(name), op)]
        if concurrent:
            self._note(table, row.cells, max(concurrent).device, dict(row.cells))
        return Row(None, row.born, self.writer)

    def _unseen(self, by: Writer, op: RowOp) -> bool:
        return by.concurrent_to(self.life, op.base)

    def _note_overwritten(self, op: RowOp, table: Table, row: Row, cells: Cells) -> None:
        """Note the values of others that the op's writer had not seen, where they differ from what it writes."""
        if not row.cells_by and not self._unseen(row.written, op):
            return
        lost: dict[str, dict[str, WireValue]] = {}
        for name, value in op.values.items():
            by = row.writer(name)
            if name in table.key or not self._unseen(by, op) or same(cells.get(name), value):
                continue
            lost.setdefault(by.device, {})[name] = cells.get(name)
        for loser, values in lost.items():
            self._note(table, cells, loser, values)

    def _note(self, table: Table, cells: Cells, loser: str, lost: dict[str, WireValue]) -> None:
        self.overwritten.append(Overwritten(table, [cells.get(name) for name in table.key], loser, lost))


def effects_of(accepted: Iterable[RowOp], seq: int, life: Life, view: View) -> Effects:
    """The effects of an entry's changes (in phases); `life` is whose entry it is."""
    effects = Effects(Writer(seq, life.name), life)
    for op in accepted:
        if op.table is None:
            continue
        row = effects.rows.get(op.id) or view.row(op.id)
        after = _APPLY[op.does](effects, op, op.table, row)
        if after is not None:
            effects.rows[op.id] = after
            effects.tables[op.table.id] = op.table
    return effects


_APPLY: Final[dict[str, Callable[[Effects, RowOp, Table, Row | None], Row | None]]] = {
    "put": Effects.put,
    "seed": Effects.put,
    "set": Effects.set,
    "delete": Effects.delete,
}
