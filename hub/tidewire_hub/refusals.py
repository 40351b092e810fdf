"""Refused rows as the entry names them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tidewire_hub.effects import Effects
from tidewire_hub.resolve_ops import NO_ROW, RowOp
from tidewire_hub.resolve_view import Cells, View
from tidewire_schemas.messages import HeldRow, Refusal


def refusals_of(refused: Sequence[RowOp], effects: Effects, view: View) -> list[Refusal]:
    """What the entry says of each: why, and the hub's row under that key after the entry."""
    return [_refusal(op, effects, view) for op in refused if op.reason is not None]


def lost_by(refused: Sequence[RowOp]) -> list[dict[str, Any]]:
    """What each would have written besides its key, for the conflict log."""
    return [dict(zip(op.run.columns[op.run.key :], op.wire[op.run.key :], strict=True)) for op in refused]


def _refusal(op: RowOp, effects: Effects, view: View) -> Refusal:
    assert op.reason is not None
    key = op.run.key
    return Refusal(
        table=op.run.table,
        columns=op.run.columns[:key],
        key=list(op.wire[:key]),
        op=op.run.op,
        reason=op.reason,
        detail=op.detail,
        row=_held(op, effects, view),
    )


def _held(op: RowOp, effects: Effects, view: View) -> HeldRow | None:
    """The whole row, NULLs included; None where there is none, or where the batch's key cannot name one."""
    if op.table is None or op.id == NO_ROW:
        return None
    row = effects.rows.get(op.id) or view.row(op.id)
    cells: Cells | None = None if row is None else row.cells
    if cells is None:
        return None
    return HeldRow(
        columns=tuple(column.name for column in op.table.shape.columns),
        values=[cells.get(name) for name in op.table.columns],
    )
