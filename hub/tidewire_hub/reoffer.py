"""Batches of a lost part of the log, offered again: what of them still counts. Pure.

A hub that was restored from an older copy has lost the end of its log. Devices that applied it offer what they sent
then once more, each batch with `was`, its old place in the order. They come in any order and at any time, so for each
thing that one of them wrote it is asked who is the later: `was`, or the rank of the writer that the state has. The rank
of an entry is its position, or what it `was` if it was offered again itself. A new write comes after all that was lost.

What is left is judged like any batch, except that nothing in the state is unseen by it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tidewire_hub.catalogue import Catalogue
from tidewire_hub.resolve_ops import NO_ROW, RowOp, read_ops
from tidewire_hub.resolve_view import Row, View, Writer
from tidewire_schemas.messages import Run
from tidewire_schemas.names import fold
from tidewire_schemas.positions import Position, Seq

NEWER = "a newer write has gone over it since the end of the log was lost"


class Again(NamedTuple):
    """What of a batch still counts."""

    runs: list[Run]
    """To be judged as usual."""
    overtaken: list[RowOp]
    """Rows over which later writes have gone."""


class Ranks:
    """Which of two writers is the later.

    Args:
        was: the old place of the batch in hand.
        position_at: position of an entry of this log.
        offered: old places of entries that were offered again, by seq.
    """

    def __init__(
        self,
        was: Position,
        position_at: Callable[[Seq], Position | None],
        offered: Callable[[int], Position | None],
    ) -> None:
        self._was = was
        self._position_at = position_at
        self._offered = offered

    def is_later(self, writer: Writer) -> bool:
        """Whether this one wrote after the batch in hand did."""
        rank = self._offered(writer.seq) or self._position_at(Seq(writer.seq))
        return rank is None or rank > self._was

    def is_new(self, writer: Writer) -> bool:
        """Whether this one wrote after the end of the log was lost."""
        return self.is_later(writer) and self._offered(writer.seq) is None


def what_counts(runs: Sequence[Run], catalogue: Catalogue, view: View, ranks: Ranks) -> Again:
    """Take out of a batch what later writes have overtaken: whole rows, or some of their columns."""
    ops = read_ops(runs, catalogue)
    view.prefetch({op.id for op in ops} - {NO_ROW})
    kept: list[Run] = []
    overtaken: list[RowOp] = []
    start = 0
    for run in runs:
        whole: list[RowOp] = []
        for op in ops[start : start + len(run.rows)]:
            columns = _columns_that_count(op, view, ranks)
            if columns is None:
                whole.append(op)
            elif columns:
                kept.append(_part_of(op, columns))
            elif op.op == "seed" or _is_news(op, view, ranks):
                overtaken.append(op)
        start += len(run.rows)
        if whole:
            ties = tuple(op.tie for op in whole) if run.ties else None
            kept.append(run.model_copy(update={"rows": [op.wire for op in whole], "ties": ties}))
    for op in overtaken:
        op.refuse("overtaken", NEWER)
    return Again(kept, overtaken)


def _columns_that_count(op: RowOp, view: View, ranks: Ranks) -> set[str] | None:
    """Which columns besides the key still count; None for all of the row, also where the usual judges must see it."""
    row = None if op.reason is not None else view.row(op.id)
    if row is None:
        return None
    if row.cells is None:
        return set() if ranks.is_later(row.written) else None
    if op.op == "seed":
        return None
    if op.op == "delete":
        return set() if any(ranks.is_later(writer) for writer in _writers(row)) else None
    if ranks.is_later(row.born):
        return set()
    names = [fold(name) for name in op.run.columns[op.run.key :]]
    counting = {name for name in names if not ranks.is_later(row.writer(name))}
    return None if len(counting) == len(names) else counting


def _is_news(op: RowOp, view: View, ranks: Ranks) -> bool:
    """Whether a row was overtaken since the end of the log was lost; else the history is as it was.

    Of seeds it is always said: their device may have taken a snapshot, which does not tell of deleted rows.
    """
    row = view.row(op.id)
    if row is None or (op.op == "delete" and row.cells is None):
        return False
    return any(ranks.is_new(writer) for writer in _writers(row))


def _writers(row: Row) -> set[Writer]:
    return {row.born, row.written, *row.cells_by.values()}


def _part_of(op: RowOp, columns: set[str]) -> Run:
    """A run that sets these columns of the row."""
    names = op.run.columns
    places = [place for place, name in enumerate(names) if place < op.run.key or fold(name) in columns]
    row: list[Any] = [op.wire[place] for place in places]
    update = {"op": "set", "columns": tuple(names[place] for place in places), "rows": [row], "ties": None}
    return op.run.model_copy(update=update)
