from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fleet import Fleet
from tidewire_agent.store import edge_store as store
from tidewire_agent.store.silence import dropped_triggers, trigger_switch

SCHEMA = """
    CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER);
    CREATE TABLE log (id INTEGER PRIMARY KEY, n INTEGER);
    CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT INTO log (n) VALUES (NEW.n); END;
"""


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(SCHEMA)
    yield connection
    connection.close()


def test_this_python_can_switch_triggers_off(connection: sqlite3.Connection) -> None:
    switch = trigger_switch()
    assert switch is not None
    switch(connection, False)
    connection.execute("INSERT INTO t (n) VALUES (1)")
    switch(connection, True)
    connection.execute("INSERT INTO t (n) VALUES (2)")
    assert connection.execute("SELECT n FROM log").fetchall() == [(2,)]


def test_a_closed_connection_cannot_be_switched(connection: sqlite3.Connection) -> None:
    switch = trigger_switch()
    assert switch is not None
    connection.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        switch(connection, False)


def test_a_store_can_be_closed_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    sqlite3.connect(path).executescript(SCHEMA).close()
    opened = store.EdgeStore.open(path, device="a")
    opened.close()
    opened.close()


def test_triggers_dropped_for_a_block_are_back_after_it(connection: sqlite3.Connection) -> None:
    with dropped_triggers(connection):
        connection.execute("INSERT INTO t (n) VALUES (1)")
    connection.execute("INSERT INTO t (n) VALUES (2)")
    assert connection.execute("SELECT n FROM log").fetchall() == [(2,)]


def test_without_a_switch_applying_still_runs_no_trigger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "trigger_switch", lambda: None)
    fleet = Fleet(tmp_path)
    a, b = fleet.edge("a", SCHEMA), fleet.edge("b", SCHEMA)
    a.sql("INSERT INTO t (n) VALUES (1)")
    fleet.sync()
    b.sql("INSERT INTO t (n) VALUES (2)")
    fleet.sync()
    assert a.rows("SELECT n FROM log") == b.rows("SELECT n FROM log") == [(1,), (2,)]
    fleet.assert_equal()
    fleet.close()
