"""Two devices write the same things at once: every interleaving ends equal, and what was refused is listed."""

from __future__ import annotations

import pytest

from support.fleet import Edge, Fleet
from tidewire_schemas.codec import parse_batch
from tidewire_schemas.positions import START

USERS = "CREATE TABLE users (id TEXT PRIMARY KEY, email TEXT UNIQUE, name TEXT)"
TAGS = "CREATE TABLE tags (name TEXT PRIMARY KEY COLLATE NOCASE, note TEXT UNIQUE, n INTEGER) WITHOUT ROWID"
ITEMS = "CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT, n INTEGER)"


def pair(fleet: Fleet, schema: str) -> tuple[Edge, Edge]:
    return fleet.edge("a", schema), fleet.edge("b", schema)


def test_of_two_equal_emails_all_keep_the_first_and_the_other_is_a_dead_letter(fleet: Fleet) -> None:
    a, b = pair(fleet, USERS)
    a.sql("INSERT INTO users VALUES ('a1', 'x@y', 'from a')")
    b.sql("INSERT INTO users VALUES ('b1', 'x@y', 'from b'), ('b2', 'other', 'fine')")
    fleet.push(a)
    fleet.push(b)
    fleet.sync()
    assert b.rows("SELECT * FROM users ORDER BY id") == [("a1", "x@y", "from a"), ("b2", "other", "fine")]
    assert b.dead() == [("users", "unique", ("b1",))]
    assert b.store.dead(1)[0].cells == {"email": "x@y", "name": "from b"}
    assert a.dead() == []
    fleet.assert_equal()


def test_a_clash_with_a_row_that_is_not_sent_yet_is_parked_and_resolved(fleet: Fleet) -> None:
    a, b = pair(fleet, USERS)
    b.sql("INSERT INTO users VALUES ('b1', 'x@y', 'from b')")
    a.sql("INSERT INTO users VALUES ('a1', 'x@y', 'from a')")
    fleet.push(a)
    fleet.pull(b)  # a's row cannot be put beside b's own yet
    assert b.store.backlog().parked == 1
    a.sql("UPDATE users SET name = 'changed while parked'")
    fleet.push(a)
    fleet.pull(b)
    fleet.sync()
    assert b.rows("SELECT * FROM users") == [("a1", "x@y", "changed while parked")]
    fleet.assert_equal()


def test_a_change_of_cells_leaves_the_spelling_of_a_key_also_where_the_row_waits(fleet: Fleet) -> None:
    """Guarantee 7."""
    a, b = pair(fleet, TAGS)
    c = fleet.edge("c", TAGS)
    a.sql("INSERT INTO tags VALUES ('bob', 'taken', 0)")
    fleet.push(a)
    fleet.pull(c)
    b.sql("INSERT INTO tags VALUES ('mine', 'taken', 0)")
    a.sql("UPDATE tags SET name = 'BOB'")
    c.sql("UPDATE tags SET n = 7")
    fleet.push(a)
    fleet.push(c)
    fleet.pull(b)  # the row of the others cannot be put beside b's own yet
    assert b.store.backlog().parked == 1
    fleet.sync()
    assert [edge.rows("SELECT * FROM tags") for edge in (a, b, c)] == [[("BOB", "taken", 7)]] * 3
    fleet.assert_equal()


def test_a_change_of_cells_leaves_the_spelling_of_a_key_also_where_two_rows_swap_values(fleet: Fleet) -> None:
    """Guarantee 7."""
    a, b = pair(fleet, TAGS)
    c = fleet.edge("c", TAGS)
    a.sql("INSERT INTO tags VALUES ('bob', 'one', 0), ('eve', 'two', 0)")
    fleet.sync()
    a.sql("UPDATE tags SET name = 'BOB' WHERE name = 'bob'")
    c.sql(
        "BEGIN; UPDATE tags SET note = NULL WHERE name = 'bob'; UPDATE tags SET note = 'one' WHERE name = 'eve';"
        " UPDATE tags SET note = 'two' WHERE name = 'bob'; COMMIT"
    )
    fleet.push(a)
    fleet.push(c)
    fleet.sync()
    assert [edge.rows("SELECT * FROM tags ORDER BY name") for edge in (a, b, c)] == [
        [("BOB", "two", 0), ("eve", "one", 0)]
    ] * 3
    fleet.assert_equal()


def test_two_inserts_of_a_key_that_sqlite_hands_out_are_two_things(fleet: Fleet) -> None:
    a, b = pair(fleet, ITEMS)
    a.sql("INSERT INTO items (name) VALUES ('from a')")
    b.sql("INSERT INTO items (name) VALUES ('from b')")
    fleet.push(a)
    fleet.push(b)
    fleet.sync()
    assert b.rows("SELECT id, name FROM items") == [(1, "from a")]
    assert b.dead() == [("items", "key_taken", (1,))]
    fleet.assert_equal()


def test_two_inserts_of_a_key_that_the_app_chose_are_one_thing(fleet: Fleet) -> None:
    a, b = pair(fleet, USERS)
    a.sql("INSERT INTO users VALUES ('same', NULL, 'from a')")
    b.sql("INSERT INTO users VALUES ('same', NULL, 'from b')")
    fleet.push(a)
    fleet.push(b)
    fleet.sync()
    assert a.rows("SELECT name FROM users") == [("from b",)]
    assert [(c.kind, c.lost) for c in fleet.stream.conflicts()] == [("overwritten", {"name": "from a"})]
    fleet.assert_equal()


def test_a_refused_batch_with_later_batches_of_its_row_in_flight(fleet: Fleet) -> None:
    a, b = pair(fleet, ITEMS)
    a.sql("INSERT INTO items VALUES (1, 'from a', 0)")
    fleet.push(a)
    b.sql("INSERT INTO items VALUES (1, 'from b', 0)")
    b.seal()
    b.sql("UPDATE items SET n = 5 WHERE id = 1")
    b.seal()
    b.sql("UPDATE items SET n = 6, name = 'renamed by b' WHERE id = 1")
    fleet.push(b)
    fleet.pull(b, until=2)
    b.sql("UPDATE items SET n = 7 WHERE id = 1")
    fleet.sync()
    assert b.rows("SELECT * FROM items") == a.rows("SELECT * FROM items")
    assert {reason for _table, reason, _key in b.dead()} == {"key_taken", "row_reborn"}
    fleet.assert_equal()


def test_delete_wins_over_a_concurrent_update(fleet: Fleet) -> None:
    a, b = pair(fleet, ITEMS)
    a.sql("INSERT INTO items VALUES (1, 'x', 0)")
    fleet.sync()
    a.sql("DELETE FROM items")
    b.sql("UPDATE items SET n = 1")
    fleet.push(a)
    fleet.sync()
    assert b.rows("SELECT * FROM items") == []
    assert b.dead() == [("items", "row_absent", (1,))]
    fleet.assert_equal()


def test_a_delete_that_comes_after_a_concurrent_update_wins_too(fleet: Fleet) -> None:
    a, b = pair(fleet, ITEMS)
    a.sql("INSERT INTO items VALUES (1, 'x', 0)")
    fleet.sync()
    b.sql("UPDATE items SET n = 1")
    a.sql("DELETE FROM items")
    fleet.push(b)
    fleet.sync()
    assert a.rows("SELECT * FROM items") == b.rows("SELECT * FROM items") == []
    fleet.assert_equal()


def test_local_cells_that_are_not_sent_yet_keep_their_value(fleet: Fleet) -> None:
    a, b = pair(fleet, ITEMS)
    a.sql("INSERT INTO items VALUES (1, 'x', 0)")
    fleet.sync()
    b.sql("UPDATE items SET n = 42")
    a.sql("UPDATE items SET n = 1, name = 'from a'")
    fleet.push(a)
    fleet.pull(b)  # n is b's and not in the log yet; name is not
    assert b.rows("SELECT name, n FROM items") == [("from a", 42)]
    fleet.sync()
    assert a.rows("SELECT name, n FROM items") == [("from a", 42)]
    fleet.assert_equal()


def test_the_overlay_lasts_until_the_own_entry_is_applied_not_until_it_is_in_the_log(fleet: Fleet) -> None:
    a, b = pair(fleet, ITEMS)
    a.sql("INSERT INTO items VALUES (1, 'x', 0)")
    fleet.sync()
    a.sql("UPDATE items SET n = 1")
    fleet.push(a)
    b.sql("UPDATE items SET n = 2")
    fleet.push(b)  # the log holds a's 1, then b's 2; b has applied neither
    fleet.pull(b, until=fleet.stream.head.seq - 1)
    assert b.rows("SELECT n FROM items") == [(2,)]
    fleet.sync()
    assert a.rows("SELECT n FROM items") == [(2,)]
    fleet.assert_equal()


def test_the_base_of_a_write_is_what_was_applied_when_it_was_made(fleet: Fleet) -> None:
    """A write made before an entry was applied is concurrent with it, even if it is sealed after."""
    a, b = pair(fleet, ITEMS)
    a.sql("INSERT INTO items VALUES (1, 'x', 0)")
    fleet.sync()
    b.sql("UPDATE items SET n = 2")  # not sealed
    a.sql("UPDATE items SET n = 1")
    fleet.push(a)
    fleet.pull(b)
    b.sql("UPDATE items SET name = 'after'")
    fleet.sync()
    assert [(c.kind, c.lost) for c in fleet.stream.conflicts()] == [("overwritten", {"n": 1})]
    assert a.rows("SELECT name, n FROM items") == [("after", 2)]
    fleet.assert_equal()


def test_inserts_before_and_after_something_was_applied_are_runs_with_bases_of_their_own(fleet: Fleet) -> None:
    a, b = pair(fleet, ITEMS)
    for number in (1, 2):
        a.sql(f"INSERT INTO items VALUES ({10 * number}, 'a', 0), ({10 * number + 1}, 'a', 0)")
        b.sql(f"INSERT INTO items VALUES ({number}, 'b', 0)")
        fleet.push(b)
        fleet.pull(a)
    a.sql("INSERT INTO items VALUES (30, 'a', 0)")
    a.seal()
    (sealed,) = a.store.outbox(0, count_max=10, bytes_max=2**20)
    runs = parse_batch(sealed.payload, bytes_max=2**20).batch.changes
    entries = [commit.entries[-1].position for commit in fleet.commits]
    assert [(run.op, run.base, [row[0] for row in run.rows]) for run in runs] == [
        ("put", START, [10, 11]),
        ("put", entries[0], [20, 21]),
        ("put", entries[1], [30]),
    ]
    fleet.sync()
    fleet.assert_equal()


def test_key_changes_of_one_row_on_two_devices(fleet: Fleet) -> None:
    a, b = pair(fleet, ITEMS)
    a.sql("INSERT INTO items VALUES (1, 'x', 0)")
    fleet.sync()
    a.sql("UPDATE items SET id = 10")
    b.sql("UPDATE items SET id = 20")
    fleet.push(a)
    fleet.push(b)
    fleet.sync()
    assert a.rows("SELECT * FROM items") == b.rows("SELECT * FROM items")
    fleet.assert_equal()


def test_rows_that_reference_a_refused_row_are_refused_with_it(fleet: Fleet) -> None:
    schema = """
        CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT);
        CREATE TABLE orders (id TEXT PRIMARY KEY, customer INTEGER REFERENCES customers);
        CREATE TABLE lines (id TEXT PRIMARY KEY, ord TEXT REFERENCES orders);
    """
    a, b = pair(fleet, schema)
    a.sql("INSERT INTO customers VALUES (1, 'Ann'); INSERT INTO orders VALUES ('a', 1)")
    fleet.push(a)
    b.sql(
        """
        BEGIN;
        INSERT INTO customers VALUES (1, 'Bob'), (2, 'Bea');
        INSERT INTO orders VALUES ('b1', 1), ('b2', 2);
        INSERT INTO lines VALUES ('l1', 'b1'), ('l2', 'b2');
        COMMIT;
        """
    )
    fleet.push(b)
    fleet.sync()
    assert a.rows("SELECT id FROM orders ORDER BY id") == [("a",), ("b2",)]
    assert a.rows("SELECT id FROM lines") == [("l2",)]
    assert set(b.dead()) == {
        ("customers", "key_taken", (1,)),
        ("orders", "reference", ("b1",)),
        ("lines", "reference", ("l1",)),
    }
    fleet.assert_equal()


def test_a_refused_replace_brings_the_removed_row_back(fleet: Fleet) -> None:
    a, b = pair(fleet, "CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT UNIQUE, name TEXT)")
    a.sql("INSERT INTO users VALUES (1, 'x', 'one')")
    fleet.sync()
    a.sql("INSERT INTO users VALUES (2, 'y', 'from a')")
    fleet.push(a)
    b.sql("REPLACE INTO users VALUES (2, 'x', 'from b')")  # takes x from row 1, and a key that a has taken
    fleet.push(b)
    fleet.sync()
    assert b.rows("SELECT * FROM users ORDER BY id") == [(1, "x", "one"), (2, "y", "from a")]
    assert {reason for _t, reason, _k in b.dead()} == {"key_taken", "tied"}
    fleet.assert_equal()


def test_a_dead_letter_can_be_written_again(fleet: Fleet) -> None:
    a, b = pair(fleet, USERS)
    a.sql("INSERT INTO users VALUES ('a1', 'x@y', 'from a')")
    b.sql("INSERT INTO users VALUES ('b1', 'x@y', 'from b')")
    fleet.push(a)
    fleet.sync()
    letter = b.store.dead(1)[0]
    assert letter.id is not None
    a.sql("DELETE FROM users")
    fleet.sync()
    b.store.dead_retry(letter.id)
    fleet.sync()
    assert a.rows("SELECT * FROM users") == [("b1", "x@y", "from b")]
    assert b.dead() == []
    fleet.assert_equal()


def test_random_sql_on_three_devices_ends_equal(fleet: Fleet) -> None:
    """Guarantee 7 under a thousand seeded statements and a random interleaving of pushes and pulls."""
    import random

    schema = """
        CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT UNIQUE COLLATE NOCASE, name TEXT, n INTEGER);
        CREATE TABLE tags (name TEXT, kind TEXT, note TEXT UNIQUE, PRIMARY KEY (name, kind)) WITHOUT ROWID;
        CREATE TABLE orders (id TEXT PRIMARY KEY, user INTEGER REFERENCES users ON DELETE CASCADE ON UPDATE CASCADE);
    """
    edges = [fleet.edge(name, schema) for name in ("a", "b", "c")]
    rng = random.Random(20_241_123)
    for _step in range(1000):
        edge = rng.choice(edges)
        one, two, text = rng.randrange(12), rng.randrange(12), rng.choice(["x", "X", "y", "zed", "q", "NULL"])
        value = "NULL" if text == "NULL" else f"'{text}'"
        statement = rng.choice(
            [
                f"INSERT OR IGNORE INTO users VALUES ({one}, {value}, 'n{two}', {two})",
                f"INSERT OR REPLACE INTO users VALUES ({one}, {value}, 'r{two}', {two})",
                f"UPDATE OR IGNORE users SET email = {value} WHERE id = {one}",
                f"UPDATE OR REPLACE users SET id = {two} WHERE id = {one}",
                f"UPDATE users SET n = {two} WHERE id >= {one}",
                f"DELETE FROM users WHERE id = {one}",
                f"INSERT OR REPLACE INTO tags VALUES ('{text}', 'k{one}', {value})",
                f"UPDATE OR REPLACE tags SET kind = 'k{two}' WHERE kind = 'k{one}'",
                f"DELETE FROM tags WHERE kind = 'k{one}'",
                f"INSERT OR IGNORE INTO orders SELECT 'o{two}', id FROM users WHERE id = {one}",
                f"BEGIN; DELETE FROM users WHERE id = {one};"
                f" INSERT OR IGNORE INTO users VALUES ({one}, 'new{two}', '', 0); COMMIT",
            ]
        )
        edge.sql(statement)
        action = rng.random()
        if action < 0.25:
            fleet.push(rng.choice(edges))
        elif action < 0.5:
            head = fleet.stream.head.seq
            fleet.pull(rng.choice(edges), until=rng.randint(0, head))
    fleet.sync()
    fleet.assert_equal()
    dumps = [[edge.rows(f"SELECT * FROM {t} ORDER BY 1, 2") for t in ("users", "tags", "orders")] for edge in edges]
    assert dumps[0] == dumps[1] == dumps[2]
    assert sum(len(edge.dead()) for edge in edges) > 0


def test_pending_cells_survive_a_row_that_is_deleted_and_made_anew_above_them(fleet: Fleet) -> None:
    a, b = pair(fleet, ITEMS)
    a.sql("INSERT INTO items VALUES (1, 'x', 0)")
    fleet.sync()
    b.sql("UPDATE items SET n = 5")
    b.seal()
    a.sql("DELETE FROM items")
    fleet.push(a)
    a.sql("INSERT INTO items VALUES (1, 'anew', 1)")
    fleet.push(a)
    fleet.pull(b)
    assert b.rows("SELECT name, n FROM items") == [("anew", 5)]  # not judged yet: what is pending is shown
    fleet.sync()
    assert b.rows("SELECT name, n FROM items") == [("anew", 1)]
    assert b.dead() == [("items", "row_reborn", (1,))]
    fleet.assert_equal()


@pytest.mark.parametrize("when", ["not sealed", "sealed", "in the log"])
def test_a_device_without_a_column_overwrites_nothing_in_it_by_inserting_the_same_key(fleet: Fleet, when: str) -> None:
    things = "CREATE TABLE things (id TEXT PRIMARY KEY, x TEXT)"
    column = "ALTER TABLE things ADD COLUMN c TEXT DEFAULT 'd'"
    a, b = fleet.edge("a", f"{things}; {column}"), fleet.edge("b", things)
    a.sql("INSERT INTO things VALUES ('k', 'a', 'precious')")
    fleet.push(a)
    b.sql("INSERT INTO things VALUES ('k', 'b')")
    if when == "sealed":
        b.seal()
    elif when == "in the log":
        fleet.push(b)
    fleet.pull(b)
    fleet.sync()
    assert a.rows("SELECT * FROM things") == [("k", "b", "precious")]
    b.sql("REPLACE INTO things VALUES ('k', 'b again')")
    fleet.sync()
    b.sql(column)
    fleet.sync()
    assert b.rows("SELECT * FROM things") == a.rows("SELECT * FROM things") == [("k", "b again", "precious")]
    assert b.store.backlog().parked == 0
    fleet.assert_equal()
