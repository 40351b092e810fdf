"""What an error of SQLite means for the person in charge of the hub."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from tidewire_hub.database import StorageDamaged, storage_errors
from tidewire_schemas.errors import DatabaseError


def test_a_text_that_is_none_is_a_damaged_file() -> None:
    """Guarantee 2: the disk has changed a byte, as nobody here writes such a text."""
    with (
        closing(sqlite3.connect(":memory:")) as file,
        pytest.raises(StorageDamaged, match=r"state\.db.*UTF-8"),
        storage_errors("state.db"),
    ):
        file.execute("SELECT CAST(x'63ff' AS TEXT)").fetchone()


def test_a_mistake_in_a_statement_is_none() -> None:
    with closing(sqlite3.connect(":memory:")) as file, pytest.raises(DatabaseError) as caught, storage_errors("x"):
        file.execute("SELECT nothing FROM nowhere")
    assert not isinstance(caught.value, StorageDamaged)
