from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tidewire_schemas import asyncapi, codec, generate, topics, yaml_text
from tidewire_schemas.json_schema import (
    DIALECT,
    all_message_types,
    message_schema,
    message_types,
    topic_schema,
    type_name,
)
from tidewire_schemas.topics import Kind
from unit.schemas.strategies import messages

KINDS: tuple[Kind, ...] = get_args(Kind)
TOPIC_VALIDATORS = {kind: Draft202012Validator(topic_schema(kind)) for kind in KINDS}


# ── fresh ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_generated_files_are_what_the_models_say() -> None:
    assert generate.stale(generate.FOLDER) == [], "run: python -m tidewire_schemas.generate"


def test_the_check_names_missing_changed_and_left_over_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate.main(["--out", str(tmp_path)]) == 0
    assert generate.main(["--check", "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    (tmp_path / "json/ack.json").unlink()
    (tmp_path / "json/gone.json").write_text("{}")
    with (tmp_path / "asyncapi.yaml").open("a") as file:
        file.write("x-extra: 1\n")
    assert generate.main(["--check", "--out", str(tmp_path)]) == 1
    named = capsys.readouterr().out.split("\n")
    assert named == ["stale: asyncapi.yaml", "stale: json/ack.json", "stale: json/gone.json", ""]
    assert generate.main(["--out", str(tmp_path)]) == 0
    assert generate.stale(tmp_path) == []
    assert not (tmp_path / "json/gone.json").exists()


# ── JSON Schema ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", all_message_types())
def test_each_schema_is_valid_2020_12_and_says_what_every_field_that_needs_it_means(name: str) -> None:
    schema = message_schema(all_message_types()[name])
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == DIALECT
    assert schema["required"][:2] == ["v", "type"]
    assert schema["additionalProperties"] is False
    assert schema["description"]


@pytest.mark.parametrize("name", all_message_types())
@settings(max_examples=8)
@given(st.data())
def test_every_message_that_is_sent_satisfies_its_schemas(name: str, data: st.DataObject) -> None:
    document = json.loads(codec.encode(data.draw(messages[name])))
    Draft202012Validator(message_schema(all_message_types()[name])).validate(document)
    for kind in KINDS:
        carried = name in map(type_name, message_types(kind))
        assert TOPIC_VALIDATORS[kind].is_valid(document) == carried


def test_descriptions_of_fields_come_from_their_docstrings() -> None:
    run = message_schema(all_message_types()["batch"])["$defs"]["Run"]
    assert run["properties"]["base"]["description"] == "The entry that the device had applied when the app wrote."


# ── AsyncAPI ──────────────────────────────────────────────────────────────────────────────────────────────────────


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [reference for value in node.values() for reference in references(value)]
    if isinstance(node, list):
        return [reference for value in node for reference in references(value)]
    return []


def test_the_yaml_reads_as_the_document() -> None:
    text = (generate.FOLDER / "asyncapi.yaml").read_text()
    assert yaml.safe_load(text) == asyncapi.document()


def test_every_reference_in_the_document_leads_somewhere() -> None:
    document = asyncapi.document()
    found = references(document)
    assert len(found) > 50
    for reference in found:
        node: Any = document
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]
        assert node


@pytest.mark.parametrize("channel", asyncapi.CHANNELS, ids=lambda channel: channel.kind)
def test_a_channel_is_the_topic_that_the_code_builds_and_carries_what_it_carries(channel: asyncapi.Channel) -> None:
    topic = topics.parse(channel.address.format(stream="main", device="till-7", node="hub-1"))
    assert topic is not None
    assert topic.kind == channel.kind
    document = asyncapi.document()
    described = document["channels"][channel.kind]
    assert sorted(described["messages"]) == sorted(map(type_name, message_types(channel.kind)))
    assert {f"{{{name}}}" for name in described["parameters"]} == {
        level for level in channel.address.split("/") if level.startswith("{")
    }
    mqtt = document["operations"][channel.operation]["bindings"]["mqtt"]
    assert mqtt == {
        "qos": 1,
        "retain": channel.kind in ("head", "device_state", "hub_state"),
        "bindingVersion": "0.2.0",
    }


def test_every_kind_of_topic_has_a_channel() -> None:
    assert [channel.kind for channel in asyncapi.CHANNELS] == list(KINDS)


# ── YAML ──────────────────────────────────────────────────────────────────────────────────────────────────────────

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["no", "~", "1", "a: b", "- x", "#", "1e3"])
)
keys = st.text(max_size=4)
documents = st.dictionaries(
    keys,
    st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=6
    ),
    max_size=3,
)


@settings(max_examples=60)
@given(documents)
def test_any_plain_data_survives_as_yaml(data: dict[str, Any]) -> None:
    assert yaml.safe_load(yaml_text.dump(data)) == data
