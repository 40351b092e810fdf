"""Who runs the agent of a file: one object at a time, the next one takes over."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from support.waiting import wait_for, wait_for_async
from tidewire_agent import DataSync
from tidewire_agent.datasync.file import WAL_PAGES_WITH_AGENT
from tidewire_agent.datasync.keeper import AgentKeeper, AgentThread
from tidewire_agent.errors import OtherDevice
from tidewire_agent.lock import AgentLock
from tidewire_agent.store.edge_store import EdgeStore
from tidewire_schemas.errors import SettingError

NOBODY = "mqtt://127.0.0.1:1"
"""A broker that is not there: nothing here needs one."""


class LockOnly:
    """The part of an agent that matters here: it holds the file's lock while it runs."""

    def __init__(self, database: Path, name: str, running: list[str]) -> None:
        self._database = database
        self._name = name
        self._running = running
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        with AgentLock.acquire(self._database):
            self._running.append(self._name)
            await self._stopping.wait()
            self._running.remove(self._name)

    async def stop(self) -> None:
        self._stopping.set()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "app.db"
    with DataSync(path):
        return path


class LockOnlyAgents:
    """Where they come from."""

    def __init__(self, make: Callable[[], LockOnly]) -> None:
        self.make = make
        self.joined = 0

    def join(self) -> bool:
        self.joined += 1
        return self.joined == 2


def _agents(path: Path, name: str, running: list[str]) -> LockOnlyAgents:
    return LockOnlyAgents(lambda: LockOnly(path, name, running))


def test_of_two_keepers_in_one_process_one_runs_and_the_other_takes_over(path: Path) -> None:
    running: list[str] = []
    first = AgentThread(_agents(path, "first", running), name="first")
    wait_for(lambda: running == ["first"])
    second = AgentThread(_agents(path, "second", running), name="second")
    assert second.problem is None
    first.stop()
    wait_for(lambda: running == ["second"])
    second.stop()
    assert running == []


async def test_a_keeper_that_is_stopped_while_it_waits_never_runs(path: Path) -> None:
    running: list[str] = []
    with AgentLock.acquire(path):
        keeper = AgentKeeper(_agents(path, "late", running))
        keeping = asyncio.create_task(keeper.run())
        await asyncio.sleep(0)
        await keeper.stop()
        await asyncio.wait_for(keeping, 30)
    assert running == []


async def test_an_agent_that_fails_is_started_again_and_its_problem_is_kept_until_then(path: Path) -> None:
    failures = [OSError("disk"), SettingError("wrong")]
    running: list[str] = []

    class Failing(LockOnly):
        async def run(self) -> None:
            if failures:
                raise failures.pop()
            await super().run()

    keeper = AgentKeeper(LockOnlyAgents(lambda: Failing(path, "third", running)))
    keeping = asyncio.create_task(keeper.run())
    await wait_for_async(lambda: isinstance(keeper.problem, SettingError))
    await wait_for_async(lambda: isinstance(keeper.problem, OSError))
    await wait_for_async(lambda: running == ["third"])
    assert keeper.problem is None
    await keeper.stop()
    await asyncio.wait_for(keeping, 30)


async def test_the_agent_that_runs_already_is_joined_once_it_can_be(path: Path) -> None:
    running: list[str] = []
    agents = _agents(path, "second", running)
    with AgentLock.acquire(path):
        keeper = AgentKeeper(agents)
        keeping = asyncio.create_task(keeper.run())
        await wait_for_async(lambda: agents.joined == 2)
    await wait_for_async(lambda: running == ["second"])
    await keeper.stop()
    await asyncio.wait_for(keeping, 30)
    assert agents.joined == 2


def test_tables_are_synced_although_an_agent_without_them_runs_already(path: Path) -> None:
    with DataSync(path) as sync, sync.connection as connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
    with DataSync(path, device="till-7", broker=NOBODY) as first, DataSync(path, broker=NOBODY, tables=["orders"]):
        names = first.connection.execute("SELECT name FROM tidewire_table ORDER BY name").fetchall()
        assert names == [("orders",), ("tidewire_kv",)]
        with pytest.raises(OtherDevice):
            DataSync(path, device="till-8", broker=NOBODY, tables=["orders"])


def test_no_thread_is_left_behind(path: Path) -> None:
    before = threading.active_count()
    with DataSync(path, device="till-7", broker=NOBODY):
        assert threading.active_count() > before
    assert threading.active_count() == before


def test_opening_with_a_broker_returns_when_writes_are_captured_also_without_a_network(path: Path) -> None:
    with DataSync(path, device="till-7", broker=NOBODY) as sync:
        sync.update("k", 1)
        pending = "SELECT (SELECT count(*) FROM tidewire_change) + (SELECT count(*) FROM tidewire_batch)"
        assert sync.connection.execute(pending).fetchone() == (1,)
        status = wait_for(lambda: sync.status)
        assert status is not None
        assert status.device == "till-7"
    status = sync.status
    assert status is not None
    assert status.state == "stopped"


def test_further_tables_are_synced_as_well(path: Path) -> None:
    with DataSync(path) as sync, sync.connection as connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
    with DataSync(path, device="till-7", broker=NOBODY, tables=["orders"]) as sync:
        names = sync.connection.execute("SELECT name FROM tidewire_table ORDER BY name").fetchall()
        assert names == [("orders",), ("tidewire_kv",)]


def test_a_file_of_another_device_is_refused_when_it_is_opened(path: Path) -> None:
    EdgeStore.open(path, device="till-7").close()
    with pytest.raises(OtherDevice, match="till-7"):
        DataSync(path, device="till-8", broker=NOBODY)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"broker": "http://x"}, "broker"),
        ({"device": "Till 7"}, "device"),
        ({"stream": "#"}, "stream"),
        ({"colour": "red"}, "colour"),
        ({"tables": "orders"}, "tables"),
        ({"ack_timeout_s": -1}, "ack_timeout_s"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_is_opened(
    tmp_path: Path, settings: dict[str, object], named: str
) -> None:
    with pytest.raises(SettingError, match=named):
        DataSync(tmp_path / "app.db", **({"broker": NOBODY} | settings))  # type: ignore[arg-type]  # wrong on purpose
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_forgets_to_close_ends_and_its_agent_says_goodbye(path: Path) -> None:
    program = (
        "import sys; from tidewire_agent import DataSync\n"
        "sync = DataSync(sys.argv[1], device='till-7', broker=sys.argv[2])\n"
        "watch = sync.watch()\n"
        "sync.update('k', 1)\n"
    )
    subprocess.run([sys.executable, "-c", program, path, NOBODY], check=True, timeout=30, stderr=subprocess.DEVNULL)
    with DataSync(path) as sync:
        assert sync.get("k") == 1
        assert sync.status is not None
        assert sync.status.state == "stopped"


def test_an_object_that_is_dropped_stops_its_agent(path: Path) -> None:
    before = threading.active_count()
    sync = DataSync(path, device="till-7", broker=NOBODY)
    del sync
    gc.collect()
    assert threading.active_count() == before


def test_a_forked_child_does_not_keep_the_agent_s_lock(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    may_end = context.Event()
    with DataSync(path, device="till-7", broker=NOBODY):
        child = context.Process(target=may_end.wait, args=(30,))
        child.start()
    with AgentLock.acquire(path):
        pass
    may_end.set()
    child.join(30)


def test_the_agent_copies_the_wal_file_back_so_that_the_app_need_not(path: Path) -> None:
    with DataSync(path, device="till-7", broker=NOBODY, offline_changes_max=1, wal_bytes_max=1024 * 1024) as sync:
        assert sync.connection.execute("PRAGMA wal_autocheckpoint").fetchone() == (WAL_PAGES_WITH_AGENT,)
        for i in range(120):
            sync.update(f"k{i}", "x" * 50_000)
        wait_for(lambda: path.stat().st_size > 5_000_000, what="the database file holds what was written")
