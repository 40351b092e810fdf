"""Declared tables on their way into the catalogue: what the rows that are there allow."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

from tidewire_hub.catalogue import (
    Catalogue,
    Merge,
    Table,
    Unique,
    differences,
    merge,
    unique_of,
    with_unique,
    without_columns,
)
from tidewire_hub.resolve_view import unique_value
from tidewire_hub.state.store import State
from tidewire_schemas.messages import TableProblem
from tidewire_schemas.names import fold
from tidewire_schemas.shapes import COLUMNS_MAX, TableShape, UniqueSet

TABLES_MAX: Final = 1_000
"""Tables of a stream: what a device can make the hub keep by declaring is bounded."""


class Declaration:
    """Merges declared tables, remembering which rows kept a unique set out of force.

    Every handshake declares again; a set that is still violated by the same two rows need not be looked for among all.
    """

    def __init__(self) -> None:
        self._violations: dict[tuple[int, Unique], tuple[bytes, bytes]] = {}

    def merge_all(
        self, state: State, shapes: Sequence[TableShape], held: Callable[[str], Collection[str]]
    ) -> tuple[Catalogue, list[TableProblem]]:
        """The catalogue with all that can be taken (the same object if that is nothing new), and the problems.

        `held` gives the columns of a table, by folded names, that other devices have: what neither they nor this one
        declare is forgotten.
        """
        catalogue = state.catalogue
        head = state.position.seq
        problems: list[TableProblem] = []
        for shape in shapes:
            merged = merge(catalogue, shape, head)
            if isinstance(merged, TableProblem):
                problems.append(merged)
                continue
            before = catalogue.find(shape.name)
            if before is not None:
                given_up = _given_up(before, shape, held)
                if given_up:
                    before = without_columns(before, given_up)
                    catalogue = catalogue.with_table(before)
                    merged = merge(catalogue, shape, head)
                    assert not isinstance(merged, TableProblem)  # less can be contradicted than before
                problems.extend(differences(before, shape))
            if merged is None:
                continue
            table = self._with_unique(state, merged, problems)
            too_many = _too_many(catalogue, table)
            if too_many is not None:
                problems.append(too_many)
                continue
            known = catalogue.find(table.name)
            if known is None or known.shape != table.shape:
                catalogue = catalogue.with_table(table)
        return catalogue, problems

    def _with_unique(self, state: State, merged: Merge, problems: list[TableProblem]) -> Table:
        """The merged table with those of the new unique sets in force that the present rows satisfy."""
        table = merged.table
        for declared in merged.new_unique:
            clash = self._clash(state, table, unique_of(declared), merged.new_columns)
            if clash is None:
                table = with_unique(table, declared)
            else:
                problems.append(_violated(table, declared, clash))
        return table

    def _clash(self, state: State, table: Table, unique: Unique, added: Collection[str]) -> tuple[bytes, bytes] | None:
        known = self._violations.pop((table.id, unique), None)
        if known is None or not _still_equal(state, table, unique, known):
            known = state.clash(table, unique, added)
        if known is not None:
            self._violations[table.id, unique] = known
        return known


def _given_up(known: Table, declared: TableShape, held: Callable[[str], Collection[str]]) -> frozenset[str]:
    """Columns that no device has any more."""
    here = {fold(column.name) for column in declared.columns}
    missing = known.columns.keys() - here
    return frozenset(missing.difference(held(known.name)) if missing else ())


def _still_equal(state: State, table: Table, unique: Unique, keys: tuple[bytes, bytes]) -> bool:
    view = state.view()
    rows = [view.row((table.id, key)) for key in keys]
    values = {None if row is None else unique_value(row.cells, unique) for row in rows}
    return len(values) == 1 and None not in values


def _violated(table: Table, unique: UniqueSet, clash: tuple[bytes, bytes]) -> TableProblem:
    one, other = (key.decode()[:100] for key in clash)
    return TableProblem(
        table=table.shape.name,
        code="unique_violated",
        message=f"UNIQUE ({', '.join(unique.columns)}) is not kept by the hub: rows {one} and {other} hold the same",
    )


def _too_many(catalogue: Catalogue, table: Table) -> TableProblem | None:
    if table.id > TABLES_MAX:
        message = f"the stream has {len(catalogue.tables)} tables, and TABLES_MAX={TABLES_MAX}"
    elif len(table.columns) > COLUMNS_MAX:
        message = f"with the columns of all devices it would have {len(table.columns)}, above {COLUMNS_MAX}"
    else:
        return None
    return TableProblem(table=table.shape.name, code="too_many", message=message)
