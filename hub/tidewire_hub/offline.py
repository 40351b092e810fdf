"""What commands read from a data directory, whether a hub runs on it or not; they never change anything there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from tidewire_hub.backup import copy_database, open_read_only
from tidewire_hub.database import storage_errors
from tidewire_hub.devices import DevicesDocument, read_document
from tidewire_hub.layout import DataDirectory
from tidewire_hub.settings import HubSettings
from tidewire_hub.stream import Stream
from tidewire_hub.stream_host import open_stream
from tidewire_schemas.errors import DatabaseError

_ENTRIES = "SELECT seq, data FROM entry WHERE seq >= ? ORDER BY seq LIMIT ?"
_NEWEST = "SELECT coalesce(max(seq), 0) FROM entry"


class StoredBytes(NamedTuple):
    """An entry of the log as it is stored."""

    seq: int
    data: bytes


class LogReader:
    """Reads a log that another process may be writing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = open_read_only(path)

    def read(self, from_seq: int, count_max: int) -> list[StoredBytes]:
        """Entries from `from_seq` on."""
        with storage_errors(self._path):
            rows = self._connection.execute(_ENTRIES, (from_seq, count_max)).fetchall()
        return [StoredBytes(seq, data) for seq, data in rows]

    def newest(self) -> int:
        """Seq of the newest entry, 0 if there is none."""
        with storage_errors(self._path):
            (seq,) = self._connection.execute(_NEWEST).fetchone()
        return int(seq)

    def close(self) -> None:
        """Release the file."""
        self._connection.close()


@contextmanager
def copied_stream(settings: HubSettings) -> Iterator[Stream]:
    """The stream as it is now, opened on copies: a running hub's own files have one writer alone.

    Raises:
        DatabaseError: there is no log, or it cannot be read.
    """
    data = DataDirectory(settings.data, settings.stream)
    with tempfile.TemporaryDirectory(prefix="tidewire-hub-") as directory:
        copy = DataDirectory(Path(directory), settings.stream)
        copy.make()
        if data.state.exists():
            copy_database(data.state, copy.state)  # before the log, so that the log is never behind
        copy_database(data.log, copy.log)
        with closing(open_stream(copy, settings)) as stream:
            yield stream


def read_devices(data: DataDirectory) -> DevicesDocument:
    """What the hub last knew of its devices.

    Raises:
        DatabaseError: no hub has run here, or the file is damaged.
    """
    try:
        document = read_document(data.devices.read_bytes())
    except OSError as error:
        hint = "has a hub run with this --data and --stream?"
        raise DatabaseError(f"cannot read {data.devices}: {error.strerror}", hint=hint) from None
    if document is None:
        raise DatabaseError(f"{data.devices} is damaged", hint="the hub writes it anew within seconds")
    return document
