"""Judging single rows against the state: births, cells, tombstones. Pure.

A write is concurrent when someone else wrote the same thing after the write's base. One's own writes never are; another
life of the same device's database is someone else from where the two parted.
What a row may do depends on what it meets; what the batch did to the row before (its deletes come first) is its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tidewire_hub.resolve_ops import RowOp
from tidewire_hub.resolve_view import Cells, Life, Row, RowId, View, same


class EndState:
    """The rows a batch touches as they are after it: what it made of them, on top of the state."""

    def __init__(self, view: View) -> None:
        self._view: Final = view
        self.touched: Final[dict[RowId, Cells | None]] = {}

    def before(self, row: RowId) -> Row | None:
        """The state's row before the batch, None where there is none; never a tombstone."""
        found = self._view.row(row)
        return found if found is not None and found.cells is not None else None

    def cells(self, row: RowId) -> Cells | None:
        """The row's cells after what the batch did so far, None where there is none."""
        if row in self.touched:
            return self.touched[row]
        found = self._view.row(row)
        return found.cells if found is not None else None

    def tombstone(self, row: RowId) -> bool:
        """Whether a row was deleted here, by the state or by this batch."""
        if row in self.touched:
            return self.touched[row] is None
        found = self._view.row(row)
        return found is not None and found.cells is None


def in_phases(ops: Sequence[RowOp]) -> list[RowOp]:
    """Deletes first, then the others, each in the order of the batch."""
    deletes = [op for op in ops if op.run.op == "delete"]
    if not deletes:
        return list(ops)
    return deletes + [op for op in ops if op.run.op != "delete"]


def judge_rows(ops: Sequence[RowOp], life: Life, view: View) -> EndState:
    """Refuse the rows that may not do what they want; the end state of the others.

    `ops` in phases. Rows that were refused before stay refused; the verdicts of others are made anew, as what they meet
    may have changed with new refusals.
    """
    end = EndState(view)
    for op in ops:
        if op.reason is not None:
            continue
        op.judged_anew()
        _JUDGES[op.run.op](op, life, end)
    return end


def _judge_put(op: RowOp, life: Life, end: EndState) -> None:
    row = None if op.id in end.touched else end.before(op.id)
    if (
        row is not None
        and row.born.concurrent_to(life, op.base)
        and op.table is not None
        and op.table.shape.key_is_rowid
    ):
        op.refuse("key_taken", f"{row.born.told_to(life)} inserted this key first, as entry {row.born.seq}")
        return
    cells = end.cells(op.id)
    if op.missing:
        _complete(op, cells)
    end.touched[op.id] = op.cells(cells)


def _complete(op: RowOp, cells: Cells | None) -> None:
    """What a put does not name: the defaults in a row that it makes; in a row that is there it is not its business."""
    if cells is None:
        op.added = op.missing
    elif any(not same(op.values[name], cells.get(name)) for name in _key_of(op)):
        op.added = {name: cells.get(name) for name in op.missing}  # only a put brings another spelling of the key
    elif len(op.values) == op.run.key:
        op.nothing = True
    else:
        op.does = "set"


def _judge_set(op: RowOp, life: Life, end: EndState) -> None:
    cells = end.cells(op.id)
    if cells is None:
        op.refuse("row_absent")
        return
    if _reborn(op, life, end):
        return
    end.touched[op.id] = with_values(cells, op)


def _judge_delete(op: RowOp, life: Life, end: EndState) -> None:
    if end.cells(op.id) is None:
        op.nothing = not life.again  # an older birth may be offered yet: a tombstone keeps it away
    elif not _reborn(op, life, end):
        end.touched[op.id] = None


def _judge_seed(op: RowOp, life: Life, end: EndState) -> None:
    cells = end.cells(op.id)
    if cells is not None and all(same(value, cells.get(name)) for name, value in op.values.items()):
        op.nothing = True
    elif cells is not None:
        op.refuse("row_known", "the hub has another row under this key")
    elif end.tombstone(op.id):
        op.refuse("row_known", "this row was deleted")
    else:
        op.added = op.missing
        end.touched[op.id] = op.cells()


def _reborn(op: RowOp, life: Life, end: EndState) -> bool:
    """Refuse an op on a row that someone else made anew after the op's base.

    One that only comes back, as the hub had lost it, is the row that the app has written.
    """
    row = None if op.id in end.touched else end.before(op.id)
    if row is None or not row.born.concurrent_to(life, op.base) or life.known_before(row.born.seq, op.base):
        return False
    op.refuse("row_reborn", f"{row.born.device} made this row anew, as entry {row.born.seq}")
    return True


def with_values(cells: Cells, op: RowOp) -> Cells:
    """The row after a `set`. Its key columns only say which row: they keep the spelling they have."""
    after = dict(cells)
    key = _key_of(op)
    for name, value in op.values.items():
        if name in key:
            continue
        if value is None:
            after.pop(name, None)
        else:
            after[name] = value
    return after


def _key_of(op: RowOp) -> tuple[str, ...]:
    return op.table.key if op.table is not None else ()


_JUDGES: Final = {"put": _judge_put, "set": _judge_set, "delete": _judge_delete, "seed": _judge_seed}
