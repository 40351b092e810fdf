"""The network and the broker: what they may do to messages within MQTT's rules, and what they do beyond them.

MQTT promises order for the messages of one publisher on one topic, and delivery at least once while a connection lasts.
So messages of different publishers or topics overtake each other here, the last ones of a topic may come again, and all
that is under way is lost with the connection. Real brokers also drop from a full queue, grant subscriptions and then
deliver nothing, and notice late that a client is gone: these are faults of their own.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from simulation.virtual_time import Owner, current_process
from tidewire_link.connection import Connection, Handler
from tidewire_link.errors import CannotReach, ConnectionLost, LinkError, TakenOver
from tidewire_link.memory import matches
from tidewire_link.port import Received
from tidewire_link.settings import LinkSettings

NEXT_S: Final = 1e-6
"""Between two messages of which the second must not overtake the first."""

REPEATED_MAX: Final = 3
"""So many of a topic's last messages may come again at once."""


@dataclass
class Weather:
    """How the network is now; faults change it, and calm puts it back."""

    delay_s: float = 0.01
    slow_share: float = 0.0
    """Share of messages that take up to `slow_s`."""
    slow_s: float = 1.5
    again_share: float = 0.0
    """Share of deliveries after which the last messages of the topic come again."""
    lost_share: float = 0.0
    """Share of messages that the broker takes and drops."""
    overtaking: bool = False
    """Whether messages on different topics of one publisher may overtake each other."""
    deaf: set[str] = field(default_factory=set)
    """Machines to which the broker delivers nothing."""
    offline: set[str] = field(default_factory=set)
    """Machines that reach no broker."""
    broker_down: bool = False


class Network:
    """The broker and all ways to it.

    Args:
        chance: decides delays and losses.
        on_publish: told of each publish that reaches the broker: client id, topic, payload.
        on_delivery: told of each message that a client takes.
        happened: counts what the weather did, by name.
    """

    def __init__(
        self,
        chance: random.Random,
        *,
        on_publish: Callable[[str, str, bytes], None],
        on_delivery: Callable[[str, str, bytes], None],
        happened: Callable[[str], None],
    ) -> None:
        self.weather = Weather()
        self.chance = chance
        self.happened = happened
        self.on_delivery = on_delivery
        self.clients: dict[str, Client] = {}
        self._on_publish = on_publish
        self._retained: dict[str, bytes] = {}

    async def dial(self, settings: LinkSettings, handler: Handler) -> Connection:
        """Connect a client."""
        process = current_process()
        await asyncio.sleep(self.delay())
        machine = settings.username or ""
        if self.weather.broker_down or machine in self.weather.offline or not process.alive:
            raise CannotReach("the broker cannot be reached")
        older = self.clients.get(settings.client_id)
        if older is not None:
            older.close(TakenOver("another client connected under this id"))
        client = Client(self, settings, handler, process, machine)
        self.clients[settings.client_id] = client
        return client

    def delay(self) -> float:
        """How long a message takes now."""
        slow = self.chance.random() < self.weather.slow_share
        return self.chance.random() * (self.weather.slow_s if slow else self.weather.delay_s)

    def route(self, publisher: str, topic: str, payload: bytes, retain: bool) -> None:
        """The broker has a message."""
        self._on_publish(publisher, topic, payload)
        if retain:
            self._retained[topic] = payload
        for client in list(self.clients.values()):
            if client.wants(topic):
                client.send(publisher, Received(topic, payload))

    def retained(self, topic_filter: str) -> list[Received]:
        """The kept messages that a filter matches."""
        return [Received(topic, kept, True) for topic, kept in self._retained.items() if matches(topic_filter, topic)]

    def of_machine(self, machine: str) -> list[Client]:
        """The connections of a machine."""
        return [client for client in self.clients.values() if client.machine == machine]

    def restart_broker(self) -> None:
        """The broker's process ends, and its store with it."""
        for client in list(self.clients.values()):
            client.close(ConnectionLost("the broker went away"), will=False)
        self._retained.clear()


class Client:
    """One client's connection: both ends of it, and what is under way between them."""

    def __init__(
        self, network: Network, settings: LinkSettings, handler: Handler, process: Owner, machine: str
    ) -> None:
        self.protocol: str = settings.protocol
        self.payload_bytes_max = settings.payload_bytes_max
        self.inflight_max = settings.inflight_max
        self.machine = machine
        self._network = network
        self._settings = settings
        self._handler = handler
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._here = True
        """The client's end is open."""
        self._there = True
        """The broker's end is open."""
        self._filters: list[str] = []
        self._wanted: dict[str, bool] = {}
        """Topics that were asked for."""
        self._number = 0
        self._up_free_at = 0.0
        self._flows: dict[tuple[str, str], _Flow] = {}
        self._held: deque[Received] | None = None

    # ── the client's end ──────────────────────────────────────────────────────────────────────────────────────────

    def publish(self, topic: str, payload: bytes, retain: bool) -> int:
        """See `Connection.publish`."""
        return self._ask(lambda number: self._take_publish(number, topic, payload, retain))

    def subscribe(self, filters: Sequence[str]) -> int:
        """See `Connection.subscribe`."""
        return self._ask(lambda number: self._take_subscribe(number, filters))

    def acknowledge(self, token: int) -> None:
        """See `Connection.acknowledge`."""

    def pause(self) -> None:
        """See `Connection.pause`."""
        self._held = self._held or deque()

    def resume(self) -> None:
        """See `Connection.resume`."""
        held, self._held = self._held or deque(), None
        for message in held:
            self._give(message)

    def abort(self, reason: LinkError) -> None:
        """See `Connection.abort`."""
        self.cut(reason)

    def moving(self) -> bool:
        """See `Connection.moving`: here messages come whole."""
        return False

    async def goodbye(self) -> None:
        """See `Connection.goodbye`."""
        self._here = False
        self.leave(will=False)

    # ── what happens to it ────────────────────────────────────────────────────────────────────────────────────────

    def close(self, reason: LinkError, *, will: bool = True) -> None:
        """The connection ends, and both ends know."""
        self.leave(will=will)
        if self._here:
            self._here = False
            if self._process.alive:
                self._handler.lost(reason)

    def cut(self, reason: LinkError | None = None, *, notice_s: float | None = None) -> None:
        """The connection is gone: what was on its way to the client is lost, and the broker notices at once or late.

        What had left the client still arrives where the broker notices late.
        """
        if notice_s is None:
            self.leave(will=True)
        else:
            self._loop.call_later(notice_s, self.leave)
        if self._here:
            self._here = False
            if self._process.alive:
                self._handler.lost(reason or ConnectionLost("the connection was cut"))

    # ── the broker's end ──────────────────────────────────────────────────────────────────────────────────────────

    def wants(self, topic: str) -> bool:
        """Whether it subscribed to a topic."""
        wanted = self._wanted.get(topic)
        if wanted is None:
            wanted = self._wanted[topic] = any(matches(topic_filter, topic) for topic_filter in self._filters)
        return wanted

    def send(self, publisher: str, message: Received) -> None:
        """The broker sends a message to this client."""
        weather, chance = self._network.weather, self._network.chance
        if self.machine in weather.deaf:
            self._network.happened("broker_delivers_nothing")
            return
        if chance.random() < weather.lost_share:
            self._network.happened("broker_drops")
            return
        key = (publisher, message.topic if weather.overtaking else "")
        flow = self._flows.setdefault(key, _Flow())
        flow.free_at = max(flow.free_at + NEXT_S, self._loop.time() + self._network.delay())
        self._loop.call_at(flow.free_at, self._deliver, flow, message)

    def leave(self, *, will: bool = True) -> None:
        """The broker forgets this client."""
        if not self._there:
            return
        self._there = False
        if self._network.clients.get(self._settings.client_id) is self:
            del self._network.clients[self._settings.client_id]
        last = self._settings.will
        if will and last is not None:
            self._network.route(self._settings.client_id, last.topic, last.payload, last.retain)

    def _ask(self, request: Callable[[int], None]) -> int:
        self._number += 1
        number = self._number
        self._up_free_at = max(self._up_free_at + NEXT_S, self._loop.time() + self._network.delay())
        self._loop.call_at(self._up_free_at, lambda: request(number) if self._there else None)
        return number

    def _answer(self, call: Callable[[], None]) -> None:
        def answered() -> None:
            if self._here and self._process.alive:
                call()

        self._loop.call_later(self._network.delay(), answered)

    def _take_publish(self, number: int, topic: str, payload: bytes, retain: bool) -> None:
        self._network.route(self._settings.client_id, topic, payload, retain)
        self._answer(lambda: self._handler.published(number, None))

    def _take_subscribe(self, number: int, filters: Sequence[str]) -> None:
        self._filters.extend(filters)
        self._wanted.clear()
        for topic_filter in filters:
            for message in self._network.retained(topic_filter):
                self.send("", message)
        self._answer(lambda: self._handler.subscribed(number, [None] * len(filters)))

    def _deliver(self, flow: _Flow, message: Received) -> None:
        if not self._here:
            return
        self._give(message)
        flow.last.append(message)
        if self._network.chance.random() < self._network.weather.again_share:
            self._network.happened("duplicates")
            count = self._network.chance.randint(1, len(flow.last))
            for again in list(flow.last)[-count:]:
                self._give(again)

    def _give(self, message: Received) -> None:
        if not self._here or not self._process.alive:
            return
        if self._held is not None:
            self._held.append(message)
            return
        self._network.on_delivery(self._settings.client_id, message.topic, message.payload)
        self._handler.received(message, None)


@dataclass(slots=True)
class _Flow:
    """Messages that must stay in order."""

    free_at: float = 0.0
    last: deque[Received] = field(default_factory=lambda: deque(maxlen=REPEATED_MAX))
