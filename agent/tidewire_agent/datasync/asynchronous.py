"""`AsyncDataSync`: `DataSync` for programs on an asyncio event loop.

    from tidewire_agent import AsyncDataSync

    async with AsyncDataSync("shop.db", device="till-7", broker="mqtt://broker.local") as sync:
        await sync.update("lamp/kitchen", {"on": True, "level": 40})
        await sync.flush(timeout=10)
        print(await sync.get("lamp/kitchen"))
        async for change in sync.watch("lamp/", timeout=60):
            print(change.key, change.value)

The agent is a task on the same loop; SQLite runs in a few threads, so the loop never waits for a disk or a lock.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar

import aiosqlite

from tidewire_agent.datasync.async_watch import AsyncWatch
from tidewire_agent.datasync.blocking import ATTACH_TIMEOUT_S, NOT_ATTACHED, PAUSES_S, TIMEOUT_S
from tidewire_agent.datasync.errors import DataSyncClosed, FlushTimeout, FreshTimeout, SyncTimeout
from tidewire_agent.datasync.file import BUSY_TIMEOUT_S, DataFile, Synchronous
from tidewire_agent.datasync.keeper import AgentKeeper, agents_for
from tidewire_agent.datasync.waiting import AttachWait, FlushWait, FreshWait, Wait, timed_out
from tidewire_agent.lock import read_status
from tidewire_agent.status import AgentStatus
from tidewire_schemas.errors import TidewireError

THREADS: Final = 4
"""SQLite threads of one object: a read need not wait behind a write that waits for the lock."""

Params = ParamSpec("Params")
Result = TypeVar("Result")


class AsyncDataSync:
    """Shared keys and values in one SQLite file, for one event loop; see `DataSync` for arguments and errors.

    Use it as `async with`, or call `open()` and `close()`. A call that is cancelled may still take effect.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        broker: str | None = None,
        device: str | None = None,
        tables: Sequence[str] = (),
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        synchronous: Synchronous = "NORMAL",
        **settings: object,
    ) -> None:
        self._agents = agents_for(path, broker, device=device, tables=tables, settings=settings)
        self._make_file = partial(
            DataFile,
            path,
            busy_timeout_s=busy_timeout_s,
            synchronous=synchronous,
            has_agent=self._agents is not None,
        )
        self._path = Path(path).absolute()
        self._file: DataFile | None = None
        self._connection: aiosqlite.Connection | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._keeper: AgentKeeper | None = None
        self._task: asyncio.Task[None] | None = None
        self._watches: weakref.WeakSet[AsyncWatch] = weakref.WeakSet()

    async def open(self) -> Self:
        """Open the file and begin to run its agent; again does nothing.

        Raises:
            DatabaseError: the file cannot be used.
            SettingError: a setting does not fit this file.
        """
        if self._file is not None:
            self._opened()
            return self
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=f"tidewire {self._path.name}")
        try:
            self._file = await asyncio.get_running_loop().run_in_executor(self._threads, self._make_file)
            self._connection = await aiosqlite.connect(
                self._file.path, timeout=self._file.busy_timeout_s, isolation_level="IMMEDIATE"
            )
            if self._agents is not None:
                self._keeper = AgentKeeper(self._agents)
                self._task = asyncio.create_task(self._keeper.run(), name=f"tidewire {self._path.name}")
                attached = AttachWait(self._agents.device, self._agents.wanted)
                await self._wait(attached, ATTACH_TIMEOUT_S, SyncTimeout, NOT_ATTACHED, early=True)
        except BaseException:
            await self.close()
            raise
        return self

    @property
    def path(self) -> Path:
        """The SQLite file."""
        return self._path

    @property
    def status(self) -> AgentStatus | None:
        """What the agent on this file last said about itself, whoever runs it; None if none ever ran."""
        return read_status(self._path)

    @property
    def connection(self) -> aiosqlite.Connection:
        """A connection to the file for SQL, apart from the one that `update` and its like use.

        It waits `busy_timeout_s` for locks; a transaction that `sqlite3` opens by itself is IMMEDIATE.
        """
        if self._connection is None:
            raise self._not_open()
        return self._connection

    async def update(self, key: str, value: object) -> bool:
        """Set a key to a JSON value; False if it had this value already, and nothing was written."""
        return await self._call(self._opened().update, key, value)

    async def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, or `default` if there is no such key."""
        return await self._call(self._opened().get, key, default)

    async def delete(self, key: str) -> bool:
        """Remove a key; False if there was none."""
        return await self._call(self._opened().delete, key)

    async def keys(self, prefix: str = "") -> list[str]:
        """The keys that begin with `prefix`, in the order of their UTF-8 bytes."""
        return await self._call(self._opened().keys, prefix)

    def watch(self, prefix: str = "", *, timeout: float | None = None, initial: bool = False) -> AsyncWatch:
        """An async iterator over changes of keys that begin with `prefix`, made here or elsewhere, from now on.

        "Now" is when it is entered with `async with`, or asked for its first change.
        """
        watch = AsyncWatch(self._opened(), prefix, timeout=timeout, initial=initial)
        self._watches.add(watch)
        return watch

    async def flush(self, timeout: float | None = TIMEOUT_S) -> None:
        """Wait until the hub has durably put everything committed here before this call into its order.

        Raises:
            FlushTimeout: not yet; it goes on by itself, nothing is lost.
        """
        await self._wait(FlushWait(), timeout, FlushTimeout, "the hub has not confirmed all writes")

    async def fresh(self, timeout: float | None = TIMEOUT_S) -> None:
        """Wait until this file holds everything that the hub had at the time of this call.

        Raises:
            FreshTimeout: not yet; the file may miss what others wrote.
        """
        await self._wait(FreshWait(), timeout, FreshTimeout, "this file does not hold all that the hub has")

    async def close(self) -> None:
        """Stop watches and the agent, and close all connections; again does nothing."""
        for watch in list(self._watches):
            await watch.close()
        if self._keeper is not None and self._task is not None:
            await self._keeper.stop()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._connection is not None:
            await self._connection.close()
        if self._file is not None:
            await asyncio.to_thread(self._file.close)
        if self._threads is not None:
            self._threads.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _opened(self) -> DataFile:
        if self._file is None:
            raise self._not_open()
        if self._file.closed:
            raise DataSyncClosed(f"{self._path.name} was closed")
        return self._file

    def _not_open(self) -> DataSyncClosed:
        return DataSyncClosed(f"{self._path.name} is not open", hint="use `async with`, or call open() first")

    async def _call(self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs) -> Result:
        self._opened()
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(*args, **kwargs))

    async def _wait(
        self, wait: Wait, timeout: float | None, kind: type[SyncTimeout], what: str, *, early: bool = False
    ) -> None:
        """Look until it is done; with `early`, a problem of our own agent ends the wait with its error."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        pauses = iter(PAUSES_S)
        pause = PAUSES_S[0]
        try:
            while not await self._call(self._look, wait):
                problem = self._keeper.problem if self._keeper is not None else None
                if early and problem is not None:
                    raise problem
                left = float("inf") if deadline is None else deadline - loop.time()
                if left <= 0:
                    raise timed_out(kind, what, timeout, self._path, problem)
                pause = next(pauses, pause)
                await asyncio.sleep(min(pause, left))
        finally:
            # On the way out of an error, that error matters more than a question left behind.
            with suppress(TidewireError):
                await self._call(self._forget, wait)

    def _look(self, wait: Wait) -> bool:
        with self._opened().operation() as connection:
            return wait.done(connection)

    def _forget(self, wait: Wait) -> None:
        with self._opened().operation() as connection:
            wait.forget(connection)
