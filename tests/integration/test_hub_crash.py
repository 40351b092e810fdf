"""Guarantees of a hub that is killed, or whose disk fails, while devices send."""

from __future__ import annotations

import asyncio
import json
import random
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from support.broker import Mosquitto
from support.hub_process import HandMadeDevice, HubProcess, tidewire_hub
from support.waiting import wait_for_async
from tidewire_link.errors import LinkError
from tidewire_schemas.digest import message_digest
from tidewire_schemas.messages import Ack, HubState, Welcome

WINDOW = 20


@pytest.fixture
def hub(broker: Mosquitto, tmp_path: Path) -> Iterator[HubProcess]:
    with HubProcess(tmp_path / "data", broker.url, log=tmp_path / "hub.log") as running:
        yield running


async def keep_sending(device: HandMadeDevice, stop: asyncio.Event) -> None:
    """A device as it is: a window of batches, a handshake when no ack comes, sent again from what the log has."""
    sent = device.acked
    while not (stop.is_set() and device.acked == len(device.sealed)):
        before = device.acked
        while sent < device.acked + WINDOW and not (stop.is_set() and sent >= len(device.sealed)):
            if sent == len(device.sealed):
                device.seal((sent, f"batch {sent + 1} of {device.name}"))
            with suppress(LinkError):
                await device.send(device.sealed[sent])
            sent += 1
        try:
            await wait_for_async(lambda before=before: device.acked > before, 1)  # type: ignore[misc]
        except AssertionError:
            welcomes = len(device.of(Welcome))
            with suppress(LinkError):
                await device.say_hello()
            with suppress(AssertionError):
                await wait_for_async(lambda welcomes=welcomes: len(device.of(Welcome)) > welcomes, 1)  # type: ignore[misc]
                accepted = device.of(Welcome)[-1].accepted
                sent = accepted.batch if accepted is not None else 0


@asynccontextmanager
async def three_devices(broker: Mosquitto) -> AsyncIterator[list[HandMadeDevice]]:
    async with (
        HandMadeDevice(broker.url, "a") as a,
        HandMadeDevice(broker.url, "b") as b,
        HandMadeDevice(broker.url, "c") as c,
    ):
        yield [a, b, c]


def stored_log(hub: HubProcess) -> list[dict[str, object]]:
    answer = tidewire_hub("log", "--data", hub.data, "--from", "1", "--json")
    assert answer.returncode == 0, answer.stderr
    return [json.loads(line) for line in answer.stdout.splitlines()]


def check(log: list[dict[str, object]], devices: list[HandMadeDevice]) -> None:
    """The log is contiguous, holds each device's batches once and in order, and every ack was true."""
    assert [entry["seq"] for entry in log] == list(range(1, len(log) + 1))
    for device in devices:
        mine = [entry for entry in log if entry["device"] == device.name]
        assert [entry["batch"] for entry in mine] == list(range(1, len(mine) + 1))
        assert [entry["digest"] for entry in mine] == [
            message_digest(payload) for payload in device.sealed[: len(mine)]
        ]
        by_batch = {entry["batch"]: entry for entry in mine}
        for ack in device.of(Ack):
            assert by_batch[ack.batch]["seq"] == ack.seq
            assert by_batch[ack.batch]["digest"] == ack.digest


@pytest.mark.parametrize("seed", [1])
@pytest.mark.fault("a hub killed again and again")
async def test_a_hub_killed_again_and_again_loses_nothing_it_acked_and_takes_nothing_twice(
    hub: HubProcess, broker: Mosquitto, seed: int
) -> None:
    """Guarantee 1. Guarantee 2. Guarantee 5."""
    chance = random.Random(seed)
    stop = asyncio.Event()
    async with three_devices(broker) as devices:
        for device in devices:
            await device.hello()
        senders = [asyncio.create_task(keep_sending(device, stop)) for device in devices]
        for _ in range(5):
            goal = len(devices[0].of(Ack)) + chance.randint(2, 40)
            await wait_for_async(lambda goal=goal: len(devices[0].of(Ack)) >= goal, 20)  # type: ignore[misc]
            await asyncio.to_thread(hub.kill)
            check(await asyncio.to_thread(stored_log, hub), devices)
            await asyncio.to_thread(hub.start)
        stop.set()
        await asyncio.wait_for(asyncio.gather(*senders), 30)
        check(await asyncio.to_thread(stored_log, hub), devices)
        for device in devices:
            assert device.acked == len(device.sealed) > 0


def limit_file_size(hub: HubProcess, size: int) -> None:
    """A disk that is full, as the kernel makes one: no file of the hub may grow beyond `size`."""
    resource.prlimit(hub.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.fault("a hub's disk that is full")
async def test_a_full_disk_acks_nothing_is_said_and_nothing_is_lost_when_space_returns(
    hub: HubProcess, broker: Mosquitto
) -> None:
    """Guarantee 11."""
    async with HandMadeDevice(broker.url, "a") as device:
        await device.hello()
        await device.send(device.seal((1, "before")))
        await device.until_acked(1)

        limit_file_size(hub, 4096)
        await device.send(device.seal((2, "x" * 60_000)))
        await wait_for_async(lambda: device.of(HubState)[-1].state == "halted", what="a halted hub")
        assert device.of(HubState)[-1].problem
        answer = hub.http("readyz")
        assert answer is not None
        assert answer[0] == 503
        assert "the last commit failed" in answer[1]["reasons"][0]
        assert hub.http("healthz") == (200, {"status": "ok"})
        await device.send(device.seal((3, "while full")))
        await wait_for_async(lambda: hub.log.count("cannot commit") >= 2, what="a second attempt")
        assert device.acked == 1

        limit_file_size(hub, resource.RLIM_INFINITY)
        await device.until_acked(3, 20)
        await wait_for_async(lambda: device.of(HubState)[-1].state == "leading", what="a leading hub")
        assert hub.ready()
        await wait_for_async(lambda: [entry.batch for entry in device.entries] == [1, 2, 3], what="three entries")


async def test_a_hub_that_stops_while_devices_send_acks_only_what_is_stored(hub: HubProcess, broker: Mosquitto) -> None:
    """Guarantee 1."""
    stop = asyncio.Event()
    async with three_devices(broker) as devices:
        for device in devices:
            await device.hello()
        senders = [asyncio.create_task(keep_sending(device, stop)) for device in devices]
        await wait_for_async(lambda: all(device.acked > 30 for device in devices), 20, what="some acks")
        assert await asyncio.to_thread(hub.terminate) == 0
        await wait_for_async(lambda: devices[0].of(HubState)[-1].state == "stopped", what="the last word")
        check(await asyncio.to_thread(stored_log, hub), devices)
        await asyncio.to_thread(hub.start)
        stop.set()
        await asyncio.wait_for(asyncio.gather(*senders), 30)
        check(await asyncio.to_thread(stored_log, hub), devices)
