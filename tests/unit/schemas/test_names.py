from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewire_schemas.errors import InvalidName
from tidewire_schemas.names import check_topic_name, fold


@pytest.mark.parametrize("name", ["a", "0", "till-7", "a_b", "a" * 63])
def test_a_good_name_is_returned(name: str) -> None:
    assert check_topic_name(name, "device") == name


def test_a_bad_name_is_shown_short_with_what_is_allowed() -> None:
    with pytest.raises(InvalidName) as caught:
        check_topic_name("X" * 500, "device")
    assert "device name" in str(caught.value)
    assert "1 to 63" in str(caught.value)
    assert len(str(caught.value)) < 250


@given(st.text(st.characters(codec="utf-8", exclude_characters='\0"'), min_size=1, max_size=6), st.data())
def test_two_spellings_are_one_column_exactly_when_sqlite_says_so(name: str, data: st.DataObject) -> None:
    other = data.draw(st.sampled_from([name.upper(), name.lower(), name.swapcase(), name + "x"]))
    with closing(sqlite3.connect(":memory:")) as connection:
        try:
            connection.execute(f'CREATE TABLE t ("{name}", "{other}")')
            same = False
        except sqlite3.OperationalError as error:
            assert "duplicate column name" in str(error)  # noqa: PT017
            same = True
    assert (fold(name) == fold(other)) == same
