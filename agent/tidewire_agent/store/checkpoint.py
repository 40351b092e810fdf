"""SQLite's checkpoint of what the agent wrote: in a moment when no transaction of the agent holds the app up.

SQLite itself does it inside the COMMIT that fills the `-wal`. The app's connections still do so with theirs.
"""

from __future__ import annotations

import sqlite3
from typing import Final

_TRANSACTION_BYTES: Final = 5 * 4096
"""A small transaction writes a few pages."""
_CHANGE_BYTES: Final = 100


class WalCheckpoint:
    """Moves the `-wal` into the database once this connection has written about so much to it.

    Args:
        bytes_max: about how much may gather.
    """

    def __init__(self, connection: sqlite3.Connection, bytes_max: int) -> None:
        self._connection = connection
        self._bytes_max = bytes_max
        self._changes = connection.total_changes
        self._bytes = 0

    def wrote(self, blob_bytes: int = 0) -> None:
        """A transaction was committed, with large values of about so many bytes."""
        changes = self._connection.total_changes
        self._bytes += _TRANSACTION_BYTES + _CHANGE_BYTES * (changes - self._changes) + blob_bytes
        self._changes = changes

    def run_if_due(self) -> None:
        """Checkpoint if it is time. It waits for nobody: what a reader still needs stays for the next time."""
        if self._bytes > self._bytes_max:
            self._bytes = 0
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
