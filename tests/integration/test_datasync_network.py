"""`DataSync` objects on several devices, through a real broker and a real hub process."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.broker import Mosquitto
from support.protocol import Protocol
from support.waiting import wait_for
from tidewire_agent import AsyncDataSync, DataSync
from tidewire_agent.datasync.errors import FlushTimeout, FreshTimeout
from tidewire_agent.store.edge_store import EdgeStore

QUICK: dict[str, Any] = {"welcome_timeout_s": 0.5, "hello_backoff_max_s": 0.5, "reconnect_delay_max_s": 0.5}
"""Settings of agents that meet a missing hub or broker in a test."""

DEVICE_PROGRAM = """
import os, sys
from tidewire_agent import DataSync
path, broker, mine, other = sys.argv[1:]
with DataSync(path, device=mine, broker=broker, protocol=os.environ["TIDEWIRE_AGENT_PROTOCOL"]) as sync:
    sync.update(f"hello/{mine}", {"from": mine})
    sync.flush(30)
    while sync.get(f"hello/{other}") is None:
        if next(sync.watch("hello/", timeout=30, initial=True)).key == f"hello/{other}":
            break
    print(sync.keys("hello/"), sync.get(f"hello/{other}"))
    sync.update(f"bye/{mine}", True)
    sync.flush(30)
"""

HOLDING_PROGRAM = """
import os, sys, time
from tidewire_agent import DataSync
path, broker = sys.argv[1:]
sync = DataSync(path, device="till-1", broker=broker, protocol=os.environ["TIDEWIRE_AGENT_PROTOCOL"])
sync.update("holder", "runs the agent")
sync.flush(30)
print("ready", flush=True)
time.sleep(600)
"""


@contextmanager
def hub_process(data: Path, broker: Mosquitto) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tidewire_hub", "run", "--data", str(data), "--broker", broker.url]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def hub(tmp_path: Path, broker: Mosquitto) -> Iterator[None]:
    with hub_process(tmp_path / "hub", broker):
        yield


@pytest.fixture
def online(broker: Mosquitto, protocol: Protocol) -> dict[str, Any]:
    """What makes a DataSync run the agent."""
    return {"broker": broker.url, "protocol": protocol}


@pytest.mark.usefixtures("hub")
def test_two_processes_on_two_devices_see_each_other_s_keys(tmp_path: Path, broker: Mosquitto) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", DEVICE_PROGRAM, str(tmp_path / f"{mine}.db"), broker.url, mine, other],
            stdout=subprocess.PIPE,
            text=True,
        )
        for mine, other in (("till-1", "till-2"), ("till-2", "till-1"))
    ]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs == [
        "['hello/till-1', 'hello/till-2'] {'from': 'till-2'}\n",
        "['hello/till-1', 'hello/till-2'] {'from': 'till-1'}\n",
    ]


@pytest.mark.usefixtures("hub")
def test_worker_threads_with_an_object_each_share_keys_on_and_between_devices(
    tmp_path: Path, online: dict[str, Any]
) -> None:
    """The classic example: each worker opens its own DataSync, in whatever order they come and go."""

    def worker(device: str, number: int) -> None:
        with DataSync(tmp_path / f"{device}.db", device=device, **online) as sync:
            for step in range(10):
                sync.update(f"{device}/{number}", {"step": step})
            sync.flush(30)

    def reader(device: str) -> dict[str, object]:
        with DataSync(tmp_path / f"{device}.db", device=device, **online) as sync:
            sync.fresh(30)
            return {key: sync.get(key) for key in sorted(sync.keys())}

    devices = ("till-1", "till-2")
    with ThreadPoolExecutor(8) as pool:
        working = [pool.submit(worker, device, number) for number in range(4) for device in devices]
        for each in working:
            each.result(60)
    everything = {f"{device}/{number}": {"step": 9} for device in devices for number in range(4)}
    assert reader("till-1") == everything
    assert reader("till-2") == everything


@pytest.mark.usefixtures("hub")
def test_changes_of_other_devices_are_watched(tmp_path: Path, online: dict[str, Any]) -> None:
    with (
        DataSync(tmp_path / "1.db", device="till-1", **online) as here,
        DataSync(tmp_path / "2.db", device="till-2", **online) as there,
    ):
        watch = here.watch("lamp/", timeout=30)
        there.update("lamp/a", {"on": True})
        change = next(watch)
        assert (change.key, change.value) == ("lamp/a", {"on": True})
        there.delete("lamp/a")
        assert next(watch).deleted


@pytest.mark.usefixtures("hub")
def test_when_the_first_object_closes_the_second_takes_the_agent_over(tmp_path: Path, online: dict[str, Any]) -> None:
    path = tmp_path / "1.db"
    first = DataSync(path, device="till-1", **online)
    with closing(first), DataSync(path, device="till-1", **online) as second:
        second.update("k", 1)
        second.flush(30)
        first.close()
        second.update("k", 2)
        second.flush(30)
        second.fresh(30)
    with DataSync(tmp_path / "2.db", device="till-2", **online) as other:
        other.fresh(30)
        assert other.get("k") == 2


@pytest.mark.usefixtures("hub")
def test_when_the_process_with_the_agent_is_killed_another_one_takes_over(
    tmp_path: Path, broker: Mosquitto, online: dict[str, Any]
) -> None:
    path = tmp_path / "1.db"
    command = [sys.executable, "-c", HOLDING_PROGRAM, str(path), broker.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        with DataSync(path, **online) as sync:
            sync.update("mine", 1)
            sync.flush(30)
            holder.send_signal(signal.SIGKILL)
            holder.wait(30)
            sync.update("mine", 2)
            sync.flush(30)
            assert sync.get("holder") == "runs the agent"


@pytest.mark.usefixtures("hub")
def test_objects_without_a_broker_work_through_the_file_alone(tmp_path: Path, online: dict[str, Any]) -> None:
    with (
        DataSync(tmp_path / "1.db", device="till-1", **online),
        DataSync(tmp_path / "1.db") as alone,
        DataSync(tmp_path / "2.db", device="till-2", **online) as there,
    ):
        alone.update("k", 1)
        alone.flush(30)
        there.fresh(30)
        assert there.get("k") == 1
        there.update("k", 2)
        there.flush(30)
        alone.fresh(30)
        assert alone.get("k") == 2


@pytest.mark.usefixtures("hub")
def test_the_first_write_of_a_new_device_is_a_write_not_an_offer(tmp_path: Path, online: dict[str, Any]) -> None:
    with DataSync(tmp_path / "1.db", device="till-1", **online) as here:
        here.update("k", "old")
        here.flush(30)
        with DataSync(tmp_path / "2.db", device="till-2", **online) as there:
            there.update("k", "new")
            there.flush(30)
        here.fresh(30)
        assert here.get("k") == "new"


@pytest.mark.usefixtures("hub")
def test_what_a_file_held_before_it_had_an_agent_is_offered_and_never_reverts_others(
    tmp_path: Path, online: dict[str, Any]
) -> None:
    with DataSync(tmp_path / "2.db") as before:
        before.update("k", "last month's")
        before.update("only-here", 1)
    with DataSync(tmp_path / "1.db", device="till-1", **online) as here:
        here.update("k", "today's")
        here.flush(30)
        with DataSync(tmp_path / "2.db", device="till-2", **online) as there:
            there.flush(30)
            there.fresh(30)
            assert there.get("k") == "today's"
        here.fresh(30)
        assert here.get("k") == "today's"
        assert here.get("only-here") == 1
    with closing(EdgeStore.open(tmp_path / "2.db", device=None)) as store:
        assert [letter.reason for letter in store.dead(10)] == ["row_known"]


@pytest.mark.usefixtures("hub")
def test_updates_and_sql_of_one_transaction_arrive_together(tmp_path: Path, online: dict[str, Any]) -> None:
    """Guarantee 4."""
    create = "CREATE TABLE stock (item TEXT PRIMARY KEY, left INTEGER)"
    paths = [tmp_path / "1.db", tmp_path / "2.db"]
    for path in paths:
        with DataSync(path) as sync:
            sync.connection.execute(create)
    with (
        DataSync(paths[0], device="till-1", **online, tables=["stock"]) as here,
        DataSync(paths[1], device="till-2", **online, tables=["stock"]) as there,
    ):
        with here.transaction() as connection:
            connection.execute("INSERT INTO stock VALUES ('tea', 100)")
            here.update("left", 100)
        there.fresh(30)
        together = "SELECT (SELECT left FROM stock), (SELECT value FROM tidewire_kv WHERE key = 'left')"
        wait_for(lambda: there.get("left") == 100, 30)
        stop = threading.Event()
        seen: set[tuple[int, str]] = set()

        def read() -> None:
            while not stop.is_set():
                seen.add(there.connection.execute(together).fetchone())

        reading = threading.Thread(target=read)
        reading.start()
        for left in range(99, 49, -1):
            with here.transaction() as connection:
                connection.execute("UPDATE stock SET left = ?", (left,))
                here.update("left", left)
        wait_for(lambda: there.get("left") == 50, 30)
        stop.set()
        reading.join(30)
    assert all(str(left) == value for left, value in seen), seen


def test_without_a_hub_flush_and_fresh_say_so_and_all_arrives_when_it_comes(
    tmp_path: Path, broker: Mosquitto, online: dict[str, Any]
) -> None:
    with DataSync(tmp_path / "1.db", device="till-1", **online, **QUICK) as sync:
        sync.update("k", 1)
        wait_for(lambda: sync.status is not None and sync.status.problems, 30)
        with pytest.raises(FlushTimeout) as flushing:
            sync.flush(0.1)
        assert "no hub runs" in flushing.value.hint, flushing.value
        with pytest.raises(FreshTimeout) as asking:
            sync.fresh(0.1)
        assert "no hub runs" in asking.value.hint, asking.value
        with hub_process(tmp_path / "hub", broker):
            sync.flush(30)
            sync.fresh(30)


def test_without_a_broker_flush_says_so(tmp_path: Path, broker: Mosquitto, online: dict[str, Any]) -> None:
    broker.stop()
    with DataSync(tmp_path / "1.db", device="till-1", **online, **QUICK) as sync:
        sync.update("k", 1)
        wait_for(lambda: sync.status is not None and sync.status.problems, 30)
        with pytest.raises(FlushTimeout) as flushing:
            sync.flush(0.1)
        assert "is the broker running" in flushing.value.hint, flushing.value
        broker.start()
        with hub_process(tmp_path / "hub", broker):
            sync.flush(30)


@pytest.mark.usefixtures("hub")
async def test_async_objects_on_two_devices_see_each_other_s_keys(tmp_path: Path, online: dict[str, Any]) -> None:
    async with (
        AsyncDataSync(tmp_path / "1.db", device="till-1", **online) as here,
        AsyncDataSync(tmp_path / "2.db", device="till-2", **online) as there,
        AsyncDataSync(tmp_path / "2.db") as beside,
    ):
        async with beside.watch("lamp/", timeout=30) as watch:
            await here.update("lamp/a", 1)
            await here.flush(30)
            await asyncio.gather(there.fresh(30), beside.fresh(30))
            assert await there.get("lamp/a") == 1
            change = await anext(watch)
        assert (change.key, change.value) == ("lamp/a", 1)
        assert here.status is not None
        assert here.status.state == "live"


@pytest.mark.usefixtures("hub")
def test_writers_are_never_held_up_by_the_agent_for_long(tmp_path: Path, online: dict[str, Any]) -> None:
    """A busy device applies another one's writes while its own threads write: nobody waits near busy_timeout_s."""
    waits: list[float] = []

    def write(sync: DataSync, worker: int) -> None:
        for i in range(150):
            began = time.monotonic()
            sync.update(f"{worker}/{i % 20}", i)
            waits.append(time.monotonic() - began)

    with (
        DataSync(tmp_path / "1.db", device="till-1", **online, busy_timeout_s=30) as here,
        DataSync(tmp_path / "2.db", device="till-2", **online, busy_timeout_s=30) as there,
    ):
        with ThreadPoolExecutor(4) as pool:
            working = [pool.submit(write, sync, n) for n, sync in enumerate((here, there, here, there))]
            for each in working:
                each.result(60)
        for sync in (here, there):
            sync.flush(60)
        for sync in (here, there):
            sync.fresh(60)
        assert here.keys() == there.keys()
        assert [here.get(key) for key in here.keys()] == [there.get(key) for key in there.keys()]  # noqa: SIM118
    assert max(waits) < 15


def test_the_last_words_of_an_object_that_closes_tell_how_things_are(
    tmp_path: Path, broker: Mosquitto, hub: None, online: dict[str, Any]
) -> None:
    with DataSync(tmp_path / "a.db", device="till-1", **online) as sync:
        sync.update("k", 1)
        sync.flush(30)
    command = ["mosquitto_sub", "-p", str(broker.port), "-t", "tidewire/v1/device/till-1/state", "-C", "1", "-W", "10"]
    said = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert (said["state"], said["pending"], said["position"][1]) == ("stopped", 0, 1)
