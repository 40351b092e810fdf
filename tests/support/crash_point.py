"""A place in a program at which its process kills itself, set from outside: the program knows nothing of it."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Self

_inside = threading.local()
"""How many calls of the function are under way on this thread."""


class CrashPoint(NamedTuple):
    """Where and when.

    CrashPoint("tidewire_agent.store.seal:Sealer._store", "before COMMIT", 3)
    """

    function: str
    """module:function or module:Class.method."""
    moment: str
    """`before` or `after` a call of it, or before or after an SQL statement that begins so, inside a call of it; or
    `instead of` every call: then nobody dies, and nothing is done."""
    nth: int = 1
    """The how manieth such moment it is."""

    def __str__(self) -> str:
        return f"{self.moment} {self.function} ({self.nth})"

    def find(self) -> tuple[object, str, Callable[..., Any]]:
        """The function, where it is kept, and its name there; an AttributeError or ImportError where it is gone."""
        module, _, path = self.function.partition(":")
        owner: object = importlib.import_module(module)
        *way, name = path.split(".")
        for step in way:
            owner = getattr(owner, step)
        function = inspect.getattr_static(owner, name)
        assert inspect.isfunction(function), f"{self.function} is no plain function"
        return owner, name, function

    def arm(self) -> None:
        """From now on this process dies there. To be called before the program runs."""
        owner, name, function = self.find()
        countdown = _Countdown(self)
        when, _, statement = self.moment.partition(" ")
        if self.moment == "instead of":
            wrapped = _nothing
        elif statement:
            connection = _connection_class(countdown, when, statement)
            connect: Callable[..., sqlite3.Connection] = functools.partial(sqlite3.connect, factory=connection)
            sqlite3.connect = connect  # type: ignore[assignment]  # all that programs use of it
            wrapped = _counted(function)
        elif inspect.iscoroutinefunction(function):
            wrapped = _async_wrapper(function, countdown, when)
        else:
            wrapped = _wrapper(function, countdown, when)
        setattr(owner, name, functools.wraps(function)(wrapped))


class _Countdown:
    """Dies at the last of so many steps."""

    def __init__(self, point: CrashPoint) -> None:
        self._text = f"dies {point}\n"
        self._left = point.nth
        self._lock = threading.Lock()

    def step(self: Self) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os.write(2, self._text.encode())
                os.kill(os.getpid(), signal.SIGKILL)


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    pass


def _wrapper(function: Callable[..., Any], countdown: _Countdown, when: str) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            countdown.step()
        result = function(*args, **kwargs)
        if when == "after":
            countdown.step()
        return result

    return wrapped


def _async_wrapper(function: Callable[..., Any], countdown: _Countdown, when: str) -> Callable[..., Any]:
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            countdown.step()
        result = await function(*args, **kwargs)
        if when == "after":
            countdown.step()
        return result

    return wrapped


def _counted(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        _inside.calls = getattr(_inside, "calls", 0) + 1
        try:
            return function(*args, **kwargs)
        finally:
            _inside.calls -= 1

    return wrapped


def _connection_class(countdown: _Countdown, when: str, beginning: str) -> type[sqlite3.Connection]:
    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            meant = getattr(_inside, "calls", 0) > 0 and sql.startswith(beginning)
            if meant and when == "before":
                countdown.step()
            cursor = super().execute(sql, *parameters)
            if meant and when == "after":
                countdown.step()
            return cursor

    return Connection
