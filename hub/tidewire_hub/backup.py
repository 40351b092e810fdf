"""A consistent copy of the log, made while the hub runs.

The log is the truth and the state its fold, so the log alone is copied: SQLite's backup API reads one snapshot of it,
which the hub's commits do not disturb and which does not hold them up. Start a hub with the copy as its data directory.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from tidewire_hub.database import StorageDamaged, storage_errors
from tidewire_hub.layout import DataDirectory
from tidewire_schemas.errors import DatabaseError, SettingError

NOT_READABLE_HINT: Final = "run it as the user who runs the hub"


class BackupReport(NamedTuple):
    """What a copy holds."""

    path: Path
    log: str
    epoch: int
    seq: int
    """The newest entry in the copy; 0 if it has none."""
    size: int


def open_read_only(path: Path) -> sqlite3.Connection:
    """A connection that cannot write; raises `DatabaseError` if there is no such file or it cannot be read."""
    try:
        path.stat()
    except FileNotFoundError:
        raise DatabaseError(f"there is no {path}", hint="has a hub run with this --data and --stream?") from None
    except NotADirectoryError:
        raise DatabaseError(f"cannot read {path}: Not a directory", hint="--data names the hub's directory") from None
    except OSError as error:
        raise DatabaseError(f"cannot read {path}: {error.strerror}", hint=NOT_READABLE_HINT) from None
    uri = f"{path.resolve().as_uri()}?mode=ro"
    with storage_errors(path):
        try:
            return _reading(uri)
        except sqlite3.OperationalError:
            if path.with_name(f"{path.name}-wal").exists():
                raise
            # On a read-only disk SQLite cannot make the files beside it that readers share. Nobody writes there.
            return _reading(f"{uri}&immutable=1")


def _reading(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def copy_database(source: Path, target: Path) -> None:
    """A copy of one snapshot of a database that may be in use."""
    with (
        closing(open_read_only(source)) as reader,
        storage_errors(target),
        closing(sqlite3.connect(target, isolation_level=None)) as writer,
    ):
        reader.backup(writer)
        writer.execute("PRAGMA journal_mode=DELETE")  # the copy is one file, without a -wal beside it


def back_up(data: DataDirectory, destination: Path) -> BackupReport:
    """Copy the log of a data directory into another one, and check the copy.

    Raises:
        SettingError: the destination has a log already.
        DatabaseError: the log cannot be read, the copy not be written, or it is not sound.
    """
    copy = DataDirectory(destination, data.stream)
    if copy.log.exists():
        raise SettingError(f"{copy.log} exists already", hint="give a new directory for each backup")
    open_read_only(data.log).close()  # says so before anything is made
    copy.make()
    unfinished = copy.log.with_name(".log.db.new")
    unfinished.unlink(missing_ok=True)
    try:
        copy_database(data.log, unfinished)
        report = _checked(unfinished)
        _make_durable(unfinished)
        unfinished.replace(copy.log)
        _make_durable(copy.log.parent)
    except OSError as error:
        raise DatabaseError(f"cannot write {copy.log}: {error.strerror}") from None
    finally:
        unfinished.unlink(missing_ok=True)
    return report._replace(path=copy.log)


def _checked(path: Path) -> BackupReport:
    with closing(open_read_only(path)) as connection, storage_errors(path):
        (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise StorageDamaged(f"the copy is not sound: {verdict}", hint="check the log with sqlite3, and the disk")
        log, epoch = connection.execute("SELECT log_id, epoch FROM log").fetchone()
        (seq,) = connection.execute("SELECT coalesce(max(seq), 0) FROM entry").fetchone()
    return BackupReport(path, log, epoch, seq, path.stat().st_size)


def _make_durable(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
