"""`verify` finds what no log explains, down to the row, and nothing else; a repair takes the hub's rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from support.fleet import Edge, Fleet
from support.verifying import verify
from tidewire_agent.session.verification import Bounds
from tidewire_agent.session.verify_steps import AskHub, ReadRows, RepairRows, Step
from tidewire_agent.store.settings import StoreSettings
from tidewire_agent.store.silence import trigger_switch

ITEMS = "CREATE TABLE items (id TEXT PRIMARY KEY, name TEXT, amount)"


@contextmanager
def behind_the_back(edge: Edge) -> Iterator[sqlite3.Connection]:
    """A connection whose writes no trigger notices."""
    switch = trigger_switch()
    assert switch is not None
    with closing(sqlite3.connect(edge.path, isolation_level=None, timeout=5)) as connection:
        switch(connection, False)
        yield connection


def pair(fleet: Fleet, schema: str = ITEMS, **options: Any) -> tuple[Edge, Edge]:
    return fleet.edge("a", schema, **options), fleet.edge("b", schema, **options)


def fill(edge: Edge, count: int) -> None:
    edge.app.execute("BEGIN")
    edge.app.executemany("INSERT INTO items VALUES (?, ?, ?)", [(f"k{n}", f"name {n}", n) for n in range(count)])
    edge.app.execute("COMMIT")


def test_equal_tables_are_found_equal_with_one_question(fleet: Fleet) -> None:
    """Guarantee 7."""
    a, b = pair(fleet)
    fill(a, 300)
    fleet.sync()
    asked: list[Step] = []
    found = verify(fleet, b, before=asked.append)["items"]
    assert (found.rows, found.differing, found.problem) == (300, 0, "")
    assert [type(step) for step in asked].count(AskHub) == 1


@pytest.mark.parametrize(
    ("made", "changed"),
    [
        ("'x'", "'y'"),
        ("1", "1.0"),
        ("1", "2"),
        ("2.5", "2.25"),
        ("x'00ff'", "x'00fe'"),
        ("'1'", "1"),
        ("x'61'", "'a'"),
        ("NULL", "0"),
        ("0", "NULL"),
        ("9e999", "-9e999"),
        ("CAST(x'ff' AS TEXT)", "CAST(x'fe' AS TEXT)"),
        ("9223372036854775807", "9223372036854775806"),
    ],
)
def test_a_cell_changed_behind_tidewires_back_is_found_and_repaired(fleet: Fleet, made: str, changed: str) -> None:
    """Guarantee 7."""
    a, b = pair(fleet)
    fill(a, 200)
    a.sql(f"INSERT INTO items VALUES ('odd', 'one', {made});")
    fleet.sync()
    with behind_the_back(b) as other:
        other.execute(f"UPDATE items SET amount = {changed} WHERE id = 'odd'")
    found = verify(fleet, b)["items"]
    assert (found.differing, found.repaired, [row.key for row in found.listed]) == (1, 0, [["odd"]])
    assert found.listed[0].here != found.listed[0].hub or made in ("1",)
    assert verify(fleet, b, repair=True)["items"].repaired == 1
    assert verify(fleet, b)["items"].differing == 0
    fleet.sync()
    fleet.assert_equal()
    assert b.dead() == [("items", "repaired", ("odd",))]


@pytest.mark.parametrize("column", ["INTEGER", "TEXT", "REAL", "BLOB", "NUMERIC"])
def test_keys_of_every_type_are_found(fleet: Fleet, column: str) -> None:
    values = {"INTEGER": "7", "TEXT": "'seven'", "REAL": "7.5", "BLOB": "x'07'", "NUMERIC": "7"}
    a, b = pair(fleet, f"CREATE TABLE t (k {column} PRIMARY KEY, v)")
    a.sql(f"INSERT INTO t VALUES ({values[column]}, 'right');")
    fleet.sync()
    with behind_the_back(b) as other:
        other.execute("UPDATE t SET v = 'wrong'")
    found = verify(fleet, b, repair=True)["t"]
    assert (found.differing, found.repaired) == (1, 1)
    fleet.assert_equal()


def test_rows_that_are_missing_and_rows_too_many_are_found_among_many_and_repaired(fleet: Fleet) -> None:
    """Guarantee 7: the ranges lead to the rows, in answers of any size, and nothing that was here is lost."""
    a, b = pair(fleet)
    fill(a, 3000)
    fleet.sync()
    with behind_the_back(b) as other:
        other.execute("DELETE FROM items WHERE id IN ('k5', 'k77', 'k2999')")
        other.execute("INSERT INTO items VALUES ('extra', 'mine', 1)")
        other.execute("UPDATE items SET name = 'changed' WHERE id = 'k1000'")
    found = verify(fleet, b, answer_bytes_max=3000)["items"]
    listed = {row.key[0]: (row.here and row.here["name"], row.hub and row.hub["name"]) for row in found.listed}
    assert listed == {
        "k5": (None, "name 5"),
        "k77": (None, "name 77"),
        "k2999": (None, "name 2999"),
        "extra": ("mine", None),
        "k1000": ("changed", "name 1000"),
    }
    assert found.differing == 5
    repaired = verify(fleet, b, repair=True)["items"]
    assert (repaired.differing, repaired.repaired, repaired.problem) == (5, 5, "")
    fleet.assert_equal()
    letters = {letter.key[0]: letter.cells for letter in b.store.dead(10)}
    assert letters == {
        "extra": {"id": "extra", "name": "mine", "amount": 1},
        "k1000": {"id": "k1000", "name": "changed", "amount": 1000},
    }


def test_a_repair_travels_nowhere(fleet: Fleet) -> None:
    a, b = pair(fleet)
    fill(a, 3)
    fleet.sync()
    head = fleet.stream.head
    with behind_the_back(b) as other:
        other.execute("UPDATE items SET name = 'wrong'")
    verify(fleet, b, repair=True)
    fleet.sync()
    assert fleet.stream.head == head


def test_nothing_is_reported_while_all_write_and_nothing_is_wrong(fleet: Fleet) -> None:
    """Guarantee 7: writes go on between any two steps, here and elsewhere, in every order of sending and applying."""
    a, b = pair(fleet)
    fill(a, 500)
    fleet.sync()
    step_number = 0

    def write(step: Step) -> None:
        nonlocal step_number
        step_number += 1
        n = step_number
        for edge in (a, b):
            edge.sql(
                f"UPDATE items SET amount = amount + {n} WHERE id = 'k{n % 40}';"
                f"DELETE FROM items WHERE id = 'k{100 + n}';"
                f"INSERT OR REPLACE INTO items VALUES ('new{n % 7}', '{edge.device}', {n});"
            )
        fleet.push(a)
        if n % 2:
            fleet.push(b)
        if n % 3:
            fleet.pull(b)

    for _ in range(4):
        found = verify(fleet, b, before=write)["items"]
        assert (found.differing, found.problem) == (0, ""), found
    fleet.sync()
    assert verify(fleet, b)["items"].differing == 0


@pytest.mark.parametrize("repair", [False, True])
def test_a_row_that_is_always_on_its_way_is_counted_and_not_reported(fleet: Fleet, *, repair: bool) -> None:
    """Guarantee 7: whenever the hub is asked it holds an entry about the row that this device does not hold yet."""
    a, b = pair(fleet)
    fill(a, 100)
    fleet.sync()

    def write(step: Step) -> None:
        if isinstance(step, AskHub):
            fleet.pull(b)
            a.sql("UPDATE items SET amount = amount + 1 WHERE id = 'k1'; DELETE FROM items WHERE id = 'k2';")
            fleet.push(a)

    found = verify(fleet, b, before=write, repair=repair)["items"]
    assert (found.differing, found.unsettled) == (0, 1)
    fleet.sync()
    fleet.assert_equal()


def test_a_wrong_row_is_found_and_repaired_while_all_write(fleet: Fleet) -> None:
    a, b = pair(fleet)
    fill(a, 500)
    fleet.sync()
    with behind_the_back(b) as other:
        other.execute("UPDATE items SET name = 'wrong' WHERE id = 'k400'")
    step_number = 0

    def write(step: Step) -> None:
        nonlocal step_number
        step_number += 1
        a.sql(f"UPDATE items SET amount = amount + 1 WHERE id = 'k{step_number % 40}';")
        fleet.push(a)
        if not isinstance(step, RepairRows):
            fleet.pull(b)

    found = verify(fleet, b, repair=True, before=write)["items"]
    assert (found.differing, found.repaired, [row.key for row in found.listed]) == (1, 1, [["k400"]])
    fleet.sync()
    fleet.assert_equal()


def test_a_row_that_the_log_changes_under_a_repair_is_as_the_log_says(fleet: Fleet) -> None:
    """The hub's row of a moment ago must not undo what was applied since: here, a deletion."""
    a, b = pair(fleet)
    fill(a, 10)
    fleet.sync()
    with behind_the_back(b) as other:
        other.execute("DELETE FROM items WHERE id = 'k4'")
    deleted = False

    def delete(step: Step) -> None:
        nonlocal deleted
        if isinstance(step, RepairRows) and not deleted:
            deleted = True
            a.sql("DELETE FROM items WHERE id = 'k4';")
            fleet.push(a)
            fleet.pull(b)

    found = verify(fleet, b, repair=True, before=delete)["items"]
    assert deleted
    assert found.differing == 0
    assert b.rows("SELECT count(*) FROM items") == [(9,)]
    fleet.sync()
    fleet.assert_equal()


def test_rows_with_a_change_that_is_not_in_the_log_are_not_judged_nor_repaired(fleet: Fleet) -> None:
    a, b = pair(fleet)
    fill(a, 10)
    fleet.sync()
    b.sql("UPDATE items SET name = 'mine' WHERE id = 'k1'; INSERT INTO items VALUES ('mine', 'too', 0);")
    found = verify(fleet, b, repair=True)["items"]
    assert (found.differing, found.repaired, found.pending) == (0, 0, 2)
    b.seal()
    assert verify(fleet, b, repair=True)["items"].pending == 2
    fleet.sync()
    assert b.rows("SELECT name FROM items WHERE id IN ('k1', 'mine') ORDER BY id") == [("mine",), ("too",)]
    fleet.assert_equal()


def test_a_row_that_the_app_writes_under_a_repair_keeps_what_it_wrote(fleet: Fleet) -> None:
    a, b = pair(fleet)
    fill(a, 10)
    fleet.sync()
    with behind_the_back(b) as other:
        other.execute("UPDATE items SET name = 'wrong' WHERE id = 'k4'")

    def write(step: Step) -> None:
        if isinstance(step, RepairRows):
            b.sql("UPDATE items SET name = 'written' WHERE id = 'k4';")

    found = verify(fleet, b, repair=True, before=write)["items"]
    assert (found.differing, found.pending) == (0, 1)
    fleet.sync()
    assert a.rows("SELECT name FROM items WHERE id = 'k4'") == [("written",)]
    fleet.assert_equal()


def test_a_device_that_lacks_a_column_compares_those_it_has(fleet: Fleet) -> None:
    a = fleet.edge("a", "CREATE TABLE items (id TEXT PRIMARY KEY, name TEXT, amount, more TEXT DEFAULT 'd')")
    b = fleet.edge("b", ITEMS)
    a.sql("INSERT INTO items VALUES ('k1', 'one', 1, 'more'), ('k2', 'two', 2, NULL);")
    fleet.sync()
    assert verify(fleet, b)["items"].differing == 0
    with behind_the_back(b) as other:
        other.execute("UPDATE items SET name = 'wrong' WHERE id = 'k1'")
    found = verify(fleet, b, repair=True)["items"]
    assert (found.differing, found.repaired) == (1, 1)
    assert b.rows("SELECT name FROM items WHERE id = 'k1'") == [("one",)]


def test_two_rows_that_swapped_a_unique_value_are_repaired_together(fleet: Fleet) -> None:
    a, b = pair(fleet, "CREATE TABLE u (id INTEGER PRIMARY KEY, name TEXT UNIQUE)")
    a.sql("INSERT INTO u VALUES (1, 'one'), (2, 'two');")
    fleet.sync()
    with behind_the_back(b) as other:
        other.execute("UPDATE u SET name = 'x' WHERE id = 1")
        other.execute("UPDATE u SET name = 'one' WHERE id = 2")
        other.execute("UPDATE u SET name = 'two' WHERE id = 1")
    found = verify(fleet, b, repair=True)["u"]
    assert (found.differing, found.repaired) == (2, 2)
    fleet.assert_equal()


def test_a_repair_pushes_no_dead_letter_out(fleet: Fleet) -> None:
    """What a repaired row held must be there for a person to see, so a repair ends where there is no room for it."""
    settings = StoreSettings(dead_letters_max=2)
    a, b = pair(fleet, settings=settings)
    fill(a, 10)
    fleet.sync()
    with behind_the_back(b) as other:
        other.execute("UPDATE items SET name = 'wrong' WHERE id IN ('k1', 'k2', 'k3')")
    found = verify(fleet, b, repair=True)["items"]
    assert (found.differing, found.repaired) == (3, 0)
    assert "dead letters" in found.problem
    assert b.dead() == []


def test_when_more_differs_than_is_looked_at_the_rest_is_left_and_said(fleet: Fleet) -> None:
    """Guarantee 12."""
    a, b = pair(fleet)
    fill(a, 600)
    fleet.sync()
    with behind_the_back(b) as other:
        other.execute("UPDATE items SET name = 'wrong'")
    found = verify(fleet, b, bounds=Bounds(rows_max=100, listed_max=3))["items"]
    assert found.differing >= 100
    assert len(found.listed) == 3
    assert "not all were compared" in found.problem


def test_tables_that_do_not_stand_at_the_checkpoint_are_named_and_not_compared(fleet: Fleet) -> None:
    a = fleet.edge("a", ITEMS)
    fill(a, 3)
    fleet.sync()
    b = fleet.edge("b", ITEMS, rows="INSERT INTO items VALUES ('old', 'here before', 1)")
    found = verify(fleet, b, "items", "nowhere")
    assert found["items"].problem == "it is being taken over still"
    assert found["nowhere"].problem == "it is not attached here"
    fleet.sync()
    assert verify(fleet, b)["items"].problem == ""


def test_a_table_that_changes_meanwhile_is_left(fleet: Fleet) -> None:
    a, b = pair(fleet)
    fill(a, 3)
    fleet.sync()
    with behind_the_back(b) as other:
        other.execute("UPDATE items SET name = 'wrong'")

    def migrate(step: Step) -> None:
        if isinstance(step, ReadRows):
            b.sql("ALTER TABLE items ADD COLUMN later TEXT;")
            b.store.refresh()

    assert verify(fleet, b, before=migrate)["items"].problem == "the table was changed meanwhile"
