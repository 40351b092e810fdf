"""What the hub remembers of a conversation with a device. All of it may be lost: the device says Hello again."""

from __future__ import annotations

import re
from collections import OrderedDict
from math import inf
from typing import Final, Literal

from tidewire_hub.clones import CloneWatch
from tidewire_schemas.errors import TidewireError
from tidewire_schemas.messages import Hello, Part
from tidewire_schemas.parts import Assembler

INCARNATIONS_MAX: Final = 4
"""Copies of one database that speak under one name are found out and renumbered, so more than two are rare."""

Channel = Literal["up", "ask"]

_MAYBE_PART: Final = re.compile(rb'.{0,60}"type"\s*:\s*"part"', re.DOTALL)
"""A part names its type near its beginning, however it is spelled; only what matches is parsed on the event loop."""


def may_be_part(payload: bytes) -> bool:
    """Whether a message is worth being parsed as a part."""
    return _MAYBE_PART.match(payload) is not None


class HubBusy(TidewireError):
    """The hub holds as much as it may; the same again will be taken later."""

    code = "busy"
    hint = "nothing is lost: the device sends it again"
    retry = True


class Session:
    """One device: who it says it is, what of it is half received, how often it was told off."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.boots: OrderedDict[str, str] = OrderedDict()
        """The latest boot of each incarnation that said Hello."""
        self.accepted: dict[str, int] = {}
        """The newest batch in the log of each incarnation, as far as this process knows."""
        self.greeting = False
        """A Hello is with the stream now."""
        self.next_hello: Hello | None = None
        """One that came meanwhile: only the newest is answered."""
        self.clones = CloneWatch()
        """Whether more than one agent speaks under its name."""
        self.problem_tokens = 0.0
        self.problem_tokens_at = -inf

    def met(self, incarnation: str, boot: str) -> None:
        """A message named these. An agent has one incarnation at a time."""
        for other in [life for life, its_boot in self.boots.items() if its_boot == boot]:
            del self.boots[other]
        self.boots[incarnation] = boot
        self.boots.move_to_end(incarnation)
        while len(self.boots) > INCARNATIONS_MAX:
            forgotten, _ = self.boots.popitem(last=False)
            self.accepted.pop(forgotten, None)

    def was_accepted(self, incarnation: str, batch: int) -> None:
        """A batch of this incarnation is in the log."""
        self.accepted[incarnation] = batch
        if len(self.accepted) > INCARNATIONS_MAX:
            self.accepted.pop(next(iter(self.accepted)))

    def may_be_told(self, now_s: float, *, interval_s: float, burst: int) -> bool:
        """Whether one more `Problem` may go to it now: a few at once, then one in `interval_s` (a token bucket)."""
        passed = now_s - self.problem_tokens_at
        self.problem_tokens = min(float(burst), self.problem_tokens + passed / interval_s)
        self.problem_tokens_at = now_s
        if self.problem_tokens < 1:
            return False
        self.problem_tokens -= 1
        return True


class Sessions:
    """Sessions of the `count_max` devices heard last."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def of(self, device: str) -> Session:
        """The session of a device that has just been heard."""
        session = self._sessions.get(device)
        if session is None:
            session = self._sessions[device] = Session(device)
            if len(self._sessions) > self._count_max:
                self._sessions.popitem(last=False)
        else:
            self._sessions.move_to_end(device)
        return session


class _Half:
    """A message of one device on one topic, of which parts are still missing."""

    def __init__(self, bytes_max: int) -> None:
        self.assembler = Assembler(bytes_max)
        self.reserved = 0
        self.fed_at = 0.0


class Reassembly:
    """Parts of all devices, within one bound. A message is admitted whole at its first part, never evicted half-way.

    Args:
        bytes_max: bytes that all unfinished messages may have when they are whole.
        timeout_s: an unfinished message that grows no more is dropped after this.
    """

    def __init__(self, *, bytes_max: int, timeout_s: float) -> None:
        self._bytes_max = bytes_max
        self._timeout_s = timeout_s
        self._reserved = 0
        self._halves: dict[tuple[str, Channel], _Half] = {}
        self._look_at = inf

    @property
    def bytes_reserved(self) -> int:
        """Bytes that the unfinished messages will have."""
        return self._reserved

    def feed(self, device: str, channel: Channel, part: Part, message_bytes_max: int, now_s: float) -> bytes | None:
        """Take a part; the whole message's bytes when it was the last one.

        Raises:
            HubBusy: there is no room for this message now.
            MessageTooLarge, SequenceGap, MalformedMessage: as `Assembler.feed`.
        """
        half = self._halves.get((device, channel))
        if half is None:
            half = self._halves[device, channel] = _Half(message_bytes_max)
        others = self._reserved - half.reserved
        if part.part == 0 and part.size <= message_bytes_max and others + part.size > self._bytes_max:
            self._drop((device, channel))
            raise HubBusy(f"parts of other messages take up parts_bytes_max={self._bytes_max}")
        half.fed_at = now_s
        self._look_at = min(self._look_at, now_s + self._timeout_s)
        try:
            return half.assembler.feed(part)
        finally:
            self._reserve(half, part.size if half.assembler.bytes_held else 0)

    def drop_all(self) -> None:
        """Forget everything, as after a lost connection: what was between is missing."""
        self._halves.clear()
        self._reserved = 0
        self._look_at = inf

    def drop_stale(self, now_s: float) -> list[str]:
        """Drop what has not grown for `timeout_s`; the devices whose messages were unfinished."""
        if now_s < self._look_at:
            return []
        stale = [key for key, half in self._halves.items() if half.fed_at + self._timeout_s <= now_s]
        unfinished = [key[0] for key in stale if self._halves[key].reserved]
        for key in stale:
            self._drop(key)
        self._look_at = min((half.fed_at for half in self._halves.values()), default=inf) + self._timeout_s
        return unfinished

    def wake_at(self) -> float:
        """When `drop_stale` has something to look at; infinite when nothing came in parts."""
        return self._look_at

    def _reserve(self, half: _Half, size: int) -> None:
        self._reserved += size - half.reserved
        half.reserved = size

    def _drop(self, key: tuple[str, Channel]) -> None:
        half = self._halves.pop(key)
        self._reserved -= half.reserved
