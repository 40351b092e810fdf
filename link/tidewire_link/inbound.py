"""Events on their way to the consumer, with a limit on messages by count and bytes."""

from __future__ import annotations

import asyncio
from collections import deque

from tidewire_link.errors import LinkClosed
from tidewire_link.port import Event, Received


class Inbound:
    """Events for one consumer. It never refuses one: whoever fills it looks at `full` and holds the sender back."""

    def __init__(self, *, messages_max: int, bytes_max: int) -> None:
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._events: deque[Event] = deque()
        self._messages = 0
        self._bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether the messages in it have reached a limit."""
        return self._messages >= self._messages_max or self._bytes >= self._bytes_max

    def beyond(self, messages: int) -> bool:
        """Whether it holds more than `messages` above its limit, or more than twice its bytes."""
        return self._messages > self._messages_max + messages or self._bytes > 2 * self._bytes_max

    def put(self, event: Event) -> None:
        """Append an event and wake the consumer."""
        if isinstance(event, Received):
            self._messages += 1
            self._bytes += len(event.payload)
        self._events.append(event)
        self._wake()

    async def take(self) -> Event:
        """Wait for the next event.

        Raises:
            LinkClosed: it was closed.
        """
        while not self._events or self._closed:
            if self._closed:
                raise LinkClosed("the link was closed")
            if self._waiter is not None:
                raise RuntimeError("two tasks wait for events of one link")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        event = self._events.popleft()
        if isinstance(event, Received):
            self._messages -= 1
            self._bytes -= len(event.payload)
        return event

    def close(self) -> None:
        """Forget what is in it; `take` raises from now on."""
        self._closed = True
        self._events.clear()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
