"""Topic names: built and parsed here and nowhere else.

    tidewire/v1/stream/{stream}/up/{device}     device → hub    Batch, Part
    tidewire/v1/stream/{stream}/ask/{device}    device → hub    Hello, ReplayRequest, SnapshotRequest,
                                                                FreshRequest, Part
    tidewire/v1/stream/{stream}/log             hub → all       Page, Part
    tidewire/v1/stream/{stream}/head            hub → all       Head (retained); hubs listen to it too
    tidewire/v1/device/{device}/in/{stream}     hub → device    Welcome, Ack, Replay, Snapshot, SnapshotChunk,
                                                                FreshAnswer, Problem, Part
    tidewire/v1/device/{device}/state           device → all    DeviceState (retained, last will)
    tidewire/v1/hub/{node}/state                hub → all       HubState (retained, last will)

At most seven slashes (AWS IoT's limit), no wildcard in a level, names as in `names.TopicName`.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from tidewire_schemas.errors import InvalidName
from tidewire_schemas.names import check_topic_name

ROOT: Final = "tidewire/v1"

Kind = Literal["up", "ask", "log", "head", "in", "device_state", "hub_state"]


class Topic(NamedTuple):
    """A parsed topic: its kind and the names in it (None where the kind has no such level)."""

    kind: Kind
    stream: str | None = None
    device: str | None = None
    node: str | None = None


def up(stream: str, device: str) -> str:
    """Where a device sends its batches."""
    return f"{ROOT}/stream/{_stream(stream)}/up/{_device(device)}"


def ask(stream: str, device: str) -> str:
    """Where a device asks: handshake, replay, snapshots, freshness."""
    return f"{ROOT}/stream/{_stream(stream)}/ask/{_device(device)}"


def log(stream: str) -> str:
    """Where the hub fans the ordered log out."""
    return f"{ROOT}/stream/{_stream(stream)}/log"


def head(stream: str) -> str:
    """Where the hub says, retained, how far the log goes."""
    return f"{ROOT}/stream/{_stream(stream)}/head"


def inbox(device: str, stream: str) -> str:
    """Where the hub answers one device about one stream."""
    return f"{ROOT}/device/{_device(device)}/in/{_stream(stream)}"


def device_state(device: str) -> str:
    """Where a device, or its last will, says how it is."""
    return f"{ROOT}/device/{_device(device)}/state"


def hub_state(node: str) -> str:
    """Where a hub node, or its last will, says how it is."""
    return f"{ROOT}/hub/{check_topic_name(node, 'node')}/state"


def hub_filters(stream: str) -> tuple[str, ...]:
    """Subscriptions of a hub that leads `stream`: batches, questions and states of every device."""
    name = _stream(stream)
    return (
        f"{ROOT}/stream/{name}/ask/+",
        f"{ROOT}/stream/{name}/up/+",
        f"{ROOT}/device/+/state",
    )


def rival_filters(stream: str) -> tuple[str, ...]:
    """Subscriptions by which a hub notices others that lead, or want to lead, `stream`."""
    return (head(stream), f"{ROOT}/hub/+/state")


def agent_filters(stream: str, device: str) -> tuple[str, ...]:
    """Subscriptions of an agent; its inbox first, so that nothing it asks for is answered unheard."""
    return (inbox(device, stream), log(stream), head(stream))


def parse(topic: str) -> Topic | None:
    """The parts of a Tidewire topic, or None for anything else (a broker may deliver what nobody asked for)."""
    levels = topic.split("/")
    try:
        match levels:
            case ["tidewire", "v1", "stream", stream, "up", device]:
                return Topic("up", stream=_stream(stream), device=_device(device))
            case ["tidewire", "v1", "stream", stream, "ask", device]:
                return Topic("ask", stream=_stream(stream), device=_device(device))
            case ["tidewire", "v1", "stream", stream, "log"]:
                return Topic("log", stream=_stream(stream))
            case ["tidewire", "v1", "stream", stream, "head"]:
                return Topic("head", stream=_stream(stream))
            case ["tidewire", "v1", "device", device, "in", stream]:
                return Topic("in", stream=_stream(stream), device=_device(device))
            case ["tidewire", "v1", "device", device, "state"]:
                return Topic("device_state", device=_device(device))
            case ["tidewire", "v1", "hub", node, "state"]:
                return Topic("hub_state", node=check_topic_name(node, "node"))
            case _:
                return None
    except InvalidName:
        return None


def _stream(name: str) -> str:
    return check_topic_name(name, "stream")


def _device(name: str) -> str:
    return check_topic_name(name, "device")
