"""What belongs together is refused together: tied rows, and rows that reference a refused one. Pure."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import TypeAlias

from tidewire_hub.catalogue import Catalogue, Reference, Table
from tidewire_hub.resolve_ops import RowOp
from tidewire_hub.resolve_view import RowId, View
from tidewire_schemas.errors import ValueNotStorable
from tidewire_schemas.keys import apply_affinity, unique_bytes
from tidewire_schemas.values import decode

Target: TypeAlias = tuple[int, tuple[str, ...], bytes]
"""What a foreign key points to: table id, its columns, the bytes of the values there."""


def refuse_tied(ops: Sequence[RowOp]) -> bool:
    """Refuse every row of a group in which one is refused; whether there were any."""
    broken = {op.tie for op in ops if op.reason is not None and op.tie}
    if not broken:
        return False
    tied = [op for op in ops if op.tie in broken and op.reason is None]
    for op in tied:
        op.refuse("tied", "a row that it belongs together with is refused")
    return bool(tied)


def refuse_referencing(ops: Sequence[RowOp], catalogue: Catalogue, view: View) -> bool:
    """Refuse rows that would reference a refused row, and those that reference them; whether there were any."""
    refused = deque(op for op in ops if op.reason is not None and _makes_row(op))
    if not refused:
        return False
    children = _children(ops, catalogue)
    if not children:
        return False
    pointed_at = {(target[0], target[1]) for target in children}
    made = _rows_made(ops)
    any_refused = False
    while refused:
        parent = refused.popleft()
        for table_id, columns in pointed_at:
            if parent.table is None or parent.table.id != table_id:
                continue
            value = _value(parent, columns, parent.table, columns)
            if value is None or _stands(parent, columns, value, made, view):
                continue
            for child in children.get((table_id, columns, value), ()):
                if child.reason is None:
                    child.refuse("reference", f"it references a refused row of {parent.table.shape.name!r}")
                    any_refused = True
                    if _makes_row(child):
                        made[child.id].remove(child)
                        refused.append(child)
    return any_refused


def _makes_row(op: RowOp) -> bool:
    return op.run.op in ("put", "seed")


def _children(ops: Sequence[RowOp], catalogue: Catalogue) -> dict[Target, list[RowOp]]:
    """Which rows of the batch point where by a declared foreign key."""
    children: dict[Target, list[RowOp]] = defaultdict(list)
    for op in ops:
        if op.reason is not None or op.table is None or op.run.op == "delete" or op.nothing:
            continue
        for reference in op.table.references:
            parent = catalogue.find(reference.table)
            columns = _referenced(reference, parent)
            if parent is None or columns is None:
                continue
            value = _value(op, reference.columns, parent, columns)
            if value is not None:
                children[parent.id, columns, value].append(op)
    return children


def _referenced(reference: Reference, parent: Table | None) -> tuple[str, ...] | None:
    """The columns that a foreign key names in its parent, None where it names none that are known."""
    if parent is None:
        return None
    columns = reference.references or parent.key
    if len(columns) != len(reference.columns) or any(name not in parent.columns for name in columns):
        return None
    return columns


def _value(op: RowOp, own: tuple[str, ...], parent: Table, columns: tuple[str, ...]) -> bytes | None:
    """The row's values of `own` as the parent's `columns` compare them; None if it names no row or does not say."""
    said = op.says()
    if any(name not in said for name in own):
        return None
    shapes = [parent.columns[name] for name in columns]
    try:
        values = [apply_affinity(decode(said[name]), shape.affinity) for name, shape in zip(own, shapes, strict=True)]
    except ValueNotStorable:
        return None
    return unique_bytes(values, [shape.collation for shape in shapes])


def _rows_made(ops: Sequence[RowOp]) -> dict[RowId, list[RowOp]]:
    """Accepted whole rows of the batch by what they make, and (as `delete`) what it removes."""
    made: dict[RowId, list[RowOp]] = defaultdict(list)
    for op in ops:
        if op.reason is None and op.run.op != "set":
            made[op.id].append(op)
    return made


def _stands(parent: RowOp, columns: tuple[str, ...], value: bytes, made: dict[RowId, list[RowOp]], view: View) -> bool:
    """Whether the row that a refused `parent` would have been is there all the same after the batch.

    Where SQLite handed out a key that was taken, another row stands under it: that is not the one that was meant.
    """
    table = parent.table
    if table is None or parent.reason == "key_taken":
        return False
    if columns == table.key:
        return _present(parent.id, made, view)
    for number, unique in enumerate(table.unique):
        if unique.columns == columns:
            view.prefetch_holders(table, number, [value])
            return any(_present((table.id, key), made, view) for key in view.holders(table, number, value))
    return False


def _present(row: RowId, made: dict[RowId, list[RowOp]], view: View) -> bool:
    own = made.get(row, ())
    if any(_makes_row(op) for op in own):
        return True
    before = view.row(row)
    deleted = any(op.run.op == "delete" for op in own)
    return before is not None and before.cells is not None and not deleted
