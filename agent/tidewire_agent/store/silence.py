"""Switching triggers off on the agent's connection.

What the log says is the whole effect: the app's own triggers and our capture triggers must not run again when the
agent applies it. They are switched off (`db_config.py`), after a proof on a database in memory that the switch works;
where it does not, the triggers of the tables are dropped and made again inside the applying transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from tidewire_agent.store import db_config
from tidewire_agent.store.sql import quote

Switch = Callable[[sqlite3.Connection, bool], None]


def trigger_switch() -> Switch | None:
    """A proven way to switch a connection's triggers on and off, or None."""
    for configure in db_config.ways():
        switch = partial(_switch, configure)
        if _proven(switch):
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


def _switch(configure: db_config.Configure, connection: sqlite3.Connection, on: bool) -> None:
    configure(connection, db_config.ENABLE_TRIGGER, on)


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
