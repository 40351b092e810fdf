"""Whether the database's disk has space, also while there is nothing to write: the app may need it before the agent."""

from __future__ import annotations

import asyncio

from tidewire_agent.errors import DiskLow
from tidewire_agent.runtime.troubles import Troubles
from tidewire_agent.store.disk_reserve import DiskReserve


class DiskWatch:
    """Says `disk_low` when it comes, and that it is over when it is.

    Args:
        reserve: what is to be free.
        interval_s: how often to look.
        troubles: where it is said.
    """

    def __init__(self, reserve: DiskReserve, interval_s: float, troubles: Troubles) -> None:
        self._reserve = reserve
        self._interval_s = interval_s
        self._troubles = troubles

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(self._interval_s)

    def look(self) -> bool:
        """Look now: whether there is space."""
        try:
            self._reserve.check()
        except DiskLow as error:
            self._troubles.say_error(error)
            return False
        self._troubles.clear("disk_low")
        return True
