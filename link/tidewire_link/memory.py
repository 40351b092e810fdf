"""The link without a network: a broker inside the process, for tests, simulations and tools.

It passes the same contract suite as a real broker, and does on demand what real ones do at bad moments: end a
connection, refuse, lose messages, fall silent, forget everything.

    broker = InMemoryBroker()
    link = InMemoryLink(LinkSettings(client_id="till-7"), broker)
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tidewire_link.connection import Connection, Handler
from tidewire_link.errors import (
    CannotReach,
    ConnectionLost,
    LinkError,
    NoAnswer,
    PayloadTooLarge,
    PublishDenied,
    TakenOver,
)
from tidewire_link.port import Received
from tidewire_link.reconnecting import ReconnectingLink
from tidewire_link.settings import LinkSettings


class InMemoryLink(ReconnectingLink):
    """The `Link` port over an `InMemoryBroker`; everything of `LinkSettings` but the way to the broker counts."""

    def __init__(
        self, settings: LinkSettings, broker: InMemoryBroker, *, chance: Callable[[], float] = random.random
    ) -> None:
        super().__init__(settings, broker.dial, chance=chance)


@dataclass(slots=True)
class _Loss:
    """Messages on matching topics that will be confirmed and then lost."""

    topic_filter: str
    count: int


class InMemoryBroker:
    """An MQTT broker in memory, for links on one event loop.

    Args:
        payload_bytes_max: largest payload it takes; MQTT 5 clients are told.
        inflight_max: publishes it takes from a client before it confirmed one; MQTT 5 clients are told.
        queued_messages_max: messages kept for a client that does not confirm; what exceeds it is lost, as in Mosquitto.
    """

    def __init__(
        self,
        *,
        payload_bytes_max: int = 256 * 1024 * 1024,
        inflight_max: int = 65535,
        queued_messages_max: int = 1000,
    ) -> None:
        self.payload_bytes_max = payload_bytes_max
        self.inflight_max = inflight_max
        self.queued_messages_max = queued_messages_max
        self.retained: dict[str, bytes] = {}
        self.messages_lost = 0
        """Messages dropped on demand or because a client's queue was full."""
        self._connections: dict[str, MemoryConnection] = {}
        self._running = True
        self._answering = asyncio.Event()
        self._answering.set()
        self._refusal: LinkError | None = None
        self._denied_publishes: list[str] = []
        self._denied_subscriptions: list[str] = []
        self._losses: list[_Loss] = []

    # ── what a test does to it ────────────────────────────────────────────────────────────────────────────────────

    @property
    def client_ids(self) -> tuple[str, ...]:
        """Who is connected."""
        return tuple(self._connections)

    def cut(self, client_id: str) -> None:
        """End a client's connection as if the network had: its will is published."""
        connection = self._connections[client_id]
        connection.leave(with_will=True)
        connection.end(ConnectionLost("the connection was cut"))

    def stop(self) -> None:
        """Vanish: all connections end, nobody can connect."""
        self._running = False
        for connection in list(self._connections.values()):
            connection.leave(with_will=False)
            connection.end(ConnectionLost("the broker stopped"))

    def start(self) -> None:
        """Be there again, with the retained messages it had (see `wipe`)."""
        self._running = True

    def wipe(self) -> None:
        """Forget the retained messages."""
        self.retained.clear()

    def freeze(self) -> None:
        """Answer nothing from now on, with all connections open."""
        self._answering.clear()
        for connection in self._connections.values():
            connection.go_silent()

    def thaw(self) -> None:
        """Answer again."""
        self._answering.set()
        for connection in list(self._connections.values()):
            connection.work()

    def refuse_connections(self, error: LinkError | None) -> None:
        """Refuse everybody who connects, for this reason; None: take them in again."""
        self._refusal = error

    def deny_publish(self, topic_filter: str) -> None:
        """Forbid publishing to matching topics: MQTT 5 clients are told, for others the message is dropped."""
        self._denied_publishes.append(topic_filter)

    def deny_subscribe(self, topic_filter: str) -> None:
        """Refuse subscriptions to this filter, or to topics that match it."""
        self._denied_subscriptions.append(topic_filter)

    def allow_everything(self) -> None:
        """Take back all denials."""
        self._denied_publishes.clear()
        self._denied_subscriptions.clear()

    def lose(self, topic_filter: str, count: int = 1) -> None:
        """Confirm the next `count` messages to matching topics and deliver them to nobody."""
        self._losses.append(_Loss(topic_filter, count))

    # ── what its connections ask ──────────────────────────────────────────────────────────────────────────────────

    async def dial(self, settings: LinkSettings, handler: Handler) -> Connection:
        """Connect a client, ending an older connection with the same client id."""
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(settings.connect_timeout_s):
                await self._answering.wait()
        except TimeoutError:
            raise CannotReach(f"the broker gave no answer within {settings.connect_timeout_s:g} s") from None
        if not self._running:
            raise CannotReach("the broker is stopped")
        if self._refusal is not None:
            raise self._refusal
        older = self._connections.get(settings.client_id)
        if older is not None:
            older.leave(with_will=True)
            told = older.protocol == "5"
            text = f"another client connected as {settings.client_id!r}"
            older.end(TakenOver(text) if told else ConnectionLost("the connection was closed by the broker"))
        connection = MemoryConnection(self, settings, handler)
        self._connections[settings.client_id] = connection
        return connection

    @property
    def answering(self) -> bool:
        """Whether it is not frozen."""
        return self._answering.is_set()

    def denies_publish(self, topic: str) -> bool:
        """Whether a publish to this topic is forbidden."""
        return any(matches(denied, topic) for denied in self._denied_publishes)

    def denies_subscribe(self, topic_filter: str) -> bool:
        """Whether a subscription is refused."""
        return any(denied == topic_filter or matches(denied, topic_filter) for denied in self._denied_subscriptions)

    def route(self, topic: str, payload: bytes, retain: bool) -> None:
        """Keep a retained message, and hand the message to every subscriber once."""
        if self._is_lost(topic):
            self.messages_lost += 1
            return
        if retain and payload:
            self.retained[topic] = payload
        elif retain:
            self.retained.pop(topic, None)
        for connection in list(self._connections.values()):
            if connection.wants(topic):
                connection.enqueue(Received(topic, payload))

    def remove(self, client_id: str) -> None:
        """A client is gone."""
        self._connections.pop(client_id, None)

    def _is_lost(self, topic: str) -> bool:
        for loss in self._losses:
            if loss.count > 0 and matches(loss.topic_filter, topic):
                loss.count -= 1
                return True
        return False


class MemoryConnection:
    """One client's connection to an `InMemoryBroker`: both ends of it."""

    def __init__(self, broker: InMemoryBroker, settings: LinkSettings, handler: Handler) -> None:
        told = settings.protocol == "5"
        self.protocol: str = settings.protocol
        self.payload_bytes_max = broker.payload_bytes_max if told else settings.payload_bytes_max
        self.inflight_max = broker.inflight_max if told else settings.inflight_max
        self._broker = broker
        self._settings = settings
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._over = False
        self._gone = False
        self._number = 0
        self._filters: set[str] = set()
        self._to_broker: deque[Callable[[], None]] = deque()
        self._to_client: deque[Received] = deque()
        self._unacknowledged = 0
        self._paused = False
        self._work_is_due = False

    # ── the client's end ──────────────────────────────────────────────────────────────────────────────────────────

    def publish(self, topic: str, payload: bytes, retain: bool) -> int:
        """See `Connection.publish`."""
        self._number += 1
        number = self._number
        self._ask(lambda: self._take_publish(number, topic, payload, retain))
        return number

    def subscribe(self, filters: Sequence[str]) -> int:
        """See `Connection.subscribe`."""
        self._number += 1
        number = self._number
        self._ask(lambda: self._take_subscribe(number, tuple(filters)))
        return number

    def acknowledge(self, token: int) -> None:
        """See `Connection.acknowledge`."""
        self._ask(self._take_acknowledgement)

    def pause(self) -> None:
        """See `Connection.pause`."""
        self._paused = True

    def resume(self) -> None:
        """See `Connection.resume`."""
        self._paused = False
        self.work()

    def abort(self, reason: LinkError) -> None:
        """See `Connection.abort`."""
        self.end(reason)
        self._ask(lambda: self.leave(with_will=True))

    def moving(self) -> bool:
        """See `Connection.moving`: here everything is there at once."""
        return False

    async def goodbye(self) -> None:
        """See `Connection.goodbye`."""
        self._over = True
        self.leave(with_will=False)

    def end(self, reason: LinkError) -> None:
        """The client learns that the connection is over."""
        if not self._over:
            self._over = True
            self._handler.lost(reason)

    def go_silent(self) -> None:
        """The broker froze: the client notices after 1.5 keepalives, if it lasts."""

        def look_again() -> None:
            if not self._broker.answering and not self._over:
                self.abort(NoAnswer(f"the broker was silent for {1.5 * self._settings.keepalive_s:g} s"))

        self._loop.call_later(1.5 * self._settings.keepalive_s, look_again)

    # ── the broker's end ──────────────────────────────────────────────────────────────────────────────────────────

    def wants(self, topic: str) -> bool:
        """Whether it subscribed to a topic."""
        return any(matches(topic_filter, topic) for topic_filter in self._filters)

    def enqueue(self, message: Received) -> None:
        """Queue a message for this client."""
        if len(self._to_client) >= self._broker.queued_messages_max:
            self._broker.messages_lost += 1
            return
        self._to_client.append(message)
        self.work()

    def leave(self, *, with_will: bool) -> None:
        """The broker forgets this client."""
        if self._gone:
            return
        self._gone = True
        self._broker.remove(self._settings.client_id)
        will = self._settings.will
        if with_will and will is not None:
            self._broker.route(will.topic, will.payload, will.retain)

    def work(self) -> None:
        """Move what waits in both directions, at the loop's next turn."""
        if not self._work_is_due:
            self._work_is_due = True
            self._loop.call_soon(self._work)

    def _ask(self, request: Callable[[], None]) -> None:
        self._to_broker.append(request)
        self.work()

    def _work(self) -> None:
        self._work_is_due = False
        while self._to_broker and self._broker.answering and not self._gone:
            self._to_broker.popleft()()
        while self._to_client and self._broker.answering and not self._over and not self._gone and not self._paused:
            if self._unacknowledged >= self._settings.unacked_max:
                return
            self._unacknowledged += 1
            self._handler.received(self._to_client.popleft(), 0)

    def _take_publish(self, number: int, topic: str, payload: bytes, retain: bool) -> None:
        if len(payload) > self._broker.payload_bytes_max:
            self.leave(with_will=True)
            self.end(
                PayloadTooLarge("the broker ended the connection: a message was too large", size=len(payload))
                if self.protocol == "5"
                else ConnectionLost("the connection was closed by the broker")
            )
            return
        denied = self._broker.denies_publish(topic)
        if not denied:
            self._broker.route(topic, payload, retain)
        if not self._over:
            self._handler.published(
                number, PublishDenied(topic, "Not authorized") if denied and self.protocol == "5" else None
            )

    def _take_subscribe(self, number: int, filters: Sequence[str]) -> None:
        refusals: list[str | None] = []
        for topic_filter in filters:
            if self._broker.denies_subscribe(topic_filter):
                refusals.append("Not authorized")
                continue
            refusals.append(None)
            self._filters.add(topic_filter)
            for topic, payload in self._broker.retained.items():
                if matches(topic_filter, topic):
                    self.enqueue(Received(topic, payload, retained=True))
        if not self._over:
            self._handler.subscribed(number, refusals)

    def _take_acknowledgement(self) -> None:
        self._unacknowledged -= 1


def matches(topic_filter: str, topic: str) -> bool:
    """Whether an MQTT topic filter (with `+` and `#`) matches a topic."""
    wanted, levels = topic_filter.split("/"), topic.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or (level not in ("+", levels[index])):
            return False
    return len(wanted) == len(levels)
