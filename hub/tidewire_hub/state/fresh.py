"""The fast path of new rows: whole rows in the table's own columns, prepared column by column. Pure.

Most of what devices write is new rows of one shape. For these nothing has to be resolved: if none of their keys has a
row or a tombstone, and none of their unique values a holder, all are births, whatever their base, and the entry repeats
the batch's bytes. What does not fit (another column, a value that its column would change, a NULL in the key) is left
to `resolve`, which treats every case; a test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from operator import itemgetter
from types import NoneType
from typing import Any, Final, NamedTuple, TypeAlias

from pydantic_core import to_json

from tidewire_hub.catalogue import Catalogue, Table
from tidewire_hub.resolve_view import same
from tidewire_hub.state.cells import cells_digest
from tidewire_schemas.errors import ValueNotStorable
from tidewire_schemas.keys import Affinity, Collation, apply_affinity, key_bytes
from tidewire_schemas.messages import Run
from tidewire_schemas.names import fold
from tidewire_schemas.values import decode, encode

Picker: TypeAlias = Callable[[Sequence[Any]], tuple[Any, ...]]

_UNCHANGED: Final[dict[Affinity, frozenset[type]]] = {
    "INTEGER": frozenset({int, NoneType}),
    "REAL": frozenset({float, NoneType}),
    "TEXT": frozenset({str, NoneType}),
    "BLOB": frozenset({int, float, str, NoneType}),
    "NUMERIC": frozenset({int, NoneType}),
}
"""Types of JSON values that a column of this affinity stores as they are; others are looked at one by one."""

_MARK: Final[dict[str, int]] = {"": 0}
"""Stands between values that are encoded together. No value looks like it: quotes inside strings are escaped."""

_BETWEEN: Final = b',{"":0},'


class FreshRun(NamedTuple):
    """The rows of a run as the state stores them."""

    table: Table
    keys: list[bytes]
    cells: list[bytes]
    digest: int
    """Sum of the rows' digests (not reduced)."""
    unique: tuple[list[bytes | None], ...]
    """For each unique set in force the rows' values."""


class _Plan(NamedTuple):
    """How runs of these columns are read."""

    names: tuple[str, ...]
    pick_sorted: Picker
    affinities: tuple[Affinity, ...]
    collations: tuple[Collation, ...]
    pick_unique: tuple[Picker, ...]


def fresh_runs(runs: Sequence[Run], catalogue: Catalogue) -> list[FreshRun] | None:
    """All runs of a batch prepared, or None where one is not for the fast path."""
    prepared = []
    for run in runs:
        table = catalogue.find(run.table)
        if table is None or run.op not in ("put", "seed"):
            return None
        fresh = _prepare(run, table)
        if fresh is None:
            return None
        prepared.append(fresh)
    return prepared


def _prepare(run: Run, table: Table) -> FreshRun | None:
    plan = _plan(table, run.columns, run.key)
    if plan is None:
        return None
    for number, column in enumerate(zip(*run.rows, strict=True)):
        types = set(map(type, column))
        if number < run.key and NoneType in types:
            return None
        affinity = plan.affinities[number]
        if not types <= _UNCHANGED[affinity] and not _unchanged(column, affinity):
            return None
    width = run.key
    keys = _keys(run.rows, width, plan.collations)
    cells = _cells(run.rows, plan)
    unique = tuple(
        [None if None in values else _key(values, each.collations) for values in map(pick, run.rows)]
        for pick, each in zip(plan.pick_unique, table.unique, strict=True)
    )
    return FreshRun(table, keys, cells, sum(map(cells_digest, cells)), unique)


@lru_cache(maxsize=1024)
def _plan(table: Table, columns: tuple[str, ...], width: int) -> _Plan | None:
    """None where the run does not have exactly the table's columns, or another key."""
    names = tuple(map(fold, columns))
    if names[:width] != table.key or len(names) != len(table.columns) or set(names) != set(table.columns):
        return None
    place = {name: number for number, name in enumerate(names)}
    ordered = tuple(sorted(names))
    return _Plan(
        names=ordered,
        pick_sorted=_picker([place[name] for name in ordered]),
        affinities=tuple(table.columns[name].affinity for name in names),
        collations=table.key_collations,
        pick_unique=tuple(_picker([place[name] for name in unique.columns]) for unique in table.unique),
    )


def _picker(places: Sequence[int]) -> Picker:
    if len(places) == 1:
        place = places[0]
        return lambda row: (row[place],)
    return itemgetter(*places)


def _unchanged(column: Iterable[Any], affinity: Affinity) -> bool:
    """Whether the column stores each of these as it is."""
    try:
        return all(same(encode(apply_affinity(decode(value), affinity)), value) for value in column)
    except ValueNotStorable:
        return False


def _keys(rows: Sequence[Sequence[Any]], width: int, collations: tuple[Collation, ...]) -> list[bytes]:
    if width > 1 or collations[0] != "BINARY":
        return [_key(row[:width], collations) for row in rows]
    first = [row[0] for row in rows]
    types = set(map(type, first))
    if types == {int}:
        return [b"[%d]" % key for key in first]
    if types == {str}:
        return _encode_each([[key] for key in first])
    return [_key((key,), collations) for key in first]


def _key(values: Sequence[Any], collations: Sequence[Collation]) -> bytes:
    return key_bytes([decode(value) for value in values], collations)


def _cells(rows: Sequence[Sequence[Any]], plan: _Plan) -> list[bytes]:
    """Each row as `cells.cells_json` makes it."""
    names = plan.names
    pairs: list[list[tuple[str, Any]]] = []
    for values in map(plan.pick_sorted, rows):
        if None in values:
            pairs.append([pair for pair in zip(names, values, strict=True) if pair[1] is not None])
        else:
            pairs.append(list(zip(names, values, strict=True)))
    return _encode_each(pairs)


def _encode_each(values: Sequence[object]) -> list[bytes]:
    """Each value as JSON, encoded in one call: a call per value costs as much as the encoding."""
    marked: list[object] = [_MARK] * (2 * len(values) - 1)
    marked[::2] = values
    return to_json(marked)[1:-1].split(_BETWEEN)
