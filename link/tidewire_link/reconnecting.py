"""A link made of one connection after another: waiting between them, publishes under way, back-pressure, events."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tidewire_link.backoff import Backoff
from tidewire_link.connection import Connection, Dial
from tidewire_link.errors import (
    Disconnected as DisconnectedError,
)
from tidewire_link.errors import (
    LinkClosed,
    LinkError,
    NoAnswer,
    NotConnected,
    PayloadTooLarge,
    SubscriptionDenied,
    WindowFull,
)
from tidewire_link.inbound import Inbound
from tidewire_link.port import Connected, Disconnected, Event, Received
from tidewire_link.settings import LinkSettings

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(slots=True)
class _Publish:
    """A publish that the broker has not confirmed."""

    done: asyncio.Future[None]
    size: int
    sent_at_s: float


@dataclass(slots=True)
class _Subscribe:
    """A subscription that the broker has not answered."""

    done: asyncio.Future[Sequence[str | None]]
    sent_at_s: float


class ReconnectingLink:
    """The `Link` port over anything that can dial a `Connection`.

    Args:
        settings: where to and with what limits.
        dial: makes a connection.
        chance: random numbers in [0, 1), for the delays between attempts.
    """

    def __init__(self, settings: LinkSettings, dial: Dial, *, chance: Callable[[], float] = random.random) -> None:
        self.settings = settings
        self._dial = dial
        self._chance = chance
        self._backoff = Backoff(
            delay_min_s=settings.reconnect_delay_min_s,
            delay_max_s=settings.reconnect_delay_max_s,
            stable_after_s=settings.stable_after_s,
        )
        self._inbound = Inbound(messages_max=settings.inbound_messages_max, bytes_max=settings.inbound_bytes_max)
        self._connection: Connection | None = None
        self._run_task: asyncio.Task[None] | None = None
        self._closed = False
        self._loss_was_taken = asyncio.Event()
        self._ended: asyncio.Future[LinkError | None] | None = None
        # Of the present connection:
        self._publishes: dict[int, _Publish] = {}
        self._publish_bytes = 0
        self._subscribes: dict[int, _Subscribe] = {}
        self._room_waiters: deque[asyncio.Future[None]] = deque()
        self._payload_bytes_max = 0
        self._window = 0
        self._progress_at_s = 0.0
        self._unacknowledged: deque[int] = deque()
        self._paused = False
        self._denial_was_logged = False

    # ── the port ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def connected(self) -> bool:
        """Whether a publish would be sent now."""
        return self._connection is not None

    @property
    def moving(self) -> bool:
        """See `Link.moving`."""
        return self._connection is not None and self._connection.moving()

    async def open(self) -> None:
        """See `Link.open`."""
        if self._closed:
            raise LinkClosed("the link was closed")
        if self._run_task is None:
            self._run_task = asyncio.create_task(self._run(), name=f"link {self.settings.client_id}")

    async def close(self) -> None:
        """See `Link.close`."""
        self._closed = True
        self._inbound.close()
        run_task, self._run_task = self._run_task, None
        if run_task is not None:
            run_task.cancel()
            await asyncio.wait([run_task])
        connection = self._connection
        self._forget_connection("the link was closed")
        if connection is not None:
            await connection.goodbye()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> asyncio.Future[None]:
        """See `Link.publish`."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        connection = self._connection
        size = len(payload)
        error: LinkError | None = None
        if connection is None:
            error = self._not_connected()
        elif size > self._payload_bytes_max:
            limit = self._payload_bytes_max
            error = PayloadTooLarge(f"a message of {size} bytes is above {limit}", size=size, limit=limit)
        elif not self._has_room():
            error = WindowFull(f"{len(self._publishes)} publishes ({self._publish_bytes} bytes) wait for the broker")
        if connection is None or error is not None:
            _fail(done, error or self._not_connected())
            return done
        try:
            number = connection.publish(topic, payload, retain)
        except LinkError as refused:
            _fail(done, refused)
            return done
        self._publishes[number] = _Publish(done, size, loop.time())
        self._publish_bytes += size
        return done

    async def room(self) -> None:
        """See `Link.room`."""
        while True:
            if self._connection is None:
                raise self._not_connected()
            if self._has_room():
                return
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._room_waiters.append(waiter)
            await waiter

    async def subscribe(self, filters: Sequence[str]) -> None:
        """See `Link.subscribe`."""
        if self._connection is None:
            raise self._not_connected()
        loop = asyncio.get_running_loop()
        request = _Subscribe(loop.create_future(), loop.time())
        self._subscribes[self._connection.subscribe(filters)] = request
        refusals = await request.done
        refused = [name for name, refusal in zip(filters, refusals, strict=False) if refusal is not None]
        if refused:
            reasons = sorted({refusal for refusal in refusals if refusal is not None})
            raise SubscriptionDenied(refused, ", ".join(reasons))

    async def next_event(self) -> Event:
        """See `Link.next_event`."""
        event = await self._inbound.take()
        if isinstance(event, Disconnected):
            self._loss_was_taken.set()
        elif self._unacknowledged or self._paused:
            self._let_in()
        return event

    async def __aiter__(self) -> AsyncIterator[Event]:
        """All events until the link is closed."""
        while True:
            try:
                yield await self.next_event()
            except LinkClosed:
                return

    # ── what the connection tells ─────────────────────────────────────────────────────────────────────────────────

    def received(self, message: Received, token: int | None) -> None:
        """See `Handler.received`."""
        connection = self._connection
        if connection is None:
            return
        if token is not None:
            if self._inbound.full or self._unacknowledged:
                self._unacknowledged.append(token)
            else:
                connection.acknowledge(token)
        self._inbound.put(message)
        if not self._paused and self._inbound.beyond(self.settings.unacked_max):
            self._paused = True
            connection.pause()

    def published(self, number: int, error: LinkError | None) -> None:
        """See `Handler.published`."""
        publish = self._publishes.pop(number, None)
        if publish is None:
            return
        self._publish_bytes -= publish.size
        self._progress_at_s = asyncio.get_running_loop().time()
        if error is not None:
            logger.log(logging.DEBUG if self._denial_was_logged else logging.WARNING, "%s", error)
            self._denial_was_logged = True
            _fail(publish.done, error)
        elif not publish.done.done():
            publish.done.set_result(None)
        if self._room_waiters and self._has_room():
            waiters, self._room_waiters = self._room_waiters, deque()
            for waiter in waiters:  # all: the first may have been cancelled since, and each looks again
                if not waiter.done():
                    waiter.set_result(None)

    def subscribed(self, number: int, refusals: Sequence[str | None]) -> None:
        """See `Handler.subscribed`."""
        request = self._subscribes.pop(number, None)
        self._progress_at_s = asyncio.get_running_loop().time()
        if request is not None and not request.done.done():
            request.done.set_result(refusals)

    def lost(self, reason: LinkError | None) -> None:
        """See `Handler.lost`."""
        self._forget_connection(str(reason) if reason is not None else "the connection ended")
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(reason)

    # ── one connection after another ──────────────────────────────────────────────────────────────────────────────

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                reason = await self._one_connection()
            except LinkError as error:
                reason = error
            except Exception as error:
                logger.exception("the link to %s failed in an unexpected way", self.settings.address)
                reason = LinkError(f"unexpected: {error!r}")
            delay_s = self._backoff.failed(loop.time(), self._chance(), slow=reason is not None and reason.slow)
            # Why is told by who owns the link, which hears it.
            logger.info("%sconnecting again in %.1f s", "" if reason is not None else "disconnected; ", delay_s)
            self._loss_was_taken.clear()
            self._inbound.put(Disconnected(reason, delay_s))
            await asyncio.sleep(delay_s)
            await self._loss_was_taken.wait()

    async def _one_connection(self) -> LinkError | None:
        """Connect and stay until the end of the connection; its reason."""
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        connection = await self._dial(self.settings, self)
        if self._ended.done():
            return self._ended.result()
        self._connection = connection
        self._payload_bytes_max = min(self.settings.payload_bytes_max, connection.payload_bytes_max)
        self._window = min(self.settings.inflight_max, connection.inflight_max)
        self._progress_at_s = loop.time()
        self._backoff.connected(loop.time())
        logger.info("connected to %s with MQTT %s", self.settings.address, connection.protocol)
        self._inbound.put(Connected(self._payload_bytes_max, connection.protocol))
        watch = asyncio.create_task(self._watch_answers(connection))
        try:
            return await self._ended
        finally:
            watch.cancel()

    async def _watch_answers(self, connection: Connection) -> None:
        """End the connection when the broker confirms nothing for `puback_timeout_s` although it should."""
        loop = asyncio.get_running_loop()
        timeout_s = self.settings.puback_timeout_s
        while True:
            await asyncio.sleep(min(1.0, timeout_s / 8))
            if self._paused or connection.moving():
                self._progress_at_s = loop.time()  # its answers may be there, unread, or wait behind what is there
            waiting = [first.sent_at_s for first in (_first(self._publishes), _first(self._subscribes)) if first]
            if waiting and loop.time() - max(min(waiting), self._progress_at_s) > timeout_s:
                connection.abort(NoAnswer(f"the broker confirmed nothing for {timeout_s:g} s"))
                return

    def _forget_connection(self, why: str) -> None:
        self._connection = None
        publishes, self._publishes = self._publishes, {}
        subscribes, self._subscribes = self._subscribes, {}
        self._publish_bytes = 0
        self._unacknowledged.clear()
        self._paused = False
        self._denial_was_logged = False
        for publish in publishes.values():
            _fail(publish.done, DisconnectedError(f"not confirmed by the broker: {why}"))
        for subscribe in subscribes.values():
            _fail(subscribe.done, DisconnectedError(f"subscription not confirmed by the broker: {why}"))
        while self._room_waiters:
            _fail(self._room_waiters.popleft(), self._not_connected())

    def _let_in(self) -> None:
        """The consumer took something: let the broker send on as far as there is room."""
        connection = self._connection
        if connection is None:
            return
        while self._unacknowledged and not self._inbound.full:
            connection.acknowledge(self._unacknowledged.popleft())
        if self._paused and not self._inbound.full:
            self._paused = False
            connection.resume()

    def _has_room(self) -> bool:
        return len(self._publishes) < self._window and (
            self._publish_bytes < self.settings.inflight_bytes_max or not self._publishes
        )

    def _not_connected(self) -> NotConnected:
        if self._closed:
            return LinkClosed("the link was closed")
        return NotConnected(f"not connected to {self.settings.address}")


def _fail(done: asyncio.Future[T], error: LinkError) -> None:
    if not done.done():
        done.set_exception(error)
        done.exception()  # a caller may ignore it: the loss itself is told as an event


def _first(waiting: dict[int, T]) -> T | None:
    return next(iter(waiting.values()), None)
