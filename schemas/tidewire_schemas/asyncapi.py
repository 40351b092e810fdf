"""The AsyncAPI 3.0 document: every topic, what it carries, who sends it, how."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from tidewire_schemas.base import VERSION
from tidewire_schemas.json_schema import Schema, all_message_types, component_schemas, message_types, type_name
from tidewire_schemas.topics import ROOT, Kind


class Channel(NamedTuple):
    """A kind of topic as the document describes it: `action` and `operation` are the device's, `replies` come back."""

    kind: Kind
    address: str
    title: str
    action: str
    operation: str
    summary: str
    retain: bool = False
    replies: tuple[str, ...] = ()


CHANNELS: Final = (
    Channel(
        "up",
        f"{ROOT}/stream/{{stream}}/up/{{device}}",
        "Batches of a device",
        "send",
        "sendBatches",
        "A device sends what its apps committed; the hub answers each batch with an ack or a problem.",
        replies=("ack", "problem"),
    ),
    Channel(
        "ask",
        f"{ROOT}/stream/{{stream}}/ask/{{device}}",
        "Questions of a device",
        "send",
        "ask",
        "A device shakes hands, asks for entries that it missed or for a snapshot, how far the log goes, or what "
        "rows the hub holds.",
        replies=("welcome", "replay", "snapshot", "snapshot_chunk", "fresh_answer", "verify_answer", "problem", "part"),
    ),
    Channel(
        "log",
        f"{ROOT}/stream/{{stream}}/log",
        "The ordered log",
        "receive",
        "receiveLog",
        "The hub fans each commit out to all devices as one page.",
    ),
    Channel(
        "head",
        f"{ROOT}/stream/{{stream}}/head",
        "How far the log goes",
        "receive",
        "receiveHead",
        "The hub says how far the log goes, at every page and periodically.",
        retain=True,
    ),
    Channel(
        "in",
        f"{ROOT}/device/{{device}}/in/{{stream}}",
        "Answers to a device",
        "receive",
        "receiveAnswers",
        "The hub answers one device: welcome, acks, replay, snapshots, rows to compare, problems.",
    ),
    Channel(
        "device_state",
        f"{ROOT}/device/{{device}}/state",
        "How a device is",
        "send",
        "sendDeviceState",
        "A device says how it is; the broker sends its last will with state offline.",
        retain=True,
    ),
    Channel(
        "hub_state",
        f"{ROOT}/hub/{{node}}/state",
        "How a hub node is",
        "receive",
        "receiveHubState",
        "A hub node says how it is; the broker sends its last will with state offline.",
        retain=True,
    ),
)

_NAME: Final = "1 to 63 of a-z 0-9 _ - beginning with a letter or digit."
_PARAMETERS: Final = {
    "stream": {"description": f"Name of a stream: {_NAME}", "default": "main"},
    "device": {"description": f"Name of a device: {_NAME} The broker lets a device use its own alone."},
    "node": {"description": f"Name of a hub node: {_NAME}"},
}
_INFO: Final = {
    "title": "Tidewire",
    "version": f"{VERSION}.0.0",
    "description": (
        "Edge-to-cloud sync of SQLite databases over any MQTT broker. Operations are told from the side of a device; "
        "the hub's are their mirror image. One JSON document in UTF-8 per message, QoS 1 throughout. "
        "docs/reference/protocol.md tells the sequences."
    ),
    "license": {"name": "Apache-2.0"},
}
_SERVERS: Final = {
    "broker": {
        "host": "{broker}",
        "protocol": "mqtt",
        "protocolVersion": "5.0",
        "description": "Any broker of MQTT 5.0 or 3.1.1.",
        "variables": {"broker": {"default": "127.0.0.1:1883"}},
    }
}


def document() -> dict[str, Any]:
    """The whole document as plain data."""
    return {
        "asyncapi": "3.0.0",
        "info": _INFO,
        "defaultContentType": "application/json",
        "servers": _SERVERS,
        "channels": {channel.kind: _channel(channel) for channel in CHANNELS},
        "operations": {channel.operation: _operation(channel) for channel in CHANNELS},
        "components": {
            "parameters": _PARAMETERS,
            "messages": {name: _message(name, message.__name__) for name, message in all_message_types().items()},
            "schemas": component_schemas(),
        },
    }


def _channel(channel: Channel) -> Schema:
    return {
        "address": channel.address,
        "title": channel.title,
        "description": channel.summary,
        "parameters": {
            name: {"$ref": f"#/components/parameters/{name}"}
            for name in _PARAMETERS
            if f"{{{name}}}" in channel.address
        },
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in _carried(channel.kind)},
    }


def _operation(channel: Channel) -> Schema:
    operation: Schema = {
        "action": channel.action,
        "summary": channel.summary,
        "channel": {"$ref": f"#/channels/{channel.kind}"},
        "messages": _references(channel.kind, _carried(channel.kind)),
        "bindings": {"mqtt": {"qos": 1, "retain": channel.retain, "bindingVersion": "0.2.0"}},
    }
    if channel.replies:
        operation["reply"] = {"channel": {"$ref": "#/channels/in"}, "messages": _references("in", channel.replies)}
    return operation


def _message(name: str, model: str) -> Schema:
    return {"name": name, "title": model, "payload": {"$ref": f"#/components/schemas/{model}"}}


def _references(kind: Kind, names: Sequence[str]) -> list[Schema]:
    return [{"$ref": f"#/channels/{kind}/messages/{name}"} for name in names]


def _carried(kind: Kind) -> list[str]:
    return [type_name(message) for message in message_types(kind)]
