"""The store's thread: what a call that fails is said to have failed of."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tidewire_agent.errors import DatabaseMissing, DatabaseNotUsable, DatabaseReplaced, WalReplaced
from tidewire_agent.runtime.database import Database
from tidewire_agent.store.edge_store import EdgeStore
from tidewire_schemas.errors import DatabaseError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.db"
    commit(path, "CREATE TABLE orders (id TEXT PRIMARY KEY, total REAL)")
    return path


def commit(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as app:
        app.execute(sql)


def error_of(path: Path, call: Callable[[EdgeStore], object], befalls: Callable[[], object]) -> Exception:
    """What `call` fails with after this has befallen the files of an open store."""

    async def work() -> Exception:
        database = await Database.open(lambda: EdgeStore.open(path, device="x"))
        try:
            await database.run(EdgeStore.attach, ["orders"])
            befalls()
            with pytest.raises(Exception) as failed:
                await database.run(call)
            return failed.value
        finally:
            await database.close()

    return asyncio.run(work())


@pytest.mark.parametrize("names", [("a.db-wal", "a.db-shm"), ("a.db-wal",), ("a.db-shm",)])
def test_what_the_disk_reports_after_the_wal_was_deleted_is_said_to_come_of_that(
    path: Path, names: tuple[str, ...]
) -> None:
    def delete() -> None:
        commit(path, "PRAGMA wal_checkpoint(TRUNCATE)")
        for name in names:
            path.with_name(name).unlink()
        commit(path, "INSERT INTO orders VALUES ('o-1', 1)")

    def read(store: EdgeStore) -> None:
        store.backlog()  # fails of itself where the -wal alone is gone: its index tells of pages that it has not
        raise sqlite3.DatabaseError("database disk image is malformed")

    error = error_of(path, read, delete)
    assert isinstance(error, WalReplaced)
    assert "was deleted while the agent ran" in error.message


def test_an_error_of_a_call_after_the_database_was_deleted_or_replaced_is_said_to_come_of_that(path: Path) -> None:
    def fail(_: EdgeStore) -> None:
        raise KeyError("what was read makes no sense")

    assert isinstance(error_of(path, fail, lambda: path.rename(path.with_name("away.db"))), DatabaseMissing)
    commit(path, "CREATE TABLE orders (id TEXT PRIMARY KEY, total REAL)")
    other = path.with_name("other.db")
    commit(other, "CREATE TABLE orders (id TEXT PRIMARY KEY, total REAL)")
    assert isinstance(error_of(path, fail, lambda: other.replace(path)), DatabaseReplaced)


def test_an_error_of_a_call_on_files_that_are_in_order_is_said_as_it_is(path: Path) -> None:
    def fail_of_disk(_: EdgeStore) -> None:
        raise DatabaseNotUsable("the disk reported an error")

    def fail_of_sqlite(store: EdgeStore) -> None:
        store.connection.execute("SELECT nothing FROM nowhere")

    def fail_of_mistake(_: EdgeStore) -> None:
        raise KeyError("of the program")

    for call, kind in (
        (fail_of_disk, DatabaseNotUsable),
        (fail_of_sqlite, DatabaseError),
        (fail_of_mistake, KeyError),
    ):
        error = error_of(path, call, lambda: None)
        assert isinstance(error, kind)
        assert not isinstance(error, WalReplaced)
