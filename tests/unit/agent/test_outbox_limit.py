"""The outbox's limit: what becomes of an app's writes above it, and that nothing is dropped."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support.fleet import Edge, Fleet
from tidewire_agent.errors import OutboxFull, from_sqlite
from tidewire_agent.store.settings import StoreSettings

TABLES = "CREATE TABLE t (id INTEGER PRIMARY KEY, v UNIQUE); CREATE TABLE u (a TEXT, b TEXT, PRIMARY KEY (a, b))"

LIMITED = StoreSettings(outbox_bytes_max=20_000, outbox_full="refuse")

WRITES = (
    "INSERT INTO t VALUES (1000, 1)",
    "INSERT OR IGNORE INTO t VALUES (1000, 1)",
    "INSERT OR REPLACE INTO t VALUES (1, 1)",
    "INSERT INTO t VALUES (1, 2) ON CONFLICT (id) DO UPDATE SET v = 3",
    "INSERT INTO t VALUES (1, 2) ON CONFLICT DO NOTHING",
    "UPDATE t SET v = 5 WHERE id = 1",
    "UPDATE OR IGNORE t SET id = 2000 WHERE id = 1",
    "DELETE FROM t WHERE id = 1",
    "INSERT INTO u VALUES ('a', 'b')",
)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.close()


def fill(edge: Edge) -> None:
    """Until more waits than should."""
    for n in range(1, 31):
        edge.sql(f"INSERT INTO t VALUES ({n}, printf('%01000d', {n}))")
        edge.store.seal(0)
        if edge.store.outbox_full:
            return
    raise AssertionError("it never was full")


@pytest.mark.parametrize("write", WRITES)
def test_above_the_limit_every_write_to_a_synced_table_fails_and_says_why(fleet: Fleet, write: str) -> None:
    """Guarantee 11."""
    edge = fleet.edge("a", TABLES, settings=LIMITED)
    fill(edge)
    before = edge.rows("SELECT * FROM t ORDER BY id")
    with pytest.raises(sqlite3.IntegrityError, match=r"^tidewire: outbox full: .*outbox_bytes_max=20000"):
        edge.app.execute(write)
    assert edge.rows("SELECT * FROM t ORDER BY id") == before
    assert edge.store.backlog().changes == 0


def test_a_transaction_that_meets_the_limit_can_be_rolled_back_whole(fleet: Fleet) -> None:
    edge = fleet.edge("a", TABLES + "; CREATE TABLE own (n)", tables=("t", "u"), settings=LIMITED)
    fill(edge)
    edge.app.execute("BEGIN")
    edge.app.execute("INSERT INTO own VALUES (1)")
    with pytest.raises(sqlite3.IntegrityError):
        edge.app.execute("INSERT INTO t VALUES (1000, 1)")
    edge.app.execute("ROLLBACK")
    assert edge.rows("SELECT * FROM own") == []
    edge.app.execute("INSERT INTO own VALUES (2)")  # a table that is not synced is the app's alone


def test_writes_are_taken_again_once_enough_is_in_the_log(fleet: Fleet) -> None:
    """Guarantee 1. Guarantee 11."""
    edge, other = fleet.edge("a", TABLES, settings=LIMITED), fleet.edge("b", TABLES)
    fill(edge)
    rows = len(edge.rows("SELECT * FROM t"))
    edge.store.seal(0)
    assert edge.store.outbox_full
    fleet.sync()
    edge.store.seal(0)
    assert edge.store.outbox_full is None
    edge.sql("INSERT INTO t VALUES (1000, 'again')")
    fleet.sync()
    fleet.assert_equal()
    assert len(other.rows("SELECT * FROM t")) == rows + 1


def test_what_others_wrote_is_applied_while_writes_are_refused(fleet: Fleet) -> None:
    edge, other = fleet.edge("a", TABLES, settings=LIMITED), fleet.edge("b", TABLES)
    fill(edge)
    other.sql("INSERT INTO t VALUES (2000, 'theirs')")
    fleet.push(other)
    fleet.pull(edge)
    assert edge.rows("SELECT v FROM t WHERE id = 2000") == [("theirs",)]


def test_refusal_outlives_a_restart_and_a_new_table_and_ends_with_another_policy(fleet: Fleet) -> None:
    edge = fleet.edge("a", TABLES, settings=LIMITED)
    fill(edge)
    edge.close()
    fleet.edges.remove(edge)
    with closing(sqlite3.connect(edge.path)) as app, pytest.raises(sqlite3.IntegrityError):
        app.execute("INSERT INTO t VALUES (1000, 1)")

    again = Edge(edge.path, "a", settings=LIMITED)
    again.sql("CREATE TABLE later (id INTEGER PRIMARY KEY)")
    again.store.seal(0)
    again.store.seal(0)
    for table in ("t (id)", "later"):
        with pytest.raises(sqlite3.IntegrityError):
            again.app.execute(f"INSERT INTO {table} VALUES (1000)")
    again.close()

    kept = Edge(edge.path, "a", settings=LIMITED.model_copy(update={"outbox_full": "keep"}))
    kept.store.seal(0)
    assert "goes on growing" in (kept.store.outbox_full or "")
    kept.sql("INSERT INTO t VALUES (1000, 1)")
    kept.close()


def test_a_database_that_is_detached_refuses_nothing(fleet: Fleet) -> None:
    edge = fleet.edge("a", TABLES, settings=LIMITED)
    fill(edge)
    edge.store.detach()
    edge.sql("INSERT INTO t VALUES (1000, 1)")


def test_a_python_app_gets_the_error_of_its_kind(fleet: Fleet) -> None:
    edge = fleet.edge("a", TABLES, settings=LIMITED)
    fill(edge)
    with pytest.raises(sqlite3.IntegrityError) as caught:
        edge.app.execute("DELETE FROM t")
    error = from_sqlite(caught.value)
    assert isinstance(error, OutboxFull)
    assert error.retry
