"""SQLite's checkpoint of what the agent wrote: in a moment when no transaction of the agent holds the app up.

SQLite itself does it inside the COMMIT that fills the `-wal`. The app's connections still do so with theirs.
"""

from __future__ import annotations

import sqlite3
from typing import Final

_TRANSACTION_PAGES: Final = 5
"""A small transaction writes a few pages."""

_SCALE_MIN: Final = 0.01
_SCALE_MAX: Final = 4.0
"""An app that writes much beside the agent does its own checkpoints."""


class WalCheckpoint:
    """Moves the `-wal` into the database once about so much has gathered in it.

    Nothing tells how large it is but a checkpoint itself. Between two it is estimated from the changes of this
    connection, of which each may write a page, or a hundred share one: the last checkpoint told how many did.

    Args:
        bytes_max: about how much may gather.
    """

    def __init__(self, connection: sqlite3.Connection, bytes_max: int) -> None:
        self._connection = connection
        self._bytes_max = bytes_max
        (self._page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        connection.execute(f"PRAGMA journal_size_limit = {bytes_max}")  # what grew larger gives the rest back
        self._changes = connection.total_changes
        self._pages = 0
        self._scale = 1.0
        """Pages in the `-wal` for each that was estimated."""
        self._left = 0
        """Pages that were in it after the last checkpoint, as some were not moved."""

    def wrote(self, blob_bytes: int = 0) -> None:
        """A transaction was committed, with large values of about so many bytes."""
        changes = self._connection.total_changes
        self._pages += _TRANSACTION_PAGES + changes - self._changes + blob_bytes // self._page_bytes
        self._changes = changes

    def run_if_due(self) -> None:
        """Checkpoint if it is time. It waits for nobody: what a reader still needs stays for the next time."""
        if self._pages * self._scale * self._page_bytes <= self._bytes_max:
            return
        _busy, pages, moved = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        new = pages - self._left if pages > self._left else pages  # it may have begun anew meanwhile
        self._scale = min(max(new / self._pages, _SCALE_MIN), _SCALE_MAX)
        self._left = 0 if moved == pages else pages
        self._pages = 0
