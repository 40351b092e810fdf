"""The log in one SQLite file: WAL, `synchronous=FULL`, one transaction per append. The default."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self
from zlib import crc32

from tidewire_hub.database import (
    WAL_BYTES_MAX,
    LogDamaged,
    StorageDamaged,
    connect,
    shorten_wal,
    storage_errors,
    transaction,
)
from tidewire_hub.log.port import EntriesTrimmed, StaleLeader, StoredEntry, check_append, fitting
from tidewire_schemas.positions import START, Epoch, Position, Seq

FORMAT: Final = 4
"""`PRAGMA user_version` of the file. 1 had no table `trimmed`, 2 no checksums of entries, 3 none of all else."""

_FORMAT_OF_CHECKSUMS: Final = 3

CACHE_BYTES: Final = 2 * 1024 * 1024
"""Small: entries are appended and read once, in order."""

_SCHEMA: Final = (
    """
    CREATE TABLE log (
        id     INTEGER PRIMARY KEY CHECK (id = 1),
        log_id TEXT    NOT NULL,
        epoch  INTEGER NOT NULL,
        crc    INTEGER -- of both
    )
    """,
    """
    CREATE TABLE entry (
        seq   INTEGER PRIMARY KEY,
        epoch INTEGER NOT NULL,
        data  BLOB    NOT NULL,
        lost  BLOB,
        crc   INTEGER -- of all that; NULL in entries of an earlier format
    )
    """,
    """
    CREATE TABLE document (
        name TEXT PRIMARY KEY,
        data BLOB NOT NULL,
        crc  INTEGER -- of both; NULL in documents of an earlier format
    ) WITHOUT ROWID
    """,
)
_TRIMMED: Final = """
    CREATE TABLE trimmed (  -- what is left of entries that are gone: the last of each epoch
        epoch INTEGER PRIMARY KEY,
        seq   INTEGER NOT NULL
    )
"""
_HEAD: Final = "SELECT epoch, seq FROM entry ORDER BY seq DESC LIMIT 1"
_APPEND: Final = "INSERT INTO entry (seq, epoch, data, lost, crc) VALUES (?, ?, ?, ?, ?)"
_READ: Final = "SELECT seq, epoch, data, lost, crc FROM entry WHERE seq > ? ORDER BY seq LIMIT ?"
_SIZES: Final = "SELECT seq, length(data) FROM entry WHERE seq < ? ORDER BY seq LIMIT ?"
_EPOCH_AT: Final = """
    SELECT epoch FROM entry WHERE seq = :seq
    UNION ALL
    SELECT epoch FROM (SELECT epoch FROM trimmed WHERE seq >= :seq ORDER BY seq LIMIT 1)
    WHERE :seq < (SELECT min(seq) FROM entry)
"""
_REMEMBER_TRIMMED: Final = """
    INSERT INTO trimmed (epoch, seq) SELECT epoch, max(seq) FROM entry WHERE seq <= ? GROUP BY epoch
    ON CONFLICT (epoch) DO UPDATE SET seq = excluded.seq
"""
_SAVE_DOCUMENT: Final = """
    INSERT INTO document (name, data, crc) VALUES (?, ?, ?)
    ON CONFLICT (name) DO UPDATE SET data = excluded.data, crc = excluded.crc
"""
_FORMAT_4: Final = ("ALTER TABLE log ADD COLUMN crc INTEGER", "ALTER TABLE document ADD COLUMN crc INTEGER")
_ENTRIES: Final = "SELECT seq, epoch, data, lost, crc FROM entry WHERE seq >= ? ORDER BY seq LIMIT ?"
_ENTRIES_BEFORE_CHECKSUMS: Final = "SELECT seq, epoch, data, NULL, NULL FROM entry WHERE seq >= ? ORDER BY seq LIMIT ?"


class SqliteLog:
    """`HubLog` in one SQLite file."""

    def __init__(self, path: Path, connection: sqlite3.Connection, log_id: str, wal_bytes_max: int) -> None:
        self.path: Final = path
        self._wal_bytes_max: Final = wal_bytes_max
        self._connection: Final = connection
        self._log_id: Final = log_id

    @classmethod
    def open(cls, path: Path, *, wal_bytes_max: int = WAL_BYTES_MAX) -> Self:
        """Open the log in this file, or make a new one with a random id where there is no file.

        `wal_bytes_max`: see `connect`.

        Raises:
            DatabaseError: the file cannot be used, or a later version of Tidewire wrote it.
        """
        with storage_errors(path):
            connection = connect(path, synchronous="FULL", cache_bytes=CACHE_BYTES, wal_bytes_max=wal_bytes_max)
            try:
                return cls(path, connection, _prepare(path, connection), wal_bytes_max)
            except BaseException:
                connection.close()
                raise

    @property
    def log_id(self) -> str:
        """See `HubLog`."""
        return self._log_id

    def epoch(self) -> Epoch:
        """See `HubLog`."""
        with storage_errors(self.path):
            return self._stored_epoch()

    def head(self) -> Position:
        """See `HubLog`."""
        with storage_errors(self.path):
            return self._stored_head()

    def oldest(self) -> Seq:
        """See `HubLog`."""
        with storage_errors(self.path):
            return self._stored_oldest()

    def acquire(self, epoch: Epoch) -> None:
        """See `HubLog`."""
        with storage_errors(self.path), transaction(self._connection):
            stored = self._stored_epoch()
            if epoch <= stored:
                raise StaleLeader(ours=epoch, stored=stored)
            self._connection.execute("UPDATE log SET epoch = ?, crc = ?", (epoch, _identity_crc(self._log_id, epoch)))

    def append(self, epoch: Epoch, after: Seq, entries: Sequence[StoredEntry]) -> None:
        """See `HubLog`."""
        with storage_errors(self.path), transaction(self._connection):
            stored, head = self._stored_epoch(), Seq(self._stored_head().seq)
            check_append(epoch, after, entries, stored=stored, head=head)
            self._connection.executemany(
                _APPEND, [(e.position.seq, e.position.epoch, e.data, e.lost or None, _entry_crc(e)) for e in entries]
            )

    def read(self, after: Seq, *, bytes_max: int, entries_max: int) -> list[StoredEntry]:
        """See `HubLog`."""
        page: list[StoredEntry] = []
        size = 0
        with storage_errors(self.path):
            cursor = self._connection.execute(_READ, (after, entries_max))
            for seq, epoch, data, lost, crc in cursor:
                if not page and seq != after + 1:
                    raise EntriesTrimmed(after=after, oldest=Seq(seq))
                entry = StoredEntry(Position(epoch, seq), data, lost or b"")
                if not _is_as_written(entry, crc):
                    raise LogDamaged(f"{self.path}: entry {seq} is not as it was written")
                size += len(data)
                if page and size > bytes_max:
                    break
                page.append(entry)
            cursor.close()
        return page

    def position_at(self, seq: Seq) -> Position | None:
        """See `HubLog`."""
        if seq == 0:
            return START
        with storage_errors(self.path):
            row = self._connection.execute(_EPOCH_AT, {"seq": seq}).fetchone()
        return None if row is None else Position(row[0], seq)

    def size_bytes(self) -> int:
        """See `HubLog`."""
        with storage_errors(self.path):
            numbers = [
                self._connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_size", "page_count", "freelist_count")
            ]
        page_bytes, pages, free = numbers
        return int(page_bytes * (pages - free))

    def trim(self, before: Seq, *, bytes_max: int, entries_max: int) -> int:
        """See `HubLog`."""
        with storage_errors(self.path), transaction(self._connection):
            end = min(before, self._stored_head().seq)
            sizes = self._connection.execute(_SIZES, (end, entries_max))
            going = list(fitting(sizes, bytes_max, entries_max))
            sizes.close()
            if not going:
                return 0
            self._connection.execute(_REMEMBER_TRIMMED, (going[-1],))
            return self._connection.execute("DELETE FROM entry WHERE seq <= ?", (going[-1],)).rowcount

    def save_document(self, name: str, data: bytes) -> None:
        """See `HubLog`."""
        with storage_errors(self.path), transaction(self._connection):
            self._connection.execute(_SAVE_DOCUMENT, (name, data, _document_crc(name, data)))

    def load_document(self, name: str) -> bytes | None:
        """See `HubLog`."""
        with storage_errors(self.path):
            row = self._connection.execute("SELECT data, crc FROM document WHERE name = ?", (name,)).fetchone()
        if row is None:
            return None
        data, crc = row
        if not isinstance(data, bytes) or (crc is not None and crc != _document_crc(name, data)):
            raise LogDamaged(f"{self.path}: the document {name!r} is not as it was written")
        return data

    def rest(self) -> None:
        """See `HubLog`."""
        with storage_errors(self.path):
            shorten_wal(self._connection, self.path, self._wal_bytes_max)

    def close(self) -> None:
        """See `HubLog`."""
        with storage_errors(self.path):
            self._connection.close()

    def _stored_epoch(self) -> Epoch:
        return _identity(self.path, self._connection)[1]

    def _stored_head(self) -> Position:
        row = self._connection.execute(_HEAD).fetchone()
        return START if row is None else Position(row[0], row[1])

    def _stored_oldest(self) -> Seq:
        row = self._connection.execute("SELECT min(seq) FROM entry").fetchone()
        return Seq(row[0] or 1)


class CheckedEntry(NamedTuple):
    """An entry as it is stored, and whether it is as it was written."""

    seq: int
    data: bytes
    whole: bool


def checked_entries(connection: sqlite3.Connection, from_seq: int, count_max: int) -> Iterator[CheckedEntry]:
    """Entries from `from_seq` on out of a log's file of any format, for who looks on from outside."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    query = _ENTRIES if version >= _FORMAT_OF_CHECKSUMS else _ENTRIES_BEFORE_CHECKSUMS
    for seq, epoch, data, lost, crc in connection.execute(query, (from_seq, count_max)):
        yield CheckedEntry(seq, data, _is_as_written(StoredEntry(Position(epoch, seq), data, lost or b""), crc))


def _is_as_written(entry: StoredEntry, crc: int | None) -> bool:
    """SQLite does not notice a byte that the disk has changed inside a value, or in what says of which type one is.
    Entries of an early format have no checksum."""
    if not (isinstance(entry.data, bytes) and isinstance(entry.lost, bytes) and isinstance(entry.position.epoch, int)):
        return False
    return crc is None or crc == _entry_crc(entry)


def _entry_crc(entry: StoredEntry) -> int:
    return crc32(entry.lost, crc32(entry.data, crc32(b"%d %d" % entry.position)))


def _document_crc(name: str, data: bytes) -> int:
    return crc32(data, crc32(name.encode()))


def _identity_crc(log_id: str, epoch: int) -> int:
    return crc32(f"{log_id} {epoch}".encode())


def _identity(path: Path, connection: sqlite3.Connection) -> tuple[str, Epoch]:
    """The log's id, and the epoch under which it was acquired last."""
    row = connection.execute("SELECT log_id, epoch, crc FROM log").fetchone()
    if row is None:
        raise StorageDamaged(f"{path}: holds no log id")
    log_id, epoch, crc = row
    if crc != _identity_crc(log_id, epoch):
        raise LogDamaged(f"{path}: the log's id or epoch is not as it was written")
    return str(log_id), Epoch(epoch)


def _prepare(path: Path, connection: sqlite3.Connection) -> str:
    """Make the tables of a new file, check the format of an old one; the log's id."""
    with transaction(connection):
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > FORMAT:
            raise StorageDamaged(f"{path}: written by a later version of Tidewire", hint="upgrade the hub")
        if version == 0:
            for statement in _SCHEMA:
                connection.execute(statement)
            log_id = os.urandom(16).hex()
            connection.execute(
                "INSERT INTO log (id, log_id, epoch, crc) VALUES (1, ?, 0, ?)", (log_id, _identity_crc(log_id, 0))
            )
        if version < 2:  # see FORMAT
            connection.execute(_TRIMMED)
        if version in (1, 2):
            connection.execute("ALTER TABLE entry ADD COLUMN crc INTEGER")
        if version in (1, 2, 3):
            for statement in _FORMAT_4:
                connection.execute(statement)
            for found in connection.execute("SELECT log_id, epoch FROM log").fetchall():
                connection.execute("UPDATE log SET crc = ?", (_identity_crc(*found),))
        if version < FORMAT:
            connection.execute(f"PRAGMA user_version = {FORMAT}")
        return _identity(path, connection)[0]
