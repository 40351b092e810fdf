"""Devices that ask what rows the hub holds: one question of each, answered one at a time, in their order. Pure."""

from __future__ import annotations

from collections import deque

from tidewire_hub.actions import Effect, Now, Verify
from tidewire_hub.voice import Voice
from tidewire_schemas.errors import TidewireError
from tidewire_schemas.verification import VerifyAnswer, VerifyRequest


class VerifyService:
    """The part of `HubCore` that serves devices while they compare their rows with the hub's.

    Args:
        voice: says what is to be said.
        waiting_max: questions that may wait; of the others it is said in the log, and their devices ask again.
    """

    def __init__(self, voice: Voice, waiting_max: int) -> None:
        self._voice = voice
        self._waiting_max = waiting_max
        self._waiting: deque[Verify] = deque()
        self._under_way = False

    def take(self, device: str, request: VerifyRequest) -> None:
        """A device asks, and no longer what it asked before."""
        self._waiting = deque(waiting for waiting in self._waiting if waiting.device != device)
        if len(self._waiting) >= self._waiting_max:
            self._voice.report("warning", "too many devices verify at once: this one asks again", device=device)
            return
        self._waiting.append(Verify(device, request))
        self._next()

    def forget_all(self) -> None:
        """The connection is lost: devices ask again."""
        self._waiting.clear()

    def on_verified(self, device: str, answer: VerifyAnswer, now: Now) -> list[Effect]:
        """An answer is made."""
        self._under_way = False
        self._voice.tell(device, answer)
        self._next()
        return self._voice.take()

    def on_verify_failed(self, device: str, error: TidewireError, now: Now) -> list[Effect]:
        """The state could not be read: the device asks again."""
        self._under_way = False
        self._voice.report("error", f"cannot say what rows there are: {error}", device=device)
        self._next()
        return self._voice.take()

    def _next(self) -> None:
        if self._waiting and not self._under_way:
            self._under_way = True
            self._voice.add(self._waiting.popleft())
