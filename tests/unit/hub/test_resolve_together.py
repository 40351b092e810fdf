"""Unique values, and what is refused together."""

from __future__ import annotations

from typing import Any

import pytest

from support.stream_kit import HandDevice, only_entry, open_stream, reasons, rows_of, send, shape
from tidewire_hub.stream import Stream
from tidewire_schemas.messages import Entry
from tidewire_schemas.shapes import ForeignKey


class Shop:
    """People with a UNIQUE e-mail; orders and their lines; a device that has seen all and one that has not."""

    def __init__(self) -> None:
        self.stream: Stream = open_stream()
        self.a, self.b = HandDevice("till-a"), HandDevice("till-b")
        to_order = ForeignKey(columns=("order_id",), table="orders", references=())
        to_mail = ForeignKey(columns=("mail",), table="person", references=("mail",))
        self.stream.declare(
            "till-a",
            [
                shape("person", "id TEXT, mail TEXT NOCASE, pair INTEGER", unique=["mail", "pair mail"]),
                shape("orders", "id INTEGER, note TEXT", rowid=True),
                shape("line", "id INTEGER, order_id INTEGER, up INTEGER", rowid=True, foreign_keys=[to_order]),
                shape("letter", "id TEXT, mail TEXT", foreign_keys=[to_mail]),
                shape(
                    "node",
                    "id TEXT, up TEXT",
                    foreign_keys=[ForeignKey(columns=("up",), table="node", references=("id",))],
                ),
            ],
        )

    def people(self, *rows: list[Any]) -> None:
        send(self.stream, self.a.seal(self.a.put("person", "id mail", *rows)))
        self.a.base = self.b.base = self.stream.head

    def mails(self) -> dict[str, Any]:
        return {row["id"]: row.get("mail") for row in rows_of(self.stream, "person")}

    def from_b(self, *runs: Any) -> Entry:
        return only_entry(send(self.stream, self.b.seal(*runs)))


@pytest.fixture
def shop() -> Shop:
    return Shop()


# ── unique ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_of_two_devices_that_take_one_value_the_later_is_refused_its_row(shop: Shop) -> None:
    shop.people(["1", "ann@x"])
    entry = shop.from_b(shop.b.put("person", "id mail", ["2", "ANN@x"], ["3", "bob@x"]))
    assert reasons(entry) == ["unique"]
    assert entry.refused[0].row is None
    assert shop.mails() == {"1": "ann@x", "3": "bob@x"}


def test_two_rows_may_swap_their_values_in_one_batch(shop: Shop) -> None:
    shop.people(["1", "ann@x"], ["2", "bob@x"])
    assert reasons(shop.from_b(shop.b.set("person", "id mail", ["1", "bob@x"], ["2", "ann@x"]))) == []
    assert shop.mails() == {"1": "bob@x", "2": "ann@x"}


def test_a_value_is_free_when_its_holder_is_deleted_in_the_same_batch(shop: Shop) -> None:
    shop.people(["1", "ann@x"])
    entry = shop.from_b(shop.b.put("person", "id mail", ["2", "ann@x"]), shop.b.delete("person", "id", ["1"]))
    assert reasons(entry) == []
    assert shop.mails() == {"2": "ann@x"}


def test_nulls_are_distinct(shop: Shop) -> None:
    shop.people(["1", None], ["2", None])
    assert shop.mails() == {"1": None, "2": None}


def test_of_two_rows_of_one_batch_the_first_keeps_the_value(shop: Shop) -> None:
    entry = shop.from_b(shop.b.put("person", "id mail", ["1", "ann@x"], ["2", "ann@x"]))
    assert [refusal.key for refusal in entry.refused] == [["2"]]
    assert shop.mails() == {"1": "ann@x"}


def test_who_held_the_value_before_keeps_it_whatever_the_order_in_the_batch(shop: Shop) -> None:
    shop.people(["1", "ann@x"])
    entry = shop.from_b(shop.b.put("person", "id mail", ["2", "ann@x"]), shop.b.set("person", "id pair", ["1", 5]))
    assert [refusal.key for refusal in entry.refused] == [["2"]]


def test_a_refused_row_takes_its_old_value_again_and_so_on_to_a_fixed_point(shop: Shop) -> None:
    shop.people(["1", "a"], ["2", "b"], ["3", "c"], ["9", "z"])
    # 1 wants the value of 9, which stays: so 1 keeps "a", so 2 cannot have it and keeps "b", so 3 keeps "c".
    entry = shop.from_b(shop.b.set("person", "id mail", ["3", "b"], ["2", "a"], ["1", "z"]))
    assert reasons(entry) == ["unique"] * 3
    assert shop.mails() == {"1": "a", "2": "b", "3": "c", "9": "z"}
    assert [refusal.row.values[:2] for refusal in entry.refused if refusal.row] == [["3", "c"], ["2", "b"], ["1", "a"]]


def test_a_set_is_refused_for_a_clash_on_a_column_it_does_not_write_together(shop: Shop) -> None:
    shop.people(["1", "a"], ["2", "b"])
    send(shop.stream, shop.a.seal(shop.a.set("person", "id mail", ["1", "c"])))
    entry = shop.from_b(shop.b.set("person", "id mail", ["2", "C"]))
    assert reasons(entry) == ["unique"]
    assert entry.refused[0].row is not None
    assert entry.refused[0].row.values[1] == "b"


def test_a_value_freed_by_an_earlier_entry_is_free(shop: Shop) -> None:
    shop.people(["1", "a"])
    send(shop.stream, shop.a.seal(shop.a.delete("person", "id", ["1"])))
    assert reasons(shop.from_b(shop.b.put("person", "id mail", ["2", "a"]))) == []


# ── ties ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_halves_of_a_key_change_are_refused_together(shop: Shop) -> None:
    shop.people(["1", "ann@x"], ["2", "bob@x"])
    send(shop.stream, shop.a.seal(shop.a.put("person", "id mail", ["3", "new@x"])))
    b = shop.b
    entry = shop.from_b(
        b.delete("person", "id", ["2"], ties=(7,)), b.put("person", "id mail", ["4", "new@x"], ties=(7,))
    )
    assert reasons(entry) == ["tied", "unique"]
    assert shop.mails() == {"1": "ann@x", "2": "bob@x", "3": "new@x"}
    assert entry.refused[0].row is not None
    assert entry.refused[0].row.values[:2] == ["2", "bob@x"]


def test_rows_of_another_tie_or_of_none_are_not_touched(shop: Shop) -> None:
    shop.people(["1", "a"])
    entry = shop.from_b(shop.b.put("person", "id mail", ["2", "a"], ["3", "c"], ["4", "d"], ties=(1, 2, 0)))
    assert reasons(entry) == ["unique"]
    assert entry.changes[0].ties is None


def test_a_replace_whose_delete_is_refused_is_refused_whole_and_others_lose_the_freed_value(shop: Shop) -> None:
    shop.people(["1", "a"])
    a, b = shop.a, shop.b
    send(shop.stream, a.seal(a.delete("person", "id", ["1"]), a.put("person", "id mail", ["1", "a"])))
    # B replaced row 1 by row 2 (same mail): row 1 was made anew meanwhile, so neither half holds.
    entry = shop.from_b(b.delete("person", "id", ["1"], ties=(1,)), b.put("person", "id mail", ["2", "a"], ties=(1,)))
    assert set(reasons(entry)) == {"row_reborn", "unique"}
    assert shop.mails() == {"1": "a"}


def test_a_tie_that_frees_nothing_after_all_costs_the_row_that_counted_on_it(shop: Shop) -> None:
    shop.people(["1", "a"], ["5", "e"])
    b = shop.b
    entry = shop.from_b(
        b.delete("person", "id", ["1"], ties=(1,)),
        b.put("person", "id mail", ["2", "e"], ["3", "a"], ties=(1, 0)),
    )
    # 2 clashes with 5; so the delete of 1 goes with it; so "a" is not free for 3.
    assert sorted(reasons(entry)) == ["tied", "unique", "unique"]
    assert shop.mails() == {"1": "a", "5": "e"}


# ── references ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_lines_of_an_order_whose_key_was_taken_are_refused_with_it(shop: Shop) -> None:
    send(shop.stream, shop.a.seal(shop.a.put("orders", "id note", [1, "of A"])))
    b = shop.b
    entry = shop.from_b(
        b.put("line", "id order_id", [10, 1], [11, 2], [12, None]), b.put("orders", "id note", [1, "of B"], [2, "of B"])
    )
    assert [(r.table, r.key, r.reason) for r in entry.refused] == [
        ("line", [10], "reference"),
        ("orders", [1], "key_taken"),
    ]
    assert [row["id"] for row in rows_of(shop.stream, "line")] == [11, 12]


def test_a_reference_to_a_row_that_the_hub_holds_anyway_is_kept(shop: Shop) -> None:
    send(shop.stream, shop.a.seal(shop.a.put("orders", "id note", [1, "newer"])))
    b = shop.b
    entry = shop.from_b(b.seed("orders", "id note", [1, "older"]), b.seed("line", "id order_id", [10, 1]))
    assert reasons(entry) == ["row_known"]
    assert [row["id"] for row in rows_of(shop.stream, "line")] == [10]


def test_a_chain_of_references_is_refused_to_its_end(shop: Shop) -> None:
    b = shop.b
    entry = shop.from_b(
        b.put("node", "id up", ["c", "b"], ["b", "a"], ["x", None]), b.put("node", "id up nope", ["a", None, 1])
    )
    assert {refusal.key[0]: refusal.reason for refusal in entry.refused} == {
        "a": "unknown_column",
        "b": "reference",
        "c": "reference",
    }
    assert [row["id"] for row in rows_of(shop.stream, "node")] == ["x"]


def test_references_compare_as_the_referenced_columns_do(shop: Shop) -> None:
    b = shop.b
    send(shop.stream, shop.a.seal(shop.a.put("person", "id mail", ["1", "m"])))
    entry = shop.from_b(
        b.put("letter", "id mail", ["l", "M2"], ["m", "m2"]),
        b.put("person", "id mail", ["2", "m2"], ["3", "m"], ties=(4, 4)),
    )
    assert {refusal.key[0]: refusal.reason for refusal in entry.refused} == {
        "l": "reference",
        "m": "reference",
        "2": "tied",
        "3": "unique",
    }


def test_grandchildren_of_a_refused_row_are_refused_too(shop: Shop) -> None:
    send(shop.stream, shop.a.seal(shop.a.put("person", "id mail", ["1", "m"])))
    b = shop.b
    entry = shop.from_b(
        b.put("node", "id up", ["c", "b"], ["b", "a"], ["a", None], ["x", None], ties=(0, 0, 3, 0)),
        b.put("person", "id mail", ["2", "m"], ties=(3,)),
    )
    assert {refusal.key[0]: refusal.reason for refusal in entry.refused} == {
        "c": "reference",
        "b": "reference",
        "a": "tied",
        "2": "unique",
    }


def test_a_batch_made_to_depend_on_itself_without_end_is_refused_whole(shop: Shop) -> None:
    """Guarantee 12: rounds are bounded."""
    count = 120
    shop.people(*[[f"{n}", f"m{n}"] for n in range(count)], ["last", "m"])
    rows, ties = [], []
    for n in range(count):  # row n takes the value that row n + 1 gives up, each step through a tie of its own
        rows.append([f"new{n}", f"m{n + 1}" if n + 1 < count else "m"])
        ties.append(n + 1)
    deletes = [[f"{n}"] for n in range(count)]
    b = shop.b
    entry = shop.from_b(
        b.delete("person", "id", *deletes, ties=tuple(range(1, count + 1))),
        b.put("person", "id mail", *rows, ties=tuple(ties)),
    )
    assert len(entry.refused) == 2 * count
    assert entry.changes == []
