"""A real hub makes snapshots, trims its log, and goes on after it was killed or lost its state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.broker import Mosquitto
from support.hub_process import HandMadeDevice, HubProcess, tidewire_hub
from support.waiting import wait_for_async
from tidewire_schemas.messages import Problem, ReplayRequest, Welcome
from tidewire_schemas.positions import START, Position
from tidewire_schemas.snapshots import Snapshot, SnapshotChunk, SnapshotRequest

EAGER = (
    *("--retention-entries", "10", "--retention-interval-s", "0.05", "--retention-step-entries", "4"),
    *("--snapshot-interval-s", "0.05", "--snapshot-hold-s", "0.05", "--payload-bytes-max", "3000"),
)
"""A hub that keeps as little of its log as it may, and makes small chunks."""


@pytest.fixture
def hub(broker: Mosquitto, tmp_path: Path) -> HubProcess:
    return HubProcess(tmp_path / "data", broker.url, *EAGER, log=tmp_path / "hub.log")


async def ask(device: HandMadeDevice, **request: Any) -> None:
    await device.say(SnapshotRequest(incarnation=device.incarnation, boot=device.boot, **{"snapshot": None, **request}))


async def manifest(device: HandMadeDevice, **request: Any) -> Snapshot:
    before = len(device.of(Snapshot))
    await ask(device, **request)
    await wait_for_async(lambda: len(device.of(Snapshot)) > before, what="a manifest")
    answer: Snapshot = device.of(Snapshot)[-1]
    return answer


async def chunks(device: HandMadeDevice, snapshot: Snapshot, first: int, count: int) -> list[SnapshotChunk]:
    before = len(device.of(SnapshotChunk))
    await ask(device, snapshot=snapshot.snapshot, first=first, chunks=count)
    await wait_for_async(lambda: len(device.of(SnapshotChunk)) >= before + count, what=f"{count} chunks")
    return device.of(SnapshotChunk)[before:]


async def write(device: HandMadeDevice, count: int) -> None:
    for number in range(len(device.sealed) + 1, len(device.sealed) + count + 1):
        await device.send(device.seal((number, f"note {number} " + "x" * 200)))
    await device.until_acked(len(device.sealed))


async def until_trimmed(device: HandMadeDevice, *, entries: int = 10) -> Welcome:
    """The hub keeps so few entries."""

    async def trimmed() -> bool:
        welcome = await device.hello()
        return welcome.head.seq - welcome.oldest < entries

    while not await trimmed():
        assert "Traceback" not in "".join(map(str, device.of(Problem)))
    welcome: Welcome = device.of(Welcome)[-1]
    return welcome


def rows(loaded: list[SnapshotChunk]) -> list[int]:
    return sorted(row[0] for chunk in loaded for row in chunk.rows)


async def test_a_log_is_kept_short_and_who_lacks_the_rest_takes_a_snapshot_and_replays_what_follows(
    hub: HubProcess, broker: Mosquitto
) -> None:
    """Guarantees 3 and 6."""
    with hub:
        async with HandMadeDevice(broker.url, "till-7") as till, HandMadeDevice(broker.url, "late") as late:
            await till.hello()
            await write(till, 60)
            welcome = await until_trimmed(till)
            assert welcome.oldest > 40
            assert (await late.hello()).snapshot_advised
            await late.say(ReplayRequest(incarnation=late.incarnation, boot=late.boot, position=START, pages=4))
            await wait_for_async(lambda: "replay_too_old" in late.problems, what="a refusal")
            snapshot = await manifest(late)
            loaded = await chunks(late, snapshot, 0, snapshot.chunks)
            await late.say(
                ReplayRequest(incarnation=late.incarnation, boot=late.boot, position=snapshot.position, pages=4)
            )
            after = list(range(snapshot.position.seq + 1, 61))
            await wait_for_async(lambda: len(late.replayed) >= len(after), what="replay")
            assert rows(loaded) == list(range(1, snapshot.position.seq + 1))
            assert [entry.seq for entry in late.replayed] == after
            mine = await manifest(till, tables=("readings",))
            assert [(each.incarnation, each.batch) for each in mine.included] == [(till.incarnation, mine.position.seq)]


async def test_a_snapshot_is_fetched_to_its_end_though_the_hub_is_killed_meanwhile(
    broker: Mosquitto, tmp_path: Path
) -> None:
    with HubProcess(tmp_path / "data", broker.url, "--payload-bytes-max", "3000", log=tmp_path / "hub.log") as hub:
        async with HandMadeDevice(broker.url, "till-7") as till:
            await till.hello()
            await write(till, 60)
            snapshot = await manifest(till)
            assert snapshot.chunks > 4
            loaded = await chunks(till, snapshot, 0, 2)
            hub.kill()
            hub.start()
            again = await manifest(till, snapshot=snapshot.snapshot)
            assert again.model_dump() == snapshot.model_dump()
            loaded += await chunks(till, snapshot, 2, snapshot.chunks - 2)
            assert rows(loaded) == list(range(1, snapshot.position.seq + 1))


async def test_a_hub_whose_state_is_lost_after_its_log_was_trimmed_goes_on_from_a_snapshot(
    hub: HubProcess, broker: Mosquitto
) -> None:
    """Guarantee 2."""
    with hub:
        async with HandMadeDevice(broker.url, "till-7") as till:
            await till.hello()
            await write(till, 60)
            await until_trimmed(till)
            assert hub.terminate() == 0
            before = tidewire_hub("digests", "--data", hub.data, "--json").stdout
            for file in hub.data.glob("main/state.db*"):
                file.unlink()
            hub.start()
            assert "made anew from" in hub.log
            welcome = await till.hello()
            assert welcome.accepted is not None
            assert welcome.accepted.batch == 60
            assert tidewire_hub("digests", "--data", hub.data, "--json").stdout == before
            await till.send(till.sealed[3])  # long gone from the log, and still known
            await write(till, 1)
            assert (await till.hello()).head.seq == 61
            hub.terminate()


async def test_a_backup_of_a_trimmed_log_holds_all_that_a_hub_needs(
    hub: HubProcess, broker: Mosquitto, tmp_path: Path
) -> None:
    """Guarantee 2."""
    with hub:
        async with HandMadeDevice(broker.url, "till-7") as till:
            await till.hello()
            await write(till, 60)
            await until_trimmed(till)
            made = tidewire_hub("backup", "--data", hub.data, "--json", tmp_path / "copy")
            report = json.loads(made.stdout)
            assert report["oldest"] > 40
            assert report["seq"] == 60
            digests = tidewire_hub("digests", "--data", hub.data, "--json").stdout
            assert hub.terminate() == 0
            assert tidewire_hub("digests", "--data", tmp_path / "copy", "--json").stdout == digests
            with HubProcess(tmp_path / "copy", broker.url, *EAGER, log=tmp_path / "copy.log"):
                assert (await till.hello()).head.seq == 60
                snapshot = await manifest(till)
                assert rows(await chunks(till, snapshot, 0, snapshot.chunks)) == list(range(1, 61))


async def test_a_hub_started_from_a_backup_of_a_trimmed_log_can_lose_its_state_at_once(
    hub: HubProcess, broker: Mosquitto, tmp_path: Path
) -> None:
    """Guarantee 2: what is left of the oldest entries is soon in a snapshot again, with or without retention."""
    async with HandMadeDevice(broker.url, "till-7") as till:
        with hub:
            await till.hello()
            await write(till, 60)
            await until_trimmed(till)
            assert tidewire_hub("backup", "--data", hub.data, tmp_path / "copy").returncode == 0
            await write(till, 40)
            await until_trimmed(till)
            assert hub.terminate() == 0
        for name in ("log.db", "state.db"):
            (tmp_path / "copy" / "main" / name).replace(hub.data / "main" / name)
        with HubProcess(hub.data, broker.url, log=tmp_path / "restored.log") as restored:
            await wait_for_async(lambda: "a snapshot is made" in restored.log, what="a snapshot")
            restored.kill()
            for file in hub.data.glob("main/state.db*"):
                file.unlink()
            restored.start()
            assert "made anew from" in restored.log
            welcome = await till.hello()
            assert welcome.accepted is not None
            assert welcome.accepted.batch == 60


async def test_commands_speak_of_the_oldest_entry(hub: HubProcess, broker: Mosquitto) -> None:
    with hub:
        async with HandMadeDevice(broker.url, "till-7") as till:
            await till.hello()
            await write(till, 60)
            oldest = (await until_trimmed(till)).oldest
            await till.hello(position=Position(till.entries[0].epoch, 1))
            assert till.of(Welcome)[-1].checkpoint == "on_log"
            assert hub.terminate() == 0
    printed = tidewire_hub("log", "--data", hub.data, "--from", "1", "--json")
    assert json.loads(printed.stdout.splitlines()[0])["seq"] == oldest
    assert f"the log begins at {oldest}" in printed.stderr
    (device,) = [json.loads(tidewire_hub("devices", "--data", hub.data, "--json").stdout)]
    assert device["needs_snapshot"] is True
