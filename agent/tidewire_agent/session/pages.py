"""Pages that have come and are not yet applied. Pure, and bounded by count and bytes."""

from __future__ import annotations

import bisect
import enum
from collections.abc import Callable
from typing import Final

from tidewire_schemas.messages import Page
from tidewire_schemas.positions import Position

TAKEN_BYTES_MAX: Final = 256 * 1024
"""A few pages: enough to save on transactions, and a few milliseconds' work in one."""


class Next(enum.Enum):
    """Why there is no page to apply."""

    NOTHING = enum.auto()
    """No page waits."""
    GAP = enum.auto()
    """Pages wait, and what comes before them is missing."""
    FORK = enum.auto()
    """A page holds this place under another epoch."""


class PageBuffer:
    """Pages in the order of the log, whatever order they came in.

    When it is full the page that is farthest away goes, as it would be applied last; the log holds it still.

    Args:
        count_max: how many pages may wait.
        bytes_max: how many bytes of pages may wait. One page is always taken, however large.
    """

    def __init__(self, count_max: int, bytes_max: int) -> None:
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._pages: list[tuple[int, int, Page]] = []  # (prev.seq, size, page), ordered
        self._bytes = 0
        self._taken_bytes = 0

    def __len__(self) -> int:
        return len(self._pages)

    @property
    def bytes_held(self) -> int:
        """How much waits."""
        return self._bytes

    @property
    def last_seq(self) -> int:
        """The highest seq that waits; 0 for none."""
        return max((page.end.seq for _, _, page in self._pages), default=0)

    def add(self, page: Page, size: int) -> None:
        """Keep a page; of two that begin at the same place the longer one."""
        at = bisect.bisect_left(self._pages, page.prev.seq, key=lambda held: held[0])
        if at < len(self._pages) and self._pages[at][0] == page.prev.seq:
            if len(page.entries) <= len(self._pages[at][2].entries):
                return
            self._bytes -= self._pages.pop(at)[1]
        self._pages.insert(at, (page.prev.seq, size, page))
        self._bytes += size
        while len(self._pages) > 1 and (len(self._pages) > self._count_max or self._bytes > self._bytes_max):
            self._bytes -= self._pages.pop()[1]

    def take(self, position: Position) -> Page | Next:
        """All that waits and continues `position`, as one page of up to about `TAKEN_BYTES_MAX`; or why there is none.

        One transaction for several pages costs the app's write lock little more than one for each would.
        """
        taken = self._take_one(position)
        size = self._taken_bytes
        while (
            isinstance(taken, Page)
            and self._pages
            and self._pages[0][2].prev == taken.end
            and size + self._pages[0][1] <= TAKEN_BYTES_MAX
        ):
            _, more, page = self._pages.pop(0)
            self._bytes -= more
            size += more
            taken = taken.model_copy(update={"entries": [*taken.entries, *page.entries]})
        return taken

    def _take_one(self, position: Position) -> Page | Next:
        while self._pages and self._pages[0][2].end.seq <= position.seq:
            self._bytes -= self._pages.pop(0)[1]
        if not self._pages:
            return Next.NOTHING
        prev_seq, size, page = self._pages[0]
        if prev_seq > position.seq:
            return Next.GAP
        del self._pages[0]
        self._bytes -= size
        self._taken_bytes = size
        skipped = position.seq - prev_seq
        before = page.prev if skipped == 0 else page.entries[skipped - 1].position
        if before != position:
            return Next.FORK
        if skipped == 0:
            return page
        return page.model_copy(update={"prev": position, "entries": page.entries[skipped:]})

    def reach(self, position: Position) -> Position:
        """How far pages that wait continue `position` without a gap."""
        for prev_seq, _, page in self._pages:
            if prev_seq > position.seq:
                break
            if page.end.seq > position.seq:
                position = page.end
        return position

    def ready(self, position: Position) -> int:
        """How many pages that wait continue `position` without a gap: live pages beyond one do not count."""
        reach = self.reach(position).seq
        return sum(page.end.seq <= reach for _, _, page in self._pages)

    def keep(self, wanted: Callable[[Page], bool]) -> None:
        """Drop the others."""
        self._pages = [held for held in self._pages if wanted(held[2])]
        self._bytes = sum(size for _, size, _ in self._pages)

    def clear(self) -> None:
        """Drop all."""
        self._pages.clear()
        self._bytes = 0


def belongs(page: Page, log: str | None, epoch: int, head: Position) -> bool:
    """Whether a page can be of the log that a Welcome described: its id, its leader's epoch, and how far it went.

    What lies after that head was numbered by the leader who sent it; the head itself is an entry of the log.
    """
    if page.log != log or page.end.epoch > epoch:
        return False
    if page.end.seq <= head.seq:
        return page.end.seq < head.seq or page.end == head
    if page.end.epoch != epoch:
        return False
    at_head = head.seq - page.prev.seq  # how many of its entries lie at or before the head
    if at_head < 0:
        return page.prev.epoch == epoch
    before = page.prev if at_head == 0 else page.entries[at_head - 1].position
    return before == head and page.entries[at_head].epoch == epoch
