"""Reading the app's rows as they are: in one snapshot, and TEXT that is not valid UTF-8 too."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from tidewire_schemas.values import RawText

R = TypeVar("R")


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """One read snapshot; nothing may be written inside."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.rollback()  # nothing is left to end where SQLite has done so on an error of the disk


def fetch_all(connection: sqlite3.Connection, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """All rows of a query; TEXT that is not valid UTF-8 comes as `RawText`."""
    return read_again_as_raw(connection, lambda: connection.execute(statement, parameters).fetchall())


def read_again_as_raw(connection: sqlite3.Connection, read: Callable[[], R]) -> R:
    """What `read` gives; called again where it meets TEXT that is not valid UTF-8, which comes as `RawText` then."""
    try:
        return read()
    except sqlite3.OperationalError as error:
        if "decode" not in str(error):
            raise
    connection.text_factory = _text
    try:
        return read()
    finally:
        connection.text_factory = str


def read_texts_as_they_are(connection: sqlite3.Connection) -> None:
    """From now on TEXT that is not valid UTF-8 comes as `RawText`, in whatever is read; a little slower."""
    connection.text_factory = _text


def _text(data: bytes) -> str | RawText:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return RawText(data)
