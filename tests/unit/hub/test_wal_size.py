"""The hub's write-ahead logs stay within `wal_bytes_max`, and give their space back when nothing more comes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from support.stream_kit import HandDevice, open_stream, send, shape
from tidewire_hub.database import REST_SHARE
from tidewire_hub.log.sqlite import SqliteLog
from tidewire_hub.stream import Stream, StreamSettings

LIMIT = 256 * 1024
TABLE = shape("t", "id INTEGER, text TEXT")
GROUP_ROWS = 100
GROUP_BYTES = 192 * 1024
"""More than what a group of so many rows adds to either file's -wal."""
FILES = ("log.db", "state.db")


@pytest.fixture
def stream(tmp_path: Path) -> Stream:
    log = SqliteLog.open(tmp_path / "log.db", wal_bytes_max=LIMIT)
    stream = open_stream(log, tmp_path / "state.db", settings=StreamSettings(wal_bytes_max=LIMIT, state_commit_rows=0))
    stream.declare("a", [TABLE])
    return stream


class _Work:
    """Groups of one device, of which each is a transaction in both files."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._device = HandDevice("a")
        self._rows = 0

    def groups(self, count: int) -> None:
        for _ in range(count):
            rows = [[self._rows + n, "x" * 400] for n in range(GROUP_ROWS)]
            self._rows += GROUP_ROWS
            assert send(self._stream, self._device.seal(self._device.put("t", "id text", *rows))).acks


def wal_bytes(folder: Path) -> list[int]:
    return [(folder / f"{name}-wal").stat().st_size for name in FILES]


def test_a_load_leaves_no_more_than_the_limit_and_a_transaction(tmp_path: Path, stream: Stream) -> None:
    work = _Work(stream)
    for _ in range(30):
        work.groups(1)
        assert max(wal_bytes(tmp_path)) <= LIMIT + GROUP_BYTES
    stream.close()


def test_what_a_long_reader_makes_longer_is_given_back_when_it_has_gone(tmp_path: Path, stream: Stream) -> None:
    work = _Work(stream)
    work.groups(1)
    readers = [sqlite3.connect(tmp_path / name, isolation_level=None) for name in FILES]
    for reader in readers:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    work.groups(20)
    assert min(wal_bytes(tmp_path)) > LIMIT + GROUP_BYTES
    for reader in readers:
        reader.close()
    work.groups(2)  # the first is copied with all before it, the second begins anew
    assert max(wal_bytes(tmp_path)) <= LIMIT + GROUP_BYTES
    stream.close()


def test_at_rest_a_quarter_stays_at_most(tmp_path: Path, stream: Stream) -> None:
    _Work(stream).groups(4)
    assert min(wal_bytes(tmp_path)) > LIMIT // REST_SHARE
    stream.rest()
    assert max(wal_bytes(tmp_path)) <= LIMIT // REST_SHARE
    stream.close()


def test_at_rest_a_reader_is_not_waited_for_and_goes_on(tmp_path: Path, stream: Stream) -> None:
    work = _Work(stream)
    work.groups(4)
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        (rows,) = reader.execute("SELECT count(*) FROM row").fetchone()
        stream.rest()
        assert wal_bytes(tmp_path)[1] > LIMIT // REST_SHARE
        work.groups(1)
        stream.rest()
        assert reader.execute("SELECT count(*) FROM row").fetchone() == (rows,)
    work.groups(1)
    stream.rest()
    assert max(wal_bytes(tmp_path)) <= LIMIT // REST_SHARE
    stream.close()
