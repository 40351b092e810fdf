"""Following keys: what a watch yields, when, and when it ends."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from support.waiting import wait_for
from tidewire_agent import DataSync
from tidewire_agent.datasync.errors import DataSyncClosed, InvalidKey, StoredValueInvalid
from tidewire_agent.datasync.watching import Change


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
def sync(path: Path) -> Iterator[DataSync]:
    with DataSync(path) as opened:
        yield opened


def test_changes_from_the_moment_of_the_call_are_seen_not_from_the_first_look(sync: DataSync) -> None:
    sync.update("before", 1)
    watch = sync.watch(timeout=30)
    sync.update("after", [2])
    change = next(watch)
    assert (change.key, change.value, change.deleted) == ("after", [2], False)


def test_own_changes_and_those_of_other_programs_are_seen(sync: DataSync, path: Path) -> None:
    watch = sync.watch(timeout=30)
    sync.update("own", 1)
    assert next(watch) == Change("own", "1")
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("INSERT INTO tidewire_kv VALUES ('theirs', '2')")
    assert next(watch) == Change("theirs", "2")
    sync.delete("own")
    change = next(watch)
    assert (change.key, change.deleted, change.value) == ("own", True, None)


def test_only_keys_with_the_prefix_are_seen(sync: DataSync) -> None:
    watch = sync.watch("lamp/", timeout=30)
    sync.update("door/a", 1)
    sync.update("lamp/a", 1)
    sync.update("lampe", 1)
    sync.update("lamp/b", 1)
    assert [next(watch).key, next(watch).key] == ["lamp/a", "lamp/b"]
    assert watch.next(timeout=0.1) is None


def test_initial_begins_with_what_is_there_already(sync: DataSync) -> None:
    sync.update("a", 1)
    sync.update("b", 2)
    watch = sync.watch(timeout=30, initial=True)
    sync.update("c", 3)
    assert [next(watch).key for _ in range(3)] == ["a", "b", "c"]


def test_the_iteration_ends_when_nothing_changes_for_the_timeout(sync: DataSync) -> None:
    began = time.monotonic()
    assert list(sync.watch(timeout=0.2)) == []
    assert 0.2 <= time.monotonic() - began < 20


def test_commits_to_other_tables_yield_nothing(sync: DataSync) -> None:
    watch = sync.watch()
    with sync.connection as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (1)")
    assert watch.next(timeout=0.2) is None


def test_what_is_not_committed_is_not_seen(sync: DataSync) -> None:
    watch = sync.watch()
    with sync.transaction():
        sync.update("k", 1)
        assert watch.next(timeout=0.1) is None
    assert watch.next(timeout=30) == Change("k", "1")


def test_a_value_that_is_not_json_does_not_end_the_watch(sync: DataSync) -> None:
    watch = sync.watch(timeout=30)
    with sync.connection as connection:
        connection.execute("INSERT INTO tidewire_kv VALUES ('k', 'on')")
    change = next(watch)
    assert change.text == "on"
    with pytest.raises(StoredValueInvalid):
        _ = change.value
    sync.update("k", "on")
    assert next(watch).value == "on"


def test_stop_ends_an_iteration_in_another_thread(sync: DataSync) -> None:
    watch = sync.watch()
    with ThreadPoolExecutor(1) as pool:
        iterating = pool.submit(list, watch)
        sync.update("k", 1)
        watch.stop()
        assert iterating.result(5) in ([], [Change("k", "1")])


def test_closing_the_object_ends_its_watches(path: Path) -> None:
    sync = DataSync(path)
    watch = sync.watch()
    seen: list[Change] = []

    def follow() -> None:
        seen.extend(watch)

    thread = threading.Thread(target=follow)
    thread.start()
    sync.close()
    thread.join(30)
    assert not thread.is_alive()
    assert list(watch) == []
    with pytest.raises(DataSyncClosed):
        sync.watch()


def test_a_watch_closes_with_its_block(sync: DataSync) -> None:
    with sync.watch() as watch:
        sync.update("k", 1)
        assert watch.next(timeout=30) == Change("k", "1")
    assert watch.next() is None


def test_no_last_value_is_missed_while_others_write_at_full_speed(sync: DataSync, path: Path) -> None:
    def write(worker: int) -> None:
        with DataSync(path) as own:
            for i in range(200):
                own.update(f"{worker}/{i % 10}", i)

    watch = sync.watch()
    seen: dict[str, object] = {}
    with ThreadPoolExecutor(4) as pool:
        writing = [pool.submit(write, worker) for worker in range(4)]
        while not all(each.done() for each in writing):
            change = watch.next(timeout=0.05)
            if change is not None:
                seen[change.key] = change.value
        for each in writing:
            each.result()
    expected = {key: sync.get(key) for key in sync.keys()}  # noqa: SIM118
    while seen != expected and (change := watch.next(timeout=30)) is not None:
        seen[change.key] = change.value
    assert seen == expected
    assert len(seen) == 40


def test_a_change_is_noticed_within_fifty_milliseconds(sync: DataSync) -> None:
    watch = sync.watch()
    noticed: dict[object, float] = {}

    def follow() -> None:
        for change in watch:
            noticed[change.value] = time.monotonic()

    thread = threading.Thread(target=follow)
    thread.start()
    committed: dict[object, float] = {}
    for i in range(20):
        sync.update("k", i)
        committed[i] = time.monotonic()
        wait_for(lambda: len(noticed) == len(committed))
    delays = sorted(noticed[i] - at for i, at in committed.items())
    watch.stop()
    thread.join(30)
    assert delays[len(delays) // 2] < 0.5, delays


def test_waiting_costs_next_to_nothing(sync: DataSync) -> None:
    watch = sync.watch()
    watch.next(timeout=0.1)
    began = time.thread_time()
    watch.next(timeout=3)
    assert (time.thread_time() - began) / 3 < 0.02  # far above what it takes, so that a busy machine cannot fail it


def test_a_wrong_prefix_is_refused(sync: DataSync) -> None:
    with pytest.raises(InvalidKey):
        sync.watch("a\0")
