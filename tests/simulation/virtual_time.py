"""Time that stands still while anything can be done, and chance that comes from a seed alone.

`VirtualLoop` is an asyncio event loop whose clock jumps to the next timer. `one_seed` makes everything else that the
product takes from outside (wall clocks, random ids, fsync) come from the world as well: one seed is one history.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from contextvars import Context, ContextVar
from heapq import heappop, heappush
from pathlib import Path
from typing import Any, Final, Protocol
from unittest.mock import patch

BORN_MS: Final = 1_795_390_000_000
"""What wall clocks show when a world begins, milliseconds since 1970."""


RESOLUTION_S: Final = 1e-9
"""Timers so close to each other are due in one turn."""

TURNS_AT_ONCE_MAX: Final = 100_000
"""More turns of the event loop than anything takes that gets ahead."""


class Stuck(Exception):
    """The world would sleep for ever, or never come to the next moment."""


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop without sockets or threads: when nothing is ready, its time jumps to the next timer."""

    _ready: deque[asyncio.Handle]
    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        self._turns_at_once = 0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        """By their time, and the older first."""
        self._timers_set = 0

    def time(self) -> float:
        """Seconds since the world began."""
        return self._now_s

    def call_soon(  # type: ignore[override]  # typeshed's has variadic generics
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """See `asyncio.AbstractEventLoop`; without the checks, which a loop that nobody shares can do without."""
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]  # typeshed's has variadic generics
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See `asyncio.AbstractEventLoop`."""
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]  # typeshed's has variadic generics
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See `asyncio.AbstractEventLoop`; of timers for one moment the one that was set first comes first."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers_set += 1
        heappush(self._timers, (when, self._timers_set, timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is passed over when its time has come."""

    def _run_once(self) -> None:
        """One turn: all that is ready, and what is due; if that is nothing, time jumps to the next timer."""
        ready, timers = self._ready, self._timers
        while timers and timers[0][2].cancelled():
            heappop(timers)
        if ready or self._stopping or (timers and timers[0][0] <= self._now_s):
            self._turns_at_once += 1
            if self._turns_at_once > TURNS_AT_ONCE_MAX:
                raise Stuck(f"time stands still at {self._now_s} s: something is always due")
        elif timers:
            self._turns_at_once = 0
            self._now_s = timers[0][0]
        else:
            raise Stuck("no task can go on and no timer is set")
        due = self._now_s + RESOLUTION_S
        while timers and timers[0][0] < due:
            ready.append(heappop(timers)[2])
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def run_in_executor(  # type: ignore[override]  # typeshed's has variadic generics
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Blocking calls run on the process's own `Thread`."""
        thread = executor.thread if isinstance(executor, OneThread) else current_process().background
        return thread.begin(func, *args)

    def add_signal_handler(  # type: ignore[override]  # typeshed's has variadic generics
        self, sig: int, callback: Callable[..., Any], *args: Any
    ) -> None:
        """Nobody sends signals here."""

    def remove_signal_handler(self, sig: int) -> bool:
        """There was none."""
        return False

    def _write_to_self(self) -> None:
        """Nobody calls from another thread."""


class Thread:
    """A thread of a simulated process: calls run one after another, each a moment after it was asked for.

    What was asked of a process that has died never happens, and what happened is never told to it.
    """

    def __init__(self, process: Owner, chance: random.Random, *, pause_max_s: float = 0.002) -> None:
        self._process = process
        self._chance = chance
        self._pause_max_s = pause_max_s
        self._free_at = 0.0
        self._begun: set[asyncio.Task[Any]] = set()

    def begin(self, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """The call, begun: it is kept though nobody may wait for it any more."""
        task = asyncio.current_task()
        if not self._process.alive and task is not None and task.cancelling():
            unwinding: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            unwinding.set_result(None)  # a dead process tidies nothing up, and nothing waits for that
            return unwinding
        call = asyncio.ensure_future(self.call(function, *args))
        self._begun.add(call)
        call.add_done_callback(self._begun.discard)
        return call

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """The call's result."""
        loop = asyncio.get_running_loop()
        begin = max(loop.time(), self._free_at) + self._chance.random() * self._pause_max_s + 1e-6
        self._free_at = begin
        await asyncio.sleep(begin - loop.time())
        result, error = self._process.perform(function, args) if self._process.alive else (None, None)
        if not self._process.alive:
            await loop.create_future()  # never
        if error is not None:
            raise error
        await asyncio.sleep(self._chance.random() * self._pause_max_s if self._chance.random() < 0.3 else 0)
        if not self._process.alive:
            await loop.create_future()
        return result


class OneThread(Executor):
    """What stands in for a `ThreadPoolExecutor` of one thread."""

    def __init__(self, max_workers: int, thread_name_prefix: str = "") -> None:
        assert max_workers == 1, thread_name_prefix
        self.thread = current_process().new_thread()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """A call by another thread of the same process, which waits for it: it happens within that one's call."""
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nothing to end."""


class Owner(Protocol):
    """What a simulated process is to the parts of it that come from here."""

    name: str
    alive: bool
    background: Thread

    def perform(self, function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, BaseException | None]:
        """Call it; its result or its error. The process may die of it."""
        ...

    def new_thread(self) -> Thread:
        """One more thread."""
        ...

    def wall_ms(self) -> int:
        """What the machine's clock shows, milliseconds since 1970."""
        ...

    def opened(self, connection: sqlite3.Connection) -> None:
        """It has opened a database."""
        ...


class Processes:
    """Which process runs now."""

    def __init__(self) -> None:
        self.running: ContextVar[Owner | None] = ContextVar("process", default=None)


PROCESSES: Final = Processes()


def current_process() -> Owner:
    """The process whose code runs."""
    process = PROCESSES.running.get()
    assert process is not None, "only a simulated process may do this"
    return process


def connect_outside(path: Path, factory: type[sqlite3.Connection] = sqlite3.Connection) -> sqlite3.Connection:
    """A connection that belongs to no simulated process, whoever asks for it."""
    token = PROCESSES.running.set(None)
    try:
        return sqlite3.connect(path, isolation_level=None, timeout=0, factory=factory)
    finally:
        PROCESSES.running.reset(token)


@contextmanager
def one_seed(loop: VirtualLoop, chance: random.Random, on_fsync: Callable[[int], None]) -> Iterator[None]:
    """While inside, clocks, random numbers and fsync are the world's.

    Args:
        loop: whose time it is.
        chance: where random numbers come from.
        on_fsync: called with the file descriptor, in place of the wait for the disk.
    """
    connect = sqlite3.connect
    slept_s = 0.0

    def sleep(seconds: float) -> None:
        nonlocal slept_s
        slept_s += seconds  # for who waits for a lock: nobody gives it back meanwhile

    def monotonic() -> float:
        return loop.time() + slept_s

    def wall_ns() -> int:
        process = PROCESSES.running.get()
        ms = process.wall_ms() if process is not None else BORN_MS + int(loop.time() * 1000)
        return ms * 1_000_000

    def connected(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **kwargs)
        process = PROCESSES.running.get()
        if process is not None:
            process.opened(connection)
        return connection

    replaced: dict[tuple[Any, str], Any] = {
        (time, "time"): lambda: wall_ns() / 1e9,
        (time, "time_ns"): wall_ns,
        (time, "monotonic"): monotonic,
        (time, "perf_counter"): monotonic,
        (time, "sleep"): sleep,
        (secrets, "token_hex"): lambda count=32: chance.randbytes(count).hex(),
        (secrets, "randbits"): chance.getrandbits,
        (os, "urandom"): chance.randbytes,
        (os, "fsync"): on_fsync,
        (random, "random"): chance.random,
        (sqlite3, "connect"): connected,
    }
    patches = [patch.object(place, name, value) for (place, name), value in replaced.items()]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in reversed(patches):
            one.stop()
