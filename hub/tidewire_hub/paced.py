"""What replay and snapshots share: a window of messages on their way, and a cache of what many devices ask for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Window:
    """Counts paced messages that the broker does not have yet, of all devices together."""

    def __init__(self, messages_max: int) -> None:
        self._messages_max = messages_max
        self._in_flight = 0

    @property
    def full(self) -> bool:
        """Whether the next message must wait."""
        return self._in_flight >= self._messages_max

    def sending(self) -> None:
        """A message is on its way."""
        self._in_flight += 1

    def sent(self) -> None:
        """The broker has a message, or never will."""
        self._in_flight -= 1


class Cache(Generic[K, V]):
    """Values up to a number of bytes; the one used longest ago goes first."""

    def __init__(self, bytes_max: int, size: Callable[[V], int]) -> None:
        self._bytes_max = bytes_max
        self._size = size
        self._values: OrderedDict[K, V] = OrderedDict()
        self._bytes = 0

    @property
    def bytes_held(self) -> int:
        """Bytes of all values."""
        return self._bytes

    def get(self, key: K) -> V | None:
        """The value, if it is still here."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        """Keep a value; the newest is kept even if it alone is above the bound, so that it can be used."""
        self._remove(key)
        self._values[key] = value
        self._bytes += self._size(value)
        while self._bytes > self._bytes_max and len(self._values) > 1:
            self._remove(next(iter(self._values)))

    def drop(self, unwanted: Callable[[K], bool]) -> None:
        """Forget some values."""
        for key in [key for key in self._values if unwanted(key)]:
            self._remove(key)

    def clear(self) -> None:
        """Forget all."""
        self._values.clear()
        self._bytes = 0

    def _remove(self, key: K) -> None:
        value = self._values.pop(key, None)
        if value is not None:
            self._bytes -= self._size(value)
