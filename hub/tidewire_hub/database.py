"""SQLite files of the hub: opened one way, and their failures told apart by what a person can do about them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal

from tidewire_schemas.errors import DatabaseError

BUSY_TIMEOUT_S: Final = 5.0
"""How long to wait for another process (a backup, a person with `sqlite3`) that holds the lock."""

WAL_BYTES_MAX: Final = 16 * 1024 * 1024
"""Write-ahead log that gathers before it is copied into the file: pages that change again and again are copied once."""

REST_SHARE: Final = 4
"""A write-ahead log above this part of its limit is given back when nothing more comes for a moment. Below it stays,
so that a batch now and then does not cost the disk all that a checkpoint writes."""


class StorageFull(DatabaseError):
    """The disk has no room for what must be written."""

    code = "disk_full"
    hint = "free some space: nothing was lost, what was not acked is sent again"
    retry = True


class StorageLow(StorageFull):
    """Less space is free than the hub leaves alone."""

    code = "disk_low"
    hint = "free some space, or move `data` to a larger disk: nothing is lost, devices keep what was not acked"


class StorageFailed(DatabaseError):
    """The disk, or the right to use the file, failed."""

    code = "storage_failed"
    hint = "look at the disk and at the file's owner and permissions"
    retry = True


class StorageBusy(DatabaseError):
    """Another process held the lock for too long."""

    code = "storage_busy"
    hint = "see which other program has the file open"
    retry = True


class StorageDamaged(DatabaseError):
    """The file is no database, or its content contradicts itself."""

    code = "database_damaged"
    hint = "restore it from a backup"


class LogDamaged(StorageDamaged):
    """An entry of the log is not as it was written: it is neither sent nor counted."""

    code = "log_damaged"
    hint = "check the disk, and restore the log from a backup: devices give back what it lacks"


_BY_CODE: Final[dict[int, type[DatabaseError]]] = {
    sqlite3.SQLITE_FULL: StorageFull,
    sqlite3.SQLITE_IOERR: StorageFailed,
    sqlite3.SQLITE_CANTOPEN: StorageFailed,
    sqlite3.SQLITE_READONLY: StorageFailed,
    sqlite3.SQLITE_PERM: StorageFailed,
    sqlite3.SQLITE_BUSY: StorageBusy,
    sqlite3.SQLITE_LOCKED: StorageBusy,
    sqlite3.SQLITE_CORRUPT: StorageDamaged,
    sqlite3.SQLITE_NOTADB: StorageDamaged,
}

_NOT_UTF8: Final = "Could not decode to UTF-8"
"""How Python says that a text is none."""


def check_reserve(folder: Path, reserve_bytes: int) -> None:
    """Before something is written that grows.

    Raises:
        StorageLow: less than `reserve_bytes` are free on the disk of `folder`.
    """
    if not reserve_bytes:
        return
    disk = os.statvfs(folder)
    if disk.f_bavail * disk.f_frsize < reserve_bytes:
        raise StorageLow(f"less than disk_reserve_bytes={reserve_bytes} is free in {folder}")


@contextmanager
def storage_errors(what: object, *, damaged: type[StorageDamaged] = StorageDamaged) -> Iterator[None]:
    """Turn `sqlite3` errors inside into `DatabaseError`s that name `what`; `damaged` is the one of a damaged file."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None:  # the low byte is the primary code; extended codes say which call failed
            kind = _BY_CODE.get(code & 0xFF, DatabaseError)
        else:  # Python's own: texts that we write are UTF-8
            kind = StorageDamaged if str(error).startswith(_NOT_UTF8) else DatabaseError
        raise (damaged if kind is StorageDamaged else kind)(f"{what}: {error}") from error


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """A write transaction: committed at the end, rolled back when anything inside or the commit itself fails."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise


def roll_back(connection: sqlite3.Connection) -> None:
    """Undo the open transaction, if SQLite has not done so already."""
    if connection.in_transaction:
        with suppress(sqlite3.Error):  # the error that led here is the one to tell
            connection.execute("ROLLBACK")


def connect(
    path: Path | None,
    *,
    synchronous: Literal["FULL", "NORMAL"],
    cache_bytes: int,
    wal_bytes_max: int = WAL_BYTES_MAX,
    page_bytes: int = 4096,
) -> sqlite3.Connection:
    """A connection in WAL mode without implicit transactions; `path` None is a database in memory.

    The write-ahead log is copied into the file once it has `wal_bytes_max`. What a large transaction or a long reader
    makes of it beyond that is given back when it begins anew.
    """
    connection = sqlite3.connect(
        ":memory:" if path is None else path,
        isolation_level=None,
        timeout=BUSY_TIMEOUT_S,
        check_same_thread=False,
        cached_statements=256,
    )
    try:
        for pragma in (
            f"page_size={page_bytes}",  # of a new file; an old one keeps its own
            "journal_mode=WAL",
            f"synchronous={synchronous}",
            f"cache_size=-{max(cache_bytes // 1024, 1)}",
            f"journal_size_limit={wal_bytes_max}",
            "temp_store=MEMORY",
            "trusted_schema=OFF",
        ):
            connection.execute(f"PRAGMA {pragma}")
        (found_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        connection.execute(f"PRAGMA wal_autocheckpoint={max(1, wal_bytes_max // found_bytes)}")
    except BaseException:
        connection.close()
        raise
    return connection


def shorten_wal(connection: sqlite3.Connection, path: Path, wal_bytes_max: int) -> None:
    """Give a long write-ahead log's space back, if nobody reads in it now: it waits for nobody.

    Raises:
        sqlite3.Error: the disk failed.
    """
    wal = path.with_name(f"{path.name}-wal")
    try:
        size = wal.stat().st_size
    except FileNotFoundError:
        return
    if size <= wal_bytes_max // REST_SHARE:
        return
    connection.execute("PRAGMA busy_timeout=0")
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.execute(f"PRAGMA busy_timeout={int(BUSY_TIMEOUT_S * 1000)}")
