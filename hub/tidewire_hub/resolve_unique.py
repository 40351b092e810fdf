"""UNIQUE sets, judged on the state that a batch leaves behind. Pure.

A swap of two unique values inside one batch is fine. Where a value would have two holders, the row that was there keeps
it: first the rows that held it before the batch, then the batch's rows in its order. A refused row goes back to what it
was and takes its old value again, which may cost another row its place: so until nothing changes.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import TypeAlias

from tidewire_hub.catalogue import Table, Unique
from tidewire_hub.resolve_ops import RowOp
from tidewire_hub.resolve_rows import EndState
from tidewire_hub.resolve_view import RowId, View, unique_value

Claim: TypeAlias = tuple[int, int, bytes]
"""A unique value: table id, number of the set, the value's bytes."""


def refuse_clashes(ops: Sequence[RowOp], end: EndState, view: View) -> bool:
    """Refuse the rows that would clash; whether there were any. `ops` in phases, judged."""
    writers: dict[RowId, list[RowOp]] = defaultdict(list)
    for op in ops:
        if op.reason is None and not op.nothing and op.run.op != "delete" and op.table is not None and op.table.unique:
            writers[op.id].append(op)
    if not writers:
        return False
    deleted = {op.id for op in ops if op.run.op == "delete" and op.reason is None and not op.nothing}
    return _Clashes(writers, deleted, end, view).settle()


class _Clashes:
    """Who claims which unique value after the batch."""

    def __init__(self, writers: dict[RowId, list[RowOp]], deleted: set[RowId], end: EndState, view: View) -> None:
        self._writers = writers
        self._deleted = deleted
        self._end = end
        self._view = view
        self._tables = {op.table.id: op.table for own in writers.values() for op in own if op.table is not None}
        self._claims = self._claims_of_batch()
        self._prefetch()

    def settle(self) -> bool:
        """Go through the values until none has two holders. Each step refuses a row, so it ends."""
        unsettled = deque(self._claims)
        refused = False
        while unsettled:
            claim = unsettled.popleft()
            table = self._tables[claim[0]]
            columns = ", ".join(table.unique[claim[1]].columns)
            for row in self._losers(claim, table):
                for op in self._writers.get(row, ()):
                    op.refuse("unique", f"another row holds this value of ({columns})")
                    refused = True
                unsettled.extend(self._put_back(row, table))
        return refused

    def _claims_of_batch(self) -> dict[Claim, list[RowId]]:
        """Which of the batch's rows hold which value after it, in the order of the batch."""
        claims: dict[Claim, list[RowId]] = defaultdict(list)
        for row, cells in self._end.touched.items():
            table = self._tables.get(row[0])
            if table is None:
                continue
            for number, unique in enumerate(table.unique):
                value = unique_value(cells, unique)
                if value is not None:
                    claims[table.id, number, value].append(row)
        return claims

    def _prefetch(self) -> None:
        values: dict[tuple[int, int], list[bytes]] = defaultdict(list)
        for table_id, number, value in self._claims:
            values[table_id, number].append(value)
        for (table_id, number), wanted in values.items():
            self._view.prefetch_holders(self._tables[table_id], number, wanted)

    def _losers(self, claim: Claim, table: Table) -> list[RowId]:
        """Which of the batch's rows must go so that one holder is left."""
        _, number, value = claim
        unique = table.unique[number]
        touched = self._end.touched
        holders = [row for row in self._claims[claim] if unique_value(self._end.cells(row), unique) == value]
        outside = [key for key in self._view.holders(table, number, value) if (table.id, key) not in touched]
        if len(holders) + len(outside) < 2:
            return []
        held_before = [row for row in holders if self._held_before(row, unique, value)]
        if held_before or outside:
            return [row for row in holders if row not in held_before]
        return holders[1:]

    def _held_before(self, row: RowId, unique: Unique, value: bytes) -> bool:
        before = self._end.before(row)
        return before is not None and unique_value(before.cells, unique) == value

    def _put_back(self, row: RowId, table: Table) -> list[Claim]:
        """Return a row to what it is without its refused writes; the values it takes again."""
        before = None if row in self._deleted else self._end.before(row)
        self._end.touched[row] = before.cells if before is not None else None
        if before is None:
            return []
        taken = []
        for number, unique in enumerate(table.unique):
            value = unique_value(before.cells, unique)
            if value is None:
                continue
            claim = (table.id, number, value)
            if row not in self._claims[claim]:
                self._claims[claim].append(row)
            taken.append(claim)
        return taken
