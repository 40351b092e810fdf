from __future__ import annotations

import hashlib
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tidewire_schemas.digest import (
    NO_DIGEST,
    add,
    as_hex,
    column_order,
    message_digest,
    row_digest,
    subtract,
    table_digest,
)
from tidewire_schemas.values import RawText, Value
from unit.schemas.sqlite_cells import bits
from unit.schemas.strategies import values

rows = st.lists(st.lists(values, min_size=2, max_size=2), max_size=8)


def digest_of(table: list[list[Value]]) -> int:
    return table_digest(row_digest(["a", "b"], row) for row in table)


@settings(max_examples=40)
@given(rows, st.randoms())
def test_the_order_of_rows_does_not_matter(table: list[list[Value]], chance: random.Random) -> None:
    shuffled = list(table)
    chance.shuffle(shuffled)
    assert digest_of(table) == digest_of(shuffled)


@settings(max_examples=40)
@given(rows)
def test_adding_and_removing_rows_gives_what_a_scan_gives(table: list[list[Value]]) -> None:
    total = 0
    for row in table:
        total = add(total, row_digest(["a", "b"], row))
    assert total == digest_of(table)
    for row in table[1:]:
        total = subtract(total, row_digest(["a", "b"], row))
    assert total == digest_of(table[:1])


@given(values, values)
def test_two_cells_have_one_digest_exactly_when_they_are_the_same_bits(left: Value, right: Value) -> None:
    same = row_digest(["a"], [left]) == row_digest(["a"], [right])
    assert same == (bits(left) == bits(right))


def test_cells_that_look_alike_differ() -> None:
    alike: list[Value] = [1, 1.0, "1", b"1", 0.0, -0.0, "", b"", RawText(b"\xff"), b"\xff", '{"blob":"MQ=="}']
    assert len({row_digest(["a"], [value]) for value in alike}) == len(alike)


@given(values)
def test_a_null_cell_counts_as_a_column_that_is_not_there(value: Value) -> None:
    assert row_digest(["a", "b"], [value, None]) == row_digest(["a"], [value])


def test_the_same_value_in_another_column_is_another_row() -> None:
    assert row_digest(["a", "b"], [1, None]) != row_digest(["a", "b"], [None, 1])


def test_columns_enter_by_name_whatever_their_order_in_the_table() -> None:
    assert column_order(["b", "a", "c"]) == (1, 0, 2)


def test_digests_stay_what_they_are_so_that_versions_can_compare_them() -> None:
    """The bytes that are hashed, by another implementation."""
    assert message_digest(b"{}") == hashlib.blake2b(b"{}", digest_size=16).hexdigest()
    row = hashlib.blake2b(b'[["id","r-1"],["temp",21.5],["tip",{"blob":"AP8="}]]', digest_size=16).hexdigest()
    assert as_hex(row_digest(["id", "none", "temp", "tip"], ["r-1", None, 21.5, b"\0\xff"])) == row
    assert as_hex(table_digest([])) == NO_DIGEST
