"""Batches, questions and states with one thing wrong, and a hub whose own disk or log fails."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.agent_process import AgentProcess, make_database
from support.broker import Mosquitto
from support.hub_process import HandMadeDevice, HubProcess, tidewire_hub
from support.mounts import remount, small_disk
from support.waiting import wait_for, wait_for_async
from tidewire_link.command_line import ExitCode
from tidewire_schemas import topics
from tidewire_schemas.digest import NO_DIGEST
from tidewire_schemas.messages import HubState, Problem

ID = "c" * 32


def good(kind: str) -> dict[str, Any]:
    """A message that the hub would take."""
    run = {"op": "put", "table": "readings", "base": [0, 0], "key": 1, "columns": ["id", "note"], "rows": [[1, "x"]]}
    return {
        "up": {"v": 1, "type": "batch", "incarnation": ID, "batch": 1, "prev_digest": NO_DIGEST, "sealed_at": 0}
        | {"changes": [run]},
        "ask": {"v": 1, "type": "replay_request", "incarnation": ID, "boot": ID, "position": [0, 0], "pages": 1},
        "device_state": {"v": 1, "type": "device_state", "state": "live", "incarnation": ID, "boot": ID},
    }[kind]


def variants(kind: str) -> dict[str, bytes]:
    """The message with one thing wrong."""
    message = good(kind)
    text = json.dumps(message).encode()
    return {
        "unknown field": json.dumps(message | {"surprise": 1}).encode(),
        "a device of its own choice": json.dumps(message | {"device": "till-7"}).encode(),
        "wrong version": json.dumps(message | {"v": 2}).encode(),
        "version as text": json.dumps(message | {"v": "1"}).encode(),
        "an incarnation that is none": json.dumps(message | {"incarnation": "me"}).encode(),
        "too deep": text[:-1] + b',"x":' + b"[" * 2000 + b"]" * 2000 + b"}",
        "too large": text[:-1] + b',"x":"' + b"x" * 120_000 + b'"}',
        **{f"cut off after {size}": text[:size] for size in range(1, len(text), 7)},
        **({"unknown field in a run": text.replace(b'"op"', b'"surprise": 1, "op"')} if kind == "up" else {}),
    }


@pytest.fixture
def hub(broker: Mosquitto, tmp_path: Path) -> Iterator[HubProcess]:
    options = ["--problem-burst", "1000", "--devices-save-interval-s", "0.05", "--rejected-max", "1000"]
    with HubProcess(tmp_path / "data", broker.url, *options, log=tmp_path / "hub.log") as running:
        yield running


@pytest.fixture
async def till(hub: HubProcess, broker: Mosquitto) -> AsyncIterator[HandMadeDevice]:
    async with HandMadeDevice(broker.url, "till-7") as device:
        await device.hello()
        yield device


@pytest.mark.parametrize("kind", ["up", "ask", "device_state"])
async def test_a_good_message_with_one_thing_wrong_is_told_kept_and_enters_no_log(
    till: HandMadeDevice, hub: HubProcess, broker: Mosquitto, kind: str
) -> None:
    """Guarantee 10."""
    place = {
        "up": topics.up("main", "bad"),
        "ask": topics.ask("main", "bad"),
        "device_state": topics.device_state("bad"),
    }
    bad = variants(kind)
    async with HandMadeDevice(broker.url, "bad") as device:
        for payload in bad.values():
            await device.publish(place[kind], payload)
        await till.send(till.seal((1, "good")))
        await till.until_acked(1)
        await wait_for_async(lambda: len(device.problems) >= len(bad), what="a problem for each")
        assert len(device.problems) == len(bad)
        assert all(problem.hint for problem in device.of(Problem))
        assert not {"ack", "replay"} & {message.type for _, message in device.heard if hasattr(message, "boot")}
    await wait_for_async(lambda: len(rejected(hub)) == len(bad), what="all of them kept")
    assert {record["device"] for record in rejected(hub)} == {"bad"}
    assert [entry.device for entry in till.entries] == ["till-7"]
    assert not till.problems
    assert "Traceback" not in hub.log


def rejected(hub: HubProcess) -> list[dict[str, Any]]:
    answer = tidewire_hub("rejected", "--data", hub.data, "--json")
    return [json.loads(line) for line in answer.stdout.splitlines()]


async def test_batches_in_any_order_and_any_number_of_times_are_in_the_log_once_and_in_order(
    till: HandMadeDevice, hub: HubProcess
) -> None:
    """Guarantee 2. Guarantee 5."""
    chance = random.Random(7)
    batches = [till.seal((number, f"note {number}")) for number in range(1, 31)]
    while till.acked < len(batches):  # a round holds every batch, so each takes the hub on by one at least
        before = till.acked
        shuffled = [batch for batch in batches for _copy in range(chance.randint(1, 3))]
        chance.shuffle(shuffled)
        for batch in shuffled:
            await till.send(batch)
        await till.until_acked(before + 1)
    await wait_for_async(lambda: len(till.entries) == len(batches), what="an entry for each")
    assert [(entry.seq, entry.batch) for entry in till.entries] == [(n, n) for n in range(1, 31)]
    assert set(till.problems) <= {"resend"}
    assert rejected(hub) == []


@pytest.mark.needs("mount")
@pytest.mark.fault("a hub's disk that is full")
async def test_a_disk_that_fills_up_stops_acks_until_there_is_space(broker: Mosquitto, tmp_path: Path) -> None:
    """Guarantee 11."""
    with (
        small_disk(tmp_path / "disk", "2m") as disk,
        HubProcess(
            disk / "data",
            broker.url,
            "--commit-retry-max-s",
            "0.5",
            "--disk-reserve-bytes",
            "0",
            log=tmp_path / "hub.log",
        ) as hub,
    ):
        async with HandMadeDevice(broker.url, "till-7") as till:
            await till.hello()
            for number in range(60):
                await till.send(till.seal((number, "x" * 50_000)))
            await wait_for_async(lambda: till.of(HubState)[-1].state == "halted", 20, what="a halted hub")
            assert "space" in till.of(HubState)[-1].problem
            acked = till.acked
            assert acked < 60
            assert hub.http("healthz") == (200, {"status": "ok"})

            remount(disk, "size=64m")
            await till.until_acked(60, 30)
            await wait_for_async(lambda: till.of(HubState)[-1].state == "leading", what="a leading hub")
            await wait_for_async(lambda: len(till.entries) == 60, what="an entry for each")
            assert [entry.batch for entry in till.entries] == list(range(1, 61))
        assert hub.terminate() == 0
        assert "Traceback" not in hub.log


@pytest.mark.needs("mount")
@pytest.mark.fault("a hub's disk that is nearly full")
def test_below_the_reserve_a_hub_takes_nothing_says_so_and_goes_on_when_there_is_space(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Guarantee 1. Guarantee 11."""
    options = ("--commit-retry-max-s", "0.2", "--commit-busy-s", "0.3", "--disk-reserve-bytes", "8000000")
    with (
        small_disk(tmp_path / "disk", "16m") as disk,
        HubProcess(disk / "data", broker.url, *options, log=tmp_path / "hub.log") as hub,
        AgentProcess(tmp_path / "a.db", "till-a", broker.url, "--ack-timeout-s", "1.5") as agent,
        closing(make_database(tmp_path / "a.db")) as app,
    ):
        agent.start()
        (disk / "ballast").write_bytes(b"x" * 10_000_000)
        app.execute("INSERT INTO orders VALUES ('o-1', 1)")
        agent.wait_problem("hub_busy")
        assert "disk_reserve_bytes" in agent.log
        answer = hub.http("readyz")
        assert answer is not None
        assert answer[0] == 503
        assert "disk_reserve_bytes" in str(answer[1])
        assert "no_ack" not in agent.problems
        (disk / "ballast").unlink()
        wait_for(lambda: agent.status.batches == 0 and hub.ready(), what="the batch is in the log")
        agent.wait_no_problem()
        assert "no ack" not in agent.log


@pytest.mark.fault("a hub's log that another program locks")
async def test_a_log_that_another_program_locks_stops_acks_and_is_said_until_it_lets_go(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Guarantee 1. Guarantee 11."""
    options = ("--commit-retry-max-s", "0.5")
    with HubProcess(tmp_path / "data", broker.url, *options, log=tmp_path / "hub.log") as hub:
        async with HandMadeDevice(broker.url, "till-7") as till:
            await till.hello()
            with log_locked(tmp_path / "data" / "main" / "log.db"):
                await till.send(till.seal((1, "waits")))
                await wait_for_async(lambda: till.of(HubState)[-1].state == "halted", 20, what="a halted hub")
                assert "locked" in till.of(HubState)[-1].problem
                assert till.acked == 0
                assert hub.http("healthz") == (200, {"status": "ok"})
            await till.until_acked(1, 20)
            await wait_for_async(lambda: till.of(HubState)[-1].state == "leading", what="a leading hub")
        assert "Traceback" not in hub.log


@contextmanager
def log_locked(path: Path) -> Iterator[None]:
    """Another program holds the log's write lock."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@pytest.mark.needs("mount")
async def test_what_a_hub_left_can_be_looked_at_on_a_read_only_disk(broker: Mosquitto, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "16m") as disk:
        with HubProcess(disk / "data", broker.url, "--disk-reserve-bytes", "0", log=tmp_path / "hub.log") as hub:
            async with HandMadeDevice(broker.url, "till-7") as till:
                await till.hello()
                await till.send(till.seal((1, "x")))
                await till.until_acked(1)
            hub.terminate()
        remount(disk, "ro")
        for command in ("log", "digests", "conflicts", "devices", "rejected"):
            answer = tidewire_hub(command, "--data", disk / "data", "--json")
            assert answer.returncode == 0, (command, answer.stderr)


@pytest.mark.needs("mount")
def test_a_data_directory_on_a_read_only_disk_ends_the_start_with_a_hint(broker: Mosquitto, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "16m") as disk:
        with HubProcess(disk / "data", broker.url, log=tmp_path / "hub.log") as hub:
            hub.terminate()
        remount(disk, "ro")
        answer = tidewire_hub("run", "--data", disk / "data", "--broker", broker.url)
        assert answer.returncode == ExitCode.DATABASE
        assert "hint:" in answer.stderr
        assert "Traceback" not in answer.stderr
