"""Replay: pages of the stored log for devices that are behind, fair between them, and cached.

Devices that come back together read the same entries. Pages end at multiples of `block_entries`, so devices that began
at different places soon ask for the same pages, and all but the first are served from the cache.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from tidewire_hub.actions import EntriesRead, ReadPage
from tidewire_hub.paced import Cache, Window
from tidewire_hub.pages import ENVELOPE_BYTES, PageBytes, pages
from tidewire_schemas.codec import encode_page, encode_replay
from tidewire_schemas.positions import Position


@dataclass(slots=True)
class Cursor:
    """Where one device is in its replay."""

    device: str
    incarnation: str
    boot: str
    position: Position
    credit: int
    """Pages it will take before it asks again."""


class ReplayMessage(NamedTuple):
    """A `Replay` for one device, ready to be sent."""

    device: str
    payload: bytes


class Replayer:
    """Decides which device gets which page next.

    Args:
        log: id of the log.
        payload_bytes_max: what a page in its replay message may take.
        block_entries: pages end at multiples of this.
        cache_bytes_max: bound of the page cache.
        window: paced messages that may be on their way to the broker at once.
    """

    def __init__(
        self, log: str, *, payload_bytes_max: int, block_entries: int, cache_bytes_max: int, window: Window
    ) -> None:
        self._log = log
        self._payload_bytes_max = payload_bytes_max
        self._block_entries = block_entries
        self._cache: Cache[Position, PageBytes] = Cache(cache_bytes_max, lambda page: len(page.payload))
        self._window = window
        self._turns: deque[Cursor] = deque()
        self._by_device: dict[str, Cursor] = {}
        self._reading: Position | None = None

    def __len__(self) -> int:
        return len(self._by_device)

    def set_payload_bytes_max(self, payload_bytes_max: int) -> None:
        """The broker takes less, or more again."""
        if payload_bytes_max != self._payload_bytes_max:
            self._payload_bytes_max = payload_bytes_max
            self._cache.clear()

    def request(self, cursor: Cursor) -> None:
        """A device asks; a request that it made before is over."""
        self._forget(cursor.device)
        self._by_device[cursor.device] = cursor
        self._turns.append(cursor)

    def forget_all(self) -> None:
        """The connection is lost: devices ask again."""
        self._turns.clear()
        self._by_device.clear()

    def next(self, head: Position) -> ReplayMessage | ReadPage | None:
        """What to send or read now: one page per device and turn. Only one read at a time waits for the stream, so
        that commits hardly wait for replay. Who waits for a read keeps its turn."""
        if self._window.full:
            return None
        for place, cursor in enumerate(self._turns):
            page = self._page_for(cursor, head)
            if page is not None:
                del self._turns[place]
                return self._send(cursor, page, head)
            if self._reading is None:
                self._reading = cursor.position
                return self._read(cursor.position)
        return None

    def page_read(self, after: Position, read: EntriesRead) -> list[Cursor]:
        """Entries came; the devices that asked from a position that this log does not have."""
        self._reading = None
        if not read.known or not read.entries:
            return self._drop_at(after)
        page = next(pages(self._log, after, read.entries, self._payload_bytes_max))
        self._cache.put(page.prev, page)
        return []

    def read_failed(self, after: Position) -> list[Cursor]:
        """Entries could not be read; the devices that waited for them."""
        self._reading = None
        return self._drop_at(after)

    def _page_for(self, cursor: Cursor, head: Position) -> PageBytes | None:
        if cursor.position == head:
            return PageBytes(head, head, encode_page(self._log, head, ()))
        return self._cache.get(cursor.position)

    def _read(self, after: Position) -> ReadPage:
        to_boundary = self._block_entries - after.seq % self._block_entries
        return ReadPage(after, entries_max=to_boundary, bytes_max=self._payload_bytes_max - ENVELOPE_BYTES)

    def _send(self, cursor: Cursor, page: PageBytes, head: Position) -> ReplayMessage:
        cursor.position = page.end
        cursor.credit -= 1
        last = page.end == head
        if last or cursor.credit == 0:
            del self._by_device[cursor.device]
        else:
            self._turns.append(cursor)
        self._window.sending()
        payload = encode_replay(cursor.incarnation, cursor.boot, page.payload, last=last)
        return ReplayMessage(cursor.device, payload)

    def _drop_at(self, position: Position) -> list[Cursor]:
        dropped = [cursor for cursor in self._turns if cursor.position == position]
        for cursor in dropped:
            self._forget(cursor.device)
        return dropped

    def _forget(self, device: str) -> None:
        cursor = self._by_device.pop(device, None)
        if cursor is not None:
            self._turns.remove(cursor)
