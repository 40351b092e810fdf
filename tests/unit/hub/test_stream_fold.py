"""The state is the fold of the log: whatever happened, made anew it is the same."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.stream_kit import LOG_ID, HandDevice, open_stream, picture, rows_of, send, shape
from tidewire_hub.log.memory import MemoryLog
from tidewire_hub.log.sqlite import SqliteLog
from tidewire_hub.stream import Incoming, Stream, StreamSettings
from tidewire_schemas.digest import as_hex, column_order, row_digest, table_digest
from tidewire_schemas.messages import Run
from tidewire_schemas.names import fold
from tidewire_schemas.positions import START
from tidewire_schemas.shapes import ForeignKey
from tidewire_schemas.values import decode

SHAPES = [
    shape("item", "id INTEGER, code TEXT NOCASE, n REAL, note BLOB", rowid=True, unique=["code", "n note"]),
    shape(
        "part",
        "name TEXT NOCASE, item INTEGER, n NUMERIC",
        key="name",
        foreign_keys=[ForeignKey(columns=("item",), table="item", references=())],
    ),
]
CODES = st.sampled_from(["a", "A", "b", "c", None])
NOTES = st.sampled_from([None, 1, 1.0, "1", {"blob": "AA=="}])
NUMBERS = st.sampled_from([None, 1, 1.5, 2.0, "2"])
IDS = st.integers(1, 4)
TIES = st.sampled_from([0, 0, 1, 2])

item_put = st.tuples(st.sampled_from(["put", "seed"]), st.just("item"), st.tuples(IDS, CODES, NUMBERS, NOTES), TIES)
item_set = st.tuples(st.just("set"), st.just("item"), st.tuples(IDS, CODES), TIES)
item_delete = st.tuples(st.just("delete"), st.just("item"), st.tuples(IDS), TIES)
part_put = st.tuples(
    st.sampled_from(["put", "seed"]), st.just("part"), st.tuples(st.sampled_from("xXyz"), IDS, NUMBERS), TIES
)
part_delete = st.tuples(st.just("delete"), st.just("part"), st.tuples(st.sampled_from("xXyz")), TIES)
rows = st.lists(item_put | item_set | item_delete | part_put | part_delete, max_size=8)
# Which device, how many entries it is behind, what it writes.
writes = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6), rows), min_size=1, max_size=14)

COLUMNS = {
    ("item", 4): "id code n note",
    ("item", 2): "id code",
    ("item", 1): "id",
    ("part", 3): "name item n",
    ("part", 1): "name",
}


def _runs(device: HandDevice, written: list[tuple[Any, str, tuple[Any, ...], int]]) -> list[Run]:
    return [
        device.run(op, table, COLUMNS[table, len(row)], row, ties=(tie,) if tie else None)
        for op, table, row, tie in written
    ]


def _unique_holds(stream: Stream) -> None:
    items = rows_of(stream, "item")
    codes = [fold(row["code"]) for row in items if "code" in row]
    assert len(codes) == len(set(codes))
    pairs = [
        (row["n"], str(row["note"])) for row in items if {"n", "note"} <= row.keys() and row["note"] not in (1, 1.0)
    ]
    assert len(pairs) == len(set(pairs))


def _digests_hold(stream: Stream) -> None:
    """Against the digests as an edge computes them, from rows and the schema's own function."""
    stated = {digest.table: (digest.rows, digest.digest) for digest in stream.digests()}
    for table in stream.tables():
        names = [fold(column.name) for column in table.columns]
        order = column_order(names)
        shown = [column.name for column in table.columns]
        held = rows_of(stream, table.name)
        digests = [row_digest([names[i] for i in order], [decode(row.get(shown[i])) for i in order]) for row in held]
        assert stated[table.name] == (len(held), as_hex(table_digest(digests)))


@settings(max_examples=150, deadline=None)
@given(writes)
def test_folding_the_log_again_gives_the_same_state_and_unique_always_holds(
    written: list[tuple[int, int, list[Any]]],
) -> None:
    """Guarantees 6 and 7."""
    log = MemoryLog(LOG_ID)
    stream = open_stream(log)
    stream.declare("d0", SHAPES)
    devices = [HandDevice(f"d{n}") for n in range(3)]
    positions = [START]
    for number, behind, what in written:
        device = devices[number]
        device.base = positions[max(0, len(positions) - 1 - behind)]
        send(stream, device.seal(*_runs(device, what)))
        positions.append(stream.head)
        _unique_holds(stream)
    _digests_hold(stream)
    again = Stream.open(log, None)
    assert picture(again) == picture(stream)


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _story() -> list[Incoming]:
    """Writes of two devices with conflicts, refusals and a swap."""
    a, b = HandDevice("a"), HandDevice("b")
    return [
        a.seal(a.put("item", "id code n note", *[[n, f"c{n}", n, None] for n in range(50)])),
        b.seal(b.put("item", "id code n note", [1, "mine", 1, 1], [99, "C5", 1, 1], [100, "new", 2, 2])),
        a.seal(a.set("item", "id code", [1, "c2"], [2, "c1"])),
        a.seal(a.delete("item", "id", [7], [8])),
        b.seal(b.set("item", "id code", [3, "theirs"], [7, "gone"])),
        b.seal(b.put("part", "name item n", ["x", 1, 5], ["y", 99, 5])),
    ]


def _told(folder: Path, *, limits: StreamSettings | None = None) -> Stream:
    stream = open_stream(SqliteLog.open(folder / "log.db"), folder / "state.db", settings=limits)
    stream.declare("a", SHAPES)
    for batch in _story():
        assert not send(stream, batch).problems
    return stream


def test_a_deleted_state_is_made_anew_from_the_log(tmp_path: Path) -> None:
    """Guarantee 6."""
    stream = _told(tmp_path)
    before = picture(stream)
    assert before["conflicts"]
    stream.close()
    for path in tmp_path.glob("state.db*"):
        path.unlink()
    again = Stream.open(SqliteLog.open(tmp_path / "log.db"), tmp_path / "state.db")
    assert picture(again) == before
    again.close()


@pytest.mark.parametrize("damage", ["garbage", "another log's", "ahead of the log"])
def test_a_state_that_does_not_fit_the_log_is_made_anew(tmp_path: Path, damage: str) -> None:
    stream = _told(tmp_path)
    before = picture(stream)
    stream.close()
    if damage == "garbage":
        (tmp_path / "state.db").write_bytes(b"garbage" * 1000)
    else:
        other = tmp_path / "other"
        other.mkdir()
        foreign = open_stream(
            MemoryLog("77" * 16 if damage != "ahead of the log" else _log_id(tmp_path)), other / "state.db"
        )
        device = HandDevice("z")
        send(foreign, *[device.seal() for _ in range(20)])
        foreign.close()
        (other / "state.db").replace(tmp_path / "state.db")
    again = Stream.open(SqliteLog.open(tmp_path / "log.db"), tmp_path / "state.db")
    assert picture(again) == before
    again.close()


def test_a_state_whose_pages_are_damaged_is_made_anew(tmp_path: Path) -> None:
    stream = _told(tmp_path)
    before = picture(stream)
    stream.close()
    content = bytearray((tmp_path / "state.db").read_bytes())
    content[8192:] = b"\xa5" * (len(content) - 8192)
    (tmp_path / "state.db").write_bytes(content)
    again = Stream.open(SqliteLog.open(tmp_path / "log.db"), tmp_path / "state.db")
    assert picture(again) == before
    again.close()


def _log_id(folder: Path) -> str:
    log = SqliteLog.open(folder / "log.db")
    log.close()
    return log.log_id


def test_a_state_that_was_not_committed_catches_up_when_it_is_opened(tmp_path: Path) -> None:
    """Guarantees 2 and 6: as after a kill between the append and the commit of the state."""
    stream = _told(tmp_path, limits=StreamSettings(state_commit_rows=10))
    copy = tmp_path / "copy"
    copy.mkdir()
    lazy = open_stream(MemoryLog(stream.log_id), copy / "state.db")
    lazy.declare("a", SHAPES)
    send(lazy, _story()[0])
    lazy.close()
    before = picture(stream)
    stream.close()
    for path in tmp_path.glob("state.db*"):
        path.unlink()
    again = Stream.open(SqliteLog.open(tmp_path / "log.db"), copy / "state.db")
    assert picture(again) == before
    again.close()


_WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from support.stream_kit import HandDevice, open_stream, send, shape
from tidewire_hub.log.sqlite import SqliteLog
from tidewire_hub.stream import StreamSettings

folder = Path(sys.argv[1])
limits = StreamSettings(state_commit_rows=int(sys.argv[3]))
stream = open_stream(SqliteLog.open(folder / "log.db"), folder / "state.db", settings=limits)
stream.declare("a", [shape("t", "id INTEGER, text TEXT")])
device = HandDevice("a", incarnation=sys.argv[4])
while True:
    n = device.batch
    rows = [[n * 20 + m, "x" * 50] for m in range(20)]
    made, changed = device.put("t", "id text", *rows), device.set("t", "id text", rows[0])
    commit = send(stream, device.seal(made), device.seal(changed))
    print(commit.acks[-1].batch, flush=True)
"""


@pytest.mark.parametrize("commit_rows", [0, 100])
def test_kill_9_at_any_moment_loses_nothing_acked_and_leaves_state_and_log_equal(
    tmp_path: Path, commit_rows: int
) -> None:
    """Guarantees 1, 2 and 6."""
    tests = str(Path(__file__).parents[2])
    for number, kill_after in enumerate((1, 9, 40)):
        incarnation = f"{number:032x}"
        command = [sys.executable, "-c", _WRITER, str(tmp_path), tests, str(commit_rows), incarnation]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            acked = 0
            for _ in range(kill_after):
                acked = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
        stream = Stream.open(SqliteLog.open(tmp_path / "log.db"), tmp_path / "state.db")
        accepted = stream.accepted("a", incarnation)
        assert accepted is not None
        assert accepted.batch >= acked
        before = picture(stream)
        stream.close()
        fresh = Stream.open(SqliteLog.open(tmp_path / "log.db"), None)
        assert picture(fresh) == before
        fresh.close()
