"""Whatever is published on the topics a hub listens to, it lives, says so, and takes the next good batch."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from support.broker import Mosquitto
from support.hub_process import HandMadeDevice, HubProcess, tidewire_hub
from support.waiting import wait_for_async
from tidewire_schemas import codec, topics
from tidewire_schemas.digest import NO_DIGEST, message_digest
from tidewire_schemas.messages import HubState, Part

ID = "c" * 32

GARBAGE: dict[str, bytes] = {
    "garbage": b"\x00\xff\xfe garbage",
    "not UTF-8": b'{"v":1,"type":"hello","boot":"\xc3\x28"}',
    "lone surrogate": b'{"v":1,"type":"hello","boot":"\\ud800"}',
    "a number": b"42",
    "null": b"null",
    "an empty object": b"{}",
    "truncated": b'{"v":1,"type":"batch","incarnation":"' + ID.encode() + b'","batch":1,"prev_dig',
    "too deep": b'{"v":1,"type":"batch","changes":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "objects too deep": b'{"a":' * 15_000 + b"1" + b"}" * 15_000,
    "endless integer": b'{"v":1,"type":"batch","batch":' + b"9" * 90_000 + b"}",
    "not a number": b'{"v":1,"type":"hello","epoch":NaN}',
    "larger than allowed": b'{"v":1,"type":"hello","boot":"' + b"x" * 150_000 + b'"}',
    "wrong version": b'{"v":2,"type":"batch"}',
    "no version": b'{"type":"batch"}',
    "unknown type": b'{"v":1,"type":"sing"}',
    "unknown field": b'{"v":1,"type":"fresh_request","incarnation":"%s","boot":"%s","nonce":"%s","x":1}'
    % (ID.encode(), ID.encode(), ID.encode()),
    "a message for devices": b'{"v":1,"type":"ack","incarnation":"%s","boot":null,"epoch":1,"batch":1,"seq":1}'
    % ID.encode(),
    "a part that is none": b'{"v":1,"type":"part","digest":"%s","part":5,"parts":3,"size":10,"text":"x"}' % ID.encode(),
    "a part of gigabytes": b'{"v":1,"type":"part","digest":"%s","part":0,"parts":9,"size":9000000000,"text":"x"}'
    % ID.encode(),
    "a last part alone": b'{"v":1,"type":"part","digest":"%s","part":2,"parts":3,"size":10,"text":"x"}' % ID.encode(),
}


def run_of(**changes: object) -> dict[str, object]:
    run = {"op": "put", "table": "readings", "base": [0, 0], "key": 1, "columns": ["id", "note"], "rows": [[1, "x"]]}
    return {**run, **changes}


WRONG_RUNS: dict[str, list[dict[str, object]]] = {
    "a wrong key count": [run_of(key=3)],
    "no row": [run_of(rows=[])],
    "a row of another width": [run_of(rows=[[1]])],
    "an integer of 65 bits": [run_of(rows=[[2**64, "x"]])],
    "an unknown form of value": [run_of(rows=[[1, {"date": "today"}]])],
    "a nested value": [run_of(rows=[[1, [1, 2]]])],
    "a bad blob": [run_of(rows=[[1, {"blob": "***"}]])],
    "an unknown operation": [run_of(op="upsert")],
    "a set of nothing": [run_of(op="set", columns=["id"], rows=[[1]])],
    "a negative base": [run_of(base=[-1, 0])],
    "a column name with a zero byte": [run_of(columns=["id", "no\x00te"])],
}

REFUSED_RUNS: dict[str, tuple[list[dict[str, object]], str]] = {
    "a table nobody declared": ([run_of(table="elsewhere")], "unknown_table"),
    "an unknown column": ([run_of(columns=["id", "colour"])], "unknown_column"),
    "another key": ([run_of(columns=["note", "id"], rows=[["x", 1]])], "wrong_key"),
    "NULL as key": ([run_of(rows=[[None, "x"]])], "wrong_key"),
    "a set on a row that is not there": ([run_of(op="set")], "row_absent"),
}


def batch_of(changes: list[dict[str, object]], number: int = 1, prev: str = NO_DIGEST) -> bytes:
    return codec.encode_batch(
        incarnation=ID, batch=number, prev_digest=prev, sealed_at=0, changes_json=json.dumps(changes).encode()
    )


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


async def still_works(till: HandMadeDevice, hub: HubProcess) -> None:
    """The hub answers, takes a good batch, and has not been restarted."""
    await till.hello()
    await till.send(till.seal((len(till.sealed) + 1, "good")))
    await till.until_acked(len(till.sealed))
    assert hub.ready()
    assert len({message.boot for message in till.of(HubState)}) == 1
    assert "Traceback" not in hub.log


async def test_garbage_on_every_topic_is_told_kept_and_holds_nothing_up(
    till: HandMadeDevice, hub: HubProcess, broker: Mosquitto
) -> None:
    """Guarantee 10."""
    places = [topics.up("main", "bad"), topics.ask("main", "bad"), topics.device_state("bad")]
    async with HandMadeDevice(broker.url, "bad") as bad:
        for place in places:
            for payload in GARBAGE.values():
                await bad.publish(place, payload)
        await still_works(till, hub)
        # A lost part is asked for again rather than complained of, and that only of devices known to have sent before.
        expected = len(places) * len(GARBAGE) - 2
        await wait_for_async(lambda: len(bad.problems) >= expected, what="a problem for each")
        assert set(bad.problems) == {"message_malformed", "message_too_large", "message_version"}
    assert not set(till.problems)

    await wait_for_async(lambda: len(rejected(hub)) >= expected, what="all of them kept")
    for record in rejected(hub):
        assert record["device"] == "bad"
        assert record["message"]


def rejected(hub: HubProcess) -> list[dict[str, object]]:
    answer = tidewire_hub("rejected", "--data", hub.data, "--json")
    return [json.loads(line) for line in answer.stdout.splitlines()]


async def test_a_batch_of_the_wrong_form_enters_no_log(
    till: HandMadeDevice, hub: HubProcess, broker: Mosquitto
) -> None:
    """Guarantee 10."""
    async with HandMadeDevice(broker.url, "bad") as bad:
        for changes in WRONG_RUNS.values():
            await bad.publish(topics.up("main", "bad"), batch_of(changes))
        await wait_for_async(lambda: len(bad.problems) == len(WRONG_RUNS), what="a problem for each")
        assert set(bad.problems) <= {"message_malformed", "value_not_storable"}
        await still_works(till, hub)
        assert {entry.device for entry in till.entries} == {"till-7"}


async def test_rows_that_no_table_takes_are_refused_in_the_entry_with_their_reason(
    till: HandMadeDevice, hub: HubProcess, broker: Mosquitto
) -> None:
    """Guarantee 10."""
    async with HandMadeDevice(broker.url, "odd", incarnation=ID) as odd:
        await odd.hello()  # else the hub would wait for it to name its tables
    prev = NO_DIGEST
    for number, (changes, _) in enumerate(REFUSED_RUNS.values(), start=1):
        payload = batch_of(changes, number, prev)
        prev = message_digest(payload)
        await till.publish(topics.up("main", "odd"), payload)
    await wait_for_async(lambda: len(till.entries) == len(REFUSED_RUNS), what="an entry for each")
    assert [entry.refused[0].reason for entry in till.entries] == [reason for _, reason in REFUSED_RUNS.values()]
    assert all(entry.changes == [] for entry in till.entries)
    await still_works(till, hub)


@pytest.mark.fault("a device that says it is another")
async def test_a_device_is_known_by_its_topic_whatever_it_says(till: HandMadeDevice, broker: Mosquitto) -> None:
    """Guarantee 13."""
    payload = till.seal((1, "mine"))
    await till.send(payload)
    await till.until_acked(1)
    async with HandMadeDevice(broker.url, "thief", incarnation=till.incarnation) as thief:
        await thief.send(payload)
        await thief.until_acked(1)
    assert [entry.device for entry in till.entries] == ["till-7", "thief"]
    assert len(till.entries) == 2


async def test_what_the_hub_did_not_ask_for_changes_nothing(till: HandMadeDevice, hub: HubProcess) -> None:
    for topic in (
        "tidewire/v1/stream/other/up/till-7",
        "tidewire/v1/stream/main/up/TILL",
        "tidewire/v1/stream/main/up/-",
        "tidewire/v1/stream/main/ask/%24",
        "tidewire/v1/device/TILL/state",
        "tidewire/v2/stream/main/up/till-7",
        "elsewhere",
    ):
        for payload in (b"", b"garbage", batch_of([run_of()])):
            await till.publish(topic, payload)
    await still_works(till, hub)
    assert [entry.seq for entry in till.entries] == [1]
    assert not till.problems


async def test_a_large_message_that_stops_half_way_holds_nothing_up(
    till: HandMadeDevice, hub: HubProcess, broker: Mosquitto
) -> None:
    """Guarantee 12."""
    for number in range(20):
        part = Part(v=1, type="part", digest=ID, part=0, parts=200, size=15_000_000, text="x" * 90_000)
        await till.publish(topics.up("main", f"slow-{number}"), codec.encode(part))
    await still_works(till, hub)
