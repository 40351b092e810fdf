"""The database for those who can wait: while it is locked or its disk is full, a call is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Concatenate, ParamSpec, TypeVar

from tidewire_agent.runtime.database import Database
from tidewire_agent.runtime.disk_watch import DiskWatch
from tidewire_agent.runtime.troubles import Troubles
from tidewire_agent.settings import AgentSettings
from tidewire_agent.store.edge_store import EdgeStore
from tidewire_schemas.errors import DatabaseError

P = ParamSpec("P")
R = TypeVar("R")


class PatientDatabase:
    """`database`, with calls that wait until they succeed.

    Args:
        troubles: where it is said what is waited for.
        disk: asked whether a full disk has space again.
    """

    def __init__(
        self, settings: AgentSettings, database: Database[EdgeStore], troubles: Troubles, disk: DiskWatch
    ) -> None:
        self._settings = settings
        self._database = database
        self._troubles = troubles
        self._disk = disk

    async def run(self, function: Callable[Concatenate[EdgeStore, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """As `Database.run`; while the database is locked or the disk is full it is tried again.

        Raises:
            DatabaseError: trying again would not help.
        """
        return await self.until_done(lambda: self._database.run(function, *args, **kwargs))

    async def until_done(self, call: Callable[[], Awaitable[R]]) -> R:
        """The result of a call that uses the database, and is made anew each time it is tried."""
        delay = self._settings.retry_delay_min_s
        while True:
            try:
                result = await call()
            except DatabaseError as error:
                if not error.retry:
                    raise
                if delay > self._settings.retry_delay_min_s or error.code != "database_busy":
                    self._troubles.say_error(error)  # a lock that is met once is no news
                await asyncio.sleep(delay)
                delay = min(delay * 2, self._settings.retry_delay_max_s)
            else:
                self._troubles.clear("database_busy")
                if self._disk.look():  # what only reads succeeds on a full disk too
                    self._troubles.clear("disk_full")
                return result
