"""Following the keys of a file on an asyncio event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Final, Self

from tidewire_agent.datasync.file import DataFile
from tidewire_agent.datasync.kv import checked_prefix
from tidewire_agent.datasync.watching import Change, Watch

_SLICE_S: Final = 0.5
"""A watching thread comes up for air this often, so that a program that forgot to close it can end."""


class AsyncWatch(AsyncIterator[Change]):
    """What `AsyncDataSync.watch` gives: an async iterator over changes; see `Watch`.

    A call that is cancelled loses no change: the next one gets it.
    """

    def __init__(self, file: DataFile, prefix: str, *, timeout: float | None, initial: bool) -> None:
        checked_prefix(prefix)
        self._make_watch = partial(Watch, file, prefix, timeout=timeout, initial=initial)
        self._timeout = timeout
        self._watch: Watch | None = None
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"tidewire watch {file.path.name}")
        self._pending: asyncio.Future[Change | None] | None = None

    async def next(self, timeout: float | None = None) -> Change | None:
        """The next change; None when closed, or when there is none for `timeout` seconds (None waits for ever)."""
        loop = asyncio.get_running_loop()
        deadline = float("inf") if timeout is None else loop.time() + timeout
        while not self._closed:
            if self._pending is None:
                wait_s = min(_SLICE_S, max(0.0, deadline - loop.time()))
                self._pending = loop.run_in_executor(self._thread, self._next, wait_s)
            change = await asyncio.shield(self._pending)
            self._pending = None
            if change is not None:
                return change
            if loop.time() >= deadline:
                break
        return None

    async def __anext__(self) -> Change:
        change = await self.next(self._timeout)
        if change is None:
            raise StopAsyncIteration
        return change

    async def close(self) -> None:
        """End the iteration, also one that another task is in."""
        if self._closed:
            return
        self._closed = True
        if self._watch is not None:
            self._watch.stop()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        if self._watch is None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._begin)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _begin(self) -> Watch:
        if self._watch is None:
            self._watch = self._make_watch()
        return self._watch

    def _next(self, timeout: float) -> Change | None:
        return self._begin().next(timeout)

    def _close(self) -> None:
        if self._watch is not None:
            self._watch.close()
