"""Columns that are added, renamed and dropped on one device after the other: nothing is held up, all end up equal."""

from __future__ import annotations

import random
import sqlite3

import pytest

from support.fleet import Edge, Fleet
from support.snapshots import FleetSnapshot
from tidewire_agent.store.edge_store import EdgeStore
from tidewire_agent.store.overview import TableOverview, tables_of
from tidewire_agent.store.settings import StoreSettings
from tidewire_schemas.messages import Run

ITEMS = "CREATE TABLE items (id TEXT PRIMARY KEY, z TEXT, n INTEGER)"
RENAME = "ALTER TABLE items RENAME COLUMN z TO zz"
RENAME_BACK = "ALTER TABLE items RENAME COLUMN zz TO z"
ALL_ROWS = "SELECT * FROM items ORDER BY id"


def overview(edge: Edge) -> TableOverview:
    (found,) = tables_of(edge.store.connection, allow_unkept_unique=False)
    return found


def drop_column(edge: Edge) -> None:
    """As the manual says."""
    edge.store.detach_table("items")
    edge.sql("ALTER TABLE items DROP COLUMN z")
    edge.attach("items")


def written(fleet: Fleet) -> list[Run]:
    """All changes in the log."""
    edge = fleet.edges[0]
    page = fleet.page(edge.store.checkpoint._replace(epoch=0, seq=0)) if fleet.stream.head.seq else None
    return [run for entry in (page.entries if page else ()) for run in entry.changes]


def reopened(edge: Edge) -> None:
    """The process is killed: what it had in memory is gone."""
    edge.store.close()
    edge.store = EdgeStore.open(edge.path, device=edge.device, settings=edge.settings)


def test_after_a_rename_everywhere_all_are_equal_a_new_device_too(fleet: Fleet) -> None:
    """Guarantee 7."""
    few = StoreSettings(parked_rows_max=5)
    a, b = (fleet.edge(name, ITEMS, settings=few) for name in "ab")
    a.sql("INSERT INTO items SELECT 'i' || value, 'old ' || value, value FROM json_each('[1,2,3,4,5,6,7,8,9,10]')")
    fleet.sync()
    a.sql(RENAME)
    a.sql("UPDATE items SET zz = 'new of a' WHERE id = 'i1'")
    fleet.sync()
    assert overview(b).columns_elsewhere == ("zz",)
    assert (overview(b).state, b.store.backlog().parked, b.store.problems()) == ("synced", 0, [])
    sent = len(written(fleet))
    b.sql(RENAME)
    fleet.sync()
    assert len(written(fleet)) == sent  # what the others have is taken, and not sent once more
    assert b.rows("SELECT zz FROM items WHERE id IN ('i1', 'i2') ORDER BY id") == [("new of a",), ("old 2",)]
    late = fleet.edge("late", "CREATE TABLE items (id TEXT PRIMARY KEY, zz TEXT, n INTEGER)", settings=few)
    fleet.sync()
    assert all(overview(edge).columns_elsewhere == () for edge in (b, late))
    fleet.assert_equal()


def test_after_a_column_is_dropped_everywhere_all_are_equal_a_new_device_too(fleet: Fleet) -> None:
    """Guarantee 7."""
    few = StoreSettings(parked_rows_max=5)
    a, b = (fleet.edge(name, ITEMS, settings=few) for name in "ab")
    a.sql("INSERT INTO items SELECT 'i' || value, 'old ' || value, value FROM json_each('[1,2,3,4,5,6,7,8,9,10]')")
    fleet.sync()
    sent = len(written(fleet))
    drop_column(a)
    fleet.sync()
    assert b.rows("SELECT z FROM items WHERE id = 'i3'") == [("old 3",)]
    drop_column(b)
    fleet.sync()
    assert len(written(fleet)) == sent
    fleet.edge("late", "CREATE TABLE items (id TEXT PRIMARY KEY, n INTEGER)", settings=few)
    fleet.sync()
    fleet.assert_equal()


def test_what_was_written_under_the_old_name_meanwhile_is_not_lost(fleet: Fleet) -> None:
    a, b = fleet.edge("a", ITEMS), fleet.edge("b", ITEMS)
    a.sql("INSERT INTO items VALUES ('1', 'one', 1), ('2', 'two', 2), ('3', NULL, 3)")
    fleet.sync()
    a.sql(RENAME)
    fleet.sync()
    b.sql("INSERT INTO items VALUES ('4', 'four', 4); UPDATE items SET z = 'three' WHERE id = '3'")
    b.sql("UPDATE items SET z = 'two of b' WHERE id = '2'")
    a.sql("UPDATE items SET zz = 'one of a' WHERE id = '1'")
    fleet.sync()
    b.sql(RENAME)
    fleet.sync()
    expected = [("1", "one of a", 1), ("2", "two", 2), ("3", "three", 3), ("4", "four", 4)]
    assert a.rows(ALL_ROWS) == b.rows(ALL_ROWS) == expected
    # Of the cells in which both have a value the hub's is taken; the other one is where a person sees it.
    letters = {tuple(letter.key): (letter.reason, letter.cells) for letter in b.store.dead(10)}
    assert letters == {
        ("1",): ("column_known", {"zz": "one"}),
        ("2",): ("column_known", {"zz": "two of b"}),
    }
    fleet.assert_equal()


def test_what_is_not_sent_yet_goes_over_what_the_hub_has(fleet: Fleet) -> None:
    a, b = fleet.edge("a", ITEMS), fleet.edge("b", ITEMS)
    a.sql("INSERT INTO items VALUES ('1', 'one', 1), ('2', 'two', 2), ('3', 'three', 3), ('4', 'four', 4)")
    fleet.sync()
    a.sql(RENAME)
    fleet.sync()
    b.sql("UPDATE items SET z = 'sealed' WHERE id = '1'; INSERT INTO items VALUES ('new', 'sealed', 0)")
    b.seal()
    b.sql("UPDATE items SET z = 'not sealed' WHERE id = '2'")
    b.sql(RENAME)
    b.sql("UPDATE items SET zz = 'under the new name' WHERE id = '3'")
    fleet.sync()
    assert a.rows("SELECT id, zz FROM items ORDER BY id") == [
        ("1", "sealed"),
        ("2", "not sealed"),
        ("3", "under the new name"),
        ("4", "four"),
        ("new", "sealed"),
    ]
    assert b.dead() == []
    fleet.assert_equal()


def test_batches_that_wait_since_before_a_rename_lose_nothing(fleet: Fleet) -> None:
    a = fleet.edge("a", ITEMS)
    a.sql("INSERT INTO items VALUES ('1', 'one', 1)")
    a.seal()
    a.sql(RENAME)
    a.seal()
    a.sql("INSERT INTO items VALUES ('2', 'two', 2)")
    fleet.sync()
    assert a.dead() == []
    b = fleet.edge("b", "CREATE TABLE items (id TEXT PRIMARY KEY, zz TEXT, n INTEGER)")
    fleet.sync()
    assert b.rows(ALL_ROWS) == [("1", "one", 1), ("2", "two", 2)]
    fleet.assert_equal()


def test_a_rename_that_is_taken_back_is_one_more_rename(fleet: Fleet) -> None:
    a, b = fleet.edge("a", ITEMS), fleet.edge("b", ITEMS)
    a.sql("INSERT INTO items VALUES ('1', 'one', 1), ('2', 'two', 2)")
    fleet.sync()
    for statement in (RENAME, RENAME_BACK):
        for edge in (a, b):
            edge.sql(statement)
            fleet.sync()
        a.sql(f"UPDATE items SET {'zz' if statement == RENAME else 'z'} = 'changed' WHERE id = '1'")
        fleet.sync()
        fleet.assert_equal()
    assert a.rows(ALL_ROWS) == b.rows(ALL_ROWS) == [("1", "changed", 1), ("2", "two", 2)]
    fleet.edge("late", ITEMS)
    fleet.sync()
    fleet.assert_equal()


def test_a_name_that_is_used_again_brings_no_old_values_back(fleet: Fleet) -> None:
    """Guarantee 6."""
    a, b = fleet.edge("a", ITEMS), fleet.edge("b", ITEMS)
    a.sql("INSERT INTO items VALUES ('1', 'one', 1), ('2', 'two', 2)")
    fleet.sync()
    for edge in (a, b):
        drop_column(edge)
        fleet.sync()
    for edge in (a, b):
        edge.sql("ALTER TABLE items ADD COLUMN z TEXT")
        fleet.sync()
    a.sql("UPDATE items SET z = 'anew' WHERE id = '1'")
    fleet.sync()
    late = fleet.edge("late", ITEMS)
    fleet.sync()
    assert late.rows("SELECT z FROM items ORDER BY id") == [("anew",), (None,)]
    fleet.assert_equal()


def test_a_device_that_was_away_goes_on_with_its_old_column_until_it_changes_it(fleet: Fleet) -> None:
    a, b = fleet.edge("a", ITEMS), fleet.edge("b", ITEMS)
    away = fleet.edge("away", ITEMS)
    a.sql("INSERT INTO items VALUES ('1', 'one', 1)")
    fleet.sync()
    for edge in (a, b):
        edge.sql(RENAME)
        fleet.sync([a, b])
    away.sql("UPDATE items SET z = 'of away' WHERE id = '1'; INSERT INTO items VALUES ('2', 'two', 2)")
    fleet.sync()
    assert (away.store.problems(), away.dead()) == ([], [])
    assert away.rows(ALL_ROWS) == [("1", "of away", 1), ("2", "two", 2)]
    assert a.rows(ALL_ROWS) == b.rows(ALL_ROWS) == [("1", "one", 1), ("2", None, 2)]
    away.sql(RENAME)
    fleet.sync()
    assert a.rows(ALL_ROWS) == [("1", "one", 1), ("2", "two", 2)]
    for edge in (a, b):
        fleet.hello(edge)
    fleet.assert_equal()


def test_a_table_waits_for_its_rows_across_a_restart_and_takes_none_from_before(fleet: Fleet) -> None:
    """Guarantee 3."""
    a, b = fleet.edge("a", ITEMS), fleet.edge("b", ITEMS)
    a.sql("INSERT INTO items VALUES ('1', 'one', 1), ('2', 'two', 2)")
    fleet.sync()
    a.sql(RENAME)
    fleet.sync()
    b.sql(RENAME)
    b.store.refresh()
    reopened(b)
    standing = b.store.loading
    assert standing is not None
    assert (standing.tables, standing.least, standing.snapshot) == (("items",), b.store.checkpoint.seq, None)
    assert overview(b).state == "taking"
    fleet.hello(b)
    b.sql("UPDATE items SET zz = 'while it waits' WHERE id = '2'")
    fleet.sync()
    assert overview(b).state == "synced"
    assert a.rows(ALL_ROWS) == [("1", "one", 1), ("2", "while it waits", 2)]
    fleet.assert_equal()


def test_a_column_that_comes_while_a_snapshot_is_loaded_is_taken_after_it(fleet: Fleet) -> None:
    a, b = fleet.edge("a", ITEMS), fleet.edge("b", ITEMS)
    a.sql("INSERT INTO items SELECT 'i' || value, 'old', value FROM json_each('[1,2,3,4,5,6,7,8]')")
    fleet.sync()
    a.sql(RENAME)
    fleet.sync([a])
    fleet.hello(b)
    snapshot = FleetSnapshot(fleet)
    b.store.load_begin(snapshot.manifest(b), whole=True)
    pieces = snapshot.pieces(b)
    next(pieces)
    next(pieces)
    b.sql(RENAME)
    for _ in pieces:
        pass
    fleet.sync()
    fleet.assert_equal()


def test_dropping_another_column_than_the_others_drops_nothing_of_theirs(fleet: Fleet) -> None:
    a, b = fleet.edge("a", ITEMS), fleet.edge("b", ITEMS)
    a.sql("INSERT INTO items VALUES ('1', 'one', 1)")
    fleet.sync()
    drop_column(a)
    fleet.sync()
    a.sql("UPDATE items SET n = 11 WHERE id = '1'; INSERT INTO items VALUES ('2', 2)")
    fleet.sync()
    assert b.rows(ALL_ROWS) == [("1", "one", 11), ("2", None, 2)]
    a.sql("ALTER TABLE items ADD COLUMN z TEXT")
    fleet.sync()
    assert a.rows("SELECT id, z FROM items ORDER BY id") == [("1", "one"), ("2", None)]
    fleet.assert_equal()


STATES = {"old": ("z",), "new": ("zz",), "both": ("z", "zz"), "none": ()}
MOVES = [
    ("old", "new"),
    ("new", "old"),
    ("old", "both"),
    ("new", "both"),
    ("both", "new"),
    ("old", "none"),
    ("none", "new"),
]


def migrate(edge: Edge, has: str, to: str) -> None:
    """From one state of the columns to another."""
    if (has, to) in (("old", "new"), ("new", "old")):
        edge.sql(RENAME if to == "new" else RENAME_BACK)
        return
    added = [name for name in STATES[to] if name not in STATES[has]]
    dropped = [name for name in STATES[has] if name not in STATES[to]]
    if dropped:
        edge.store.detach_table("items")
    for name in dropped:
        edge.sql(f"ALTER TABLE items DROP COLUMN {name}")
    if dropped:
        edge.attach("items")
    for name in added:
        edge.sql(f"ALTER TABLE items ADD COLUMN {name} TEXT; UPDATE items SET {name} = 'm' || id WHERE n % 2 = 0")


@pytest.mark.parametrize("seed", range(12))
def test_whatever_order_devices_change_and_come_online_in_all_are_equal_in_the_end(fleet: Fleet, seed: int) -> None:
    """Guarantee 7."""
    chance = random.Random(seed)
    edges = [fleet.edge(name, ITEMS) for name in "abc"]
    edges[0].sql("INSERT INTO items SELECT value, 'z' || value, value FROM json_each('[1,2,3,4,5,6,7,8]')")
    fleet.sync()
    has = ["old"] * 3
    for step in range(40):
        number = chance.randrange(3)
        edge = edges[number]
        what = chance.random()
        if what < 0.2:
            to = chance.choice([after for before, after in MOVES if before == has[number]])
            migrate(edge, has[number], to)
            has[number] = to
        elif what < 0.6:
            column = chance.choice([*STATES[has[number]], "n"])
            key = chance.randrange(1, 12)
            edge.sql(f"INSERT OR IGNORE INTO items (id, n) VALUES ('{key}', {step})")
            edge.sql(f"UPDATE items SET {column} = {step} WHERE id = '{key}'")
            if chance.random() < 0.2:
                edge.sql(f"DELETE FROM items WHERE id = '{chance.randrange(1, 12)}'")
        elif what < 0.7:
            reopened(edge)
            fleet.hello(edge)
        elif what < 0.85:
            fleet.push(edge)
        else:
            fleet.pull(edge)
    fleet.sync()
    assert all(edge.store.backlog().parked == 0 and edge.store.problems() == [] for edge in edges)
    for number, edge in enumerate(edges):
        while has[number] != "new":
            to = "none" if has[number] == "old" and chance.random() < 0.3 else "new"
            migrate(edge, has[number], to)
            has[number] = to
        if chance.random() < 0.5:
            fleet.sync()
    fleet.edge("late", "CREATE TABLE items (id TEXT PRIMARY KEY, n INTEGER, zz TEXT)")
    fleet.sync()
    for edge in fleet.edges:
        fleet.hello(edge)
    fleet.sync()
    fleet.assert_equal()


def test_sqlite_refuses_to_drop_a_column_of_a_table_that_is_attached(fleet: Fleet) -> None:
    a = fleet.edge("a", ITEMS)
    with pytest.raises(sqlite3.OperationalError, match="tidewire"):
        a.sql("ALTER TABLE items DROP COLUMN z")


REUSE = (
    "BEGIN; ALTER TABLE items RENAME COLUMN n TO n_old; ALTER TABLE items ADD COLUMN n INTEGER;"
    "UPDATE items SET n = n_old * 100; COMMIT"
)


@pytest.mark.parametrize("heard", [True, False])
def test_a_name_that_another_column_gets_at_once_is_another_column(fleet: Fleet, heard: bool) -> None:
    """Guarantee 7. The second device has heard of the first one's migration, or makes its own while away."""
    a, b = (fleet.edge(name, ITEMS) for name in "ab")
    a.sql("INSERT INTO items VALUES ('i1', 'x', 1), ('i2', 'y', 2)")
    fleet.sync()
    a.sql(REUSE)
    fleet.sync() if heard else fleet.push(a)
    b.sql(REUSE)
    fleet.sync()
    late = fleet.edge("late", "CREATE TABLE items (id TEXT PRIMARY KEY, z TEXT, n_old INTEGER, n INTEGER)")
    fleet.sync()
    for edge in (a, b, late):
        assert edge.rows("SELECT id, n_old, n FROM items ORDER BY id") == [("i1", 1, 100), ("i2", 2, 200)]
    fleet.assert_equal()


def test_a_name_that_is_used_again_before_the_agent_runs_loses_no_change_that_waits(fleet: Fleet) -> None:
    """Guarantee 1."""
    a, b = (fleet.edge(name, ITEMS) for name in "ab")
    a.sql("INSERT INTO items VALUES ('i1', 'x', 1), ('i2', 'y', 2)")
    fleet.sync()
    a.sql("UPDATE items SET n = 7 WHERE id = 'i1'")
    a.sql(REUSE)
    a.sql("UPDATE items SET n = 9 WHERE id = 'i2'")
    fleet.sync()
    b.sql(REUSE)
    fleet.sync()
    for edge in (a, b):
        assert edge.rows("SELECT id, n_old, n FROM items ORDER BY id") == [("i1", 7, 700), ("i2", 2, 9)]
    fleet.assert_equal()


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("waits", [True, False])
def test_a_name_that_is_used_again_while_away_is_empty_for_all_where_it_is_empty_here(
    fleet: Fleet, at_once: bool, waits: bool
) -> None:
    """Guarantee 7. `waits`: a batch that tells of the old column is not sent yet."""
    a, b = (fleet.edge(name, ITEMS) for name in "ab")
    a.sql("INSERT INTO items VALUES ('i1', 'x', 1), ('i2', 'y', 2)")
    fleet.sync()
    a.sql("INSERT INTO items VALUES ('i3', 'z', 3); UPDATE items SET n = 7 WHERE id = 'i1'")
    a.seal() if waits else fleet.sync()
    rename, add = "ALTER TABLE items RENAME COLUMN n TO n_old", "ALTER TABLE items ADD COLUMN n INTEGER"
    if at_once:
        a.sql(f"BEGIN; {rename}; {add}; COMMIT")
    else:
        a.sql(rename)
        a.seal()
        a.sql(add)
    a.sql("UPDATE items SET n = 9 WHERE id = 'i2'")
    fleet.sync()
    b.sql(f"BEGIN; {rename}; {add}; COMMIT")
    fleet.sync()
    late = fleet.edge("late", "CREATE TABLE items (id TEXT PRIMARY KEY, z TEXT, n_old INTEGER, n INTEGER)")
    fleet.sync()
    for edge in (a, b, late):
        assert edge.rows("SELECT id, n_old, n FROM items ORDER BY id") == [
            ("i1", 7, None),
            ("i2", 2, 9),
            ("i3", 3, None),
        ]
    fleet.assert_equal()


def test_columns_that_exchange_their_names_are_told_to_all(fleet: Fleet) -> None:
    """Guarantee 7: what the last device to do it has is what all have."""
    items = "CREATE TABLE items (id TEXT PRIMARY KEY, p TEXT, q TEXT)"
    a, b = (fleet.edge(name, items) for name in "ab")
    a.sql("INSERT INTO items VALUES ('i1', 'p', 'q')")
    fleet.sync()
    for old, new in ("pt", "qp", "tq"):
        a.sql(f"ALTER TABLE items RENAME COLUMN {old} TO {new}")
    fleet.sync()
    fleet.assert_equal()
    assert b.rows("SELECT p, q FROM items") == [("q", "p")]


@pytest.mark.parametrize(
    "change", ["ALTER TABLE items ADD COLUMN note TEXT", "ALTER TABLE items RENAME COLUMN z TO note"]
)
@pytest.mark.parametrize("pieces", range(1, 6))
@pytest.mark.parametrize("restarts", [False, True])
def test_a_column_that_comes_while_a_snapshot_is_loaded_takes_its_values_from_another(
    fleet: Fleet, change: str, pieces: int, restarts: bool
) -> None:
    """Guarantee 7."""
    a, b = fleet.edge("a", ITEMS), fleet.edge("b", ITEMS)
    a.sql("INSERT INTO items VALUES ('i1', 'z1', 1), ('i2', 'z2', 2), ('i3', 'z3', 3), ('i4', 'z4', 4)")
    fleet.sync()
    a.sql("ALTER TABLE items ADD COLUMN note TEXT; UPDATE items SET note = 'of a ' || id")
    fleet.push(a)
    fleet.hello(b)
    snapshot = FleetSnapshot(fleet, rows_per_chunk=2)
    b.store.load_begin(snapshot.manifest(b), whole=True)
    loading = snapshot.pieces(b)
    for _ in range(pieces):
        next(loading, None)
    b.sql(change)
    if restarts:
        reopened(b)
    fleet.hello(b)
    for _ in loading:
        pass
    fleet.sync()
    assert b.rows("SELECT id, note FROM items ORDER BY id") == [(f"i{n}", f"of a i{n}") for n in range(1, 5)]
    if "ADD" in change:
        fleet.assert_equal()


@pytest.mark.fault("a hub that lost the end of its log")
def test_a_column_that_has_come_just_when_a_hub_loses_the_end_of_its_log_takes_its_values(fleet: Fleet) -> None:
    """Guarantee 7."""
    a, b = fleet.edge("a", ITEMS), fleet.edge("b", ITEMS)
    a.sql("INSERT INTO items VALUES ('1', 'one', 1)")
    fleet.sync()
    a.sql("ALTER TABLE items ADD COLUMN x")
    a.sql("UPDATE items SET x = 'of a'")
    a.sql("INSERT INTO items VALUES ('2', 'two', 2, 'gone')")
    fleet.sync()
    backed_up = fleet.stream.head.seq
    a.sql("INSERT INTO items VALUES ('3', 'three', 3, 'lost')")
    fleet.sync()
    b.sql("DELETE FROM items WHERE id = '2'; INSERT INTO items VALUES ('2', 'of b', 2)")
    b.seal()
    b.sql("ALTER TABLE items ADD COLUMN x")
    b.store.refresh()
    assert b.store.loading is not None
    fleet.lose_tail(backed_up)
    fleet.hello(a)
    a.sql("DELETE FROM items WHERE id = '2'")
    fleet.sync([a])
    fleet.hello(b)
    fleet.sync()
    assert overview(b).state == "synced"
    assert b.rows(ALL_ROWS) == [("1", "one", 1, "of a"), ("2", "of b", 2, None), ("3", "three", 3, "lost")]
    fleet.assert_equal()


@pytest.mark.parametrize("restarts", [False, True])
def test_values_of_a_column_that_has_come_are_not_lost_when_a_hub_loses_the_end_of_its_log(
    fleet: Fleet, restarts: bool
) -> None:
    """Guarantee 2."""
    a, b = fleet.edge("a", ITEMS), fleet.edge("b", ITEMS)
    a.sql("INSERT INTO items VALUES ('1', 'one', 1)")
    fleet.sync()
    a.sql("ALTER TABLE items ADD COLUMN x")
    a.sql("INSERT INTO items VALUES ('2', 'two', 2, NULL), ('3', 'three', 3, 'of a')")
    fleet.sync()
    backed_up = fleet.stream.head.seq
    a.sql("INSERT INTO items VALUES ('4', 'four', 4, NULL)")
    fleet.sync()
    b.sql("ALTER TABLE items ADD COLUMN x; UPDATE items SET x = 'of b ' || id")
    b.store.refresh()
    assert b.store.loading is not None
    fleet.lose_tail(backed_up)
    fleet.hello(b)
    if restarts:
        reopened(b)
        fleet.hello(b)
    fleet.hello(a)
    fleet.sync()
    assert b.rows("SELECT id, x FROM items ORDER BY id") == [
        ("1", "of b 1"),
        ("2", "of b 2"),
        ("3", "of a"),
        ("4", "of b 4"),
    ]
    assert [(letter.reason, letter.cells) for letter in b.store.dead(10)] == [("column_known", {"x": "of b 3"})]
    fleet.assert_equal()


@pytest.mark.parametrize("row", ["as it was", "changed and sealed", "changed and not sealed"])
def test_a_value_in_a_column_that_has_come_is_a_dead_letter_where_another_device_deleted_the_row(
    fleet: Fleet, row: str
) -> None:
    """Guarantee 2: the refused change of the row tells only of what it changed."""
    a, b = fleet.edge("a", ITEMS), fleet.edge("b", ITEMS)
    a.sql("INSERT INTO items VALUES ('1', 'one', 1), ('2', 'two', 2)")
    fleet.sync()
    a.sql("ALTER TABLE items ADD COLUMN x; UPDATE items SET x = 'of a'; DELETE FROM items WHERE id = '2'")
    fleet.push(a)
    fleet.hello(b)
    if row != "as it was":
        b.sql("UPDATE items SET z = 'of b' WHERE id = '2'")
    if row == "changed and sealed":
        b.seal()
    b.sql("ALTER TABLE items ADD COLUMN x; UPDATE items SET x = 'of b' WHERE id = '2'")
    fleet.sync()
    assert b.rows(ALL_ROWS) == [("1", "one", 1, "of a")]
    cells = {name: value for letter in b.store.dead(10) for name, value in letter.cells.items()}
    assert cells == ({"x": "of b"} if row == "as it was" else {"x": "of b", "z": "of b"})
    assert {letter.reason for letter in b.store.dead(10)} == {"row_absent"}
    fleet.assert_equal()


@pytest.mark.parametrize("theirs", ["'of a'", "NULL"])
@pytest.mark.parametrize("rows_per_chunk", [1, 2])
def test_a_value_in_a_column_that_has_come_is_a_dead_letter_where_its_row_makes_way(
    fleet: Fleet, rows_per_chunk: int, theirs: str
) -> None:
    """Guarantee 2: a row of the hub has the unique value that it had."""
    a, b = (fleet.edge(name, "CREATE TABLE items (id TEXT PRIMARY KEY, u UNIQUE)") for name in "ab")
    a.sql("INSERT INTO items VALUES ('1', 'p'), ('2', 'q')")
    fleet.sync()
    a.sql(f"ALTER TABLE items ADD COLUMN x; UPDATE items SET u = 'r', x = {theirs} WHERE id = '2'")
    a.sql("UPDATE items SET u = 'q', x = 'of a' WHERE id = '1'")
    fleet.push(a)
    fleet.hello(b)
    b.sql("ALTER TABLE items ADD COLUMN x; UPDATE items SET x = 'of b' WHERE id = '2'")
    fleet.pull(b)
    FleetSnapshot(fleet, rows_per_chunk=rows_per_chunk).take(b, whole=False)
    fleet.sync()
    assert b.rows("SELECT id, u FROM items ORDER BY id") == [("1", "q"), ("2", "r")]
    assert [(letter.reason, letter.cells) for letter in b.store.dead(10)] == [("column_known", {"x": "of b"})]
    fleet.assert_equal()


@pytest.mark.parametrize("other", ["comes back", "does not"])
def test_values_of_a_column_that_only_a_lost_part_of_the_log_had_are_the_same_everywhere(
    fleet: Fleet, other: str
) -> None:
    """Guarantee 7: also where no device keeps the batch any more that wrote them."""
    forgetful = StoreSettings(kept_batches_max=0)
    a, b = (fleet.edge(name, ITEMS, settings=forgetful) for name in "ab")
    a.sql("INSERT INTO items VALUES ('1', 'one', 1), ('2', 'two', 2)")
    fleet.sync()
    backed_up = fleet.stream.head.seq
    for edge in (a, b):
        edge.sql("ALTER TABLE items ADD COLUMN x DEFAULT 7; ALTER TABLE items ADD COLUMN y")
        fleet.sync()
    a.sql("UPDATE items SET x = 'of a', y = 'of a'; INSERT INTO items VALUES ('3', 'three', 3, 'of a', 'of a')")
    fleet.sync()
    b.sql("UPDATE items SET y = 'not sent' WHERE id = '2'")
    fleet.lose_tail(backed_up)
    fleet.hello(b)
    fleet.sync([b])
    fleet.assert_equal(edges=[b])
    if other == "comes back":
        fleet.hello(a)
        fleet.sync()
        fleet.assert_equal()
    assert b.rows(ALL_ROWS) == [
        ("1", "one", 1, 7, None),
        ("2", "two", 2, 7, "not sent"),
        ("3", "three", 3, "of a", "of a"),
    ]
