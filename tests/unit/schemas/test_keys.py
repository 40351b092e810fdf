from __future__ import annotations

import sqlite3

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tidewire_schemas.errors import ValueNotStorable
from tidewire_schemas.keys import Affinity, Collation, apply_affinity, key_bytes, unique_bytes
from tidewire_schemas.values import RawText, Value
from unit.schemas.sqlite_cells import bits, insert, scratch
from unit.schemas.strategies import values

COLLATIONS: list[Collation] = ["BINARY", "NOCASE", "RTRIM"]
AFFINITIES: list[Affinity] = ["INTEGER", "REAL", "TEXT", "BLOB", "NUMERIC"]

# Few letters and numbers, so that two of them are often nearly the same.
near_texts = st.text(st.sampled_from("aAbBéÉ[{ \0\t"), max_size=4)
near_raws = st.builds(
    lambda text, end: RawText(text.encode() + b"\xff" + end), near_texts, st.sampled_from([b"", b" "])
)
near_numbers = st.sampled_from(
    [0, 0.0, -0.0, 1, 1.0, -1, 1.5, 2**53, 2.0**53, 2**53 + 1, 2**63 - 1, 2.0**63, -(2**63), -(2.0**63), 1e300]
)
near_values: st.SearchStrategy[Value] = st.one_of(
    near_texts, near_raws, near_numbers, near_texts.map(str.encode), st.none(), values
)
numeric_texts = st.builds(
    "{}{}{}{}{}{}".format,
    st.sampled_from(["", " ", "\t\n", "\v"]),
    st.sampled_from(["", "-", "+"]),
    st.sampled_from(["", "0", "1", "21", "007", "9223372036854775807", "9223372036854775808", "0" * 50 + "9"]),
    st.sampled_from(["", ".", ".0", ".5", ".25"]),
    st.sampled_from(["", "e", "e2", "E+2", "e-2", "x"]),
    st.sampled_from(["", " ", "\r\f", "\0", "_1", "٣"]),
)


def are_one_key_to_sqlite(left: list[Value], right: list[Value], collations: list[Collation]) -> bool:
    columns = ", ".join(f"c{number} COLLATE {collation}" for number, collation in enumerate(collations))
    names = ", ".join(f"c{number}" for number in range(len(collations)))
    with scratch() as connection:
        connection.execute(f"CREATE TABLE t ({columns}, UNIQUE ({names}))")
        insert(connection, "t", left)
        try:
            insert(connection, "t", right)
        except sqlite3.IntegrityError:
            return True
        return False


@settings(max_examples=300)
@given(near_values, near_values, st.sampled_from(COLLATIONS))
@example("a\0b", "A\0c", "NOCASE")
@example("a\0b", "A\0cc", "NOCASE")
@example("É", "é", "NOCASE")
@example("a  ", "a", "RTRIM")
@example(1, 1.0, "BINARY")
@example(1, "1", "BINARY")
@example("a", b"a", "NOCASE")
def test_two_values_are_one_key_exactly_when_sqlite_says_so(left: Value, right: Value, collation: Collation) -> None:
    ours = unique_bytes([left], [collation])
    theirs = unique_bytes([right], [collation])
    assert (ours is not None and ours == theirs) == are_one_key_to_sqlite([left], [right], [collation])


@settings(max_examples=100)
@given(st.data())
def test_composite_keys_compare_column_by_column(data: st.DataObject) -> None:
    collations = data.draw(st.lists(st.sampled_from(COLLATIONS), min_size=2, max_size=3))
    key: st.SearchStrategy[list[Value]] = st.lists(
        near_texts | near_numbers, min_size=len(collations), max_size=len(collations)
    )
    left, right = data.draw(key), data.draw(key)
    same = key_bytes(left, collations) == key_bytes(right, collations)
    assert same == are_one_key_to_sqlite(left, right, collations)


def test_a_null_clashes_with_nothing_in_a_unique_set() -> None:
    assert unique_bytes([None, 1], ["BINARY", "BINARY"]) is None


def test_a_key_of_integers_takes_the_short_way_and_gives_the_same() -> None:
    assert key_bytes([1, 2], ["BINARY", "BINARY"]) == key_bytes([1.0, 2], ["BINARY", "BINARY"]) == b"[1,2]"


@settings(max_examples=300)
@given(st.one_of(numeric_texts, near_values), st.sampled_from(AFFINITIES))
@example(-0.0, "REAL")
@example(-0.0, "BLOB")
@example("-0.0", "REAL")
@example(2.0**63, "INTEGER")
@example(-(2.0**63), "INTEGER")
@example("-9223372036854775808", "NUMERIC")
@example("9223372036854775808", "INTEGER")
@example(float("inf"), "INTEGER")
@example("  1e3 ", "INTEGER")
@example("1_000", "INTEGER")
@example(2**63 - 1, "REAL")
@example(b"12", "INTEGER")
def test_a_column_makes_of_a_value_what_sqlite_makes_of_it(value: Value, affinity: Affinity) -> None:
    if isinstance(value, float) and affinity == "TEXT":
        with pytest.raises(ValueNotStorable):
            apply_affinity(value, affinity)
        return
    with scratch() as connection:
        connection.execute(f"CREATE TABLE t (c {affinity})")
        insert(connection, "t", [value])
        (there,) = connection.execute("SELECT c FROM t").fetchone()
    assert bits(apply_affinity(value, affinity)) == bits(there)


@settings(max_examples=100)
@given(st.one_of(numeric_texts, near_values), st.sampled_from(AFFINITIES))
def test_what_a_column_has_made_of_a_value_it_leaves_as_it_is(value: Value, affinity: Affinity) -> None:
    if isinstance(value, float) and affinity == "TEXT":
        return
    once = apply_affinity(value, affinity)
    assert bits(apply_affinity(once, affinity)) == bits(once)
