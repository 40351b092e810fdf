"""`AsyncDataSync` through the file alone."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from tidewire_agent import AsyncDataSync, DataSync
from tidewire_agent.datasync.errors import DataSyncClosed, InvalidKey, InvalidValue
from tidewire_agent.datasync.watching import Change
from tidewire_agent.errors import DatabaseBusy, DatabaseMissing
from tidewire_schemas.errors import SettingError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
async def sync(path: Path) -> AsyncIterator[AsyncDataSync]:
    async with AsyncDataSync(path) as opened:
        yield opened


async def test_what_was_updated_is_read_back(sync: AsyncDataSync) -> None:
    assert await sync.update("lamp/a", {"on": True}) is True
    assert await sync.update("lamp/a", {"on": True}) is False
    assert await sync.get("lamp/a") == {"on": True}
    assert await sync.get("none", 7) == 7
    assert await sync.keys("lamp/") == ["lamp/a"]
    assert await sync.delete("lamp/a") is True
    assert await sync.delete("lamp/a") is False


async def test_blocking_and_async_objects_share_a_file(sync: AsyncDataSync, path: Path) -> None:
    def blocking() -> object:
        with DataSync(path) as other:
            other.update("blocking", 1)
            return other.get("async")

    await sync.update("async", 2)
    assert await asyncio.to_thread(blocking) == 2
    assert await sync.get("blocking") == 1


async def test_many_tasks_use_one_object_at_once(sync: AsyncDataSync) -> None:
    async def work(worker: int) -> None:
        for i in range(20):
            await sync.update(f"{worker}/{i}", i)

    await asyncio.gather(*(work(worker) for worker in range(8)))
    assert len(await sync.keys()) == 160


async def test_the_loop_runs_on_while_a_write_waits_for_the_lock(path: Path) -> None:
    async with AsyncDataSync(path, busy_timeout_s=60) as sync:
        await sync.update("k", 1)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            writing = asyncio.create_task(sync.update("k", 2))
            assert await sync.get("k") == 1
            assert not writing.done()
            other.execute("ROLLBACK")
        assert await writing is True


async def test_a_write_waits_for_the_lock_no_longer_than_the_busy_timeout(path: Path) -> None:
    async with AsyncDataSync(path, busy_timeout_s=0.1) as sync:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(DatabaseBusy):
                await sync.update("k", 2)
            other.execute("ROLLBACK")
        assert await sync.update("k", 2) is True


async def test_the_connection_is_for_sql(sync: AsyncDataSync) -> None:
    await sync.update("k", "v")
    async with sync.connection.execute("SELECT key, value FROM tidewire_kv") as cursor:
        assert list(await cursor.fetchall()) == [("k", '"v"')]


async def test_a_watch_sees_changes_from_its_block_on(sync: AsyncDataSync) -> None:
    await sync.update("lamp/before", 1)
    async with sync.watch("lamp/", timeout=30) as watch:
        await sync.update("door/a", 1)
        await sync.update("lamp/a", 2)
        assert await anext(watch) == Change("lamp/a", "2")
        await sync.delete("lamp/before")
        assert await anext(watch) == Change("lamp/before", None)


async def test_the_iteration_ends_when_nothing_changes_for_the_timeout(sync: AsyncDataSync) -> None:
    await sync.update("k", 1)
    assert [change.key async for change in sync.watch(timeout=0.2, initial=True)] == ["k"]


async def test_a_cancelled_wait_loses_no_change(sync: AsyncDataSync) -> None:
    async with sync.watch() as watch:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(watch), 0.05)
        await sync.update("k", 1)
        assert await asyncio.wait_for(anext(watch), 30) == Change("k", "1")


async def test_closing_ends_the_watch_that_a_task_is_in(path: Path) -> None:
    async with AsyncDataSync(path) as sync:

        async def follow() -> list[Change]:
            return [change async for change in sync.watch(initial=True)]

        following = asyncio.create_task(follow())
        await sync.update("k", 1)
    assert await asyncio.wait_for(following, 30) in ([], [Change("k", "1")])


async def test_wrong_keys_and_values_are_refused(sync: AsyncDataSync) -> None:
    with pytest.raises(InvalidKey):
        await sync.update("", 1)
    with pytest.raises(InvalidValue):
        await sync.update("k", float("nan"))
    with pytest.raises(InvalidKey):
        sync.watch("a\0")


async def test_an_object_that_is_not_open_says_so(path: Path) -> None:
    sync = AsyncDataSync(path)
    with pytest.raises(DataSyncClosed, match="not open"):
        await sync.get("k")
    with pytest.raises(DataSyncClosed, match="not open"):
        _ = sync.connection
    await sync.open()
    assert await sync.open() is sync
    await sync.close()
    await sync.close()
    with pytest.raises(DataSyncClosed, match="was closed"):
        await sync.get("k")
    with pytest.raises(DataSyncClosed, match="was closed"):
        sync.watch()
    with pytest.raises(DataSyncClosed, match="was closed"):
        await sync.open()


async def test_a_file_that_cannot_be_opened_is_an_error_of_open(tmp_path: Path) -> None:
    with pytest.raises(DatabaseMissing):
        await AsyncDataSync(tmp_path / "nowhere" / "app.db").open()


def test_settings_of_the_agent_without_a_broker_are_refused(path: Path) -> None:
    with pytest.raises(SettingError, match="without a broker"):
        AsyncDataSync(path, stream="main")
