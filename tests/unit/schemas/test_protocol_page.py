"""docs/reference/protocol.md says what the code does."""

from __future__ import annotations

import json
import re
from typing import Any, Final, get_args

import pytest
from jsonschema import Draft202012Validator

from tidewire_schemas import codec, generate, messages, shapes, snapshots, topics, verification
from tidewire_schemas.base import PAYLOAD_BYTES_MIN, Component
from tidewire_schemas.digest import as_hex, column_order, message_digest, row_digest, table_digest
from tidewire_schemas.json_schema import all_message_types, message_types, type_name
from tidewire_schemas.messages import ON_TOPIC
from tidewire_schemas.operations import RefusalReason
from tidewire_schemas.parts import Assembler
from tidewire_schemas.topics import Kind

PAGE: Final = (generate.FOLDER.parent / "docs/reference/protocol.md").read_text(encoding="utf-8")
SECTIONS: Final = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
TITLES: Final[dict[Kind, str]] = {
    "up": "up: batches of a device",
    "ask": "ask: questions of a device",
    "log": "log: the ordered log",
    "head": "head: how far the log goes",
    "in": "in: answers to a device",
    "device_state": "Device state",
    "hub_state": "Hub state",
}
COMPONENTS: Final = [
    messages.Run,
    messages.Entry,
    messages.Refusal,
    messages.HeldRow,
    shapes.TableShape,
    snapshots.SnapshotTable,
    snapshots.IncludedBatch,
    snapshots.LoadProgress,
    verification.VerifyRange,
    verification.VerifyKey,
    verification.VerifyRow,
    verification.Verified,
]


def payloads() -> dict[str, str]:
    """Every example by its `type`, exactly as it stands on the page."""
    found = re.findall(r"^```json\n(.*?)\n```$", PAGE, re.MULTILINE | re.DOTALL)
    return {json.loads(text)["type"]: text for text in found}


def example(name: str) -> Any:
    return json.loads(payloads()[name])


def test_there_is_one_payload_of_each_message() -> None:
    assert sorted(payloads()) == sorted(all_message_types())
    assert PAGE.count("```json") == len(payloads())


@pytest.mark.parametrize("kind", ON_TOPIC)
def test_each_payload_fits_its_schema_and_is_read_on_its_topic(kind: Kind) -> None:
    section = SECTIONS[TITLES[kind]]
    for name in map(type_name, message_types(kind)):
        text = payloads()[name]
        assert text in (SECTIONS["Parts"] if name == "part" else section), name
        for path in (f"json/{name}.json", f"json/topics/{kind}.json"):
            schema = json.loads((generate.FOLDER / path).read_text())
            Draft202012Validator(schema).validate(json.loads(text))
        assert type_name(type(codec.parse(kind, text.encode()))) == name


@pytest.mark.parametrize("kind", ON_TOPIC)
def test_each_section_names_its_topic_and_every_field(kind: Kind) -> None:
    section = SECTIONS[TITLES[kind]]
    assert topics.parse(re.findall(r"^`(\S+)` ·", section, re.MULTILINE)[0].format(stream="s", device="d", node="n"))
    assert ("QoS 1 · retained" in section) == (kind in ("head", "device_state", "hub_state"))
    for message in message_types(kind):
        where = SECTIONS["Parts"] if type_name(message) == "part" else section
        for field in message.model_fields:
            if field not in ("v", "type", "incarnation", "boot", "at"):
                assert f"`{field}`" in where, f"{kind}: {field}"


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_field_of_what_messages_are_made_of_is_named(component: type[Component]) -> None:
    for field in component.model_fields:
        assert f"`{field}`" in PAGE, field


def test_every_reason_of_a_refusal_is_told() -> None:
    for reason in get_args(RefusalReason):
        assert f"| `{reason}` |" in PAGE


def test_the_batch_can_be_published_by_hand_as_the_page_says() -> None:
    batch = payloads()["batch"]
    assert "\n" not in batch
    assert "'" not in batch
    (topic, payload) = re.findall(r"^mosquitto_pub -h \S+ -q 1 -t (\S+) -m '(.*)'$", PAGE, re.MULTILINE)[0]
    assert payload == batch
    assert topics.parse(topic) == topics.Topic("up", stream="main", device="by-hand")
    parsed = codec.parse_batch(batch.encode())
    assert [run.table for run in parsed.batch.changes] == ["readings"]


def test_the_examples_tell_one_story() -> None:
    batch, page, welcome = payloads()["batch"], example("page"), example("welcome")
    digest = message_digest(batch.encode())
    entry, other = page["entries"]
    assert (entry["digest"], entry["incarnation"]) == (digest, example("batch")["incarnation"])
    assert entry["changes"] == example("batch")["changes"]
    assert (example("ack")["digest"], example("ack")["seq"]) == (digest, entry["seq"])
    assert example("hello")["last_sealed"] == {"batch": other["batch"], "digest": other["digest"]}
    assert welcome["accepted"]["batch"] == other["batch"] - 1
    assert example("hello")["position"] == page["prev"] == example("replay_request")["position"]
    assert example("head")["head"] == example("fresh_answer")["head"] == [other["epoch"], other["seq"]]
    assert example("fresh_answer")["nonce"] == example("fresh_request")["nonce"]
    assert {example(name)["log"] for name in ("hello", "welcome", "page", "head", "snapshot")} == {page["log"]}


def test_the_example_of_a_snapshot_holds_the_rows_of_the_batch() -> None:
    batch, manifest, chunk = example("batch"), example("snapshot"), example("snapshot_chunk")
    rows = chunk["rows"]
    assert rows == batch["changes"][0]["rows"]
    assert chunk["digest"] == codec.rows_digest(rows)
    assert manifest["position"][1] == example("ack")["seq"]
    assert manifest["included"][0]["batch"] == example("welcome")["accepted"]["batch"]
    assert {example(name)["snapshot"] for name in ("snapshot_request", "snapshot", "snapshot_chunk")} == {
        manifest["snapshot"]
    }
    order = column_order(chunk["columns"])
    names = [chunk["columns"][place] for place in order]
    digest = table_digest(row_digest(names, [row[place] for place in order]) for row in rows)
    assert manifest["tables"][0]["digest"] == as_hex(digest)


def test_the_example_of_a_part_is_one_that_an_assembler_takes_in_its_turn() -> None:
    part = messages.Part.model_validate_json(payloads()["part"])
    assert part.part == part.parts - 1
    assembler = Assembler(bytes_max=part.size)
    assert assembler.feed(part.model_copy(update={"part": 0, "parts": 3})) is None
    assert assembler.bytes_held == len(part.text)


def test_the_limits_on_the_page_are_those_of_the_code() -> None:
    limits = SECTIONS["Limits"]
    assert f"{codec.PAYLOAD_BYTES_MAX:,} bytes" in limits
    assert f"{codec.BATCH_BYTES_MAX // 2**20} MiB" in limits
    assert f"at least {PAYLOAD_BYTES_MIN:,}" in limits
    assert f"{shapes.COLUMNS_MAX:,}" in limits
