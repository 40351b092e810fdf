"""The commands that look at a hub's data, while it runs and after."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support.broker import Mosquitto
from support.flipped import flip_in
from support.hub_process import HandMadeDevice, HubProcess, tidewire_hub
from support.waiting import wait_for_async
from tidewire_hub.layout import DataDirectory
from tidewire_link.command_line import ExitCode
from tidewire_schemas import codec, topics
from tidewire_schemas.messages import DeviceState
from tidewire_schemas.positions import Position


@pytest.fixture
def hub(broker: Mosquitto, tmp_path: Path) -> Iterator[HubProcess]:
    with HubProcess(
        tmp_path / "data", broker.url, "--devices-save-interval-s", "0.05", log=tmp_path / "hub.log"
    ) as running:
        yield running


@pytest.fixture
async def till(hub: HubProcess, broker: Mosquitto) -> AsyncIterator[HandMadeDevice]:
    async with HandMadeDevice(broker.url, "till-7") as device:
        await device.hello()
        for number in range(1, 31):
            await device.send(device.seal((number, f"note {number}")))
        await device.until_acked(30)
        yield device


def records(command: str, hub: HubProcess, *options: str) -> list[dict[str, Any]]:
    answer = tidewire_hub(command, "--data", hub.data, "--json", *options)
    assert answer.returncode == 0, answer.stderr
    return [json.loads(line) for line in answer.stdout.splitlines()]


async def test_devices_tells_how_each_is_and_how_far_behind_also_when_the_hub_is_gone(
    till: HandMadeDevice, hub: HubProcess
) -> None:
    state = DeviceState(
        v=1,
        type="device_state",
        state="live",
        incarnation=till.incarnation,
        boot=till.boot,
        position=till.entries[9].position,
        pending=4,
    )
    await till.publish(topics.device_state("till-7"), codec.encode(state))
    await wait_for_async(lambda: any(r["pending"] == 4 for r in records("devices", hub)), what="the state")
    (record,) = records("devices", hub)
    assert (record["device"], record["state"], record["behind"], record["accepted_seq"]) == ("till-7", "live", 20, 30)
    hub.kill()
    answer = tidewire_hub("devices", "--data", hub.data)
    assert "till-7" in answer.stdout
    assert "no hub runs here" in answer.stderr
    hub.start()
    assert [r["device"] for r in records("devices", hub)] == ["till-7"]


async def test_a_device_that_is_ahead_of_a_restored_log_is_not_said_to_be_level(
    till: HandMadeDevice, hub: HubProcess
) -> None:
    state = DeviceState(
        v=1,
        type="device_state",
        state="offline",
        incarnation=till.incarnation,
        boot=till.boot,
        position=Position(till.entries[0].position.epoch, 1_000_000),
    )
    await till.publish_retained(topics.device_state("till-8"), codec.encode(state))
    await wait_for_async(lambda: any(r["device"] == "till-8" for r in records("devices", hub)), what="it is known")
    hub.kill()
    DataDirectory(hub.data, "main").devices.unlink()
    hub.start()
    await wait_for_async(
        lambda: any(r["device"] == "till-8" for r in records("devices", hub)), what="it is known again"
    )
    (record,) = (r for r in records("devices", hub) if r["device"] == "till-8")
    assert (record["behind"], record["last_seen"]) == (None, 0)
    (line,) = (line for line in tidewire_hub("devices", "--data", hub.data).stdout.splitlines() if "till-8" in line)
    assert "1970" not in line


async def test_log_prints_the_stored_entries(till: HandMadeDevice, hub: HubProcess) -> None:
    entries = records("log", hub, "--from", "1")
    assert [entry["seq"] for entry in entries] == list(range(1, 31))
    assert [entry["seq"] for entry in records("log", hub)] == list(range(11, 31))
    assert [entry["seq"] for entry in records("log", hub, "--from", "5", "--limit", "3")] == [5, 6, 7]
    line = tidewire_hub("log", "--data", hub.data, "--limit", "1", "--from", "1").stdout
    assert line.split()[0] == "1"
    assert line.rstrip().endswith("till-7 #1  put readings 1")


async def test_log_follow_prints_entries_as_they_come(till: HandMadeDevice, hub: HubProcess, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tidewire_hub",
        "log",
        "--data",
        str(hub.data),
        "--from",
        "30",
        "--follow",
        "--json",
    ]
    output = tmp_path / "followed"
    with output.open("wb") as file:
        follower = await asyncio.create_subprocess_exec(*command, "--limit", "3", stdout=file)
        await wait_for_async(lambda: output.read_text().count("\n") == 1, what="the entry that is there")
        await till.send(till.seal((31, "new")))
        await till.send(till.seal((32, "new")))
        await till.until_acked(32)
        assert await asyncio.wait_for(follower.wait(), 30) == 0
    assert [json.loads(line)["seq"] for line in output.read_text().splitlines()] == [30, 31, 32]


async def test_conflicts_and_digests_are_read_beside_a_running_hub(
    till: HandMadeDevice, hub: HubProcess, broker: Mosquitto
) -> None:
    async with HandMadeDevice(broker.url, "till-8") as other:
        await other.send(other.seal((1, "taken")))
        await other.until_acked(1)
        await other.send(other.seal((2, "taken too")))
        await other.until_acked(2)
    (conflict, later) = records("conflicts", hub)
    assert (conflict["table"], conflict["key"], conflict["kind"], conflict["device"]) == (
        "readings",
        [1],
        "key_taken",
        "till-8",
    )
    assert records("conflicts", hub, "--after", str(conflict["id"])) == [later]
    shown = tidewire_hub("conflicts", "--data", hub.data, "--limit", "1").stdout
    assert shown.endswith(f"… and more: go on with --after {conflict['id']}\n")
    assert "more" not in tidewire_hub("conflicts", "--data", hub.data, "--limit", "2").stdout
    (digest,) = records("digests", hub)
    assert (digest["table"], digest["rows"], digest["seq"]) == ("readings", 30, 32)
    await till.send(till.seal((31, "and the hub goes on")))
    await till.until_acked(31)
    assert records("digests", hub)[0]["rows"] == 31
    before = records("digests", hub)
    assert hub.terminate() == 0
    assert records("digests", hub) == before


async def test_digests_are_those_of_the_head_after_a_large_group_and_without_the_state(
    till: HandMadeDevice, hub: HubProcess
) -> None:
    await till.send(till.seal(*((number, "one of many") for number in range(100, 1_100))))
    await till.until_acked(31)
    (digest,) = records("digests", hub)
    assert (digest["rows"], digest["seq"]) == (1_030, 31)
    state = hub.data / "main" / "state.db"
    await wait_for_async(lambda: position_in(state) == 31, what="the state is committed though nothing follows")
    hub.kill()
    for path in state.parent.glob("state.db*"):
        path.unlink()
    assert records("digests", hub) == [digest]
    assert not state.exists()


def position_in(state: Path) -> int:
    """Seq up to which the state's file is the log's fold."""
    with closing(sqlite3.connect(f"{state.as_uri()}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT seq FROM meta").fetchone()[0])


@pytest.mark.fault("a byte of the hub's log that the disk has changed")
async def test_an_entry_that_the_disk_has_changed_is_named_and_not_backed_up(
    till: HandMadeDevice, hub: HubProcess, tmp_path: Path
) -> None:
    """Guarantee 3."""
    assert hub.terminate() == 0
    flip_in(hub.data / "main" / "log.db", b'"note 17"', 6)
    printed = tidewire_hub("log", "--data", hub.data, "--from", "1", "--json")
    assert printed.returncode == ExitCode.DATABASE
    assert [json.loads(line)["seq"] for line in printed.stdout.splitlines()] == [n for n in range(1, 31) if n != 17]
    assert "entry 17 is not as it was written" in printed.stderr
    backup = tidewire_hub("backup", "--data", hub.data, tmp_path / "copy")
    assert backup.returncode == ExitCode.DATABASE
    assert "entry 17 is not as it was written" in backup.stderr
    assert not (tmp_path / "copy" / "main" / "log.db").exists()


async def test_a_backup_of_a_running_hub_is_a_data_directory_with_the_same_log(
    till: HandMadeDevice, hub: HubProcess, broker: Mosquitto, tmp_path: Path
) -> None:
    """Guarantee 2."""
    (report,) = records("backup", hub, str(tmp_path / "copy"))
    assert report["seq"] == 30
    await till.send(till.seal((31, "after the backup")))
    await till.until_acked(31)
    digests = records("digests", hub)
    log = records("log", hub, "--from", "1")
    again = tidewire_hub("backup", tmp_path / "copy", "--data", hub.data)
    assert again.returncode == ExitCode.USAGE
    assert "exists already" in again.stderr
    assert hub.terminate() == 0
    with HubProcess(tmp_path / "copy", broker.url, log=tmp_path / "copy.log") as restored:
        assert records("log", restored, "--from", "1") == log[:30]
        assert digests[0]["rows"] == records("digests", restored)[0]["rows"] + 1
        welcome = await till.hello(log=report["log"])
        assert welcome.accepted is not None
        assert welcome.accepted.batch == 30


@pytest.mark.parametrize(("command", "said"), [("devices", "no device was seen yet"), ("rejected", "none")])
def test_before_the_first_device_comes_a_command_says_so(
    tmp_path: Path, broker: Mosquitto, command: str, said: str
) -> None:
    with HubProcess(tmp_path / "data", broker.url, log=tmp_path / "hub.log") as hub:
        (hub.data / "main" / "devices.json").unlink(missing_ok=True)  # it is written seconds after the start
        answer = tidewire_hub(command, "--data", hub.data)
        assert answer.returncode == 0, answer.stderr
        assert said in answer.stdout


@pytest.mark.parametrize("command", ["devices", "rejected", "log", "conflicts", "digests", "backup"])
def test_without_data_a_command_says_so_and_makes_none(tmp_path: Path, command: str) -> None:
    destination = [tmp_path / "copy"] if command == "backup" else []
    answer = tidewire_hub(command, "--data", tmp_path / "none", *destination)
    assert answer.returncode == ExitCode.DATABASE
    assert "has a hub run with this --data" in answer.stderr
    assert not (tmp_path / "none").exists()
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("command", ["devices", "rejected", "log", "conflicts", "digests", "backup"])
def test_a_file_where_the_directory_should_be_is_said(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_text("")
    destination = [tmp_path / "copy"] if command == "backup" else []
    answer = tidewire_hub(command, "--data", tmp_path / "file", *destination)
    assert answer.returncode == ExitCode.DATABASE
    assert "Not a directory" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("option", ["--from", "--limit", "--after"])
def test_a_number_that_nothing_can_have_is_wrong_usage(tmp_path: Path, option: str) -> None:
    answer = tidewire_hub("conflicts" if option == "--after" else "log", "--data", tmp_path, option, "9" * 30)
    assert answer.returncode == ExitCode.USAGE
    assert option in answer.stderr


def test_the_help_names_every_command_and_the_exit_codes() -> None:
    text = tidewire_hub("--help").stdout
    for word in ("run", "devices", "rejected", "log", "conflicts", "digests", "backup", "Exit codes: 0 done"):
        assert word in text
    assert tidewire_hub("--version").stdout.startswith("tidewire-hub, version ")
