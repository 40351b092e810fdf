"""Blocking work on threads: what becomes of each job is given back to the core, on the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TypeVar

from tidewire_hub.actions import Effect, Now
from tidewire_hub.state.check import StateDamaged
from tidewire_hub.stream_host import as_tidewire_error
from tidewire_schemas.errors import TidewireError

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Jobs:
    """Runs jobs, and has performed what the core says to their results.

    Args:
        stream_thread: the only thread on which the stream may be used.
        now: the time.
        perform: performs effects.
        on_damaged: what the core says of a state that the disk has changed.
        on_mistake: gets the exception that no part of the hub can go on after.
    """

    def __init__(
        self,
        stream_thread: Executor,
        *,
        now: Callable[[], Now],
        perform: Callable[[Sequence[Effect]], None],
        on_damaged: Callable[[TidewireError], list[Effect]],
        on_mistake: Callable[[Exception], None],
    ) -> None:
        self._stream_thread = stream_thread
        self._now = now
        self._perform = perform
        self._on_damaged = on_damaged
        self._on_mistake = on_mistake
        self._under_way = 0
        self._stopping = False
        self.idle = asyncio.Event()
        """Whether no job waits for the stream's thread or is under way on it."""
        self.idle.set()

    def on_stream(
        self,
        job: Callable[[], T],
        then: Callable[[T, Now], list[Effect]],
        otherwise: Callable[[TidewireError, Now], list[Effect]],
    ) -> None:
        """Run a job on the stream's thread, after those before it, and give its result to the core."""

        def finished(future: asyncio.Future[T]) -> None:
            self._under_way -= 1
            self._feed(future, then, otherwise)
            if self._under_way == 0:
                self.idle.set()

        self._under_way += 1
        self.idle.clear()
        asyncio.get_running_loop().run_in_executor(self._stream_thread, job).add_done_callback(finished)

    def aside(
        self,
        job: Callable[[], T],
        then: Callable[[T, Now], list[Effect]],
        otherwise: Callable[[TidewireError, Now], list[Effect]],
        executor: Executor | None = None,
    ) -> None:
        """Run a job beside the stream's, for which stopping does not wait, and give its result to the core."""

        def finished(future: asyncio.Future[T]) -> None:
            if self._stopping and not future.cancelled():
                future.exception()  # nobody waits for it any more: asyncio would log it as never retrieved
            elif not future.cancelled():
                self._feed(future, then, otherwise)

        asyncio.get_running_loop().run_in_executor(executor, job).add_done_callback(finished)

    def stop(self) -> None:
        """What becomes of jobs beside the stream's does not matter any more."""
        self._stopping = True

    def _feed(
        self,
        future: asyncio.Future[T],
        then: Callable[[T, Now], list[Effect]],
        otherwise: Callable[[TidewireError, Now], list[Effect]],
    ) -> None:
        """Give the core what became of a job."""
        error = future.exception()
        try:
            if error is None:
                self._perform(then(future.result(), self._now()))
            else:
                known = as_tidewire_error(error)
                if known is not error:
                    logger.error("%s", known, exc_info=error)
                effects = otherwise(known, self._now())
                self._perform([*effects, *self._on_damaged(known)] if isinstance(known, StateDamaged) else effects)
        except Exception as mistake:
            self._on_mistake(mistake)
