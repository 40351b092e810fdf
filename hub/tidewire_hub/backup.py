"""A consistent copy of the log, made while the hub runs.

The log is the truth and the state its fold, so the log alone is copied, unless its oldest entries were removed: then
the state is what is left of these, and is copied as well. SQLite's backup API reads one snapshot of each file, which
the hub's commits do not disturb and which does not hold them up. Start a hub with the copy as its data directory.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from tidewire_hub.database import LogDamaged, StorageDamaged, storage_errors
from tidewire_hub.layout import DataDirectory
from tidewire_hub.log.sqlite import checked_entries
from tidewire_schemas.errors import DatabaseError, SettingError

NOT_READABLE_HINT: Final = "run it as the user who runs the hub"

COPY_ATTEMPTS: Final = 3
"""A hub trims its log seldom: twice in a row while a backup runs is more than bad luck."""


class BackupReport(NamedTuple):
    """What a copy holds."""

    path: Path
    log: str
    epoch: int
    oldest: int
    """The oldest entry in the copy. Above 1 the copy holds the state as well."""
    seq: int
    """The newest entry in the copy; 0 if it has none."""
    size: int
    """Bytes of all files."""


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
    """Copy the log of a data directory into another one, with the state if it needs it, and check the copy.

    Raises:
        SettingError: the destination has a log already.
        DatabaseError: the log cannot be read, the copy not be written, or it is not sound.
    """
    copy = DataDirectory(destination, data.stream)
    if copy.log.exists():
        raise SettingError(f"{copy.log} exists already", hint="give a new directory for each backup")
    open_read_only(data.log).close()  # says so before anything is made
    copy.make()
    log, state = copy.log.with_name(".log.db.new"), copy.state.with_name(".state.db.new")
    try:
        report = _copied(data, log, state)
        for unfinished, path in ((state, copy.state), (log, copy.log)):
            if unfinished.exists():
                _make_durable(unfinished)
                unfinished.replace(path)
        _make_durable(copy.log.parent)
    except OSError as error:
        raise DatabaseError(f"cannot write {copy.log}: {error.strerror}") from None
    finally:
        for unfinished in (log, state):
            unfinished.unlink(missing_ok=True)
    return report._replace(path=copy.log)


def _copied(data: DataDirectory, log: Path, state: Path) -> BackupReport:
    """Copy the log, and before it the state where the log does not begin at its first entry: so that the log reaches
    further than the state. A hub may trim the log between the two; then both are copied again."""
    for _ in range(COPY_ATTEMPTS):
        for path in (log, state):
            path.unlink(missing_ok=True)
        with_state = _oldest(data.log) > 1
        if with_state:
            copy_database(data.state, state)
            _check_sound(state)
        copy_database(data.log, log)
        _check_sound(log)
        _check_entries(log, data.log)
        oldest = _oldest(log)
        if oldest == 1 or (with_state and _folded(state) + 1 >= oldest):
            return _report(log, state)
    raise DatabaseError(f"{data.log} is trimmed faster than it can be copied", hint="try again")


def _check_sound(path: Path) -> None:
    with closing(open_read_only(path)) as connection, storage_errors(path):
        (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise StorageDamaged(f"the copy is not sound: {verdict}", hint="check the file with sqlite3, and the disk")


def _check_entries(copy: Path, log: Path) -> None:
    """SQLite does not notice a byte that the disk has changed inside an entry."""
    with closing(open_read_only(copy)) as connection, storage_errors(copy):
        for entry in checked_entries(connection, 0, -1):
            if not entry.whole:
                raise LogDamaged(f"{log}: entry {entry.seq} is not as it was written, so it is not backed up")


def _oldest(log: Path) -> int:
    with closing(open_read_only(log)) as connection, storage_errors(log):
        (seq,) = connection.execute("SELECT coalesce(min(seq), 1) FROM entry").fetchone()
    return int(seq)


def _folded(state: Path) -> int:
    with closing(open_read_only(state)) as connection, storage_errors(state):
        (seq,) = connection.execute("SELECT seq FROM meta").fetchone()
    return int(seq)


def _report(log: Path, state: Path) -> BackupReport:
    with closing(open_read_only(log)) as connection, storage_errors(log):
        log_id, epoch = connection.execute("SELECT log_id, epoch FROM log").fetchone()
        oldest, seq = connection.execute("SELECT coalesce(min(seq), 1), coalesce(max(seq), 0) FROM entry").fetchone()
    size = sum(path.stat().st_size for path in (log, state) if path.exists())
    return BackupReport(log, log_id, epoch, oldest, seq, size)


def _make_durable(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
