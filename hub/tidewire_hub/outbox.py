"""What waits to be published: in order, within the link's window, forgotten when the connection is lost."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from tidewire_hub.actions import Publish
from tidewire_link.errors import NotConnected
from tidewire_link.port import Link

_TURN_MESSAGES: Final = 32
"""Publishes in a row before other tasks of the event loop get their turn."""


class Outbox:
    """Publishes one message after another.

    Args:
        link: the connection.
        bytes_max: above this `on_full(True)` is called, below half of it again `on_full(False)`.
        on_done: called once for each message: with None when the broker has it, else with the error. Messages that
            are dropped because there is no connection get theirs in a later turn of the event loop.
    """

    def __init__(
        self,
        link: Link,
        *,
        bytes_max: int,
        on_full: Callable[[bool], None],
        on_done: Callable[[Publish, BaseException | None], None],
    ) -> None:
        self._link = link
        self._bytes_max = bytes_max
        self._on_full = on_full
        self._on_done = on_done
        self._queue: deque[Publish] = deque()
        self._bytes = 0
        self._full = False
        self._unconfirmed = 0
        self._filled = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()

    def put(self, publish: Publish) -> None:
        """Queue a message; without a connection it is dropped, as devices ask again for all that matters."""
        if not self._link.connected:
            self._dropped(publish)
            return
        self._queue.append(publish)
        self._grow(len(publish.payload))
        self._filled.set()
        self._quiet.clear()

    def clear(self) -> None:
        """Forget what waits: the connection is lost."""
        dropped, self._queue = self._queue, deque()
        self._grow(-self._bytes)
        for publish in dropped:
            self._dropped(publish)
        self._note_quiet()

    async def run(self) -> None:
        """Publish for ever."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            try:
                await self._publish_all()
            except NotConnected:
                self.clear()

    async def quiet(self) -> None:
        """Wait until the broker has everything."""
        await self._quiet.wait()

    async def _publish_all(self) -> None:
        in_a_row = 0
        while self._queue:
            await self._link.room()
            if not self._queue:
                break  # the connection was lost meanwhile
            publish = self._queue.popleft()
            self._unconfirmed += 1
            sent = self._link.publish(publish.topic, publish.payload, retain=publish.retain)
            sent.add_done_callback(partial(self._confirmed, publish))
            self._grow(-len(publish.payload))
            in_a_row += 1
            if in_a_row % _TURN_MESSAGES == 0:
                await asyncio.sleep(0)

    def _confirmed(self, publish: Publish, sent: asyncio.Future[None]) -> None:
        self._unconfirmed -= 1
        error = asyncio.CancelledError() if sent.cancelled() else sent.exception()
        self._on_done(publish, error)
        self._note_quiet()

    def _dropped(self, publish: Publish) -> None:
        asyncio.get_running_loop().call_soon(self._on_done, publish, NotConnected("there is no connection"))

    def _note_quiet(self) -> None:
        if not self._queue and self._unconfirmed == 0:
            self._quiet.set()

    def _grow(self, size: int) -> None:
        self._bytes += size
        if not self._full and self._bytes > self._bytes_max:
            self._full = True
            self._on_full(True)
        elif self._full and self._bytes * 2 <= self._bytes_max:
            self._full = False
            self._on_full(False)
