"""Devices that wait for an answer about the hub's rows. Pure."""

from __future__ import annotations

from collections import deque

from tidewire_hub.actions import Verify
from tidewire_schemas.verification import VerifyRequest


class VerifyQueue:
    """Questions that wait: one of each device, answered one at a time in the order in which they came.

    Args:
        waiting_max: more are not taken; who asked asks again.
    """

    def __init__(self, waiting_max: int) -> None:
        self._waiting_max = waiting_max
        self._waiting: deque[Verify] = deque()
        self._under_way = False

    def put(self, device: str, request: VerifyRequest) -> bool:
        """A device asks, and no longer what it asked before; whether there was room."""
        self._waiting = deque(waiting for waiting in self._waiting if waiting.device != device)
        if len(self._waiting) >= self._waiting_max:
            return False
        self._waiting.append(Verify(device, request))
        return True

    def next(self) -> Verify | None:
        """What to answer now; None while an answer is being made, or nobody waits."""
        if self._under_way or not self._waiting:
            return None
        self._under_way = True
        return self._waiting.popleft()

    def done(self) -> None:
        """An answer is made, or cannot be made."""
        self._under_way = False

    def forget_all(self) -> None:
        """The connection is lost: devices ask again."""
        self._waiting.clear()
