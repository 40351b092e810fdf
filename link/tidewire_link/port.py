"""The MQTT connection as both sides see it: publish, subscribe, and one ordered stream of events.

    link = MqttLink(LinkSettings(url="mqtt://broker.local", client_id="till-7-3f"))
    await link.open()
    async for event in link:
        match event:
            case Connected():
                await link.subscribe(["tidewire/v1/stream/main/log"])
                link.publish("tidewire/v1/device/till-7/state", b"…", retain=True)
            case Received(topic, payload):
                ...
            case Disconnected(reason):
                print(reason)

Rules that callers rely on:

- Every connection begins clean: nothing is remembered by the broker or queued here from the one before. So subscribe
  after each `Connected`, and publish again what was not confirmed.
- Events come in the order in which things happened. A `Received` after a `Disconnected` belongs to a later connection.
- After a `Disconnected` the link tries again by itself, for ever, but not before that event was taken: a consumer that
  is stuck sees one loss, not a thousand.
- Nothing that was received is dropped. When `inbound_messages_max` or `inbound_bytes_max` is reached, received messages
  are no longer acknowledged, so that the broker holds the next ones back; if it sends on, the socket is no longer read.
  In the second case the broker's answers wait too: take events in a task that does not itself wait for a publish or
  subscribe, or at least not while messages flow.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tidewire_link.errors import LinkError


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker took us in: subscribe now.

    `payload_bytes_max` is the smaller of the setting and what the broker takes; `protocol` is "5" or "3.1.1".
    """

    payload_bytes_max: int
    protocol: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A connection ended, or an attempt to connect failed; the next attempt begins in `retry_in_s` seconds.

    `reason` is None only when a connection ended by agreement.
    """

    reason: LinkError | None
    retry_in_s: float


@dataclass(frozen=True, slots=True)
class Received:
    """A message came in. `retained` says it is the topic's kept message, sent because we subscribed."""

    topic: str
    payload: bytes
    retained: bool = False


Event = Connected | Disconnected | Received


class Link(Protocol):
    """A connection to a broker that is made again whenever it is lost. Used from one event loop."""

    @property
    def connected(self) -> bool:
        """Whether a publish would be sent now."""
        ...

    @property
    def moving(self) -> bool:
        """Whether something large is under way on a slow link, in or out, and gets on: answers wait behind it."""
        ...

    async def open(self) -> None:
        """Begin to connect, in the background; returns at once. What becomes of it is told by events."""
        ...

    async def close(self) -> None:
        """Say goodbye to the broker (so it does not publish the last will) and stop; may be called twice.

        Publishes under way fail with `Disconnected`; `next_event` raises `LinkClosed` from now on.
        """
        ...

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> asyncio.Future[None]:
        """Send a message with QoS 1; the future is done when the broker has it (PUBACK).

        Messages arrive at the broker in the order of these calls. The future may be ignored; it then fails silently.
        It fails with `NotConnected`, `WindowFull`, `PayloadTooLarge`, `PublishDenied`, or `Disconnected` (the broker
        may or may not have it).
        """
        ...

    async def room(self) -> None:
        """Wait until a publish would not fail with `WindowFull`.

        Raises:
            NotConnected: there is no connection, or it was lost while waiting.
        """
        ...

    async def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe with QoS 1 for the time of this connection; returns when the broker confirmed.

        Raises:
            SubscriptionDenied: the broker refused at least one of them (the others hold).
            NotConnected: there is no connection.
            Disconnected: it was lost before the broker confirmed.
        """
        ...

    async def next_event(self) -> Event:
        """The next event, in order. To be awaited by one task at a time.

        Raises:
            LinkClosed: the link was closed.
        """
        ...

    def __aiter__(self) -> AsyncIterator[Event]:
        """All events until the link is closed."""
        ...
