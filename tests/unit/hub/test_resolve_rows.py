"""Births, cells and tombstones: every line of the resolution table."""

from __future__ import annotations

from typing import Any

import pytest

from support.stream_kit import (
    LOG_ID,
    HandDevice,
    entry_of,
    only_entry,
    open_stream,
    picture,
    reasons,
    rows_of,
    send,
    shape,
)
from tidewire_hub.log.memory import MemoryLog
from tidewire_hub.stream import Stream
from tidewire_schemas.positions import START

A, B = "till-a", "till-b"
COLUMNS = "id text n"


class Two:
    """Two devices and a stream with the table `t` (chosen keys) and `r` (keys that SQLite hands out)."""

    def __init__(self) -> None:
        self.log = MemoryLog(LOG_ID)
        self.stream: Stream = open_stream(self.log)
        self.a, self.b = HandDevice(A), HandDevice(B)
        self.stream.declare(A, [shape("t", "id TEXT, text TEXT, n INTEGER")])
        self.stream.declare(A, [shape("r", "id INTEGER, text TEXT, n INTEGER", rowid=True)])

    def both_know(self, *rows: list[Any], table: str = "t") -> None:
        """Rows that A made and both have applied."""
        send(self.stream, self.a.seal(self.a.put(table, COLUMNS, *rows)))
        self.a.base = self.b.base = self.stream.head

    def folds_again(self) -> None:
        """The log alone says all of it."""
        assert picture(Stream.open(self.log, None)) == picture(self.stream)

    def rows(self, table: str = "t") -> list[list[Any]]:
        return [[row.get(name) for name in COLUMNS.split()] for row in rows_of(self.stream, table)]

    def conflicts(self) -> list[tuple[str, str, str, dict[str, Any]]]:
        return [(c.device, c.kind, c.loser, c.lost) for c in self.stream.conflicts()]


@pytest.fixture
def two() -> Two:
    return Two()


# ── put ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_put_on_an_absent_row_makes_it_and_the_entry_repeats_the_batch_bytes(two: Two) -> None:
    batch = two.a.seal(two.a.put("t", COLUMNS, ["k", "x", 1], ["l", None, 2]))
    commit = send(two.stream, batch)
    changes = batch.payload[batch.payload.index(b'"changes":') : -1]
    assert changes in commit.entries[0].data
    assert two.rows() == [["k", "x", 1], ["l", None, 2]]
    assert two.conflicts() == []


def test_of_two_concurrent_inserts_of_a_chosen_key_the_later_wins_and_the_loser_is_recorded(two: Two) -> None:
    send(two.stream, two.a.seal(two.a.put("t", COLUMNS, ["k", "mine", 1])))
    entry = only_entry(send(two.stream, two.b.seal(two.b.put("t", COLUMNS, ["k", "yours", 1]))))
    assert entry.refused == []
    assert two.rows() == [["k", "yours", 1]]
    assert two.conflicts() == [(B, "overwritten", A, {"text": "mine"})]


def test_of_two_concurrent_inserts_of_a_handed_out_key_the_first_stays(two: Two) -> None:
    send(two.stream, two.a.seal(two.a.put("r", COLUMNS, [1, "mine", 1])))
    entry = only_entry(send(two.stream, two.b.seal(two.b.put("r", COLUMNS, [1, "yours", 2], [2, "other", 3]))))
    assert reasons(entry) == ["key_taken"]
    refusal = entry.refused[0]
    assert (refusal.columns, refusal.key, refusal.op) == (("id",), [1], "put")
    assert refusal.row is not None
    assert (refusal.row.columns, refusal.row.values) == (("id", "text", "n"), [1, "mine", 1])
    assert [run.rows for run in entry.changes] == [[[2, "other", 3]]]
    assert two.rows("r") == [[1, "mine", 1], [2, "other", 3]]
    assert two.conflicts() == [(B, "key_taken", B, {"text": "yours", "n": 2})]


def test_an_insert_of_a_handed_out_key_by_a_device_that_knows_the_row_overwrites_it(two: Two) -> None:
    two.both_know([1, "old", 1], table="r")
    assert reasons(only_entry(send(two.stream, two.b.seal(two.b.put("r", COLUMNS, [1, "new", 2]))))) == []
    assert two.rows("r") == [[1, "new", 2]]
    assert two.conflicts() == []


def test_a_put_on_a_known_row_records_what_others_wrote_to_it_meanwhile_where_it_differs(two: Two) -> None:
    two.both_know(["k", "old", 1])
    send(two.stream, two.a.seal(two.a.set("t", "id text n", ["k", "mine", 5])))
    send(two.stream, two.b.seal(two.b.put("t", COLUMNS, ["k", "yours", 5])))
    assert two.rows() == [["k", "yours", 5]]
    assert two.conflicts() == [(B, "overwritten", A, {"text": "mine"})]


def test_a_put_does_not_change_the_birth_of_a_row(two: Two) -> None:
    two.both_know(["k", "old", 1])
    send(two.stream, two.a.seal(two.a.put("t", COLUMNS, ["k", "new", 1])))
    # B has seen the birth, not the overwrite: its set is about the same thing.
    assert reasons(only_entry(send(two.stream, two.b.seal(two.b.set("t", "id n", ["k", 9]))))) == []
    assert two.rows() == [["k", "new", 9]]


def test_the_same_content_is_no_conflict(two: Two) -> None:
    send(two.stream, two.a.seal(two.a.put("t", COLUMNS, ["k", "x", 1])))
    send(two.stream, two.b.seal(two.b.put("t", COLUMNS, ["k", "x", 1])))
    send(two.stream, two.a.seal(two.a.set("t", "id n", ["k", 1])))
    assert two.conflicts() == []


def test_a_devices_own_writes_never_conflict(two: Two) -> None:
    send(two.stream, two.a.seal(two.a.put("r", COLUMNS, [1, "x", 1])))
    entry = only_entry(send(two.stream, two.a.seal(two.a.put("r", COLUMNS, [1, "y", 2]))))
    assert entry.refused == []
    assert two.conflicts() == []


def test_another_life_of_the_same_devices_database_is_a_stranger(two: Two) -> None:
    """A restored copy has not seen what the other life wrote, so its edges must find it refused as anyone's."""
    send(two.stream, two.a.seal(two.a.put("r", COLUMNS, [1, "x", 1])))
    anew = HandDevice(A, incarnation="cd" * 16)
    entry = only_entry(send(two.stream, anew.seal(anew.put("r", COLUMNS, [1, "y", 2]))))
    assert [refusal.reason for refusal in entry.refused] == ["key_taken"]


# ── set ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_sets_of_different_columns_merge_without_a_conflict(two: Two) -> None:
    two.both_know(["k", "old", 1])
    send(two.stream, two.a.seal(two.a.set("t", "id text", ["k", "new"])))
    send(two.stream, two.b.seal(two.b.set("t", "id n", ["k", 2])))
    assert two.rows() == [["k", "new", 2]]
    assert two.conflicts() == []


def test_of_two_concurrent_sets_of_one_column_the_later_wins_and_the_loser_is_recorded(two: Two) -> None:
    two.both_know(["k", "old", 1])
    send(two.stream, two.a.seal(two.a.set("t", "id text", ["k", "first"])))
    send(two.stream, two.b.seal(two.b.set("t", "id text", ["k", None])))
    assert two.rows() == [["k", None, 1]]
    assert two.conflicts() == [(B, "overwritten", A, {"text": "first"})]


def test_a_set_that_has_seen_the_other_write_is_no_conflict(two: Two) -> None:
    two.both_know(["k", "old", 1])
    send(two.stream, two.a.seal(two.a.set("t", "id text", ["k", "first"])))
    two.b.base = two.stream.head
    send(two.stream, two.b.seal(two.b.set("t", "id text", ["k", "second"])))
    assert two.conflicts() == []


def test_one_is_not_one_point_zero_when_a_column_holds_both(two: Two) -> None:
    two.stream.declare(A, [shape("any", "id TEXT, v BLOB")])
    send(two.stream, two.a.seal(two.a.put("any", "id v", ["k", 1])))
    send(two.stream, two.b.seal(two.b.put("any", "id v", ["k", 1.0])))
    assert two.conflicts() == [(B, "overwritten", A, {"v": 1})]


def test_a_set_on_a_row_that_never_was_is_refused(two: Two) -> None:
    entry = only_entry(send(two.stream, two.a.seal(two.a.set("t", "id n", ["k", 1]))))
    assert reasons(entry) == ["row_absent"]
    assert entry.refused[0].row is None
    assert entry.changes == []


def test_a_delete_wins_over_a_concurrent_set_whichever_comes_first(two: Two) -> None:
    two.both_know(["k", "old", 1], ["l", "old", 1])
    send(two.stream, two.a.seal(two.a.delete("t", "id", ["k"])))
    entry = only_entry(send(two.stream, two.b.seal(two.b.set("t", "id n", ["k", 2], ["l", 2]))))
    assert reasons(entry) == ["row_absent"]
    assert entry.refused[0].row is None
    send(two.stream, two.a.seal(two.a.delete("t", "id", ["l"])))
    assert two.rows() == []
    assert two.conflicts() == [
        (B, "row_absent", B, {"n": 2}),
        (A, "overwritten", B, {"id": "l", "text": "old", "n": 2}),
    ]


def test_a_set_on_a_row_that_was_made_anew_elsewhere_is_about_another_thing(two: Two) -> None:
    two.both_know(["k", "old", 1])
    send(
        two.stream,
        two.a.seal(
            two.a.delete("t", "id", ["k"]),
        ),
    )
    send(two.stream, two.a.seal(two.a.put("t", COLUMNS, ["k", "anew", 5])))
    entry = only_entry(send(two.stream, two.b.seal(two.b.set("t", "id n", ["k", 2]))))
    assert reasons(entry) == ["row_reborn"]
    assert entry.refused[0].row is not None
    assert entry.refused[0].row.values == ["k", "anew", 5]
    assert two.rows() == [["k", "anew", 5]]


def test_a_delete_and_a_put_of_one_key_in_one_batch_make_the_row_anew(two: Two) -> None:
    two.both_know(["k", "old", 1])
    a = two.a
    send(two.stream, a.seal(a.put("t", COLUMNS, ["k", "anew", 5]), a.delete("t", "id", ["k"])))
    assert two.rows() == [["k", "anew", 5]]
    assert reasons(only_entry(send(two.stream, two.b.seal(two.b.set("t", "id n", ["k", 2]))))) == ["row_reborn"]


def test_a_set_keeps_the_spelling_of_the_key_and_a_put_brings_its_own(two: Two) -> None:
    two.stream.declare(A, [shape("u", "name TEXT NOCASE, n INTEGER", key="name")])
    send(two.stream, two.a.seal(two.a.put("u", "name n", ["Bob", 1])))
    send(two.stream, two.a.seal(two.a.set("u", "name n", ["BOB", 2])))
    assert rows_of(two.stream, "u") == [{"n": 2, "name": "Bob"}]
    send(two.stream, two.a.seal(two.a.put("u", "name n", ["bob", 3])))
    assert rows_of(two.stream, "u") == [{"n": 3, "name": "bob"}]


# ── delete ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_delete_of_an_absent_row_is_taken_as_nothing(two: Two) -> None:
    entry = only_entry(send(two.stream, two.a.seal(two.a.delete("t", "id", ["k"]))))
    assert (entry.refused, entry.changes) == ([], [])
    # It made no tombstone: a seed is still welcome.
    assert only_entry(send(two.stream, two.b.seal(two.b.seed("t", COLUMNS, ["k", "x", 1])))).refused == []


def test_a_second_delete_of_a_row_is_taken_as_nothing(two: Two) -> None:
    two.both_know(["k", "x", 1])
    send(two.stream, two.a.seal(two.a.delete("t", "id", ["k"])))
    entry = only_entry(send(two.stream, two.b.seal(two.b.delete("t", "id", ["k"]))))
    assert (entry.refused, entry.changes) == ([], [])
    assert two.conflicts() == []


def test_a_delete_of_a_row_that_was_made_anew_elsewhere_is_refused(two: Two) -> None:
    two.both_know(["k", "old", 1])
    send(two.stream, two.a.seal(two.a.delete("t", "id", ["k"]), two.a.put("t", COLUMNS, ["k", "anew", 2])))
    entry = only_entry(send(two.stream, two.b.seal(two.b.delete("t", "id", ["k"]))))
    assert reasons(entry) == ["row_reborn"]
    assert two.rows() == [["k", "anew", 2]]


def test_a_delete_that_has_seen_everything_is_no_conflict(two: Two) -> None:
    two.both_know(["k", "old", 1])
    send(two.stream, two.b.seal(two.b.delete("t", "id", ["k"])))
    assert two.rows() == []
    assert two.conflicts() == []


# ── seed ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_seed_makes_a_row_where_there_is_none(two: Two) -> None:
    only_entry(send(two.stream, two.a.seal(two.a.seed("t", COLUMNS, ["k", "x", 1]))))
    assert two.rows() == [["k", "x", 1]]


def test_a_seed_of_equal_content_is_taken_as_nothing(two: Two) -> None:
    two.both_know(["k", "x", 1])
    entry = only_entry(send(two.stream, two.b.seal(two.b.seed("t", COLUMNS, ["k", "x", 1], ["l", "y", 2]))))
    assert entry.refused == []
    assert [run.rows for run in entry.changes] == [[["l", "y", 2]]]


def test_a_seed_that_differs_from_the_hubs_row_changes_nothing_for_the_others(two: Two) -> None:
    two.both_know(["k", "x", 1])
    entry = only_entry(send(two.stream, two.b.seal(two.b.seed("t", COLUMNS, ["k", "last month", 1]))))
    assert reasons(entry) == ["row_known"]
    assert entry.refused[0].row is not None
    assert entry.refused[0].row.values == ["k", "x", 1]
    assert two.rows() == [["k", "x", 1]]


def test_a_seed_of_a_deleted_row_does_not_bring_it_back(two: Two) -> None:
    two.both_know(["k", "x", 1])
    send(two.stream, two.a.seal(two.a.delete("t", "id", ["k"])))
    entry = only_entry(send(two.stream, two.b.seal(two.b.seed("t", COLUMNS, ["k", "x", 1]))))
    assert reasons(entry) == ["row_known"]
    assert entry.refused[0].row is None
    assert two.rows() == []


def test_a_put_brings_a_deleted_row_back(two: Two) -> None:
    two.both_know(["k", "x", 1])
    send(two.stream, two.a.seal(two.a.delete("t", "id", ["k"])))
    assert reasons(only_entry(send(two.stream, two.b.seal(two.b.put("t", COLUMNS, ["k", "y", 2]))))) == []
    assert two.rows() == [["k", "y", 2]]


# ── keys, values, form ────────────────────────────────────────────────────────────────────────────────────────────


def test_keys_are_one_row_when_sqlite_holds_them_equal(two: Two) -> None:
    two.stream.declare(A, [shape("n", "id BLOB, v INTEGER"), shape("s", "a TEXT NOCASE, b TEXT RTRIM", key="a b")])
    send(two.stream, two.a.seal(two.a.put("n", "id v", [1, 10])))
    send(two.stream, two.a.seal(two.a.put("n", "id v", [1.0, 20])))
    send(two.stream, two.a.seal(two.a.put("s", "a b", ["Bob", "x"], key=2)))
    send(two.stream, two.a.seal(two.a.put("s", "a b", ["bOB", "x  "], key=2)))
    assert rows_of(two.stream, "n") == [{"id": 1.0, "v": 20}]
    assert rows_of(two.stream, "s") == [{"a": "bOB", "b": "x  "}]


def test_values_take_their_columns_affinity_in_the_entry_and_in_the_state(two: Two) -> None:
    two.stream.declare(A, [shape("v", "id TEXT, r REAL, i INTEGER, s TEXT")])
    entry = only_entry(send(two.stream, two.a.seal(two.a.put("v", "id r i s", ["k", 21, "7", 5], ["l", 1.5, 2, "x"]))))
    assert [list(map(type, row)) for row in entry.changes[0].rows] == [[str, float, int, str]] * 2
    assert entry.changes[0].rows[0] == ["k", 21.0, 7, "5"]
    assert rows_of(two.stream, "v")[0] == {"id": "k", "r": 21.0, "i": 7, "s": "5"}


def test_a_put_that_lacks_known_columns_is_completed_with_their_defaults(two: Two) -> None:
    two.stream.declare(B, [shape("t", 'id TEXT, text TEXT, n INTEGER, Colour TEXT ="red", more REAL')])
    entry = only_entry(send(two.stream, two.a.seal(two.a.put("t", COLUMNS, ["k", "x", 1]))))
    assert entry.changes[0].columns == ("id", "text", "n", "Colour", "more")
    assert entry.changes[0].rows == [["k", "x", 1, "red", None]]
    assert rows_of(two.stream, "t") == [{"id": "k", "text": "x", "n": 1, "Colour": "red"}]


def test_a_put_on_a_row_that_is_there_leaves_the_columns_alone_that_it_does_not_name(two: Two) -> None:
    two.stream.declare(B, [shape("t", 'id TEXT, text TEXT, n INTEGER, colour TEXT ="red"')])
    send(two.stream, two.b.seal(two.b.put("t", "id text n colour", ["k", "x", 1, "blue"])))
    entry = only_entry(send(two.stream, two.a.seal(two.a.put("t", COLUMNS, ["k", "y", 2], ["new", "z", 3]))))
    born, kept = entry.changes
    assert (born.op, born.columns, born.rows) == ("put", ("id", "text", "n", "colour"), [["new", "z", 3, "red"]])
    assert (kept.op, kept.columns, kept.rows) == ("set", ("id", "text", "n"), [["k", "y", 2]])
    assert {row["id"]: row["colour"] for row in rows_of(two.stream, "t")} == {"k": "blue", "new": "red"}
    assert two.conflicts() == [(A, "overwritten", B, {"text": "x", "n": 1})]
    two.folds_again()


def test_a_put_after_a_delete_in_the_same_batch_is_completed(two: Two) -> None:
    two.stream.declare(B, [shape("t", 'id TEXT, text TEXT, n INTEGER, colour TEXT ="red"')])
    send(two.stream, two.b.seal(two.b.put("t", "id text n colour", ["k", "x", 1, "blue"])))
    two.a.base = two.stream.head
    send(two.stream, two.a.seal(two.a.delete("t", "id", ["k"]), two.a.put("t", COLUMNS, ["k", "y", 2])))
    assert rows_of(two.stream, "t") == [{"id": "k", "text": "y", "n": 2, "colour": "red"}]
    two.folds_again()


def test_a_put_of_a_key_alone_on_a_row_that_is_there_is_taken_as_nothing(two: Two) -> None:
    two.both_know(["k", "x", 1])
    entry = only_entry(send(two.stream, two.b.seal(two.b.put("t", "id", ["k"]))))
    assert (entry.changes, entry.refused) == ([], [])
    assert two.rows() == [["k", "x", 1]]


def test_a_put_that_spells_a_key_otherwise_brings_its_spelling_and_keeps_the_other_columns(two: Two) -> None:
    two.stream.declare(A, [shape("w", 'id TEXT NOCASE, text TEXT, colour TEXT ="red"')])
    send(two.stream, two.a.seal(two.a.put("w", "id text colour", ["k", "x", "blue"])))
    entry = only_entry(send(two.stream, two.b.seal(two.b.put("w", "id text", ["K", "y"]))))
    assert (entry.changes[0].op, entry.changes[0].rows) == ("put", [["K", "y", "blue"]])
    assert rows_of(two.stream, "w") == [{"id": "K", "text": "y", "colour": "blue"}]
    two.folds_again()


def test_a_seed_compares_the_columns_that_it_names(two: Two) -> None:
    two.stream.declare(B, [shape("t", 'id TEXT, text TEXT, n INTEGER, colour TEXT ="red"')])
    send(two.stream, two.b.seal(two.b.put("t", "id text n colour", ["k", "x", 1, "blue"])))
    runs = two.a.seed("t", COLUMNS, ["k", "x", 1], ["new", "z", 3])
    entry = only_entry(send(two.stream, two.a.seal(runs)))
    assert entry.refused == []
    assert [(run.op, run.rows) for run in entry.changes] == [("seed", [["new", "z", 3, "red"]])]
    two.folds_again()


@pytest.mark.parametrize("second", ["put", "set", "delete", "seed"])
@pytest.mark.parametrize("first", ["put", "set", "delete", "seed"])
def test_of_two_operations_on_one_key_the_later_is_refused_save_for_a_row_made_anew(
    two: Two, first: str, second: str
) -> None:
    two.both_know(["k", "x", 1])
    rows = {"put": ["k", "p", 2], "set": ["k", "s", 3], "seed": ["k", "x", 1]}
    runs = [
        two.a.delete("t", "id", ["k"]) if op == "delete" else getattr(two.a, op)("t", COLUMNS, rows[op])
        for op in (first, second)
    ]
    entry = only_entry(send(two.stream, two.a.seal(*runs)))
    repeated = [refusal for refusal in entry.refused if refusal.reason == "wrong_key"]
    reborn = {first, second} in ({"delete", "put"}, {"delete", "seed"})
    assert len(repeated) == (0 if reborn else 1)
    assert all("another operation on this key" in refusal.detail for refusal in repeated)
    two.folds_again()


def test_a_set_is_not_completed(two: Two) -> None:
    two.both_know(["k", "x", 1])
    entry = only_entry(send(two.stream, two.a.seal(two.a.set("t", "id n", ["k", 2]))))
    assert entry.changes[0].columns == ("id", "n")


@pytest.mark.parametrize(
    ("table", "columns", "row", "key", "reason"),
    [
        ("absent", "id", ["k"], 1, "unknown_table"),
        ("t", "id nope", ["k", 1], 1, "unknown_column"),
        ("t", "text id", ["k", "x"], 1, "wrong_key"),
        ("t", "id text", ["k", "x"], 2, "wrong_key"),
        ("t", "id text", [None, "x"], 1, "wrong_key"),
        ("t", "id text", ["k", 1.5], 1, "wrong_value"),
    ],
)
def test_a_row_of_a_wrong_form_is_refused_and_the_others_stay(
    two: Two, table: str, columns: str, row: list[Any], key: int, reason: str
) -> None:
    """Guarantee 10."""
    a = two.a
    batch = a.seal(a.put("t", COLUMNS, ["good", "x", 1]), a.put(table, columns, row, key=key))
    entry = only_entry(send(two.stream, batch))
    assert reasons(entry) == [reason]
    assert entry.refused[0].row is None
    assert two.rows() == [["good", "x", 1]]
    assert [record[1] for record in two.conflicts()] == [reason]


@pytest.mark.parametrize(
    ("columns", "value", "reason"), [("id text", 1.5, "wrong_value"), ("id nope", 1, "unknown_column")]
)
def test_a_row_refused_for_its_form_still_says_what_the_device_is_to_take_back(
    two: Two, columns: str, value: object, reason: str
) -> None:
    two.both_know(["k", "x", 1])
    entry = only_entry(send(two.stream, two.b.seal(two.b.set("t", columns, ["k", value]))))
    assert reasons(entry) == [reason]
    assert entry.refused[0].row is not None
    assert entry.refused[0].row.values == ["k", "x", 1]


def test_a_blob_key_is_one_row_however_its_base64_is_spelled(two: Two) -> None:
    two.stream.declare(A, [shape("b", "id BLOB, v INTEGER")])
    send(two.stream, two.a.seal(two.a.put("b", "id v", [{"blob": "QQ=="}, 1])))
    send(two.stream, two.a.seal(two.a.put("b", "id v", [{"blob": "QR=="}, 2])))
    assert rows_of(two.stream, "b") == [{"id": {"blob": "QQ=="}, "v": 2}]


def test_table_and_column_names_are_found_in_any_spelling(two: Two) -> None:
    send(two.stream, two.a.seal(two.a.put("T", "ID Text N", ["k", "x", 1])))
    assert two.rows() == [["k", "x", 1]]


def test_every_batch_gets_an_entry_even_an_empty_one_or_one_wholly_refused(two: Two) -> None:
    commit = send(two.stream, two.a.seal(), two.a.seal(two.a.set("t", "id n", ["k", 1])))
    assert [entry_of(stored).changes for stored in commit.entries] == [[], []]
    assert [entry.position.seq for entry in commit.entries] == [1, 2]
    assert commit.prev == START
