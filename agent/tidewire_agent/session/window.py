"""The window of batches that were sent and are not yet acked. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple


class SentBatch(NamedTuple):
    """A batch that is on its way."""

    batch: int
    digest: str
    size: int


class SendWindow:
    """Which batches are on their way, bounded by count and bytes.

    One batch is always allowed, however large: a window must not be smaller than what it is for.

    Args:
        count_max: how many batches may be unacked.
        bytes_max: how many bytes of batches may be unacked.
    """

    def __init__(self, count_max: int, bytes_max: int) -> None:
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._sent: deque[SentBatch] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def room(self) -> tuple[int, int]:
        """How many batches and bytes may be added; a count of 0 when it is full."""
        count, size = self._count_max - len(self._sent), self._bytes_max - self._bytes
        return (count, size) if count > 0 and size > 0 else (0, 0)

    def add(self, batches: Iterable[SentBatch]) -> None:
        """Batches were sent, in order."""
        for sent in batches:
            self._sent.append(sent)
            self._bytes += sent.size

    def ack(self, batch: int, digest: str) -> bool:
        """All up to this one are durable at the hub: whether that freed any. Another digest frees nothing."""
        if not any(sent.batch == batch and sent.digest == digest for sent in self._sent):
            return False
        while self._sent and self._sent[0].batch <= batch:
            self._bytes -= self._sent.popleft().size
        return True

    def clear(self) -> None:
        """Nothing is on its way any more."""
        self._sent.clear()
        self._bytes = 0
