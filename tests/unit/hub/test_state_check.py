"""What the disk has changed in the state, or in a copy of it, is found and made anew."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from support.flipped import flip_in
from support.stream_kit import HandDevice, open_stream, picture, rows_of, send, shape
from tidewire_hub.backup import open_read_only
from tidewire_hub.log.retention import Retention
from tidewire_hub.log.sqlite import SqliteLog
from tidewire_hub.snapshot.manifest import KeptSnapshot
from tidewire_hub.snapshot.shelf import Shelf
from tidewire_hub.state.check import StateDamaged, check_state
from tidewire_hub.state.opening import SpareState, StateLost
from tidewire_hub.stream import Stream
from tidewire_schemas.positions import Seq

TABLE = shape("t", "id INTEGER, text TEXT")
WORDS = "some words that the disk changes"
FAULT = pytest.mark.fault("a byte of the hub's state that the disk has changed")


class Hub:
    """A stream in files with a few rows, and a shelf beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = SqliteLog.open(folder / "log.db")
        self.stream: Stream = open_stream(self.log, folder / "state.db")
        self.shelf = Shelf(folder / "snapshots", self.log.log_id)
        self.device = HandDevice("a")
        self.stream.declare("a", [TABLE])
        rows = [[n, f"{WORDS} {n}"] for n in range(50)]
        for row in rows:
            send(self.stream, self.device.seal(self.device.put("t", "id text", row)))

    def change(self, content: bytes = WORDS.encode()) -> None:
        """The disk changes a byte of the state."""
        self.stream.rest()
        with closing(sqlite3.connect(self.folder / "state.db")) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.stream.close()
        flip_in(self.folder / "state.db", content, 3)
        self.log = SqliteLog.open(self.folder / "log.db")
        self.stream = open_stream(self.log, self.folder / "state.db")

    def snapshot(self) -> KeptSnapshot:
        self.stream.settle()
        return self.shelf.make(
            "ab" * 16,
            self.folder / "state.db",
            payload_bytes_max=2000,
            at_ms=1,
            conflicts_max=10,
            refused_bytes_max=1000,
            stopping=lambda: False,
        )

    def check(self) -> None:
        with closing(open_read_only(self.folder / "state.db")) as connection:
            check_state(connection, lambda _seconds: None)

    def spares(self) -> list[SpareState]:
        return [SpareState(kept.position, path, kept.state_digest) for kept, path in self.shelf.state_copies()]


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path)


def test_a_state_as_it_was_written_passes(hub: Hub) -> None:
    hub.stream.settle()
    hub.check()
    assert hub.snapshot()
    hub.stream.close()


@FAULT
def test_a_changed_row_is_found_and_is_in_no_snapshot(hub: Hub) -> None:
    """Guarantee 7."""
    hub.change()
    with pytest.raises(StateDamaged, match="not as they were written"):
        hub.check()
    with pytest.raises(StateDamaged):
        hub.snapshot()
    assert hub.shelf.state_copies() == []
    hub.stream.close()


@FAULT
def test_a_state_is_made_anew_from_the_log_while_the_hub_goes_on(hub: Hub) -> None:
    """Guarantee 7."""
    before = picture(hub.stream)
    hub.change()
    assert picture(hub.stream) != before
    hub.stream.remake_state([])
    assert picture(hub.stream) == before
    hub.check()
    assert send(hub.stream, hub.device.seal(hub.device.put("t", "id text", [99, "x"]))).acks
    hub.stream.close()


def trim(hub: Hub) -> None:
    keep_one = Retention(entries=1)
    while hub.stream.trim(keep_one, Seq(40), 1).removed:
        pass


@FAULT
def test_a_state_of_a_trimmed_log_is_made_anew_from_a_copy(hub: Hub) -> None:
    """Guarantee 7."""
    hub.snapshot()
    before = picture(hub.stream)
    trim(hub)
    hub.change()
    hub.stream.remake_state(hub.spares())
    assert picture(hub.stream) == before
    hub.stream.close()


@FAULT
def test_a_changed_copy_is_not_used_and_the_state_stays_where_there_is_no_other(hub: Hub) -> None:
    """Guarantee 7."""
    snapshot = hub.snapshot()
    trim(hub)
    flip_in(hub.folder / "snapshots" / snapshot.snapshot / "state.db", WORDS.encode(), 2)
    rows = rows_of(hub.stream, "t")
    with pytest.raises(StateLost):
        hub.stream.remake_state(hub.spares())
    assert rows_of(hub.stream, "t") == rows
    assert hub.shelf.drop_damaged_copies() == 1
    assert hub.shelf.state_copies() == []
    hub.stream.close()


@FAULT
def test_a_changed_manifest_is_no_manifest(hub: Hub) -> None:
    """Guarantee 6."""
    snapshot = hub.snapshot()
    hub.stream.close()
    path = hub.folder / "snapshots" / snapshot.snapshot / "manifest.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert hub.shelf.state_copies() == []
    path.write_bytes(whole)
    assert [kept for kept, _ in hub.shelf.state_copies()] == [snapshot]


@FAULT
def test_what_the_state_says_of_a_batch_is_compared_with_the_log(hub: Hub) -> None:
    """Guarantee 2."""
    (chain,) = hub.stream.devices()
    point = chain.accepted
    assert hub.stream.is_in_log("a", chain.incarnation, point)
    for wrong in (point.model_copy(update={"digest": "0" * 32}), point.model_copy(update={"batch": point.batch - 1})):
        assert not hub.stream.is_in_log("a", chain.incarnation, wrong)
    assert not hub.stream.is_in_log("a", chain.incarnation, point.model_copy(update={"seq": 51}))
    hub.stream.close()
