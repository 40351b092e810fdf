"""The blocking side of snapshots: made on a thread of their own, read and removed on threads that others share."""

from __future__ import annotations

import os
import sqlite3
import threading
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Final

from tidewire_hub.actions import ReadChunk
from tidewire_hub.backup import open_read_only
from tidewire_hub.database import check_reserve, storage_errors
from tidewire_hub.settings import HubSettings
from tidewire_hub.snapshot.build import Stopped
from tidewire_hub.snapshot.manifest import KeptSnapshot
from tidewire_hub.snapshot.shelf import Shelf
from tidewire_hub.state.check import check_state
from tidewire_hub.stream_host import StreamHost, wall_ms

_PROGRESS_STEPS: Final = 100_000
"""Steps of SQLite's machine, a few milliseconds, after which a check looks whether the hub stops."""


class SnapshotKeeper:
    """Makes, reads and removes the snapshots of a stream.

    Args:
        settings: sizes.
        host: the stream.
        stream_thread: the only thread on which the stream may be used.
        state: the state's file.
    """

    def __init__(self, settings: HubSettings, host: StreamHost, stream_thread: Executor, state: Path) -> None:
        self._settings: Final = settings
        self._shelf: Final[Shelf] = host.shelf
        self._settle: Final = host.stream.settle
        self._stream_thread: Final = stream_thread
        self._state: Final = state
        self._stopping: Final = threading.Event()
        self.thread: Final[Executor] = ThreadPoolExecutor(max_workers=1, thread_name_prefix="snapshot")
        """Where `make` runs: it may take minutes."""

    def make(self) -> KeptSnapshot:
        """Make a snapshot of all that is in the state now; the stream's thread only commits what it holds open.

        Raises:
            DatabaseError: it cannot be made.
            Stopped: the hub stops.
        """
        check_reserve(self._settings.data, self._settings.disk_reserve_bytes)
        self._stream_thread.submit(self._settle).result()
        return self._shelf.make(
            os.urandom(16).hex(),
            self._state,
            payload_bytes_max=self._settings.payload_bytes_max,
            at_ms=wall_ms(),
            conflicts_max=self._settings.conflicts_max,
            refused_bytes_max=self._settings.snapshot_refused_bytes_max,
            stopping=self._stopping.is_set,
        )

    def read(self, chunk: ReadChunk) -> bytes:
        """A chunk's body; raises as `Shelf.read`."""
        return self._shelf.read(chunk.snapshot, chunk.chunk)

    def remove(self, snapshot: str) -> None:
        """Remove a snapshot."""
        self._shelf.remove(snapshot)

    def check(self) -> int:
        """Look whether the disk has changed the state or its copies: how many of these it has, and are gone.

        Raises:
            StateDamaged: it has changed the state.
            Stopped: the hub stops.
        """
        with closing(open_read_only(self._state)) as connection, storage_errors(self._state):
            connection.set_progress_handler(self._stopping.is_set, _PROGRESS_STEPS)
            connection.execute("BEGIN")  # one snapshot for all
            try:
                check_state(connection, self._rest)
            except sqlite3.OperationalError:
                self._rest(0)  # it was the handler
                raise
        return self._shelf.drop_damaged_copies()

    def _rest(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            raise Stopped

    def stop(self) -> None:
        """Give up what is being made; nothing of it is left."""
        self._stopping.set()
        self.thread.shutdown(wait=False)
