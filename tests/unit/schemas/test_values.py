from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic_core import from_json, to_json

from tidewire_schemas.errors import ValueNotStorable
from tidewire_schemas.values import RawText, Value, check_rows, decode, decode_row, encode, encode_row
from unit.schemas.sqlite_cells import bits, insert, scratch
from unit.schemas.strategies import values


def stored(row: list[Value]) -> list[Value]:
    """What SQLite reads back after `row` was written into columns without affinity."""
    with scratch() as connection:
        connection.execute(f"CREATE TABLE t ({', '.join(f'c{number} BLOB' for number in range(len(row)))})")
        insert(connection, "t", row)
        return list(connection.execute("SELECT * FROM t").fetchone())


@settings(max_examples=150)
@given(st.lists(values, min_size=1, max_size=6))
@example([5e-324, -0.0, 2.2250738585072014e-308, math.inf, -math.inf, 1.7976931348623157e308])
@example([2**63 - 1, -(2**63), 2**53 + 1, 0, 1.0, 1e22])
@example(["a\0b", "🌊", "", "\x7f\u2028", b"", b"\0\xff", RawText(b"\xff\0")])
def test_a_row_goes_from_one_database_to_another_bit_for_bit(row: list[Value]) -> None:
    here = stored(row)
    on_the_wire = to_json(encode_row(here))
    there = stored(list(decode_row(from_json(on_the_wire, allow_inf_nan=False))))
    assert [bits(v) for v in there] == [bits(v) for v in here] == [bits(v) for v in row]


@settings(max_examples=100)
@given(values)
def test_what_was_encoded_passes_the_check_of_rows(value: Value) -> None:
    check_rows([[from_json(to_json(encode(value)))]], 1)


def test_a_row_of_plain_values_is_not_copied() -> None:
    plain: list[Value] = [None, 1, "text"]
    assert encode_row(plain) is plain
    assert decode_row([*plain, 1.5]) == [None, 1, "text", 1.5]


def test_not_a_number_becomes_null_as_in_sqlite() -> None:
    assert encode(math.nan) is None
    assert stored([math.nan]) == [None]


def test_text_marked_as_raw_that_is_valid_becomes_plain_text() -> None:
    assert decode({"text": "w6k="}) == "é"


@pytest.mark.parametrize(
    "wrong",
    [
        2**63,
        -(2**63) - 1,
        10**4000,
        math.nan,
        math.inf,
        True,
        [],
        {},
        {"blob": "AA==", "text": "AA=="},
        {"blob": "not base64!"},
        {"blob": "AAA"},
        {"blob": None},
        {"real": "nan"},
        {"real": 1},
        {"real": []},
        {"date": "2026-01-01"},
        {"text": "é"},
    ],
    ids=lambda wrong: repr(wrong)[:30],
)
def test_a_value_that_sqlite_cannot_hold_is_refused_in_one_line(wrong: Any) -> None:
    with pytest.raises(ValueNotStorable) as caught:
        check_rows([[wrong]], 1)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("row", [[], [1, 2]])
def test_a_row_must_have_as_many_values_as_columns_are_named(row: list[Any]) -> None:
    with pytest.raises(ValueNotStorable, match="1 columns are named"):
        check_rows([row], 1)


def test_invalid_utf8_made_by_sqlite_itself_is_kept() -> None:
    with scratch() as connection:
        (text,) = connection.execute("SELECT CAST(x'6100ff' AS TEXT)").fetchone()
        assert decode(from_json(to_json(encode(text)))) == RawText(b"a\0\xff")
        (same,) = connection.execute("SELECT CAST(x'6100ff' AS TEXT) = CAST(? AS TEXT)", (text.data,)).fetchone()
    assert same == 1
