"""The app's file as `DataSync` uses it: connections, transactions, and the operations on keys.

SQLite allows one writer at a time and any number of readers, so each thread gets a connection of its own and nobody
waits for another thread except while two of them write. Every statement waits at most `busy_timeout_s` for the lock.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

from tidewire_agent.datasync import kv
from tidewire_agent.datasync.errors import DataSyncClosed, WrongProcess, translated
from tidewire_agent.errors import DatabaseBusy, DatabaseMissing
from tidewire_schemas.errors import DatabaseError, SettingError

BUSY_TIMEOUT_S: Final = 5.0
"""How long a statement waits for another program's write lock; far above any transaction of the agent."""

WAL_PAGES_WITH_AGENT: Final = 16_000
"""Pages (64 MB) in the -wal file from which on we copy them back into the database ourselves. Below, the agent does it
alone: before SQLite 3.51.3 two connections that do it at the same instant can damage the file, and commits here are
quicker. It is not off, as an agent that cannot keep up with a very busy app would let the file grow without limit."""

_RETRY_S: Final = 0.01

Synchronous = Literal["NORMAL", "FULL"]


class _Held:
    """One thread's connection. It closes with its thread, so that a thread that died leaves no lock behind."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.lock = threading.RLock()
        """Held during each operation, so that close() in another thread waits for it to end."""

    def __del__(self) -> None:
        self.connection.close()


class DataFile:
    """One SQLite file with its `tidewire_kv` table; usable from any thread.

    Args:
        path: the file.
        busy_timeout_s: longest wait for another program's write lock.
        synchronous: "FULL" makes each commit wait for the disk.
        has_agent: an agent is sure to run on the file; see `WAL_PAGES_WITH_AGENT`.

    Raises:
        DatabaseError: a subclass of it, if the file cannot be opened, read or made.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        synchronous: Synchronous = "NORMAL",
        has_agent: bool = False,
    ) -> None:
        if str(path) == ":memory:" or not str(path):
            raise SettingError(f"{str(path)!r} is no file", hint="name a file: an agent syncs it from outside")
        self.path = Path(path).absolute()
        self.busy_timeout_s = busy_timeout_s
        self._synchronous = synchronous
        self._has_agent = has_agent
        self._process = os.getpid()
        self._local = threading.local()
        self._open: weakref.WeakSet[_Held] = weakref.WeakSet()
        self._guard = threading.Lock()
        self._closed = False
        self._prepare()

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._closed

    @property
    def connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        return self._held().connection

    def get(self, key: str, default: Any = None) -> Any:
        """The value under `key`, or `default` if there is none."""
        key = kv.checked_key(key)
        with self.operation() as connection:
            text = kv.get_text(connection, key)
        return default if text is None else kv.decode_value(key, text)

    def update(self, key: str, value: object) -> bool:
        """Store a value; False if it was there already, and nothing was written."""
        key, text = kv.checked_key(key), kv.encode_value(value)
        with self.operation() as connection:
            # Looked at before any lock is taken: an unchanged value costs neither a lock nor a write.
            if kv.get_text(connection, key) == text:
                return False
            with self.transaction():
                kv.put_text(connection, key, text)
        return True

    def delete(self, key: str) -> bool:
        """Remove a key; False if there was none."""
        key = kv.checked_key(key)
        with self.operation() as connection:
            if kv.get_text(connection, key) is None:
                return False
            with self.transaction():
                return kv.delete(connection, key)

    def keys(self, prefix: str = "") -> list[str]:
        """The keys that begin with `prefix`, in the order of their bytes."""
        prefix = kv.checked_prefix(prefix)
        with self.operation() as connection:
            return kv.keys(connection, prefix)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing: what this thread writes inside is committed together, or not at all on an exception.

        Inside another transaction of this thread it joins that one.
        """
        with self._kept_open() as connection:
            if connection.in_transaction:
                yield connection
                return
            # IMMEDIATE waits for the lock at the start; a plain BEGIN can fail half-way without waiting.
            with translated(self.path):
                connection.execute("BEGIN IMMEDIATE")
            try:
                # Errors of the caller's own SQL are the caller's, and pass as they are.
                yield connection
                with translated(self.path):
                    connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    @contextmanager
    def operation(self) -> Iterator[sqlite3.Connection]:
        """This thread's connection, kept from being closed, with errors of `sqlite3` turned into ours."""
        with self._kept_open() as connection, translated(self.path):
            yield connection

    def new_connection(self) -> sqlite3.Connection:
        """One more connection, for a use of its own; the caller closes it."""
        self._check_usable()
        return self._connect()

    def close(self) -> None:
        """Close every thread's connection, after the operation each is in; open transactions are rolled back."""
        with self._guard:
            self._closed = True
            held = list(self._open)
        if os.getpid() == self._process:
            for each in held:
                with each.lock:
                    each.connection.close()

    @contextmanager
    def _kept_open(self) -> Iterator[sqlite3.Connection]:
        held = self._held()
        with held.lock:
            self._check_usable()
            yield held.connection

    def _check_usable(self) -> None:
        if self._closed:
            raise DataSyncClosed(f"{self.path.name} was closed")
        if os.getpid() != self._process:
            raise WrongProcess(f"{self.path.name} was opened by process {self._process}")

    def _held(self) -> _Held:
        self._check_usable()
        held: _Held | None = getattr(self._local, "held", None)
        if held is None:
            held = _Held(self._connect())
            with self._guard:
                if self._closed:
                    raise DataSyncClosed(f"{self.path.name} was closed")
                self._open.add(held)
            self._local.held = held
        return held

    def _connect(self) -> sqlite3.Connection:
        with translated(self.path):
            # close() may come from another thread, so sqlite3's own check is off. Implicit BEGINs of the user's
            # statements are IMMEDIATE, for the same reason as in transaction().
            connection = sqlite3.connect(
                self.path, timeout=self.busy_timeout_s, isolation_level="IMMEDIATE", check_same_thread=False
            )
            connection.execute(f"PRAGMA synchronous={self._synchronous}")
            if self._has_agent:
                connection.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES_WITH_AGENT}")
            return connection

    def _prepare(self) -> None:
        if not self.path.parent.is_dir():
            raise DatabaseMissing(f"{self.path.parent} is not a directory", hint="make the directory first")
        if self._synchronous not in ("NORMAL", "FULL"):
            raise SettingError(f"synchronous={self._synchronous!r} is unknown", hint="NORMAL or FULL")
        with self.operation() as connection:
            if connection.execute("PRAGMA encoding").fetchone()[0] != "UTF-8":
                raise DatabaseError(f"{self.path} is not in UTF-8", hint="copy it into a new file with `.dump`")
            self._use_wal(connection)
            if not kv.exists(connection):
                with self.transaction():
                    kv.create(connection)
            # A table of this name that is not ours is found out here, not at the first write.
            connection.execute("SELECT key, value FROM tidewire_kv LIMIT 0")

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        """Switch to WAL, with which readers and the writer do not wait for each other.

        SQLite does not wait for locks in this switch, so two programs that open a new file at once are told to try
        again here.
        """
        deadline = time.monotonic() + self.busy_timeout_s
        while True:
            try:
                with translated(self.path):
                    mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
                    if mode != "wal":
                        mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
                if mode != "wal":
                    raise DatabaseError(f"{self.path} stays in journal mode {mode}", hint="keep it on a local disk")
                return
            except DatabaseBusy:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_RETRY_S)
