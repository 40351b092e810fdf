"""Switches of one SQLite connection that Python's module does not offer in all versions.

From Python 3.12 there is `Connection.setconfig`. Before it the same C function is called through ctypes. Whoever uses a
switch proves first that it works here.
Source: https://sqlite.org/c3ref/c_dbconfig_defensive.html.
"""

from __future__ import annotations

import ctypes
import platform
import sqlite3
import sys
from collections.abc import Callable, Iterator
from typing import Final

ENABLE_TRIGGER: Final = 1003
NO_CHECKPOINT_ON_CLOSE: Final = 1006

Configure = Callable[[sqlite3.Connection, int, bool], None]
"""Turns one of these on or off for a connection."""


def ways() -> Iterator[Configure]:
    """The ways there are in this Python, the better first."""
    for way in (_by_setconfig(), _by_ctypes()):
        if way is not None:
            yield way


def _by_setconfig() -> Configure | None:
    if sys.version_info < (3, 12):
        return None
    return lambda connection, option, on: connection.setconfig(option, on)


def _by_ctypes() -> Configure | None:
    # In CPython up to 3.11 the first field of a Connection object is its `sqlite3 *`.
    if platform.python_implementation() != "CPython" or sys.version_info >= (3, 12):
        return None
    try:
        import _sqlite3  # noqa: PLC0415  # only this way needs the extension module's file

        library = ctypes.CDLL(_sqlite3.__file__)
        db_config = library.sqlite3_db_config
    except (ImportError, OSError, AttributeError):
        return None
    db_config.restype = ctypes.c_int

    def configure(connection: sqlite3.Connection, option: int, on: bool) -> None:
        handle = ctypes.c_void_p.from_address(id(connection) + object.__basicsize__)
        if not handle:
            raise sqlite3.ProgrammingError("the connection is closed")
        before = ctypes.c_int(-1)
        code = db_config(handle, ctypes.c_int(option), ctypes.c_int(on), ctypes.byref(before))
        if code != 0:
            raise sqlite3.OperationalError(f"sqlite3_db_config returned {code}")

    return configure
