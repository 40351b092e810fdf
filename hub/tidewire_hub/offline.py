"""What commands read from a data directory, whether a hub runs on it or not; they never change anything there."""

from __future__ import annotations

import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from tidewire_hub.backup import copy_database, open_read_only
from tidewire_hub.commit import TableDigest
from tidewire_hub.database import StorageDamaged, storage_errors
from tidewire_hub.devices import DevicesDocument, read_document
from tidewire_hub.layout import DataDirectory, is_locked
from tidewire_hub.log.sqlite import CheckedEntry, checked_entries
from tidewire_hub.settings import HubSettings
from tidewire_hub.state.conflicts import Conflict
from tidewire_hub.state.store import FORMAT, Limits, State
from tidewire_hub.stream_host import open_stream
from tidewire_schemas.errors import DatabaseError
from tidewire_schemas.positions import START, Position

_HEAD = "SELECT epoch, seq FROM entry ORDER BY seq DESC LIMIT 1"
_NEWEST = "SELECT coalesce(max(seq), 0) FROM entry"
_OLDEST = "SELECT coalesce(min(seq), 1) FROM entry"


CATCH_UP_S: Final = 3.0
"""Longest wait until a running hub has committed its state: it does so soon after the last group."""

_CATCH_UP_PAUSE_S: Final = 0.05


class LogReader:
    """Reads a log that another process may be writing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = open_read_only(path)

    def read(self, from_seq: int, count_max: int) -> list[CheckedEntry]:
        """Entries from `from_seq` on."""
        with storage_errors(self._path):
            return list(checked_entries(self._connection, from_seq, count_max))

    def newest(self) -> int:
        """Seq of the newest entry, 0 if there is none."""
        with storage_errors(self._path):
            (seq,) = self._connection.execute(_NEWEST).fetchone()
        return int(seq)

    def head(self) -> Position:
        """Position of the newest entry."""
        with storage_errors(self._path):
            row = self._connection.execute(_HEAD).fetchone()
        return START if row is None else Position(*row)

    def log_id(self) -> str:
        """The log's id."""
        with storage_errors(self._path):
            row = self._connection.execute("SELECT log_id FROM log").fetchone()
        if row is None:
            raise StorageDamaged(f"{self._path}: holds no log id")
        return str(row[0])

    def oldest(self) -> int:
        """Seq of the oldest entry, 1 if there is none."""
        with storage_errors(self._path):
            (seq,) = self._connection.execute(_OLDEST).fetchone()
        return int(seq)

    def close(self) -> None:
        """Release the file."""
        self._connection.close()


class Folded(NamedTuple):
    """What the state holds of a stream, at one position."""

    head: Position
    digests: list[TableDigest]
    conflicts: list[Conflict]


def read_state(settings: HubSettings, *, after: int = 0, limit: int = 0) -> Folded:
    """Digests at the log's head, and up to `limit` conflicts after the id `after`.

    They are read where they are, in one snapshot, which does not disturb a running hub. Only where the state is missing
    or behind the log, after a crash or while a hub has much to do, are both copied and the copy brought up to date.

    Raises:
        DatabaseError: there is no log, or it cannot be read.
    """
    data = DataDirectory(settings.data, settings.stream)
    log = LogReader(data.log)
    try:
        head, log_id = log.head(), log.log_id()
    finally:
        log.close()
    end = time.monotonic() + CATCH_UP_S
    while True:
        found = _read_in_place(data, settings, log_id, head, after=after, limit=limit)
        if found is not None:
            return found
        if time.monotonic() > end or not is_locked(data.lock):
            return _read_copy(data, settings, after=after, limit=limit)
        time.sleep(_CATCH_UP_PAUSE_S)


def _read_in_place(
    data: DataDirectory, settings: HubSettings, log_id: str, head: Position, *, after: int, limit: int
) -> Folded | None:
    """What the state's file holds; None where it is missing, of another kind, or behind `head`."""
    if not data.state.exists():
        return None
    with closing(open_read_only(data.state)) as connection, storage_errors(data.state):
        connection.execute("BEGIN")  # one snapshot for all
        if connection.execute("PRAGMA user_version").fetchone() != (FORMAT,):
            return None
        state = State(connection, Limits(settings.state_cache_bytes, settings.chain_points_max, settings.conflicts_max))
        if state.log_id != log_id or state.position.seq < head.seq:
            return None
        tables = sorted(state.catalogue.tables, key=lambda table: table.name)
        totals = [(table.shape.name, state.rows.total(table)) for table in tables]
        digests = [TableDigest(name, total.rows, total.hex) for name, total in totals]
        return Folded(state.position, digests, state.conflicts.read(after, limit))


def _read_copy(data: DataDirectory, settings: HubSettings, *, after: int, limit: int) -> Folded:
    with tempfile.TemporaryDirectory(prefix="tidewire-hub-") as directory:
        copy = DataDirectory(Path(directory), settings.stream)
        copy.make()
        if data.state.exists():
            copy_database(data.state, copy.state)  # before the log, so that the log is never behind
        copy_database(data.log, copy.log)
        with closing(open_stream(copy, settings, snapshots=data.snapshots)) as stream:
            return Folded(stream.head, stream.digests(), stream.conflicts(after, limit))


def _modified_ms(path: Path) -> int:
    return path.stat().st_mtime_ns // 1_000_000


def read_devices(data: DataDirectory) -> DevicesDocument:
    """What the hub last knew of its devices: nothing of any where a hub has run and none has come yet.

    Raises:
        DatabaseError: no hub has run here, or the file is damaged.
    """
    try:
        document = read_document(data.devices.read_bytes())
    except OSError as error:
        if isinstance(error, FileNotFoundError) and data.log.exists():
            return DevicesDocument(saved_at=_modified_ms(data.log), head=START, epoch=0, devices=[])
        hint = "has a hub run with this --data and --stream?"
        raise DatabaseError(f"cannot read {data.devices}: {error.strerror}", hint=hint) from None
    if document is None:
        raise DatabaseError(f"{data.devices} is damaged", hint="the hub writes it anew within seconds")
    return document
