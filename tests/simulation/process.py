"""A simulated process: what dies together, between any two steps or inside one."""

from __future__ import annotations

import asyncio
import contextvars
import random
import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from simulation.virtual_time import BORN_MS, PROCESSES, Thread


@dataclass
class Clock:
    """A machine's wall clock; it may jump by years."""

    offset_ms: int = 0

    def ms(self, now_s: float) -> int:
        """What it shows, milliseconds since 1970."""
        return max(0, BORN_MS + int(now_s * 1000) + self.offset_ms)


class Process:
    """One life of a program.

    Args:
        name: for messages.
        clock: of the machine it runs on.
        chance: for the pauses of its threads.
        on_end: called when its main function ended without having been killed, with the error if there was one.
        on_call: called after each blocking call.
        on_death: called when it dies inside a call.
    """

    def __init__(
        self,
        name: str,
        clock: Clock,
        chance: random.Random,
        *,
        on_end: Callable[[BaseException | None], None],
        on_call: Callable[[], None],
        on_death: Callable[[], None],
    ) -> None:
        self.name = name
        self.alive = True
        self.thread = Thread(self, chance)
        """Where its database is used."""
        self.background = Thread(self, chance)
        self._chance = chance
        self.program: object = None
        """What it runs, for who looks inside."""
        self._clock = clock
        self._on_end = on_end
        self._on_call = on_call
        self._on_death = on_death
        self._connections: list[sqlite3.Connection] = []
        self._task: asyncio.Task[None] | None = None
        self._dies_after: int | None = None
        self._dies_now = False

    def start(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run its main function."""
        context = contextvars.copy_context()
        context.run(PROCESSES.running.set, self)
        self._task = asyncio.get_running_loop().create_task(main(), name=self.name, context=context)
        self._task.add_done_callback(self._ended)

    def new_thread(self) -> Thread:
        """See `Owner`."""
        return Thread(self, self._chance)

    def wall_ms(self) -> int:
        """See `Owner`."""
        return self._clock.ms(asyncio.get_running_loop().time())

    def opened(self, connection: sqlite3.Connection) -> None:
        """See `Owner`."""
        self._connections.append(connection)
        self._arm()

    @property
    def connections(self) -> list[sqlite3.Connection]:
        """Those that it has open."""
        return [connection for connection in self._connections if _is_open(connection)]

    def die_inside(self, instructions: int) -> None:
        """Die within a coming database call, after so many instructions of SQLite's machine."""
        self._dies_after = instructions

    def perform(self, function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, BaseException | None]:
        """See `Owner`: one blocking call, which may be the last."""
        self._arm()
        result, error = None, None
        try:
            result = function(*args)
        except Exception as raised:
            error = raised
        self._disarm()
        if self._dies_now:
            result = error = None  # its frames hold cursors, and these the files, also when the connections are closed
            self._on_death()
        else:
            self._on_call()
        return result, error

    def kill(self) -> None:
        """End at once: nothing it had begun goes on, nothing is tidied up. Its connections are left to `close`."""
        self.alive = False
        if self._task is not None:
            self._task.cancel()

    def close(self) -> None:
        """What the system does with a dead process's files."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        self.program = None

    @property
    def is_gone(self) -> bool:
        """Whether its tasks have unwound."""
        return self._task is None or self._task.done()

    async def gone(self) -> None:
        """Wait until its tasks have unwound."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def _arm(self) -> None:
        if self._dies_after is not None:
            for connection in self._connections:
                with suppress(sqlite3.ProgrammingError):  # closed already
                    connection.set_progress_handler(self._stumble, self._dies_after)

    def _disarm(self) -> None:
        if self._dies_after is not None:
            for connection in self._connections:
                with suppress(sqlite3.ProgrammingError):
                    connection.set_progress_handler(None, 0)

    def _stumble(self) -> int:
        self._dies_now = True
        return 1

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if self.alive:
            self.alive = False
            self._on_end(error)


def _is_open(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return False
    return True
