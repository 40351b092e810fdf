"""Space on the database's disk that the agent leaves alone, so that it can stop cleanly, and the app go on."""

from __future__ import annotations

import os
from pathlib import Path

from tidewire_agent.errors import DiskLow


class DiskReserve:
    """Asks the file system how much is free.

    Args:
        path: the database.
        reserve_bytes: what is left alone; 0 for nothing.
    """

    def __init__(self, path: Path, reserve_bytes: int) -> None:
        self._folder = path.parent
        self._reserve_bytes = reserve_bytes

    def check(self) -> None:
        """Before something is written.

        Raises:
            DiskLow: less than the reserve is free.
        """
        if not self._reserve_bytes:
            return
        try:
            disk = os.statvfs(self._folder)
        except OSError:
            return  # what is wrong with it is told by the database, which needs it too
        if disk.f_bavail * disk.f_frsize < self._reserve_bytes:
            raise DiskLow(self._folder, self._reserve_bytes)
