"""Switching triggers off on the agent's connection.

What the log says is the whole effect: the app's own triggers and our capture triggers must not run again when the
agent applies it. From Python 3.12 there is `Connection.setconfig`. Before it the same C function is called through
ctypes, after a proof on a database in memory that the call works; where neither does, the triggers of the tables are
dropped and made again inside the applying transaction.
Source: https://sqlite.org/c3ref/c_dbconfig_defensive.html (SQLITE_DBCONFIG_ENABLE_TRIGGER).
"""

from __future__ import annotations

import ctypes
import platform
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from tidewire_agent.store.sql import quote

_ENABLE_TRIGGER: Final = 1003

Switch = Callable[[sqlite3.Connection, bool], None]


def trigger_switch() -> Switch | None:
    """A proven way to switch a connection's triggers on and off, or None."""
    for candidate in (_by_setconfig, _by_ctypes):
        switch = candidate()
        if switch is not None and _proven(switch):
            return switch
    return None


@contextmanager
def dropped_triggers(connection: sqlite3.Connection) -> Iterator[None]:
    """Without a switch: no trigger of the file exists inside the block (and its transaction)."""
    triggers = connection.execute("SELECT name, sql FROM main.sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _sql in triggers:
        connection.execute(f"DROP TRIGGER main.{quote(name)}")
    yield
    for _name, sql in triggers:
        connection.execute(sql)


def _by_setconfig() -> Switch | None:
    if sys.version_info < (3, 12):
        return None
    return lambda connection, on: connection.setconfig(_ENABLE_TRIGGER, on)


def _by_ctypes() -> Switch | None:
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

    def switch(connection: sqlite3.Connection, on: bool) -> None:
        handle = ctypes.c_void_p.from_address(id(connection) + object.__basicsize__)
        before = ctypes.c_int(-1)
        code = db_config(handle, ctypes.c_int(_ENABLE_TRIGGER), ctypes.c_int(on), ctypes.byref(before))
        if code != 0:
            raise sqlite3.OperationalError(f"sqlite3_db_config returned {code}")

    return switch


def _proven(switch: Switch) -> bool:
    connection = sqlite3.connect(":memory:")
    try:
        connection.executescript(
            """
            CREATE TABLE t (a);
            CREATE TABLE fired (a);
            CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT INTO fired VALUES (NEW.a); END;
            """
        )
        switch(connection, False)
        connection.execute("INSERT INTO t VALUES ('silent')")
        switch(connection, True)
        connection.execute("INSERT INTO t VALUES ('heard')")
        return connection.execute("SELECT a FROM fired").fetchall() == [("heard",)]
    except sqlite3.Error:
        return False
    finally:
        connection.close()
