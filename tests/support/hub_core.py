"""Drives `HubCore` by hand: says what came in and when, and reads what it wants done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tidewire_hub.actions import Append, Effect, Now, Publish, QueuedBatch
from tidewire_hub.core import HubCore
from tidewire_hub.log.port import StoredEntry
from tidewire_hub.settings import HubSettings
from tidewire_hub.stream import Acked, BatchProblem, Commit
from tidewire_schemas import codec, topics
from tidewire_schemas.base import Message
from tidewire_schemas.digest import NO_DIGEST, message_digest
from tidewire_schemas.messages import Hello, LastSealed, ReplayRequest
from tidewire_schemas.positions import START, Position, Seq

LOG = "a" * 32
BOOT = "b" * 32
INCARNATION = "c" * 32
EPOCH = 1000

E = TypeVar("E")


def settings(**changes: Any) -> HubSettings:
    return HubSettings.model_validate({"data": Path("/nowhere"), **changes})


@dataclass
class Driver:
    """A core, a clock in the test's hand, and all effects so far."""

    core: HubCore
    s: float = 100.0
    seen: list[Effect] = field(default_factory=list)

    @classmethod
    def make(cls, *, head: Position = START, oldest: int = 1, **changes: Any) -> Driver:
        core = HubCore(settings(**changes), log=LOG, epoch=EPOCH, head=head, oldest=oldest, boot="d" * 32, version="1")
        return cls(core)

    @property
    def now(self) -> Now:
        return Now(self.s, round(self.s * 1000))

    def take(self, effects: list[Effect]) -> list[Effect]:
        self.seen += effects
        return effects

    def send(self, topic: str, payload: bytes | Message) -> list[Effect]:
        data = codec.encode(payload) if isinstance(payload, Message) else payload
        return self.take(self.core.on_message(topic, data, self.now))

    def up(self, device: str, payload: bytes) -> list[Effect]:
        return self.send(topics.up("main", device), payload)

    def ask(self, device: str, message: bytes | Message) -> list[Effect]:
        return self.send(topics.ask("main", device), message)

    def later(self, seconds: float) -> list[Effect]:
        self.s += seconds
        return self.take(self.core.on_time(self.now))

    def appended(self, group: Sequence[QueuedBatch], **parts: Any) -> list[Effect]:
        """The group became durable: an entry and an ack for each batch, unless told otherwise."""
        prev = self.core.head
        entries, acks = [], []
        for number, (device, payload) in enumerate(() if "entries" in parts else group, start=1):
            position = Position(self.core.epoch, prev.seq + number)
            batch = codec.parse_batch(payload)
            entries.append(StoredEntry(position, stored(position, device, batch.batch.batch, payload)))
            digest = message_digest(payload)
            acks.append(Acked(device, batch.batch.incarnation, batch.batch.batch, digest, Seq(position.seq)))
        made = Commit(**{"prev": prev, "entries": entries, "acks": acks, **parts})
        return self.take(self.core.on_appended(group, made, self.now))


def only(kind: type[E], effects: Sequence[Effect]) -> E:
    """The one effect of a kind."""
    (found,) = every(kind, effects)
    return found


def every(kind: type[E], effects: Sequence[Effect]) -> list[E]:
    return [effect for effect in effects if isinstance(effect, kind)]


def group_of(effects: Sequence[Effect]) -> tuple[QueuedBatch, ...]:
    return only(Append, effects).group


def messages(effects: Sequence[Effect], topic: str) -> list[Any]:
    """The messages published on a topic, parsed."""
    place = topics.parse(topic)
    assert place is not None
    return [
        codec.parse(place.kind, effect.payload, bytes_max=2**30)
        for effect in every(Publish, effects)
        if effect.topic == topic
    ]


def told(effects: Sequence[Effect], device: str) -> list[Any]:
    return messages(effects, topics.inbox(device, "main"))


def batch(number: int = 1, *, incarnation: str = INCARNATION, padding: int = 0) -> bytes:
    changes = b'[{"op":"put","table":"t","base":[0,0],"key":1,"columns":["id","x"],"rows":[[1,"%s"]]}]' % (
        b"x" * padding
    )
    return codec.encode_batch(
        incarnation=incarnation, batch=number, prev_digest=NO_DIGEST, sealed_at=5, changes_json=changes
    )


def stored(position: Position, device: str, number: int, payload: bytes) -> bytes:
    return codec.encode_entry(
        seq=position.seq,
        epoch=position.epoch,
        device=device,
        incarnation=INCARNATION,
        batch=number,
        digest=message_digest(payload),
        at=1,
        refused_json=b"[]",
        changes_json=codec.parse_batch(payload).changes_json,
    )


def entries(first: int, last: int, *, padding: int = 0) -> list[tuple[Position, bytes]]:
    """Entries of the log, one batch each."""
    positions = [Position(EPOCH, seq) for seq in range(first, last + 1)]
    return [(p, stored(p, "till", p.seq, batch(p.seq, padding=padding))) for p in positions]


def hello(**changes: Any) -> Hello:
    return Hello.model_validate(
        {
            "v": 1,
            "type": "hello",
            "incarnation": INCARNATION,
            "boot": BOOT,
            "log": None,
            "position": START,
            "epoch": 0,
            "last_sealed": None,
            "oldest_kept": 0,
            "tables": (),
            **changes,
        }
    )


def sealed(number: int, digest: str = "e" * 32) -> LastSealed:
    return LastSealed(batch=number, digest=digest)


def replay_request(position: Position = START, pages: int = 4, boot: str = BOOT) -> ReplayRequest:
    return ReplayRequest(v=1, type="replay_request", incarnation=INCARNATION, boot=boot, position=position, pages=pages)


def problem(device: str, code: str, **changes: Any) -> BatchProblem:
    return BatchProblem(device, INCARNATION, code, f"{code} happened", **changes)
