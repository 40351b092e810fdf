"""Resolution of a batch: which of its rows are refused, and the changes as they enter the log. Pure.

    read_ops → refuse_repeated
             → (judge_rows → refuse_clashes → refuse_tied → refuse_referencing) until no row more is refused

The same batch on the same state gives the same result, whoever computes it. What the accepted changes then do to the
state is computed from the entry alone (`effects.py`), so that folding the log again gives the same state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from tidewire_hub.catalogue import Catalogue
from tidewire_hub.resolve_ops import NO_ROW, RowOp, read_ops, refuse_repeated
from tidewire_hub.resolve_rows import in_phases, judge_rows
from tidewire_hub.resolve_together import refuse_referencing, refuse_tied
from tidewire_hub.resolve_unique import refuse_clashes
from tidewire_hub.resolve_view import Life, View
from tidewire_schemas.messages import Run

ROUNDS_MAX: Final = 16
"""Rounds until no row more is refused. Real batches take two or three; one made to take thousands is refused whole."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """A batch, judged."""

    ops: list[RowOp]
    """Every row, in the order of the batch, with the reason where it is refused."""
    changes: list[Run] | None
    """The changes as they enter the log; None where they are the batch's own, byte for byte."""

    @property
    def accepted(self) -> list[RowOp]:
        """What the entry does, in phases."""
        return [op for op in in_phases(self.ops) if op.reason is None and not op.nothing]

    @property
    def refused(self) -> list[RowOp]:
        """Rows that no device applies, in the order of the batch."""
        return [op for op in self.ops if op.reason is not None]


def resolve(runs: Sequence[Run], life: Life, catalogue: Catalogue, view: View) -> Resolution:
    """Judge a batch of one life of a device against the state."""
    ops = read_ops(runs, catalogue)
    phased = in_phases(ops)
    rows = {op.id for op in ops}
    if len(rows) < len(ops):
        refuse_repeated(phased)
    view.prefetch(rows - {NO_ROW})
    for _ in range(ROUNDS_MAX):
        end = judge_rows(phased, life, view)
        clashed = refuse_clashes(phased, end, view)
        tied = refuse_tied(phased)
        referencing = refuse_referencing(phased, catalogue, view)
        if not (clashed or tied or referencing):
            break
    else:
        for op in ops:
            op.refuse("tied", "too much of this batch depends on refused rows")
    unchanged = all(op.reason is None and not (op.nothing or op.rewritten or op.missing) for op in ops)
    return Resolution(ops, None if unchanged else _entry_changes(ops))


def _entry_changes(ops: Sequence[RowOp]) -> list[Run]:
    """Runs without refused rows and rows that do nothing; whole rows completed, values as the columns store them."""
    changes: list[Run] = []
    start = 0
    while start < len(ops):
        run = ops[start].run
        stop = start + len(run.rows)
        kept = [op for op in ops[start:stop] if op.reason is None and not op.nothing]
        start = stop
        puts = [op for op in kept if op.does == run.op]
        sets = [op for op in kept if op.does != run.op]
        changes.extend(_run_of(run, same) for same in (puts, sets) if same)
    return changes


def _run_of(run: Run, kept: Sequence[RowOp]) -> Run:
    """These rows of a run, which all do the same and lack the same columns."""
    first = kept[0]
    columns = [*run.columns, *(first.table.shown(name) for name in first.added if first.table is not None)]
    rows: list[Any] = [op.wire for op in kept]
    if first.added or any(op.rewritten for op in kept):
        rows = [[*op.values.values(), *op.added.values()] for op in kept]
    return run.model_copy(update={"op": first.does, "columns": tuple(columns), "rows": rows, "ties": None})
