"""`DataSync` through the file alone: real files, threads and processes."""

from __future__ import annotations

import ast
import gc
import multiprocessing
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tidewire_agent import DataSync
from tidewire_agent.datasync.errors import (
    DatabaseCorrupt,
    DatabaseReadOnly,
    DataSyncClosed,
    InvalidKey,
    InvalidValue,
    StoredValueInvalid,
    WrongProcess,
)
from tidewire_agent.errors import DatabaseBusy, DatabaseMissing, DiskFull
from tidewire_schemas.errors import DatabaseError, SettingError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
def sync(path: Path) -> Iterator[DataSync]:
    with DataSync(path) as opened:
        yield opened


def test_what_was_updated_is_read_back(sync: DataSync) -> None:
    sync.update("lamp", {"on": True, "level": 0.5})
    assert sync.get("lamp") == {"on": True, "level": 0.5}
    assert sync.get("none") is None
    assert sync.get("none", 7) == 7


def test_a_stored_none_is_a_value(sync: DataSync) -> None:
    sync.update("k", None)
    assert sync.get("k", "default") is None
    assert sync.keys() == ["k"]


def test_delete_says_whether_there_was_something(sync: DataSync) -> None:
    sync.update("k", 1)
    assert sync.delete("k") is True
    assert sync.delete("k") is False
    assert sync.get("k") is None


def test_keys_are_sorted_and_chosen_by_prefix(sync: DataSync) -> None:
    for key in ("lamp/b", "lamp/a", "door/a", "lampe"):
        sync.update(key, 1)
    assert sync.keys() == ["door/a", "lamp/a", "lamp/b", "lampe"]
    assert sync.keys("lamp/") == ["lamp/a", "lamp/b"]
    assert sync.keys("x") == []


def test_an_unchanged_value_writes_nothing(sync: DataSync, path: Path) -> None:
    assert sync.update("k", {"a": [1, 2]}) is True
    with closing(sqlite3.connect(path)) as other:
        before = other.execute("PRAGMA data_version").fetchone()
        assert sync.update("k", {"a": [1, 2]}) is False
        assert other.execute("PRAGMA data_version").fetchone() == before
        assert sync.update("k", {"a": [1, 2.0]}) is True
        assert other.execute("PRAGMA data_version").fetchone() != before


def test_an_unchanged_value_needs_no_lock(path: Path) -> None:
    with DataSync(path, busy_timeout_s=0.1) as sync:
        sync.update("k", 1)
        with _write_locked(path):
            assert sync.update("k", 1) is False
            assert sync.delete("none") is False


def test_the_table_is_an_ordinary_one_for_sql(sync: DataSync, path: Path) -> None:
    sync.update("lamp", "on")
    assert sync.connection.execute("SELECT key, value FROM tidewire_kv").fetchall() == [("lamp", '"on"')]
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE tidewire_kv SET value = '\"off\"'")
    assert sync.get("lamp") == "off"


def test_a_value_written_with_sql_that_is_not_json_is_named(sync: DataSync) -> None:
    with sync.connection as connection:
        connection.execute("INSERT INTO tidewire_kv VALUES ('lamp', 'on')")
    with pytest.raises(StoredValueInvalid, match="'lamp'"):
        sync.get("lamp")
    sync.update("lamp", "on")
    assert sync.get("lamp") == "on"


def test_a_transaction_is_seen_whole_or_not_at_all(sync: DataSync, path: Path) -> None:
    with DataSync(path) as other, sync.transaction() as connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
        connection.execute("INSERT INTO orders VALUES (1)")
        sync.update("a", 1)
        sync.update("b", 2)
        assert sync.get("a") == 1
        assert other.keys() == []
    assert sync.keys() == ["a", "b"]

    class Regret(Exception):
        pass

    def regret() -> None:
        with sync.transaction():
            sync.update("c", 3)
            sync.delete("a")
            raise Regret

    with pytest.raises(Regret):
        regret()
    assert sync.keys() == ["a", "b"]


def test_errors_of_the_user_s_own_sql_stay_sqlite3_s(sync: DataSync) -> None:
    def insert_twice() -> None:
        with sync.transaction() as connection:
            connection.execute("INSERT INTO tidewire_kv VALUES ('k', '1')")
            connection.execute("INSERT INTO tidewire_kv VALUES ('k', '1')")

    with pytest.raises(sqlite3.IntegrityError):
        insert_twice()
    assert sync.keys() == []


def test_many_threads_use_one_object_at_once(sync: DataSync) -> None:
    def work(worker: int) -> None:
        for i in range(50):
            sync.update(f"{worker}/{i}", i)
            assert sync.get(f"{worker}/{i}") == i

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(sync.keys()) == 400


def test_each_worker_thread_may_have_an_object_of_its_own(path: Path) -> None:
    """The classic example: worker threads, each with its own DataSync on the same file, see each other's keys."""
    met = threading.Barrier(4)

    def worker(name: str) -> list[object]:
        with DataSync(path) as sync:
            sync.update(f"worker/{name}", {"name": name, "state": "ready"})
            met.wait(30)
            return [sync.get(key) for key in sync.keys("worker/")]

    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(worker, "abcd"))
    assert seen == [[{"name": name, "state": "ready"} for name in "abcd"]] * 4


def test_processes_see_each_other_s_keys(sync: DataSync, path: Path) -> None:
    program = (
        "import sys; from tidewire_agent import DataSync\n"
        "with DataSync(sys.argv[1]) as sync:\n"
        "    sync.update('answer', sync.get('question') + 1)\n"
    )
    sync.update("question", 41)
    subprocess.run([sys.executable, "-c", program, path], check=True, timeout=120)
    assert sync.get("answer") == 42


def test_a_thread_that_ended_leaves_no_connection_and_no_lock_behind(path: Path) -> None:
    with DataSync(path, busy_timeout_s=0.2) as sync:

        def forget_to_commit() -> None:
            sync.connection.execute("INSERT INTO tidewire_kv VALUES ('half', '1')")

        thread = threading.Thread(target=forget_to_commit)
        thread.start()
        thread.join()
        gc.collect()
        sync.update("k", 1)
        assert sync.keys() == ["k"]


def test_nobody_waits_for_the_lock_longer_than_the_busy_timeout(path: Path) -> None:
    with DataSync(path, busy_timeout_s=0.3) as sync:
        with _write_locked(path):
            began = time.monotonic()
            with pytest.raises(DatabaseBusy, match="busy_timeout_s"):
                sync.update("k", 1)
            with pytest.raises(DatabaseBusy), sync.transaction():
                pass
            assert 0.55 <= time.monotonic() - began < 30
            assert sync.get("k") is None
        sync.update("k", 1)


def test_readers_never_wait_for_a_writer(path: Path) -> None:
    with DataSync(path, busy_timeout_s=30) as sync:
        sync.update("k", 1)
        with _write_locked(path):
            began = time.monotonic()
            assert sync.get("k") == 1
            assert sync.keys() == ["k"]
            assert time.monotonic() - began < 20


def test_threads_that_open_a_new_file_at_once_all_succeed(tmp_path: Path) -> None:
    def open_and_write(number: int) -> None:
        with DataSync(tmp_path / f"{number // 8}.db") as sync:
            sync.update(str(number), number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(open_and_write, range(40)))


@pytest.mark.parametrize(("key", "value"), [("", 1), (5, 1), ("x" * 2000, 1)])
def test_wrong_keys_are_refused_before_anything_is_written(sync: DataSync, key: str, value: object) -> None:
    with pytest.raises(InvalidKey):
        sync.update(key, value)
    with pytest.raises(InvalidKey):
        sync.get(key)
    with pytest.raises(InvalidKey):
        sync.delete(key)
    assert sync.keys() == []


def test_a_value_that_is_not_json_is_refused_and_the_old_one_stays(sync: DataSync) -> None:
    sync.update("k", 1)
    with pytest.raises(InvalidValue, match="not JSON"):
        sync.update("k", float("nan"))
    assert sync.get("k") == 1


def test_a_closed_object_says_so_and_closing_again_is_fine(path: Path) -> None:
    sync = DataSync(path)
    sync.close()
    sync.close()
    for call in (lambda: sync.get("k"), lambda: sync.update("k", 1), sync.keys, sync.watch, sync.flush, sync.fresh):
        with pytest.raises(DataSyncClosed, match=r"app\.db"):
            call()
    with pytest.raises(DataSyncClosed):
        _ = sync.connection


def test_closing_waits_for_the_operation_of_another_thread(path: Path) -> None:
    sync = DataSync(path)
    inside, go_on = threading.Event(), threading.Event()

    def write() -> None:
        with sync.transaction() as connection:
            connection.execute("INSERT INTO tidewire_kv VALUES ('k', '1')")
            inside.set()
            assert go_on.wait(30)

    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(write)
        assert inside.wait(30)
        closed = pool.submit(sync.close)
        assert not closed.done()
        go_on.set()
        writing.result(10)
        closed.result(10)
    with DataSync(path) as again:
        assert again.get("k") == 1


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatabaseMissing, match="nowhere is not a directory"):
        DataSync(tmp_path / "nowhere" / "app.db")


def test_a_directory_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatabaseMissing):
        DataSync(tmp_path)


@pytest.mark.parametrize("path", [":memory:", ""])
def test_a_database_that_is_no_file_is_refused(path: str) -> None:
    with pytest.raises(SettingError, match="no file"):
        DataSync(path)


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"this is a text, not a database\n" * 100)
    with pytest.raises(DatabaseCorrupt, match="not an SQLite database"):
        DataSync(path)


def test_a_damaged_database_is_named(path: Path) -> None:
    with DataSync(path) as sync:
        for i in range(1000):
            sync.update(f"k{i}", "x" * 100)
    data = bytearray(path.read_bytes())
    data[8192:] = b"\xff" * (len(data) - 8192)
    path.write_bytes(data)
    with DataSync(path) as sync, pytest.raises(DatabaseCorrupt):
        sync.keys()


def test_a_read_only_database_can_be_read_and_says_why_it_is_not_written(path: Path) -> None:
    with DataSync(path) as sync:
        sync.update("k", 1)
        sync.connection.execute("PRAGMA query_only=1")  # what a read-only mount does, also for root
        assert sync.get("k") == 1
        with pytest.raises(DatabaseReadOnly, match="read-only"):
            sync.update("k", 2)


def test_a_full_disk_is_named_and_keeps_what_was_there(sync: DataSync) -> None:
    """Guarantee 11."""
    sync.update("k", 1)
    pages = sync.connection.execute("PRAGMA page_count").fetchone()[0]
    sync.connection.execute(f"PRAGMA max_page_count={pages + 2}")
    with pytest.raises(DiskFull):
        sync.update("big", "x" * 100_000)
    assert sync.keys() == ["k"]
    sync.connection.execute("PRAGMA max_page_count=1000000")
    sync.update("big", "x" * 100_000)


def test_another_table_of_this_name_is_refused_at_once(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("CREATE TABLE tidewire_kv (id INTEGER PRIMARY KEY)")
    with pytest.raises(DatabaseError, match="no such column"):
        DataSync(path)


def test_an_object_of_the_parent_is_refused_in_a_forked_child(sync: DataSync) -> None:
    def child(results: multiprocessing.SimpleQueue[str]) -> None:
        try:
            sync.get("k")
        except WrongProcess as error:
            results.put(str(error))
        else:
            results.put("no error")

    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    process = context.Process(target=child, args=(results,))
    process.start()
    assert f"opened by process {os.getpid()}" in results.get()
    process.join(30)
    sync.update("k", 1)


def test_settings_of_the_agent_without_a_broker_are_refused(path: Path) -> None:
    with pytest.raises(SettingError, match="without a broker"):
        DataSync(path, device="till-7")


def test_the_programs_on_the_documentation_s_pages_are_python() -> None:
    docs = Path(__file__).parents[3] / "docs"
    pages = [docs / "how-to" / "use-datasync.md", docs / "reference" / "datasync.md"]
    programs = [block for page in pages for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)]
    assert len(programs) >= 8
    for program in programs:
        compile(program, "page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_importing_the_package_imports_no_dependency() -> None:
    program = (
        "import sys, tidewire_agent\n"
        "heavy = {'pydantic', 'paho', 'asyncio', 'sqlite3', 'aiosqlite'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@contextmanager
def _write_locked(path: Path) -> Iterator[None]:
    """Another connection holds the write lock."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
