"""Cells of a real SQLite database, read and written as the bits they are."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from tidewire_schemas.values import RawText, Value


@contextmanager
def scratch() -> Iterator[sqlite3.Connection]:
    """A database in memory that is empty again afterwards."""
    connection = _database()
    connection.execute("BEGIN")
    try:
        yield connection
    finally:
        connection.execute("ROLLBACK")


def insert(connection: sqlite3.Connection, table: str, row: Sequence[Value]) -> None:
    marks = ", ".join("CAST(? AS TEXT)" if isinstance(value, RawText) else "?" for value in row)
    bound = [value.data if isinstance(value, RawText) else value for value in row]
    connection.execute(f"INSERT INTO {table} VALUES ({marks})", bound)


def bits(value: Value) -> tuple[str, object]:
    """Storage class and content: tells 1 from 1.0 and 0.0 from -0.0."""
    if isinstance(value, float):
        return "real", struct.pack(">d", value)
    return type(value).__name__, value


def _text(data: bytes) -> str | RawText:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return RawText(data)


@cache
def _database() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.text_factory = _text
    return connection
