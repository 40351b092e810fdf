"""The least of MQTT 3.1.1 that a simulated device needs: a thousand of them in one process must cost next to nothing.

What the product itself uses is `tidewire_link`; a thousand of its connections would be busier than the hub.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

KEEPALIVE_S = 60
PING_S = 20.0

_CONNECT = 0x10
_CONNACK = 0x20
_PUBLISH = 0x30
_PUBACK = 0x40
_SUBSCRIBE = 0x82
_SUBACK = 0x90
_PINGREQ = 0xC0
_QOS_1 = 0x02
_RETAIN = 0x01
_CLEAN_AND_RETAINED_WILL = 0x2E


class Owner(Protocol):
    """Who has a connection."""

    def connected(self) -> None:
        """The broker took it in."""

    def subscribed(self) -> None:
        """What was asked for will come."""

    def received(self, topic: bytes, payload: bytes) -> None:
        """A message, which is acknowledged already."""


class LightConnection(asyncio.Protocol):
    """One connection; `over` is done when it is lost."""

    def __init__(self, owner: Owner, client_id: str, will_topic: str, will: bytes) -> None:
        self._owner = owner
        body = b"\0\4MQTT\4" + bytes([_CLEAN_AND_RETAINED_WILL]) + KEEPALIVE_S.to_bytes(2, "big")
        self._hello = _packet(_CONNECT, body + b"".join(map(_field, (client_id.encode(), will_topic.encode(), will))))
        self._transport: asyncio.Transport | None = None
        self._held = bytearray()
        self._number = 0
        self._ping: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self.over: asyncio.Future[None] = self._loop.create_future()

    def subscribe(self, filters: Sequence[str]) -> None:
        """Ask for messages of these topics."""
        body = b"".join(_field(one.encode()) + b"\1" for one in filters)
        self._send(_packet(_SUBSCRIBE, self._next_number() + body))

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send a message of QoS 1; nobody waits for its confirmation."""
        first = _PUBLISH | _QOS_1 | (_RETAIN if retain else 0)
        self._send(_packet(first, _field(topic.encode()) + self._next_number() + payload))

    def close(self) -> None:
        """End it without a goodbye."""
        if self._transport is not None:
            self._transport.abort()

    # ── asyncio's side ────────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send(self._hello)
        self._keep_alive()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._ping is not None:
            self._ping.cancel()
        if not self.over.done():
            self.over.set_result(None)

    def data_received(self, data: bytes) -> None:
        held = self._held
        held += data
        start = 0
        while (found := _length(held, start)) is not None and found[0] + found[1] <= len(held):
            body, size = found
            self._take(held[start], bytes(held[body : body + size]))
            start = body + size
        del held[:start]

    def _take(self, first: int, body: bytes) -> None:
        kind = first & 0xF0
        if kind == _CONNACK:
            self._owner.connected()
        elif kind == _SUBACK:
            self._owner.subscribed()
        elif kind == _PUBLISH:
            payload_at = topic_end = 2 + int.from_bytes(body[:2], "big")
            if first & _QOS_1:
                payload_at += 2
                self._send(_packet(_PUBACK, body[topic_end:payload_at]))
            self._owner.received(body[2:topic_end], body[payload_at:])

    def _keep_alive(self) -> None:
        self._ping = self._loop.call_later(PING_S, self._keep_alive)
        self._send(_packet(_PINGREQ, b""))

    def _send(self, packet: bytes) -> None:
        if self._transport is not None:
            self._transport.write(packet)

    def _next_number(self) -> bytes:
        self._number = self._number % 65_535 + 1
        return self._number.to_bytes(2, "big")


def _field(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _packet(first: int, body: bytes) -> bytes:
    size, length = len(body), bytearray()
    while True:
        size, digit = divmod(size, 128)
        length.append(digit | (0x80 if size else 0))
        if not size:
            return bytes([first]) + bytes(length) + body


def _length(held: bytearray, start: int) -> tuple[int, int] | None:
    """Where the body of the packet at `start` begins and how long it is; None while its head is not complete."""
    size = 0
    for n in range(4):
        at = start + 1 + n
        if at >= len(held):
            return None
        size |= (held[at] & 0x7F) << (7 * n)
        if not held[at] & 0x80:
            return at + 1, size
    raise ValueError("the broker sent a packet of no length")
