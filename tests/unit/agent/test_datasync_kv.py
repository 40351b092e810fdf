"""Keys, values and their limits."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewire_agent.datasync import kv
from tidewire_agent.datasync.errors import InvalidKey, InvalidValue, StoredValueInvalid

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
KEYS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_any_json_value_comes_back_equal(value: object) -> None:
    assert kv.decode_value("k", kv.encode_value(value)) == value


def test_values_are_compact_json_text_that_people_can_read() -> None:
    assert kv.encode_value({"on": True, "name": "Küche"}) == '{"on":true,"name":"Küche"}'


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), [float("-inf")], b"bytes", {1, 2}, object(), "\ud800", {"a": "\udfff"}, 10**5000],
    ids=["nan", "inf", "-inf", "bytes", "set", "object", "surrogate", "nested surrogate", "huge integer"],
)
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(InvalidValue):
        kv.encode_value(value)


def test_a_value_that_holds_itself_is_refused() -> None:
    circle: list[object] = []
    circle.append(circle)
    with pytest.raises(InvalidValue):
        kv.encode_value(circle)


def test_a_value_that_is_nested_too_deep_is_refused() -> None:
    deep: object = 1
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidValue, match="deep"):
        kv.encode_value(deep)


def test_the_largest_value_is_taken_and_one_byte_more_is_refused_by_the_limit_s_name() -> None:
    assert len(kv.encode_value("x" * (kv.VALUE_BYTES_MAX - 2))) == kv.VALUE_BYTES_MAX
    with pytest.raises(InvalidValue, match="VALUE_BYTES_MAX"):
        kv.encode_value("x" * (kv.VALUE_BYTES_MAX - 1))


@pytest.mark.parametrize("key", ["", 1, None, b"k", "a\0b", "\ud800"])
def test_what_cannot_be_a_key_is_refused(key: object) -> None:
    with pytest.raises(InvalidKey):
        kv.checked_key(key)


def test_a_key_is_limited_in_bytes_not_in_characters() -> None:
    kv.checked_key("ü" * (kv.KEY_BYTES_MAX // 2))
    with pytest.raises(InvalidKey, match="KEY_BYTES_MAX"):
        kv.checked_key("ü" * (kv.KEY_BYTES_MAX // 2) + "x")


@pytest.mark.parametrize("text", ["hello", "", "{", b"\x00", None, 7])
def test_a_row_that_is_not_json_says_so(text: object) -> None:
    with pytest.raises(StoredValueInvalid, match="'lamp'"):
        kv.decode_value("lamp", text)


@given(st.lists(KEYS, max_size=12), KEYS)
def test_a_prefix_gives_exactly_the_keys_that_begin_with_it_in_order(keys: list[str], prefix: str) -> None:
    keys += [prefix, prefix + "x", prefix + "\U0010ffff", prefix[:-1] + "\ud7ff", prefix[:-1] + "\ue000"]
    connection = sqlite3.connect(":memory:")
    kv.create(connection)
    for key in keys:
        kv.put_text(connection, key, "1")
    expected = sorted({key for key in keys if key.startswith(prefix)}, key=str.encode)
    assert kv.keys(connection, prefix) == expected
    assert list(kv.rows(connection, prefix)) == expected
    assert kv.keys(connection, "") == sorted(set(keys), key=str.encode)
    connection.close()


def test_reading_a_prefix_uses_the_key_s_index() -> None:
    connection = sqlite3.connect(":memory:")
    kv.create(connection)
    plans: list[str] = []
    connection.set_trace_callback(plans.append)
    kv.keys(connection, "a")
    connection.set_trace_callback(None)
    plan = connection.execute(f"EXPLAIN QUERY PLAN {plans[0]}").fetchall()
    assert "SEARCH" in plan[0][3], plan
    connection.close()
