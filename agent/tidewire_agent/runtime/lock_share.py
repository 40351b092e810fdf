"""The app's write lock, shared with the app: left alone as long as `Pace` says, and counted how long it was held."""

from __future__ import annotations

import asyncio
from typing import Final

from tidewire_agent.runtime.pace import Pace
from tidewire_agent.settings import AgentSettings

PACE_STEP_S: Final = 0.01
"""While the lock is left alone, how often to look whether the app has paused."""


class LockShare:
    """The agent's share of the write lock on one database."""

    def __init__(self, settings: AgentSettings) -> None:
        self._loop = asyncio.get_running_loop()
        self._pace = Pace(
            share_max=settings.lock_share_max,
            burst_s=settings.lock_burst_s,
            pause_max_s=settings.lock_pause_max_s,
            rush_share_max=settings.rush_lock_share_max,
            rush_pause_max_s=settings.rush_pause_max_s,
            now=self._loop.time(),
        )
        self.held_s = 0.0
        """How long it was held, all in all."""
        self.longest_s = 0.0
        """The longest that sealing, applying or loading held it at once."""

    def app_seen(self, *, committed: bool) -> None:
        """A look at the database found commits of others, or none."""
        self._pace.rush.looked(committed, self._loop.time())

    async def leave(self, *, applying: bool = False) -> None:
        """Leave the write lock to the app for as long as it should have it."""
        while wait_s := self._pace.wait_s(self._loop.time(), applying=applying):  # noqa: ASYNC110  # only time tells
            await asyncio.sleep(min(wait_s, PACE_STEP_S))

    def held(self, lock_s: float) -> None:
        """It was held so long."""
        self.held_s += lock_s
        self.longest_s = max(self.longest_s, lock_s)
        self._pace.held(lock_s, self._loop.time())

    def sealed(self, changes: int, left: int, step: int) -> None:
        """So many changes of the app were taken from the change log, and so many are left there: see `Pace.sealed`."""
        self._pace.sealed(changes, left, self._loop.time(), step=step)
