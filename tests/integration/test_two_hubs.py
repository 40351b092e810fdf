"""Two hubs on one broker and one stream: one of them leads, whatever is copied, frozen, restarted or left over."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support.agent_process import AgentProcess, make_database
from support.broker import Mosquitto
from support.hub_process import HandMadeDevice, HubProcess, tidewire_hub
from support.publish import publish
from support.waiting import wait_for, wait_for_async
from tidewire_hub.log.port import HEARD_EPOCH_MAX
from tidewire_link.command_line import ExitCode
from tidewire_schemas import codec, topics
from tidewire_schemas.messages import Head, HubState
from tidewire_schemas.positions import START, Position

WAITS_SHORTLY = ("--rival-wait-s", "0.5")


class Hubs:
    """Hub processes on one broker, all gone at the end."""

    def __init__(self, broker: Mosquitto, folder: Path) -> None:
        self._broker = broker
        self._folder = folder
        self._made: list[HubProcess] = []

    def make(self, name: str, *options: str) -> HubProcess:
        """A hub with a data directory of its own, or the one of that name that is there already."""
        hub = HubProcess(self._folder / name, self._broker.url, *options, log=self._folder / f"{name}.log")
        self._made.append(hub)
        return hub

    def refused(self, name: str) -> str:
        """Start a hub that must not lead; what it says."""
        answer = tidewire_hub("run", "--data", self._folder / name, "--broker", self._broker.url, *WAITS_SHORTLY)
        assert answer.returncode == ExitCode.LED_ELSEWHERE, answer.stderr
        assert "Traceback" not in answer.stderr
        return answer.stderr

    def end_all(self) -> None:
        for hub in self._made:
            hub.__exit__(None, None, None)


@pytest.fixture
def hubs(broker: Mosquitto, tmp_path: Path) -> Iterator[Hubs]:
    made = Hubs(broker, tmp_path)
    yield made
    made.end_all()


def copy(hub: HubProcess, name: str) -> None:
    """A copy of a running hub's log."""
    answer = tidewire_hub("backup", "--data", hub.data, hub.data.parent / name)
    assert answer.returncode == 0, answer.stderr


def leaders(device: HandMadeDevice) -> list[str]:
    """Who said heads, as this device heard them."""
    return [head.leader for head in device.of(Head)]


def ended(hub: HubProcess) -> int:
    return hub.process.wait(10)


async def test_a_hub_with_another_log_does_not_start_beside_one_that_leads(hubs: Hubs) -> None:
    first = hubs.make("first").start()
    said = hubs.refused("second")
    assert "hub hub leads stream main already, with log " in said
    assert "--take-over" in said
    assert "leading stream main" not in said
    assert first.ready()


async def test_who_takes_over_with_another_log_ends_the_one_that_led_and_a_restart_changes_nothing(
    broker: Mosquitto, hubs: Hubs
) -> None:
    first = hubs.make("first", "--node", "hub-1", *WAITS_SHORTLY).start()
    async with HandMadeDevice(broker.url, "watcher") as watcher:
        second = hubs.make("second", "--take-over").start()
        assert ended(first) == ExitCode.LED_ELSEWHERE
        assert "replaced: hub hub leads stream main with log" in first.log
        await wait_for_async(lambda: leaders(watcher)[-1:] == ["hub"], what="the head of the second")
    assert "leads stream main already" in hubs.refused("first")
    assert second.ready()
    assert second.terminate() == 0
    first.start()  # nobody else leads now, and its log went on nowhere else


@pytest.mark.fault("two hubs on copies of one log")
async def test_a_copy_of_the_log_does_not_lead_beside_the_original_nor_the_original_after_it_was_replaced(
    broker: Mosquitto, hubs: Hubs
) -> None:
    """Guarantee 8."""
    first = hubs.make("first", *WAITS_SHORTLY).start()
    async with HandMadeDevice(broker.url, "till-7") as till:
        await till.hello()
        await till.send(till.seal((1, "with the first")))
        await till.until_acked(1)
        copy(first, "second")
        assert "with this same log: one of the two is a copy" in hubs.refused("second")

        first.process.send_signal(signal.SIGSTOP)
        await till.send(till.seal((2, "while nobody leads")))
        second = hubs.make("second", "--node", "hub-2", *WAITS_SHORTLY).start()
        await wait_for_async(lambda: leaders(till)[-1:] == ["hub-2"], what="the head of the second")
        epoch = (await till.hello()).epoch
        await till.send(till.sealed[1])
        await till.until_acked(2)

        first.process.send_signal(signal.SIGCONT)
        assert ended(first) == ExitCode.LED_ELSEWHERE
        assert "replaced: hub hub-2 has taken over stream main" in first.log
        await wait_for_async(lambda: till.of(HubState)[-1].state == "replaced", what="its last word")
        assert till.head.epoch == epoch

        # A supervisor starts it again, also when the other one is down: it does not lead with an old log.
        assert "hub hub-2 took stream main over from this copy" in hubs.refused("first")
        assert second.terminate() == 0
        assert "hub hub-2 took stream main over from this copy" in hubs.refused("first")
        first.options = ("--take-over", *WAITS_SHORTLY)
        first.start()
        await wait_for_async(lambda: till.head.epoch > epoch, what="the head of the first")
        assert first.terminate() == 0
        first.options = WAITS_SHORTLY
        first.start()


@pytest.mark.fault("a hub that was replaced and goes on talking")
async def test_an_agent_follows_the_later_of_two_hubs_and_never_applies_what_the_stale_one_says(
    broker: Mosquitto, hubs: Hubs, tmp_path: Path
) -> None:
    """Guarantee 8."""
    first = hubs.make("first", *WAITS_SHORTLY).start()
    app = make_database(tmp_path / "till.db")
    with AgentProcess(tmp_path / "till.db", "till", broker.url, "--ack-timeout-s", "1") as till:
        till.start()
        app.execute("INSERT INTO orders VALUES ('1', 1)")
        wait_for(lambda: log_of(first) == [("till", 1)], what="an entry")
        (entry,) = stored(first)
        copy(first, "second")
        first.process.send_signal(signal.SIGSTOP)
        second = hubs.make("second", *WAITS_SHORTLY).start()
        wait_for(lambda: heard_epoch(tmp_path / "till.db") > entry["epoch"], 30, what="the agent follows the second")
        till.wait_state("live")
        publish(broker, said_by_the_stale_one(log_id(second), entry))  # else it would be the next entry
        app.execute("INSERT INTO orders VALUES ('2', 2)")
        wait_for(lambda: log_of(second) == [("till", 1), ("till", 2)], 30, what="the second write in the second log")
        first.process.send_signal(signal.SIGCONT)
        assert ended(first) == ExitCode.LED_ELSEWHERE
        app.execute("INSERT INTO orders VALUES ('3', 3)")
        wait_for(lambda: len(log_of(second)) == 3, 30, what="the third write")
        newest = stored(second)[-1]
        wait_for(lambda: position(tmp_path / "till.db") == (newest["epoch"], 3), 30, what="the agent has applied it")
        till.wait_state("live")
        till.wait_no_problem()
        assert "going back" not in till.log
    assert first.http("healthz") is None
    assert app.execute("SELECT * FROM orders ORDER BY 1").fetchall() == [(str(n), float(n)) for n in range(1, 4)]
    app.close()


def log_of(hub: HubProcess) -> list[tuple[str, int]]:
    """Device and batch of each entry in a hub's file."""
    return [(entry["device"], entry["batch"]) for entry in stored(hub)]


def stored(hub: HubProcess) -> list[dict[str, Any]]:
    """The entries in a hub's file."""
    with closing(sqlite3.connect(f"file:{hub.data}/main/log.db?mode=ro", uri=True)) as log:
        return [json.loads(data) for (data,) in log.execute("SELECT data FROM entry ORDER BY seq")]


def log_id(hub: HubProcess) -> str:
    with closing(sqlite3.connect(f"file:{hub.data}/main/log.db?mode=ro", uri=True)) as log:
        return str(log.execute("SELECT log_id FROM log").fetchone()[0])


def said_by_the_stale_one(log: str, entry: dict[str, Any]) -> tuple[str, bytes]:
    """A page with one more entry of the epoch of this one, right behind it."""
    forged = json.loads(json.dumps(entry).replace('"1"', '"stale"')) | {"seq": entry["seq"] + 1, "batch": 77}
    page = codec.encode_page(log, Position(entry["epoch"], entry["seq"]), [json.dumps(forged).encode()])
    return topics.log("main"), page


def position(path: Path) -> tuple[int, int]:
    """Epoch and seq of what a device has applied."""
    meta = meta_of(path)
    return meta["epoch"], meta["seq"]


def heard_epoch(path: Path) -> int:
    """The highest epoch that a device has heard of."""
    return int(meta_of(path)["heard_epoch"])


def meta_of(path: Path) -> dict[str, Any]:
    with closing(sqlite3.connect(path)) as reader:
        return dict(reader.execute("SELECT name, value FROM tidewire_meta"))


def test_a_frozen_hub_still_has_its_data_directory(hubs: Hubs, broker: Mosquitto) -> None:
    first = hubs.make("first").start()
    first.process.send_signal(signal.SIGSTOP)
    answer = tidewire_hub("run", "--data", first.data, "--broker", broker.url)
    assert answer.returncode == ExitCode.LOCKED
    assert f"process {first.process.pid} already runs a hub on" in answer.stderr


async def test_what_is_left_of_a_dead_hub_delays_a_start_and_never_blocks_it(broker: Mosquitto, hubs: Hubs) -> None:
    ghost = Head(
        log="e" * 32, epoch=HEARD_EPOCH_MAX - 9, head=START, oldest=1, leader="ghost", boot="f" * 32, at=1
    )  # its clock was decades ahead
    async with HandMadeDevice(broker.url, "watcher") as watcher:
        await watcher.publish_retained(topics.head("main"), codec.encode(ghost))
        hub = hubs.make("first", *WAITS_SHORTLY).start()
        assert "hub ghost seems to lead stream main: waiting for its answer" in hub.log
        await wait_for_async(lambda: leaders(watcher)[-1:] == ["hub"], what="a head")
        assert watcher.head.epoch > ghost.epoch


async def test_the_same_data_starts_again_at_once_whatever_the_broker_keeps_of_the_process_before(
    broker: Mosquitto, hubs: Hubs
) -> None:
    hub = hubs.make("first", "--rival-wait-s", "60").start()
    async with HandMadeDevice(broker.url, "watcher") as watcher:
        await wait_for_async(lambda: watcher.of(HubState), what="its state")
        hub.kill()
        await wait_for_async(lambda: watcher.of(HubState)[-1].state == "offline", what="its last will")
        alive = watcher.of(HubState)[0]
        await watcher.publish_retained(topics.hub_state("hub"), codec.encode(alive))  # an old store of the broker
        hub.start()
        assert "leading stream main" in hub.log


def test_a_copied_data_directory_does_not_pass_for_the_one_it_was_copied_from(hubs: Hubs) -> None:
    first = hubs.make("first").start()
    shutil.copytree(first.data, first.data.parent / "second")
    assert "with this same log: one of the two is a copy" in hubs.refused("second")
    assert first.ready()


async def test_a_hub_that_lost_the_broker_for_a_while_goes_on_leading(broker: Mosquitto, hubs: Hubs) -> None:
    hub = hubs.make("first").start()
    broker.kill()
    wait_for(lambda: not hub.ready(), what="not ready")
    broker.start()
    wait_for(hub.ready, 20, what="ready again")
    async with HandMadeDevice(broker.url, "till-7") as till:
        await till.hello()
        await till.send(till.seal((1, "x")))
        await till.until_acked(1)
