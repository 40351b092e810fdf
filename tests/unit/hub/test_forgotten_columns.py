"""Columns that no device has any more: forgotten by the hub, whatever the log says of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.stream_kit import (
    LOG_ID,
    NOW_MS,
    HandDevice,
    only_entry,
    open_stream,
    picture,
    reasons,
    rows_of,
    send,
    shape,
)
from tidewire_hub.declared import DAY_MS
from tidewire_hub.log.memory import MemoryLog
from tidewire_hub.log.sqlite import SqliteLog
from tidewire_hub.stream import Stream, StreamSettings, TableDigest
from tidewire_schemas.messages import Run
from tidewire_schemas.positions import START
from tidewire_schemas.shapes import TableShape

OLD = shape("T", "id TEXT, z TEXT, n INTEGER")
NEW = shape("t", "id TEXT, ZZ TEXT, n INTEGER")
NARROW = shape("t", "id TEXT, n INTEGER")


def digest_of(columns: str, *rows: tuple[Any, ...]) -> TableDigest:
    """Of a table that never had any other columns."""
    stream = open_stream()
    stream.declare("x", [shape("T", ", ".join(f"{name} BLOB" for name in columns.split()))])
    device = HandDevice("x")
    send(stream, device.seal(device.put("T", columns, *rows)))
    return stream.digests()[0]


def columns_of_table(stream: Stream) -> list[str]:
    return [column.name for column in stream.tables()[0].columns]


def a_story(stream: Stream) -> HandDevice:
    """Two rows of device a, of which it wrote the column z."""
    stream.declare("a", [OLD], at_ms=NOW_MS)
    a = HandDevice("a")
    send(stream, a.seal(a.put("t", "id z n", ["1", "x", 1], ["2", "y", 2])))
    send(stream, a.seal(a.set("t", "id z", ["1", "xx"])))
    return a


def test_a_column_that_no_device_has_any_more_is_as_if_it_never_was() -> None:
    """Guarantee 7."""
    stream = open_stream()
    a_story(stream)
    assert stream.declare("a", [NARROW], at_ms=NOW_MS) == []
    assert columns_of_table(stream) == ["id", "n"]
    assert stream.digests() == [digest_of("id n", ("1", 1), ("2", 2))]


def test_what_another_device_has_is_kept_however_long_it_is_connected() -> None:
    stream = open_stream(settings=StreamSettings(columns_kept_days=30))
    a_story(stream)
    stream.declare("b", [NEW], at_ms=NOW_MS + 29 * DAY_MS)
    assert columns_of_table(stream) == ["id", "z", "n", "ZZ"]
    stream.declare("b", [NEW], at_ms=NOW_MS + 31 * DAY_MS, connected={"a"})
    assert columns_of_table(stream) == ["id", "z", "n", "ZZ"]
    stream.declare("b", [NEW], at_ms=NOW_MS + 31 * DAY_MS)
    assert columns_of_table(stream) == ["id", "n", "ZZ"]


def test_agents_under_one_name_speak_for_themselves_alone() -> None:
    """What either of them has is kept, also of one that is away, for as long as of a device."""
    stream = open_stream(settings=StreamSettings(columns_kept_days=30))
    a_story(stream)
    stream.declare("a", [NARROW], at_ms=NOW_MS, agents="perhaps two")
    stream.declare("a", [NEW], at_ms=NOW_MS, agents="two")
    stream.declare("a", [NARROW], at_ms=NOW_MS + 29 * DAY_MS)
    assert columns_of_table(stream) == ["id", "z", "n", "ZZ"]
    stream.declare("a", [NARROW], at_ms=NOW_MS + 31 * DAY_MS, connected={"a"})
    assert columns_of_table(stream) == ["id", "n"]


def test_an_agent_that_was_taken_for_two_speaks_for_its_device_again() -> None:
    stream = open_stream()
    a_story(stream)
    stream.declare("a", [NARROW], at_ms=NOW_MS, agents="perhaps two")
    assert columns_of_table(stream) == ["id", "z", "n"]
    stream.declare("a", [NARROW], at_ms=NOW_MS)
    assert columns_of_table(stream) == ["id", "n"]


def test_a_hub_that_starts_anew_knows_what_devices_have_that_are_away(tmp_path: Path) -> None:
    stream = open_stream(SqliteLog.open(tmp_path / "log.db"), tmp_path / "state.db")
    a_story(stream)
    stream.close()
    again = open_stream(SqliteLog.open(tmp_path / "log.db"), tmp_path / "state.db")
    again.declare("b", [NARROW], at_ms=NOW_MS)
    assert columns_of_table(again) == ["id", "z", "n"]
    again.declare("a", [NARROW], at_ms=NOW_MS)
    assert columns_of_table(again) == ["id", "n"]
    again.close()


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_log_that_is_put_back_to_before_a_column_was_given_up_has_its_values(
    tmp_path: Path, comes_back: bool
) -> None:
    """Guarantee 6. The state beside it stands at the same entry, without them."""
    log, copy, state = tmp_path / "log.db", tmp_path / "copy.db", tmp_path / "state.db"
    stream = open_stream(SqliteLog.open(log), state)
    a_story(stream)
    rows, digests = rows_of(stream, "t"), stream.digests()
    stream.close()
    shutil.copy(log, copy)
    stream = open_stream(SqliteLog.open(log), state)
    stream.declare("a", [NARROW], at_ms=NOW_MS)
    if comes_back:
        stream.declare("a", [OLD], at_ms=NOW_MS)
    assert rows_of(stream, "t") != rows
    stream.close()
    shutil.copy(copy, log)
    again = open_stream(SqliteLog.open(log), state)
    assert (rows_of(again, "t"), again.digests()) == (rows, digests)
    again.close()


def test_batches_from_before_a_column_was_given_up_are_taken_without_it() -> None:
    stream = open_stream()
    a = a_story(stream)
    stream.declare("a", [NEW], at_ms=NOW_MS)
    commit = send(
        stream,
        a.seal(
            a.put("t", "id z n", ["3", "late", 3]),
            a.set("t", "id Z", ["1", "late"]),
            a.set("t", "id n z", ["2", 22, "late"]),
        ),
    )
    entry = only_entry(commit)
    assert [run.columns for run in entry.changes] == [("id", "n", "ZZ"), ("id", "n")]
    assert reasons(entry) == []
    assert rows_of(stream, "t") == [{"id": "1", "n": 1}, {"id": "2", "n": 22}, {"id": "3", "n": 3}]


def test_a_column_that_nobody_ever_had_is_refused_still() -> None:
    stream = open_stream()
    a = a_story(stream)
    entry = only_entry(send(stream, a.seal(a.set("t", "id typo", ["1", "x"]))))
    assert reasons(entry) == ["unknown_column"]


def test_a_column_that_comes_back_begins_anew() -> None:
    stream = open_stream()
    a = a_story(stream)
    stream.declare("a", [NARROW], at_ms=NOW_MS)
    assert stream.whole_since == 0
    stream.declare("a", [shape("t", 'id TEXT, n INTEGER, z TEXT ="new"')], at_ms=NOW_MS)
    assert stream.whole_since == 2
    assert [row["z"] for row in rows_of(stream, "t")] == ["new", "new"]
    send(stream, a.seal(a.set("t", "id z", ["2", "other"])))
    assert [row["z"] for row in rows_of(stream, "t")] == ["new", "other"]


def test_unique_sets_go_with_their_columns_and_the_others_stay_in_force() -> None:
    stream = open_stream()
    a = HandDevice("a")
    stream.declare("a", [shape("t", "id TEXT, z TEXT, mail TEXT", unique=["z", "mail"])], at_ms=NOW_MS)
    send(stream, a.seal(a.put("t", "id z mail", ["1", "x", "m"])))
    stream.declare("a", [shape("t", "id TEXT, mail TEXT", unique=["mail"])], at_ms=NOW_MS)
    entry = only_entry(send(stream, a.seal(a.put("t", "id mail", ["2", "m"], ["3", "mm"]))))
    assert reasons(entry) == ["unique"]
    stream.declare("a", [shape("t", "id TEXT, mail TEXT, z TEXT", unique=["mail", "z"])], at_ms=NOW_MS)
    entry = only_entry(send(stream, a.seal(a.put("t", "id mail z", ["4", "n", "x"], ["5", "o", "x"]))))
    assert reasons(entry) == ["unique"]


def test_what_a_device_lacks_is_told_by_table() -> None:
    stream = open_stream()
    a_story(stream)
    (told,) = stream.columns_elsewhere([NEW, shape("other", "id TEXT")])
    assert (told.table, told.columns) == ("t", ("z",))


# ── the state is the log's fold ───────────────────────────────────────────────────────────────────────────────────

SHAPES = {
    "old": shape("t", "id TEXT, z TEXT NOCASE, n INTEGER", unique=["z"]),
    "new": shape("t", "id TEXT, zz TEXT NOCASE, n INTEGER", unique=["zz"]),
    "narrow": shape("t", "id TEXT, n INTEGER"),
    "default": shape("t", "id TEXT, z TEXT NOCASE, n INTEGER =7, more INTEGER =5"),
}
WRITES: dict[str, list[Any]] = {
    "put": ["1", "x", 1],
    "put another": ["2", "y", 2],
    "set": ["1", "w"],
    "set n": ["1", 9],
    "delete": ["1"],
}


def runs_of(device: HandDevice, declared: TableShape, what: list[str]) -> list[Run]:
    names = [column.name for column in declared.columns][:3]
    runs = []
    for one in dict.fromkeys(what):
        if one.startswith("put"):
            values = WRITES[one]
            runs.append(device.put("t", " ".join(names), [values[0], *values[-len(names) + 1 :]]))
        elif one == "delete":
            runs.append(device.delete("t", "id", WRITES[one]))
        else:
            runs.append(device.set("t", f"id {names[1] if one == 'set' else 'n'}", WRITES[one]))
    return runs


steps = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from([*SHAPES, None, None]),
        st.integers(0, 4),
        st.lists(st.sampled_from([*WRITES]), max_size=3),
    ),
    min_size=1,
    max_size=16,
)


@settings(max_examples=200, deadline=None)
@given(steps)
def test_folding_the_log_again_gives_the_same_rows_whatever_was_forgotten(
    told: list[tuple[int, str | None, int, list[str]]],
) -> None:
    """Guarantees 6 and 7."""
    log = MemoryLog(LOG_ID)
    stream = open_stream(log)
    devices = [HandDevice(f"d{n}") for n in range(3)]
    has = [SHAPES["old"]] * 3
    positions = [START]
    stream.declare("d0", [has[0]], at_ms=NOW_MS)
    for number, declares, behind, what in told:
        if declares is not None:
            has[number] = SHAPES[declares]
            stream.declare(f"d{number}", [has[number]], at_ms=NOW_MS)
        device = devices[number]
        device.base = positions[max(0, len(positions) - 1 - behind)]
        send(stream, device.seal(*runs_of(device, has[number], what)))
        positions.append(stream.head)
    before = {**picture(stream), "conflicts": []}  # of what does not count any more there were conflicts, too
    again = {**picture(Stream.open(log, None)), "conflicts": []}
    assert again == before
