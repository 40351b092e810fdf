"""Anyone watches with an MQTT client: all that travels in a busy installation is readable and as the schemas say."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from support.agent_process import tidewire_agent
from support.broker import Mosquitto
from support.hub_process import tidewire_hub
from support.processes import Device, Site
from support.publish import publish
from support.waiting import wait_for
from support.writer import LARGE_NOTE, SCHEMA, Writer
from tidewire_agent import DataSync
from tidewire_schemas import codec, topics
from tidewire_schemas.digest import message_digest
from tidewire_schemas.snapshots import SnapshotRequest

SCHEMAS = Path(__file__).parents[2] / "schemas/json"

TRAVELS: dict[str, set[str]] = {
    "up": {"batch", "part"},
    "ask": {"hello", "replay_request", "fresh_request", "snapshot_request", "verify_request", "verify_report"},
    "in": {"welcome", "ack", "replay", "fresh_answer", "snapshot", "snapshot_chunk", "verify_answer"}
    | {"problem", "part", "verify_now"},
    "log": {"page", "part"},
    "head": {"head"},
    "device_state": {"device_state"},
    "hub_state": {"hub_state"},
}
"""What a busy installation says on each kind of topic. Parts on `ask` would take a thousand tables."""


def test_all_that_can_travel_is_expected_here() -> None:
    kinds = {path.stem for path in (SCHEMAS / "topics").glob("*.json")}
    types = {path.stem for path in SCHEMAS.glob("*.json")}
    assert TRAVELS.keys() == kinds
    assert set.union(*TRAVELS.values()) == types


@cache
def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads((SCHEMAS / f"{name}.json").read_text()))


@contextmanager
def watched(broker: Mosquitto, output: Path) -> Iterator[None]:
    """`mosquitto_sub` for everything of Tidewire's, as the README shows it."""
    command = ["mosquitto_sub", "-p", str(broker.port), "-q", "1", "-v", "-t", "tidewire/v1/#"]
    with output.open("wb") as file, subprocess.Popen(command, stdout=file) as process:
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


def lines(output: Path) -> list[str]:
    return output.read_text().split("\n")[:-1]


def test_every_line_that_mosquitto_sub_prints_is_json_that_fits_the_schemas(tmp_path: Path) -> None:
    output = tmp_path / "heard"
    with Site(tmp_path) as site, watched(site.broker, output):
        devices = [site.device(name, SCHEMA, tables=("journal", "tally", "own", "shared")) for name in "abc"]
        for device in devices:
            device.start()
        writers = [Writer(device.db, device.device, seed=1) for device in devices]
        for writer in writers:
            writer.start()
        try:
            be_busy(site, devices)
            take_a_snapshot_by_hand(site, output)
        finally:
            for writer in writers:
                writer.stop()
        site.wait_at_rest()
        assert site.hub.terminate() == 0
        for device in devices:
            assert device.stop() == 0
        wait_for(lambda: lines(output)[-1].startswith(topics.device_state("c")), what="the last goodbye")

    heard: dict[str, set[str]] = {}
    for line in lines(output):
        topic, _, payload = line.partition(" ")
        message = checked(topic, payload)
        place = topics.parse(topic)
        assert place is not None
        heard.setdefault(place.kind, set()).add(message["type"])
    assert heard == TRAVELS


def checked(topic: str, payload: str) -> dict[str, Any]:
    """The message of one line."""
    place = topics.parse(topic)
    assert place is not None, topic
    message: dict[str, Any] = json.loads(payload)
    validator(f"topics/{place.kind}").validate(message)
    validator(message["type"]).validate(message)
    return message


def take_a_snapshot_by_hand(site: Site, output: Path) -> None:
    """Its manifest and its first chunk."""

    def ask(**values: Any) -> None:
        request = SnapshotRequest(incarnation="c" * 32, boot="d" * 32, **values)
        publish(site.broker, (topics.ask("main", "by-hand"), codec.encode(request)))

    def answer(kind: str) -> dict[str, Any] | None:
        heard = (line.partition(" ") for line in lines(output))
        messages = (json.loads(payload) for topic, _, payload in heard if topic == topics.inbox("by-hand", "main"))
        return next((message for message in messages if message["type"] == kind), None)

    ask(snapshot=None)
    manifest = wait_for(lambda: answer("snapshot"), what="the manifest")
    assert manifest is not None
    ask(snapshot=manifest["snapshot"], chunks=1)
    wait_for(lambda: answer("snapshot_chunk"), what="a chunk")


def be_busy(site: Site, devices: list[Device]) -> None:
    """What makes each part say all that it can say."""
    a, b, c = devices
    large = f"INSERT INTO own VALUES ('by hand', 1, 1, '{'x' * LARGE_NOTE}');"
    b.stop()
    assert a.sql(large).stderr == ""
    b.start()
    c.kill()
    c.start()
    with DataSync(a.db) as sync:
        sync.fresh(60)
    assert tidewire_agent("verify", "--db", a.db, "--table", "own").stdout.startswith("own: ")
    asked = tidewire_hub("verify", "a", "--data", site.folder / "hub", "--broker", site.broker.url, "--table", "own")
    assert asked.stdout.startswith("own: "), asked.stderr
    site.hub.kill()
    site.hub.start()
    for device in devices:
        device.wait_state("live")
    # A device that begins in the middle is told where the log stands.
    early = codec.encode_batch(
        incarnation="c" * 32, batch=5, prev_digest=message_digest(b"4"), sealed_at=0, changes_json=b"[]"
    )
    publish(site.broker, (topics.up("main", "by-hand"), early))
