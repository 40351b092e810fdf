"""What stands in for the agent's thread and for the kernel that tells it of commits."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, Self
from unittest.mock import patch

from simulation.process import Process
from simulation.virtual_time import current_process
from tidewire_agent.errors import from_sqlite
from tidewire_agent.runtime.watch import CommitWatch, Notifier, Peek
from tidewire_agent.store.edge_store import EdgeStore

RECHECKS_S: Final = (0.001, 0.05)
"""The watch looks again less often than it does by default: a simulated commit is whole at once."""


class SimulatedDatabase:
    """`Database` on a simulated process's thread."""

    def __init__(self, store: EdgeStore) -> None:
        self._store = store

    @classmethod
    async def open(cls, opener: Callable[[], EdgeStore]) -> Self:
        """See `Database.open`."""
        return cls(await _called(opener))

    async def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """See `Database.run`."""
        return await _called(partial(self._call, partial(function, self._store, *args, **kwargs)))

    def _call(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception:
            self._store.check_files()
            raise

    async def close(self) -> None:
        """See `Database.close`; a dead process's files are closed by the system."""
        if current_process().alive:
            await _called(self._store.close)


async def _called(function: Callable[..., Any]) -> Any:
    process = current_process()
    assert isinstance(process, Process)
    try:
        return await process.thread.call(function)
    except sqlite3.Error as error:
        raise from_sqlite(error) from error


class SimulatedWatch(CommitWatch):
    """The real watch, told of commits by the simulated app instead of by the kernel."""

    watching: Final[dict[Path, Callable[[], None]]] = {}
    """Who is to be told, by database."""

    def __init__(self, database: Path, data_version: Callable[[], Awaitable[int]], *args: Any, **kwargs: Any) -> None:
        super().__init__(database, data_version, *args, **kwargs)
        self._database = database

    def _notifier(self) -> Notifier:
        return _AppTells(self._database)

    def _peek(self) -> Peek:
        return _Blind()


class _Blind(Peek):
    """Keeps no file open that would outlive a simulated process: the store is asked each time."""

    def __init__(self) -> None:
        pass

    def version(self) -> None:
        """Unknown."""

    def close(self) -> None:
        """Nothing to close."""


class _AppTells:
    def __init__(self, database: Path) -> None:
        self._database = database

    def start(self, notify: Callable[[], None]) -> None:
        SimulatedWatch.watching[self._database] = notify

    def listen(self) -> None:
        """Nothing to do: it tells of each commit."""

    def renew(self) -> None:
        """Nothing to do: the simulated app goes by name."""

    def close(self) -> None:
        SimulatedWatch.watching.pop(self._database, None)


@contextmanager
def simulated_agents() -> Iterator[None]:
    """While inside, agents have simulated threads and watches."""
    with (
        patch("tidewire_agent.runtime.agent.Database", SimulatedDatabase),
        patch("tidewire_agent.runtime.engine.CommitWatch", SimulatedWatch),
        patch("tidewire_agent.runtime.watch.RECHECKS_S", RECHECKS_S),
    ):
        yield
