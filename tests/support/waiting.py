"""Waiting for a condition with a deadline: tests poll what they mean instead of sleeping and hoping."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_POLL_S = 0.005
PATIENCE_S = 60.0
"""How long a test waits for what takes milliseconds on a quiet machine: nobody waits that long unless it fails."""


class DeadlinePassed(AssertionError):
    """The condition did not come true in time."""


def wait_for(
    condition: Callable[[], T], deadline_s: float = PATIENCE_S, *, what: str = "", every_s: float = _POLL_S
) -> T:
    """The first true value of `condition()`, polled until `deadline_s` seconds have passed."""
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise DeadlinePassed(_message(condition, what, deadline_s, value))
        time.sleep(every_s)


async def wait_for_async(
    condition: Callable[[], T | Awaitable[T]],
    deadline_s: float = PATIENCE_S,
    *,
    what: str = "",
    every_s: float = _POLL_S,
) -> T:
    """Like `wait_for`, for tests on an event loop; `condition` may be a plain or a coroutine function."""
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > end:
            raise DeadlinePassed(_message(condition, what, deadline_s, value))
        await asyncio.sleep(every_s)


def quickest(attempt: Callable[[], float], limit_s: float, attempts: int = 5) -> float:
    """The shortest of some attempts in seconds, of which the first below the limit is the last.

    For what should be quick: whatever else the machine does only adds time, so one good attempt proves it.
    """
    took = attempt()
    while took >= limit_s and attempts > 1:
        attempts -= 1
        took = min(took, attempt())
    return took


def _message(condition: object, what: str, deadline_s: float, value: object) -> str:
    name = what or getattr(condition, "__qualname__", repr(condition))
    return f"not true within {deadline_s} s: {name} (last value {value!r})"
