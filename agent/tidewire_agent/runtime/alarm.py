"""A timer that is set anew all the time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf


class Alarm:
    """Calls `ring` at the time it was last set to.

    Args:
        ring: called from the event loop.
    """

    def __init__(self, ring: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ring = ring
        self._handle: asyncio.TimerHandle | None = None

    def set(self, at: float) -> None:
        """Ring at this time of the loop and no other; infinity for never."""
        if self._handle is not None:
            if self._handle.when() == at and not self._handle.cancelled():
                return
            self._handle.cancel()
        self._handle = None if at == inf else self._loop.call_at(at, self._rings)

    def _rings(self) -> None:
        self._handle = None
        self._ring()
