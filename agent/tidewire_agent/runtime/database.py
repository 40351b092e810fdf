"""A synchronous store on a thread of its own: aiosqlite's thread, used for whole functions.

The store's methods are transactions of many statements. Run one statement at a time from the event loop, each would
cross to the thread and back while the app's write lock is held; so a whole method crosses once. aiosqlite has no public
call for that: `_execute`, which all of its own methods go through, is used here and nowhere else.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Concatenate, Final, Generic, ParamSpec, Protocol, Self, TypeVar, cast

import aiosqlite

from tidewire_agent.errors import from_sqlite


class Store(Protocol):
    """What lives on the thread: something around one connection."""

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection, used from that thread alone."""
        ...

    def check_files(self) -> None:
        """After a call that failed: raise the error that tells the cause, if it is that the files are others now."""
        ...

    def close(self) -> None:
        """End cleanly."""
        ...


StoreT = TypeVar("StoreT", bound=Store)
P = ParamSpec("P")
R = TypeVar("R")

_INTERRUPT_AFTER_S: Final = 0.5
"""On closing, a call that still runs is left this long before its statement is interrupted (and rolled back)."""

_ROWS_PER_FETCH: Final = 64
"""aiosqlite asks for it; no rows are fetched through its cursors here."""


class Database(Generic[StoreT]):
    """A store and its thread.

    db = await Database.open(lambda: EdgeStore.open(path, …))
    outcome = await db.run(EdgeStore.seal, now_ms)
    await db.close()
    """

    def __init__(self, connection: aiosqlite.Connection, store: StoreT) -> None:
        self._connection = connection
        self._store = store

    @classmethod
    async def open(cls, opener: Callable[[], StoreT]) -> Self:
        """Start the thread and open the store on it; raises what `opener` raises."""
        opened: list[StoreT] = []
        failed: list[Exception] = []

        def connect() -> sqlite3.Connection:
            try:
                opened.append(opener())
            except Exception as error:
                # A connector that raises leaves aiosqlite's thread behind: give it something to close instead.
                failed.append(error)
                return sqlite3.connect(":memory:", check_same_thread=False)
            return opened[0].connection

        connecting = asyncio.ensure_future(aiosqlite.Connection(connect, _ROWS_PER_FETCH))
        try:
            connection = await asyncio.shield(connecting)
        except asyncio.CancelledError:
            await (await connecting).close()  # the thread must not outlive the loop that it answers to
            raise
        if not failed:
            return cls(connection, opened[0])
        await connection.close()
        if isinstance(failed[0], sqlite3.Error):
            raise from_sqlite(failed[0]) from failed[0]
        raise failed[0]

    async def run(self, function: Callable[Concatenate[StoreT, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `function(store, …)` on the thread, after all calls that were made before.

        Raises:
            DatabaseError: also in place of any sqlite3 error, and of any error at all where the files have become
                others under the store: whatever it reads in them then, or cannot read, comes of that.
        """
        try:
            return cast(R, await self._on_thread(partial(self._call, partial(function, self._store, *args, **kwargs))))
        except sqlite3.Error as error:
            raise from_sqlite(error) from error

    def _call(self, call: Callable[[], R]) -> R:
        try:
            return call()
        except Exception:
            self._store.check_files()
            raise

    async def close(self) -> None:
        """Close the store and end the thread; calls under way are finished, or interrupted if they take long."""
        closing = asyncio.ensure_future(self._close())
        done, _ = await asyncio.wait([closing], timeout=_INTERRUPT_AFTER_S)
        if not done:
            await self._connection.interrupt()
        await closing

    async def _close(self) -> None:
        try:
            await self._on_thread(self._store.close)
        finally:
            await self._connection.close()

    def _on_thread(self, call: Callable[[], object]) -> Awaitable[object]:
        execute = cast(Callable[[Callable[[], object]], Awaitable[object]], self._connection._execute)
        return execute(call)
