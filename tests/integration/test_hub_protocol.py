"""A real hub behind a real Mosquitto, spoken to message by message."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from support.broker import Mosquitto
from support.hub_process import HandMadeDevice, HubProcess
from support.protocol import Protocol
from support.waiting import wait_for_async
from tidewire_schemas import topics
from tidewire_schemas.digest import message_digest
from tidewire_schemas.messages import Ack, FreshAnswer, FreshRequest, HubState, Replay, ReplayRequest
from tidewire_schemas.positions import START, Position

pytestmark = pytest.mark.both_protocols


@pytest.fixture
def hub(broker: Mosquitto, tmp_path: Path, protocol: Protocol) -> Iterator[HubProcess]:
    with HubProcess(tmp_path / "data", broker.url, log=tmp_path / "hub.log") as running:
        yield running


@pytest.fixture
async def till(hub: HubProcess, broker: Mosquitto, protocol: Protocol) -> AsyncIterator[HandMadeDevice]:
    async with HandMadeDevice(broker.url, "till-7") as device:
        yield device


async def test_a_batch_published_by_hand_is_acked_numbered_and_fanned_out(
    till: HandMadeDevice, broker: Mosquitto, protocol: Protocol
) -> None:
    await till.hello()
    payload = till.seal((1, "by hand"))
    version = {"5": "5", "3.1.1": "311"}[protocol]
    await asyncio.to_thread(
        subprocess.run,
        ["mosquitto_pub", "-V", version, "-p", str(broker.port), "-q", "1", "-t", topics.up("main", "till-7"), "-s"],
        input=payload,
        check=True,
        timeout=10,
    )
    await till.until_acked(1)
    (ack,) = till.of(Ack)
    assert (ack.digest, ack.seq, ack.boot) == (message_digest(payload), 1, till.boot)
    await wait_for_async(lambda: till.entries, what="the entry")
    (entry,) = till.entries
    assert (entry.seq, entry.device, entry.batch, entry.refused) == (1, "till-7", 1, [])
    assert entry.changes[0].rows == [[1, "by hand"]]
    await wait_for_async(lambda: till.head.head == entry.position, what="the head")


async def test_all_devices_see_one_order_and_a_late_one_gets_the_same_by_replay(
    till: HandMadeDevice, broker: Mosquitto, protocol: Protocol
) -> None:
    """Guarantee 3. Guarantee 5."""
    await till.hello()
    async with HandMadeDevice(broker.url, "till-8") as other:
        for number in range(1, 31):
            await till.send(till.seal((number, "seven")))
            await other.send(other.seal((100 + number, "eight")))
        await till.until_acked(30)
        await other.until_acked(30)
        await wait_for_async(lambda: len(till.entries) == len(other.entries) == 60, what="60 entries at both")
        assert [entry.seq for entry in till.entries] == list(range(1, 61))
        assert till.entries == other.entries
        for name in ("till-7", "till-8"):
            assert [entry.batch for entry in till.entries if entry.device == name] == list(range(1, 31))
    async with HandMadeDevice(broker.url, "till-9") as late:
        welcome = await late.hello()
        assert welcome.head == till.entries[-1].position
        await late.say(
            ReplayRequest(
                v=1, type="replay_request", incarnation=late.incarnation, boot=late.boot, position=START, pages=8
            )
        )
        await wait_for_async(lambda: late.of(Replay) and late.of(Replay)[-1].last, what="the last page")
        assert late.replayed == till.entries


async def test_replay_repeats_the_stored_bytes(till: HandMadeDevice) -> None:
    await till.hello()
    await till.send(till.seal((1, 'ünï\u2028code \\ " \x01')))
    await till.until_acked(1)
    request = ReplayRequest(
        v=1, type="replay_request", incarnation=till.incarnation, boot=till.boot, position=START, pages=1
    )
    await till.say(request)
    await wait_for_async(lambda: till.of(Replay), what="a replay")
    live = next(payload for topic, payload in till.raw if topic == topics.log("main"))
    replayed = next(payload for _, payload in till.raw if b'"type":"replay"' in payload)
    assert live in replayed


@pytest.mark.fault("a transaction larger than a message may be")
async def test_a_batch_of_many_parts_is_one_entry_everywhere(till: HandMadeDevice) -> None:
    """Guarantee 4."""
    await till.hello()
    await till.send(till.seal(*((number, "x" * 2_000) for number in range(600))))
    await till.until_acked(1)
    await wait_for_async(lambda: till.entries, what="the entry")
    assert len(till.entries[0].changes[0].rows) == 600
    assert max(len(payload) for _, payload in till.raw) <= 100_000


@pytest.mark.fault("messages repeated")
async def test_a_repeated_batch_is_acked_again_with_its_old_number(till: HandMadeDevice) -> None:
    """Guarantee 2."""
    await till.hello()
    payload = till.seal((1, "once"))
    for _ in range(3):
        await till.send(payload)
    await wait_for_async(lambda: till.acked == 1, what="the ack")
    await till.send(payload)
    await till.send(till.seal((2, "twice")))
    await till.until_acked(2)
    assert {ack.seq for ack in till.of(Ack) if ack.batch == 1} == {1}
    await wait_for_async(lambda: len(till.entries) == 2, what="two entries")
    assert [entry.batch for entry in till.entries] == [1, 2]


@pytest.mark.fault("messages out of order")
async def test_batches_out_of_order_are_asked_for_again(till: HandMadeDevice) -> None:
    """Guarantee 5."""
    await till.hello()
    one, two, three = (till.seal((number, "row")) for number in (1, 2, 3))
    await till.send(one)
    await till.until_acked(1)
    await till.send(three)
    await wait_for_async(lambda: "resend" in till.problems, what="a request to resend")
    await till.send(two)
    await till.send(three)
    await till.until_acked(3)
    await wait_for_async(lambda: len(till.entries) == 3, what="three entries")
    assert [entry.batch for entry in till.entries] == [1, 2, 3]


async def test_a_batch_that_does_not_follow_the_chain_is_a_fork(till: HandMadeDevice) -> None:
    await till.hello()
    await till.send(till.seal((1, "one")))
    await till.until_acked(1)
    till.sealed[0] = b"another past"
    await till.send(till.seal((2, "two")))
    await wait_for_async(lambda: "fork" in till.problems, what="a fork")
    assert till.acked == 1


async def test_freshness_covers_everything_acked_before_the_question(till: HandMadeDevice) -> None:
    await till.hello()
    for number in range(1, 6):
        await till.send(till.seal((number, "row")))
    await till.until_acked(5)
    await till.say(
        FreshRequest(v=1, type="fresh_request", incarnation=till.incarnation, boot=till.boot, nonce="5" * 32)
    )
    await wait_for_async(lambda: till.of(FreshAnswer), what="an answer")
    (answer,) = till.of(FreshAnswer)
    assert answer.head.seq >= 5


@pytest.mark.fault("a device that has heard a later leader")
async def test_a_higher_epoch_heard_elsewhere_is_overtaken(till: HandMadeDevice) -> None:
    """Guarantee 8."""
    first = await till.hello()
    welcome = await till.hello(epoch=first.epoch + 5_000_000)
    assert welcome.epoch > first.epoch + 5_000_000
    await till.send(till.seal((1, "under the new epoch")))
    await till.until_acked(1)
    assert till.of(Ack)[-1].epoch == welcome.epoch


async def test_a_restarted_hub_leads_under_a_higher_epoch_on_the_same_log(
    till: HandMadeDevice, hub: HubProcess
) -> None:
    before = await till.hello()
    assert hub.terminate() == 0
    hub.start()
    after = await till.hello(log=before.log)
    assert after.log == before.log
    assert after.epoch > before.epoch


async def test_a_checkpoint_of_another_past_is_said_to_be_off_the_log(till: HandMadeDevice) -> None:
    welcome = await till.hello(position=Position(7, 3))
    assert welcome.checkpoint == "off_log"


async def test_a_device_of_another_log_is_told_so(till: HandMadeDevice) -> None:
    await till.say_hello(log="9" * 32)
    await wait_for_async(lambda: till.problems == ["log_unknown"], what="the problem")


def states(device: HandMadeDevice) -> list[str]:
    return [message.state for message in device.of(HubState)]


async def test_the_hubs_state_is_retained_and_its_last_will_is_offline(
    till: HandMadeDevice, hub: HubProcess, broker: Mosquitto
) -> None:
    await wait_for_async(lambda: states(till) == ["leading"], what="leading")
    hub.kill()
    await wait_for_async(lambda: states(till)[-1] == "offline", what="offline")
    hub.start()
    await wait_for_async(lambda: states(till)[-1] == "leading", what="leading again")
    assert hub.terminate() == 0
    await wait_for_async(lambda: states(till)[-1] == "stopped", what="stopped")
    assert json.loads(till.raw[-1][1])["problem"] is None


async def test_after_a_broker_restart_that_lost_everything_the_hub_goes_on(
    till: HandMadeDevice, hub: HubProcess, broker: Mosquitto
) -> None:
    """Guarantee 2."""
    await till.hello()
    await till.send(till.seal((1, "before")))
    await till.until_acked(1)
    broker.kill()
    broker.wipe()
    await wait_for_async(lambda: not hub.ready(), what="not ready")
    answer = hub.http("readyz")
    assert answer is not None
    assert answer[0] == 503
    broker.start()
    await wait_for_async(hub.ready, 20, what="ready again")
    await wait_for_async(till.subscribed.is_set, 20, what="the device is back")
    await till.hello()
    await till.send(till.seal((2, "after")))
    await till.until_acked(2)
