"""Following the keys of a file: what changed, by whomever.

SQLite tells a connection cheaply that another one committed something (`PRAGMA data_version`), not what. So a watch
keeps the rows under its prefix as it saw them last, reads them again when something was committed, and compares. Its
cost is one read of these rows per commit, at most one tenth of the time: watch a narrow prefix of a large table.
What changes several times between two looks is seen once, in its last form.
"""

from __future__ import annotations

import math
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from tidewire_agent.datasync import kv
from tidewire_agent.datasync.errors import translated
from tidewire_agent.datasync.file import DataFile
from tidewire_agent.datasync.notice import CommitNotice

_REST_FACTOR: Final = 9
"""After a comparison that took t, none for 9 t: watching takes at most a tenth of a core, however busy the file is."""


@dataclass(frozen=True)
class Change:
    """One key that was set or deleted, on this device or on another one."""

    key: str
    text: str | None
    """The JSON text; None if the key was deleted."""

    @property
    def deleted(self) -> bool:
        """Whether the key is gone."""
        return self.text is None

    @property
    def value(self) -> Any:
        """The new value; None if the key was deleted.

        Raises:
            StoredValueInvalid: somebody wrote with plain SQL what is not JSON.
        """
        return None if self.text is None else kv.decode_value(self.key, self.text)


class Watch(Iterator[Change]):
    """An iterator over the changes of the keys that begin with a prefix, from the moment it was made.

    It ends when `stop()` or `close()` is called, when its `DataSync` closes, or when nothing changed for `timeout`
    seconds. Use it from one thread at a time; `stop()` may come from any.
    """

    def __init__(self, file: DataFile, prefix: str, *, timeout: float | None, initial: bool) -> None:
        self._file = file
        self._prefix = kv.checked_prefix(prefix)
        self._timeout = timeout
        self._stopped = False
        self._using = threading.RLock()
        self._changes: deque[Change] = deque()
        self._rest_until = 0.0
        self._connection = file.new_connection()
        self._seen: dict[str, str] = {}
        self._version = -1
        with translated(file.path):
            self._connection.execute("SELECT 1 FROM sqlite_master").fetchone()  # the -wal file is there from here on
            self._notice = CommitNotice(file.path)
            self._closing = weakref.finalize(self, _close, self._connection, self._notice)
            if initial:
                self._compare()
            else:
                self._version = _data_version(self._connection)
                self._seen = kv.rows(self._connection, self._prefix)

    def __next__(self) -> Change:
        change = self.next(self._timeout)
        if change is None:
            raise StopIteration
        return change

    def next(self, timeout: float | None = None) -> Change | None:
        """The next change; None when stopped, or when there is none for `timeout` seconds (None waits for ever)."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        with self._using, translated(self._file.path):
            while not self._stopped:
                if not self._changes:
                    self._look()
                if self._changes:
                    return self._changes.popleft()
                now = time.monotonic()
                if now >= deadline:
                    return None
                if now < self._rest_until:
                    self._notice.rest(min(self._rest_until, deadline) - now)
                else:
                    self._notice.wait(deadline - now)
        return None

    def stop(self) -> None:
        """End the iteration, from any thread."""
        self._stopped = True
        self._notice.wake()

    def close(self) -> None:
        """Stop, and give back the connection; again does nothing."""
        self.stop()
        with self._using:
            self._closing()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _look(self) -> None:
        if time.monotonic() < self._rest_until or _data_version(self._connection) == self._version:
            return
        began = time.monotonic()
        self._compare()
        ended = time.monotonic()
        self._rest_until = ended + _REST_FACTOR * (ended - began)

    def _compare(self) -> None:
        # The version first: what is committed in between is looked at once more, never missed.
        self._version = _data_version(self._connection)
        before, now = self._seen, kv.rows(self._connection, self._prefix)
        self._changes.extend(Change(key, text) for key, text in now.items() if before.get(key) != text)
        self._changes.extend(Change(key, None) for key in before if key not in now)
        self._seen = now


def _data_version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA data_version").fetchone()[0]
    return version


def _close(connection: sqlite3.Connection, notice: CommitNotice) -> None:
    connection.close()
    notice.close()
