"""What can go wrong at the edge (below `tidewire_schemas.errors`).

DatabaseError
├── DatabaseMissing         there is no file
├── DatabaseNotUsable       not a database, corrupt, read-only, or not ours to write
├── DatabaseReplaced        the name stands for another file now
├── WalReplaced             the -wal or -shm was deleted under the agent
├── DatabaseBusy            another program holds the write lock for longer than the busy timeout
├── BatchDamaged            a sealed batch that waits is not as it was sealed
├── DiskFull
├── OutboxFull              more waits to be sent than the user allows, and writes are refused
├── DiskLow                 less space is free than the agent leaves alone
├── TableNotSyncable        one table: the others go on
└── AnotherAgent            an agent already runs on this file
SequenceGap                 (of the schemas) a page that does not follow the checkpoint
LogDiverged                 a page that says another history than the one applied
TablesUntold                a page that is meant for other tables than there are now
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tidewire_schemas.errors import DatabaseError, SettingError, TidewireError

OUTBOX_FULL_BEGINS: Final = "tidewire: outbox full"
"""How SQLite's error begins that an app gets."""


class DatabaseMissing(DatabaseError):
    """The database file does not exist."""

    code = "database_missing"
    hint = "give the path of the app's SQLite file; the agent does not create it"


class DatabaseNotUsable(DatabaseError):
    """The file is no SQLite database, is corrupt, or cannot be written."""

    code = "database_not_usable"
    hint = "check the file with `sqlite3 FILE 'PRAGMA integrity_check'` and its owner and mode with `ls -l`"


class DatabaseReplaced(DatabaseError):
    """The file of this name is another one now."""

    code = "database_replaced"
    hint = "the agent opens the new one; stop the agent before a database is replaced"


class WalReplaced(DatabaseError):
    """The -wal or the -shm of this name is gone, or another one."""

    code = "wal_replaced"
    hint = (
        "the agent opens the database anew; what was committed only to the deleted file is lost. Start every program"
        " that has the database open anew, and never delete these files: SQLite does"
    )


class DatabaseBusy(DatabaseError):
    """Another program kept the write lock."""

    code = "database_busy"
    hint = "another program holds a write transaction open: a running agent tries again by itself, a command does not"
    retry = True


class BatchDamaged(DatabaseError):
    """A sealed batch that waits to be sent is not as it was sealed: the disk has changed it, and nothing is sent."""

    code = "batch_damaged"
    hint = (
        "check the disk and put the database back from a copy; or stop the agent and run `tidewire-agent adopt`: rows"
        " that the hub does not have are then offered to it anew, all others become as the hub has them"
    )

    def __init__(self, path: Path, batch: int) -> None:
        super().__init__(f"batch {batch} in {path} is not as it was sealed")


class DiskFull(DatabaseError):
    """There is no space for a write."""

    code = "disk_full"
    hint = "free some space; the agent goes on by itself and nothing is lost"
    retry = True


class OutboxFull(DatabaseError):
    """More waits to be sent than `outbox_bytes_max` allows, and the user chose that writes are refused then."""

    code = "outbox_full"
    hint = "write again when the hub has taken what waits: see `tidewire-agent status`"
    retry = True


class DiskLow(DatabaseError):
    """Less space is free than the agent leaves alone."""

    code = "disk_low"
    hint = "free some space: the agent goes on by itself, and nothing is lost; apps can write as long as there is any"
    retry = True

    def __init__(self, folder: Path, reserve_bytes: int) -> None:
        super().__init__(
            f"less than disk_reserve_bytes={reserve_bytes} is free in {folder}: nothing is sealed or applied"
        )


class TableNotSyncable(DatabaseError):
    """A table cannot be kept equal; other tables are not affected."""

    code = "table_not_syncable"

    def __init__(self, table: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"table {table!r} cannot be synced: {reason}", hint=hint)
        self.table = table
        self.reason = reason


class DeviceNeeded(SettingError):
    """A database that no agent has used yet needs a device name."""

    code = "device_needed"
    hint = "give --device NAME once; the database remembers it"


class OtherDevice(SettingError):
    """The database belongs to a device of another name."""

    code = "device_differs"
    hint = "use that name, or detach the database first"


class OtherStream(SettingError):
    """The database follows the log of another stream."""

    code = "stream_differs"

    def __init__(self, database: object, known: str, given: str) -> None:
        super().__init__(
            f"{database} follows the stream {known!r}, not {given!r}",
            hint=f"give --stream {known}; or, to move this database with its rows to the stream {given!r}, let it first"
            " forget the log that it follows: tidewire-agent adopt",
        )


class LogDiverged(TidewireError):
    """A page claims another history for what this device has applied."""

    code = "log_diverged"
    retry = True


class TablesUntold(TidewireError):
    """The tables are not those that the hub was told when it said how to go on: it must be told, and say so anew."""

    code = "tables_untold"
    retry = True


def check_is_file(path: Path) -> None:
    """Before a file is opened, as SQLite would make it.

    Raises:
        DatabaseMissing: there is nothing, or no file, of this name.
    """
    if not path.exists():
        raise DatabaseMissing(f"there is no database {path}")
    if not path.is_file():
        raise DatabaseMissing(f"{path} is not a file")


NOT_A_DATABASE_HINT: Final = "give the app's SQLite file"


def from_sqlite(error: sqlite3.Error, path: object = None) -> DatabaseError:
    """The error of this module that says what an sqlite3 error means for the person in charge of the file."""
    name = getattr(error, "sqlite_errorname", "") or ""
    text = str(error)
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or "locked" in text:
        return DatabaseBusy(f"the database is locked: {text}")
    if text.startswith(OUTBOX_FULL_BEGINS):
        return OutboxFull(text.removeprefix("tidewire: "))
    if name.startswith("SQLITE_FULL") or "disk is full" in text:
        return DiskFull("the disk of the database is full")
    if name.startswith("SQLITE_IOERR"):
        return DatabaseNotUsable(f"the disk reported an error: {text}")
    if name == "SQLITE_NOTADB":
        return DatabaseNotUsable(f"{path or 'the file'} is not an SQLite database", hint=NOT_A_DATABASE_HINT)
    if name == "SQLITE_ERROR" and text.startswith(("no such column", "no such table: tidewire")):
        return DatabaseNotUsable(
            f"the tidewire_ tables in {path or 'the file'} are not those of this version: {text}",
            hint="update Tidewire on this device; if another program made these tables, give them other names",
        )
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_PERM")):
        return DatabaseNotUsable(text)
    return DatabaseNotUsable(f"{name or type(error).__name__}: {text}")


@contextmanager
def sqlite_errors(path: Path | None = None) -> Iterator[None]:
    """sqlite3's errors as Tidewire's, which say what to do; they name the file if it is given."""
    try:
        yield
    except sqlite3.Error as error:
        raise from_sqlite(error, path) from error
