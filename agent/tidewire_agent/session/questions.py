"""Open questions of freshness: which apps wait to hear how far the log goes. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf


class Questions:
    """Questions that are asked, oldest first, and asked again until they are answered.

    Args:
        count_max: how many are asked at once.
        timeout_s: after which one is asked again.
    """

    def __init__(self, count_max: int, timeout_s: float) -> None:
        self._count_max = count_max
        self._timeout_s = timeout_s
        self._due: dict[str, float] = {}
        self.more_wait = False
        """Whether more questions are open than are asked at once."""

    @property
    def due_at(self) -> float:
        """When the next is to be asked; infinity for never."""
        return min(self._due.values(), default=inf)

    def open(self, nonces: Iterable[str], now: float) -> None:
        """All questions that are open; known ones are not asked anew."""
        still_open = list(nonces)
        self._due = {nonce: self._due.get(nonce, now) for nonce in still_open[: self._count_max]}
        self.more_wait = len(still_open) > len(self._due)

    def due(self, now: float, *, all_of_them: bool) -> list[str]:
        """Those to be asked now."""
        found = [nonce for nonce, due in self._due.items() if all_of_them or now >= due]
        self._due.update((nonce, now + self._timeout_s) for nonce in found)
        return found

    def answered(self, nonce: str) -> bool:
        """It is answered: whether it was open."""
        return self._due.pop(nonce, None) is not None
