"""What can go wrong for a user of `DataSync`, and whose fault it is.

TidewireError
├── DataSyncError
│   ├── InvalidKey          the caller: the key cannot be a key
│   ├── InvalidValue        the caller: the value is not JSON, or too large
│   ├── DataSyncClosed      the caller: used after close()
│   ├── WrongProcess        the caller: used in a forked child
│   ├── TransactionOpen     the caller: flush or fresh inside a transaction
│   ├── StoredValueInvalid  whoever wrote the row with plain SQL: its value is not JSON
│   └── SyncTimeout         nobody: the hub, the network or the agent was not there in time (a TimeoutError too)
│       ├── FlushTimeout
│       └── FreshTimeout
└── DatabaseError           the file or its disk (the other kinds are in `tidewire_agent.errors`)
    └── DatabaseNotUsable
        ├── DatabaseReadOnly
        └── DatabaseCorrupt
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tidewire_agent import errors
from tidewire_agent.errors import DatabaseBusy, DatabaseMissing, DatabaseNotUsable
from tidewire_schemas.errors import DatabaseError, TidewireError

_BUSY_HINT: Final = "keep write transactions short, or raise busy_timeout_s"
_MISSING_HINT: Final = "make its directory, and give this user the right to write in it"


class DataSyncError(TidewireError):
    """A call of `DataSync` that cannot be carried out."""

    code = "datasync"


class InvalidKey(DataSyncError):
    """The key is not a text, is empty, too long, or holds what a text column cannot."""

    code = "key_invalid"
    hint = "a key is a text of 1 to 1024 bytes of UTF-8, without NUL"


class InvalidValue(DataSyncError):
    """The value cannot be written as JSON, or is too large."""

    code = "value_invalid"
    hint = "allowed: None, bool, int, finite float, str, and lists and dicts of them"


class DataSyncClosed(DataSyncError):
    """The object was closed."""

    code = "closed"
    hint = "open a new one"


class WrongProcess(DataSyncError):
    """The object was opened by the parent of this process; SQLite connections cannot cross a fork."""

    code = "wrong_process"
    hint = "open one in each process"


class TransactionOpen(DataSyncError):
    """`flush` and `fresh` wait for others, who cannot see or write what an open transaction holds."""

    code = "transaction_open"
    hint = "commit first"


class StoredValueInvalid(DataSyncError):
    """The row was written with plain SQL, and its value is not JSON text."""

    code = "stored_value_invalid"
    hint = "write JSON into tidewire_kv.value: a text needs its quotes, as in '\"on\"'"


class SyncTimeout(DataSyncError, TimeoutError):
    """What was waited for did not happen in time; everything written stays, and goes on by itself."""

    code = "sync_timeout"
    retry = True


class FlushTimeout(SyncTimeout):
    """The hub has not sequenced all local writes in time."""

    code = "flush_timeout"


class FreshTimeout(SyncTimeout):
    """The file does not yet hold all that the hub had."""

    code = "fresh_timeout"


class DatabaseReadOnly(DatabaseNotUsable):
    """The file or its directory cannot be written."""

    code = "database_read_only"
    hint = "give this user the right to write the file and its directory"


class DatabaseCorrupt(DatabaseNotUsable):
    """The file is damaged, or no SQLite database."""

    code = "database_corrupt"
    hint = "see `sqlite3 FILE 'PRAGMA integrity_check'`; restore it from a backup"


def from_sqlite(error: sqlite3.Error, path: Path) -> DatabaseError:
    """Our error for one of `sqlite3`, told apart by SQLite's primary result code."""
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return DatabaseBusy(f"{path} is locked by another program", hint=_BUSY_HINT)
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return DatabaseReadOnly(f"{path} is read-only for this user")
        case sqlite3.SQLITE_CORRUPT:
            return DatabaseCorrupt(f"{path} is damaged: {error}")
        case sqlite3.SQLITE_NOTADB:
            return DatabaseCorrupt(f"{path} is not an SQLite database", hint=errors.NOT_A_DATABASE_HINT)
        case sqlite3.SQLITE_CANTOPEN:
            return DatabaseMissing(f"{path} cannot be opened or made", hint=_MISSING_HINT)
        case _:
            return errors.from_sqlite(error)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise ours in place of `sqlite3`'s errors."""
    try:
        yield
    except sqlite3.Error as error:
        raise from_sqlite(error, path) from error
