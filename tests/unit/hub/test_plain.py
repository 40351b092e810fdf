"""The fast path encodes rows column by column: byte for byte what the row-by-row functions make."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.stream_kit import HandDevice
from tidewire_hub.catalogue import Catalogue, KnownShape, Table
from tidewire_hub.state.cells import cells_digest, cells_json, digest_sum
from tidewire_hub.state.plain import plain_runs
from tidewire_schemas.digest import row_digest
from tidewire_schemas.keys import Collation, key_bytes
from tidewire_schemas.messages import Run
from tidewire_schemas.positions import START
from tidewire_schemas.shapes import ColumnShape, UniqueSet
from tidewire_schemas.values import decode, encode

NAMES = ("id", "100% 'real'", 'quo"ted', "Ümlaut")
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
INTEGER = st.integers(-(2**63), 2**63 - 1)
REAL = st.floats(allow_nan=False, allow_infinity=False)
ANY = st.one_of(st.none(), TEXT, INTEGER, REAL, st.binary(max_size=5).map(encode), st.just({"real": "-inf"}))
KEY = st.one_of(TEXT, INTEGER, REAL.map(lambda value: value + 0.0), st.binary(max_size=5).map(encode))


def catalogue(collation: Collation = "BINARY", *, key: int = 1) -> Catalogue:
    columns = tuple(ColumnShape(name=name, affinity="BLOB", collation=collation) for name in NAMES)
    unique = (UniqueSet(columns=(NAMES[2], NAMES[1]), collations=(collation, "NOCASE")),)
    return Catalogue((Table(1, KnownShape(name="t", columns=columns, key=NAMES[:key], unique=unique)),))


def run_of(rows: list[list[Any]], *, key: int = 1) -> Run:
    return Run(op="put", table="t", base=START, key=key, columns=NAMES, rows=rows)


def columns_of_one_kind(count: int) -> st.SearchStrategy[list[list[Any]]]:
    """Rows whose columns each hold one kind of value, as tables do, or anything."""
    column = st.sampled_from([TEXT, INTEGER, REAL, ANY]).flatmap(
        lambda kind: st.lists(kind, min_size=count, max_size=count)
    )
    key = st.sampled_from([TEXT, INTEGER, KEY]).flatmap(lambda kind: st.lists(kind, min_size=count, max_size=count))
    return st.tuples(key, column, column, column).map(lambda columns: [list(row) for row in zip(*columns, strict=True)])


@given(st.integers(1, 5).flatmap(columns_of_one_kind), st.sampled_from(["BINARY", "NOCASE", "RTRIM"]))
def test_rows_keys_digests_and_unique_values_are_those_of_the_row_by_row_functions(
    rows: list[list[Any]], collation: Collation
) -> None:
    """Guarantee 7."""
    plain = plain_runs([run_of(rows)], catalogue(collation))
    assert plain is not None
    (run,) = plain
    folded = ("id", "100% 'real'", 'quo"ted', "Ümlaut")
    by_name = sorted(folded)
    assert run.cells == [
        cells_json({name: value for name, value in zip(folded, row, strict=True) if value is not None}) for row in rows
    ]
    assert run.keys == [key_bytes([decode(row[0])], [collation]) for row in rows]
    digests = [
        row_digest(by_name, [decode(dict(zip(folded, row, strict=True))[name]) for name in by_name]) for row in rows
    ]
    assert [cells_digest(cells) for cells in run.cells] == digests
    assert digest_sum(run.cells) == sum(digests)
    pairs = [[decode(row[2]), decode(row[1])] for row in rows]
    assert run.unique == ([None if None in pair else key_bytes(pair, [collation, "NOCASE"]) for pair in pairs],)


@given(st.lists(st.tuples(INTEGER, TEXT), min_size=1, max_size=4))
def test_keys_of_several_columns_are_those_of_key_bytes(keys: list[tuple[int, str]]) -> None:
    plain = plain_runs([run_of([[*key, None, 1] for key in keys], key=2)], catalogue(key=2))
    assert plain is not None
    assert plain[0].keys == [key_bytes(key, ["BINARY", "BINARY"]) for key in keys]


@pytest.mark.parametrize(
    "run",
    [
        HandDevice("a").put("absent", "id", ["k"]),
        HandDevice("a").put("t", "id", ["k"]),
        run_of([[None, 1, 1, 1]]),
        run_of([[1, 1, 1, 1]], key=2),
    ],
    ids=["unknown table", "missing columns", "NULL in the key", "another key"],
)
def test_what_needs_judging_is_left_to_the_full_resolution(run: Run) -> None:
    assert plain_runs([run], catalogue()) is None


def test_a_value_that_its_column_would_change_is_left_to_the_full_resolution() -> None:
    shape = KnownShape(
        name="t",
        columns=(ColumnShape(name="id", affinity="TEXT"), ColumnShape(name="n", affinity="REAL")),
        key=("id",),
    )
    for value, stays in ((1.5, True), (None, True), ("x", True), (1, False), ("1", False)):
        run = HandDevice("a").put("t", "id n", ["k", value])
        assert (plain_runs([run], Catalogue((Table(1, shape),))) is not None) is stays
