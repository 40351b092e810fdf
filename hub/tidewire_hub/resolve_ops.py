"""A batch taken apart into operations on single rows, with what is wrong in their form. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tidewire_hub.catalogue import Catalogue, Table
from tidewire_hub.resolve_view import Cells, RowId, row_id, same
from tidewire_schemas.errors import ValueNotStorable
from tidewire_schemas.keys import apply_affinity
from tidewire_schemas.messages import Run
from tidewire_schemas.names import fold
from tidewire_schemas.operations import Op, RefusalReason
from tidewire_schemas.values import WireValue, decode, encode

NO_ROW: Final[RowId] = (0, b"")
"""Names no row: tables are numbered from 1."""


@dataclass(slots=True, eq=False)
class RowOp:
    """One row of a run."""

    run: Run
    wire: Sequence[Any]
    """The row as it came."""
    tie: int
    table: Table | None
    id: RowId
    """`NO_ROW` where the key cannot be read."""
    values: Mapping[str, WireValue]
    """What it carries by folded column, after affinity, NULL included; without what cannot be read."""
    missing: Mapping[str, WireValue] = field(default_factory=dict)
    """Columns that a whole row does not name, with their defaults."""
    rewritten: bool = False
    """The entry must spell it otherwise than the batch: a value took the column's affinity."""
    does: Op = "put"
    """What the entry says that it does: a put that names some columns of a row that is there sets these."""
    added: Mapping[str, WireValue] = field(default_factory=dict)
    """Columns that the entry adds to those it carries."""
    reason: RefusalReason | None = None
    detail: str = ""
    nothing: bool = False
    """Accepted, and changes nothing: left out of the entry."""

    @property
    def op(self) -> Op:
        """What it does."""
        return self.run.op

    @property
    def base(self) -> int:
        """The newest entry that its writer had seen."""
        return self.run.base.seq

    def refuse(self, reason: RefusalReason, detail: str = "") -> None:
        """Keep it out of the entry; the first reason stands."""
        if self.reason is None:
            self.reason = reason
            self.detail = detail
            self.nothing = False

    def judged_anew(self) -> None:
        """Forget what an earlier verdict made of it."""
        self.nothing = False
        self.does = self.run.op
        self.added = {}

    def says(self) -> Mapping[str, WireValue]:
        """The values it stands for: of a row that it makes also those that it leaves to the defaults."""
        return {**self.missing, **self.values} if self.missing and self.does != "set" else self.values

    def cells(self, before: Cells | None = None) -> Cells:
        """The whole row it makes. What it does not name is as in the row `before` it, by default if there is none."""
        cells = self.values
        if self.missing:
            kept = self.missing if before is None else {name: before.get(name) for name in self.missing}
            cells = {**kept, **cells}
        return {name: value for name, value in cells.items() if value is not None}


@dataclass(frozen=True, slots=True)
class _Plan:
    """What all rows of a run have in common."""

    table: Table | None
    names: tuple[str, ...] = ()
    """Folded columns; empty where the key's are not where they belong."""
    missing: Mapping[str, WireValue] = field(default_factory=dict)
    """Columns of a whole row that the run lacks, with their defaults."""
    reason: RefusalReason | None = None
    detail: str = ""


def read_ops(runs: Sequence[Run], catalogue: Catalogue) -> list[RowOp]:
    """Every row as an operation, in the order of the batch. A row whose form is wrong is refused already."""
    ops: list[RowOp] = []
    for run in runs:
        plan = _plan(run, catalogue)
        ties = run.ties or (0,) * len(run.rows)
        for wire, tie in zip(run.rows, ties, strict=True):
            op = RowOp(run, wire, tie, plan.table, NO_ROW, {}, plan.missing, does=run.op)
            op.reason, op.detail = plan.reason, plan.detail
            if plan.names and plan.table is not None:
                _read_row(op, plan, plan.table)
            ops.append(op)
    return ops


def refuse_repeated(ops: Sequence[RowOp]) -> None:
    """Refuse every operation on a key that has another one before it, save for a delete and one whole row.

    A batch is a net change without inner order: what two operations on one row come to would be anybody's guess.
    `ops` in phases, so that the delete comes first.
    """
    seen: dict[RowId, Op] = {}
    for op in ops:
        if op.id == NO_ROW:
            continue
        before = seen.get(op.id)
        if before is not None and not (before == "delete" and op.op in ("put", "seed")):
            op.refuse("wrong_key", f"the batch has another operation on this key before: {before}")
        else:
            seen[op.id] = op.op


def _plan(run: Run, catalogue: Catalogue) -> _Plan:
    table = catalogue.find(run.table)
    if table is None:
        return _Plan(None, reason="unknown_table", detail=f"no device has declared table {run.table!r}")
    names = tuple(map(fold, run.columns))
    if names[: run.key] != table.key or len(set(names)) != len(names):
        return _Plan(table, reason="wrong_key", detail=f"the key of {table.shape.name!r} is ({', '.join(table.key)})")
    for name, shown in zip(names, run.columns, strict=True):
        if name not in table.columns:
            detail = f"{table.shape.name!r} has no column {shown!r}"
            return _Plan(table, names, reason="unknown_column", detail=detail)
    missing = {}
    if run.op in ("put", "seed"):
        missing = {name: table.defaults.get(name) for name in table.columns if name not in names}
    return _Plan(table, names, missing)


def _read_row(op: RowOp, plan: _Plan, table: Table) -> None:
    """Read what can be read: also a row that is refused must say which row the device is to take back."""
    values: dict[str, WireValue] = {}
    for name, wire in zip(plan.names, op.wire, strict=True):
        column = table.columns.get(name)
        if column is None:
            continue
        try:
            value = encode(apply_affinity(decode(wire), column.affinity))
        except ValueNotStorable as error:
            op.refuse("wrong_value", f"column {column.name!r}: {error.message}")
            continue
        if not same(value, wire):
            op.rewritten = True
        values[name] = value
    op.values = values
    key = [values.get(name) for name in table.key]
    if None in key:
        op.refuse("wrong_key", "a key value is NULL")
    else:
        op.id = row_id(table, key)
