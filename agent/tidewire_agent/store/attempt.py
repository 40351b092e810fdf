"""Rows that are written as they are, many at a time, and what happens where one of them does not fit."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager


class RowNeedsCare(Exception):
    """A row breaks a constraint: it is to be written by itself, with a look at what is there."""


@contextmanager
def attempt(connection: sqlite3.Connection, *, undo: bool) -> Iterator[None]:
    """Statements of which either all count or none.

    `undo` lets SQLite undo these alone. Without it the caller rolls its transaction back, where that is easily
    done anew. After a SAVEPOINT SQLite keeps a copy of each page that is changed, in a file where they are many: it
    nearly doubles the time that rows take, and the bytes that are written for them.

    Raises:
        RowNeedsCare: a row needs care; with `undo` nothing was done.
    """
    if undo:
        connection.execute("SAVEPOINT attempt")
    try:
        yield
    except (sqlite3.IntegrityError, RowNeedsCare):
        if undo:
            connection.execute("ROLLBACK TO attempt")
        raise RowNeedsCare from None
    finally:
        if undo and connection.in_transaction:  # SQLite has not undone all of it, as it does on a full disk
            connection.execute("RELEASE attempt")
