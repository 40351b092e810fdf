"""Whether a connection is at work on what takes long: answers then wait behind it, and nobody is to be given up.

On a slow link a large message is under way for many seconds, and the broker's answers wait behind it, or for its end.
Who counts those seconds as silence connects anew or sends again, and so makes the link carry everything twice. Pure.
"""

from __future__ import annotations

from math import inf
from typing import Final

_QUEUED_BYTES_MIN: Final = 4096
"""Less than this leaves at once on any link: it is no reason to wait."""
_SLOW_S: Final = 1.0
"""A message that takes longer than this to come in is one that answers wait behind."""
_LASTS_S: Final = 8.0
"""So long after the last byte it still counts as under way: TCP makes such pauses when packets were lost."""


class Progress:
    """What is known of one connection's traffic. All times are of one monotonic clock."""

    def __init__(self) -> None:
        self._moved_at = -inf
        self._left = 0
        self._packet: object = None
        self._began_at = -inf

    def queued(self, taken: int, waiting: int, now: float) -> None:
        """Of all bytes that were `taken` for sending on this connection so many wait, here or in the kernel."""
        left = taken - waiting
        if left > self._left and waiting >= _QUEUED_BYTES_MIN:
            self._moved_at = now
        self._left = max(self._left, left)

    def came(self, packet: object | None, now: float) -> None:
        """Bytes came in; `packet` stands for the one that they leave incomplete, if any."""
        if packet is None or packet is not self._packet:
            self._packet, self._began_at = packet, now
        elif now - self._began_at >= _SLOW_S:
            self._moved_at = now

    def moving(self, now: float) -> bool:
        """Whether something large is under way and gets on."""
        return now - self._moved_at < _LASTS_S
