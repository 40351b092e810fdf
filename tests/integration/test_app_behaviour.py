"""What apps really do with SQLite converges: two devices and a hub on real files, judged by digest.

Guarantees 4, 6 and 7, statement by statement.
"""

from __future__ import annotations

from support.fleet import Edge, Fleet

USERS = "CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT UNIQUE COLLATE NOCASE, name TEXT, n INTEGER DEFAULT 7)"
NOTES = "CREATE TABLE notes (id TEXT PRIMARY KEY, body TEXT, rank REAL)"


def pair(fleet: Fleet, schema: str) -> tuple[Edge, Edge]:
    return fleet.edge("a", schema), fleet.edge("b", schema)


def test_inserts_updates_and_deletes_travel(fleet: Fleet) -> None:
    a, b = pair(fleet, NOTES)
    a.sql("INSERT INTO notes VALUES ('1', 'one', 1.5), ('2', 'two', NULL), ('3', 'three', 3)")
    fleet.sync()
    b.sql("UPDATE notes SET body = 'ONE' WHERE id = '1'; DELETE FROM notes WHERE id = '2'")
    fleet.sync()
    assert a.rows("SELECT * FROM notes ORDER BY id") == [("1", "ONE", 1.5), ("3", "three", 3.0)]
    fleet.assert_equal()


def test_columns_of_one_row_written_on_two_devices_merge(fleet: Fleet) -> None:
    a, b = pair(fleet, NOTES)
    a.sql("INSERT INTO notes VALUES ('1', 'one', 1)")
    fleet.sync()
    a.sql("UPDATE notes SET body = 'from a'")
    b.sql("UPDATE notes SET rank = 9")
    fleet.sync()
    assert a.rows("SELECT * FROM notes") == [("1", "from a", 9.0)]
    assert fleet.stream.conflicts() == []
    fleet.assert_equal()


def test_the_later_write_of_one_cell_wins_and_the_loser_is_listed(fleet: Fleet) -> None:
    a, b = pair(fleet, NOTES)
    a.sql("INSERT INTO notes VALUES ('1', 'one', 1)")
    fleet.sync()
    a.sql("UPDATE notes SET body = 'from a'")
    b.sql("UPDATE notes SET body = 'from b'")
    fleet.sync()
    assert a.rows("SELECT body FROM notes") == [("from b",)]
    conflicts = fleet.stream.conflicts()
    assert [(c.kind, c.loser, c.lost) for c in conflicts] == [("overwritten", "a", {"body": "from a"})]
    fleet.assert_equal()


def test_replace_over_a_unique_column_removes_the_other_row_everywhere(fleet: Fleet) -> None:
    a, b = pair(fleet, USERS)
    a.sql("INSERT INTO users VALUES (1, 'x@y', 'first', 1), (2, 'z@y', 'second', 2)")
    fleet.sync()
    b.sql("INSERT OR REPLACE INTO users VALUES (3, 'X@Y', 'third', 3)")
    fleet.sync()
    assert a.rows("SELECT id, name FROM users ORDER BY id") == [(2, "second"), (3, "third")]
    fleet.assert_equal()


def test_replace_of_two_rows_at_once_by_key_and_by_unique_value(fleet: Fleet) -> None:
    a, b = pair(fleet, USERS)
    a.sql("INSERT INTO users VALUES (1, 'x', 'first', 1), (2, 'y', 'second', 2), (3, 'z', 'third', 3)")
    fleet.sync()
    b.sql("REPLACE INTO users VALUES (1, 'y', 'both', 0)")
    fleet.sync()
    assert a.rows("SELECT id, email, name FROM users ORDER BY id") == [(1, "y", "both"), (3, "z", "third")]
    fleet.assert_equal()


def test_update_or_replace_removes_the_row_it_clashes_with(fleet: Fleet) -> None:
    a, b = pair(fleet, USERS)
    a.sql("INSERT INTO users VALUES (1, 'x', 'first', 1), (2, 'y', 'second', 2)")
    fleet.sync()
    b.sql("UPDATE OR REPLACE users SET email = 'X' WHERE id = 2")
    fleet.sync()
    assert a.rows("SELECT id, email FROM users") == [(2, "X")]
    fleet.assert_equal()


def test_upsert_and_or_ignore_change_only_what_they_change(fleet: Fleet) -> None:
    a, b = pair(fleet, USERS)
    a.sql("INSERT INTO users VALUES (1, 'x', 'first', 1)")
    fleet.sync()
    b.sql(
        """
        INSERT INTO users VALUES (1, 'q', 'no', 5) ON CONFLICT (id) DO UPDATE SET n = n + 1;
        INSERT OR IGNORE INTO users VALUES (8, 'x', 'ignored', 5);
        INSERT INTO users VALUES (9, 'x', 'nothing', 5) ON CONFLICT DO NOTHING;
        """
    )
    commit = fleet.push(b)
    assert b'"op":"set"' in commit.entries[0].data
    assert b'"delete"' not in commit.entries[0].data
    fleet.sync()
    assert a.rows("SELECT * FROM users") == [(1, "x", "first", 2)]
    fleet.assert_equal()


def test_two_rows_swap_a_unique_value_in_one_transaction(fleet: Fleet) -> None:
    a, b = pair(fleet, USERS)
    a.sql("INSERT INTO users VALUES (1, 'x', 'first', 1), (2, 'y', 'second', 2), (3, 'z', 'third', 3)")
    fleet.sync()
    b.sql(
        """
        BEGIN;
        UPDATE users SET email = 'tmp' WHERE id = 1;
        UPDATE users SET email = 'x' WHERE id = 3;
        UPDATE users SET email = 'z' WHERE id = 2;
        UPDATE users SET email = 'y' WHERE id = 1;
        COMMIT;
        """
    )
    fleet.sync()
    assert a.rows("SELECT id, email FROM users ORDER BY id") == [(1, "y"), (2, "z"), (3, "x")]
    fleet.assert_equal()


def test_a_key_change_is_a_delete_and_a_put_that_arrive_together(fleet: Fleet) -> None:
    a, b = pair(fleet, USERS)
    a.sql("INSERT INTO users VALUES (1, 'x', 'first', 1), (2, 'y', 'second', 2)")
    fleet.sync()
    b.sql("UPDATE users SET id = id + 100")
    fleet.sync()
    assert a.rows("SELECT id, name FROM users ORDER BY id") == [(101, "first"), (102, "second")]
    fleet.assert_equal()


def test_a_chain_of_key_changes_keeps_only_the_last(fleet: Fleet) -> None:
    a, b = pair(fleet, USERS)
    a.sql("INSERT INTO users VALUES (1, 'x', 'first', 1)")
    fleet.sync()
    b.sql("UPDATE users SET id = 2; UPDATE users SET id = 3; UPDATE users SET id = 1, name = 'back'")
    fleet.sync()
    assert a.rows("SELECT id, name FROM users") == [(1, "back")]
    fleet.assert_equal()


def test_setting_the_rowid_by_its_alias_is_a_key_change(fleet: Fleet) -> None:
    a, b = pair(fleet, USERS)
    a.sql("INSERT INTO users VALUES (1, 'x', 'first', 1)")
    fleet.sync()
    b.sql("UPDATE users SET rowid = 5")
    fleet.sync()
    assert a.rows("SELECT id FROM users") == [(5,)]
    fleet.assert_equal()


def test_a_nocase_key_can_change_its_spelling(fleet: Fleet) -> None:
    schema = "CREATE TABLE people (name TEXT PRIMARY KEY COLLATE NOCASE, age INTEGER)"
    a, b = pair(fleet, schema)
    a.sql("INSERT INTO people VALUES ('bob', 5)")
    fleet.sync()
    b.sql("UPDATE people SET name = 'BOB'")
    fleet.sync()
    assert a.rows("SELECT name, age FROM people") == [("BOB", 5)]
    a.sql("UPDATE people SET age = 6 WHERE name = 'Bob'")
    fleet.sync()
    assert b.rows("SELECT name, age FROM people") == [("BOB", 6)]
    fleet.assert_equal()


def test_a_change_of_storage_class_alone_is_a_change(fleet: Fleet) -> None:
    a, b = pair(fleet, "CREATE TABLE t (k TEXT PRIMARY KEY, v, w TEXT COLLATE NOCASE)")
    a.sql("INSERT INTO t VALUES ('x', 1, 'bob'), ('y', 'text', 'bob')")
    fleet.sync()
    b.sql("UPDATE t SET v = 1.0, w = 'BOB' WHERE k = 'x'; UPDATE t SET v = CAST(v AS BLOB) WHERE k = 'y'")
    fleet.sync()
    assert a.rows("SELECT k, typeof(v), w FROM t ORDER BY k") == [("x", "real", "BOB"), ("y", "blob", "bob")]
    fleet.assert_equal()


def test_every_kind_of_value_arrives_bit_for_bit(fleet: Fleet) -> None:
    a, b = pair(fleet, "CREATE TABLE t (k TEXT PRIMARY KEY, v)")
    a.sql(
        """
        INSERT INTO t VALUES ('max', 9223372036854775807), ('min', -9223372036854775808), ('inf', 9e999),
          ('-inf', -9e999), ('tiny', 5e-324), ('nul', 'a' || char(0) || 'b'), ('blob', x'00ff00'), ('empty', x''),
          ('invalid', CAST(x'ff41fe' AS TEXT)), ('null', NULL), ('emoji', '🌊'), ('zero', 0.0), ('third', 1.0 / 3.0);
        """
    )
    fleet.sync()
    query = "SELECT k, typeof(v), CASE typeof(v) WHEN 'real' THEN v ELSE hex(v) END FROM t ORDER BY k"
    assert a.rows(query) == b.rows(query)
    fleet.assert_equal()


def test_keys_that_are_invalid_text_or_blobs_are_found_again(fleet: Fleet) -> None:
    a, b = pair(fleet, "CREATE TABLE t (k PRIMARY KEY, v)")
    a.sql("INSERT INTO t VALUES (CAST(x'ff' AS TEXT), 1), (x'ff', 2), (1.5, 3), (2, 4)")
    fleet.sync()
    b.sql("UPDATE t SET v = v * 10; DELETE FROM t WHERE k = x'ff'")
    fleet.sync()
    assert a.rows("SELECT hex(k), v FROM t ORDER BY v") == b.rows("SELECT hex(k), v FROM t ORDER BY v")
    assert [v for (v,) in a.rows("SELECT v FROM t ORDER BY v")] == [10, 30, 40]
    fleet.assert_equal()


def test_composite_keys_without_rowid_and_strict_tables(fleet: Fleet) -> None:
    schema = """
        CREATE TABLE stock (shop TEXT, item INTEGER, n INTEGER, PRIMARY KEY (item, shop)) WITHOUT ROWID;
        CREATE TABLE s (id INTEGER PRIMARY KEY, v ANY, t TEXT NOT NULL) STRICT;
    """
    a, b = pair(fleet, schema)
    a.sql("INSERT INTO stock VALUES ('x', 1, 5), ('y', 1, 6); INSERT INTO s VALUES (1, '5', 'a'), (2, 5, 'b')")
    fleet.sync()
    b.sql("UPDATE stock SET n = n - 1 WHERE shop = 'y'; DELETE FROM stock WHERE shop = 'x'; UPDATE s SET v = x'05'")
    fleet.sync()
    assert a.rows("SELECT * FROM stock") == [("y", 1, 5)]
    assert a.rows("SELECT typeof(v) FROM s") == [("blob",), ("blob",)]
    fleet.assert_equal()


def test_generated_columns_are_computed_on_each_device(fleet: Fleet) -> None:
    schema = """
        CREATE TABLE g (id INTEGER PRIMARY KEY, a INTEGER, v INTEGER AS (a * 2), s INTEGER AS (a * 3) STORED)
    """
    a, b = pair(fleet, schema)
    a.sql("INSERT INTO g (id, a) VALUES (1, 5)")
    fleet.sync()
    b.sql("UPDATE g SET a = 6")
    fleet.sync()
    assert a.rows("SELECT * FROM g") == [(1, 6, 12, 18)]
    fleet.assert_equal()


def test_a_row_with_a_null_key_is_a_dead_letter_and_holds_up_nothing(fleet: Fleet) -> None:
    a, b = pair(fleet, NOTES)
    a.sql("INSERT INTO notes VALUES (NULL, 'lost', 1), ('1', 'kept', 2)")
    fleet.sync()
    assert b.rows("SELECT body FROM notes") == [("kept",)]
    assert a.dead() == [("notes", "null_key", (None,))]
    assert a.store.dead(1)[0].cells == {"id": None, "body": "lost", "rank": 1.0}
    a.sql("INSERT INTO notes VALUES (NULL, 'taken back', 2); DELETE FROM notes WHERE body = 'taken back'")
    a.sql("UPDATE notes SET id = '2' WHERE id IS NULL")
    fleet.sync()
    assert b.rows("SELECT body FROM notes WHERE id = '2'") == [("lost",)]
    assert len(a.dead()) == 1  # a row that is gone, or has a key now, is no letter


def test_the_apps_own_triggers_run_once_and_where_the_app_wrote(fleet: Fleet) -> None:
    schema = """
        CREATE TABLE stock (item TEXT PRIMARY KEY, n INTEGER);
        CREATE TABLE orders (id TEXT PRIMARY KEY, item TEXT, n INTEGER);
        CREATE TRIGGER lower AFTER INSERT ON orders BEGIN
            UPDATE stock SET n = n - NEW.n WHERE item = NEW.item;
        END;
    """
    a, b = pair(fleet, schema)
    a.sql("INSERT INTO stock VALUES ('apple', 100)")
    fleet.sync()
    a.sql("INSERT INTO orders VALUES ('1', 'apple', 10)")
    fleet.sync()
    b.sql("INSERT INTO orders VALUES ('2', 'apple', 5)")
    fleet.sync()
    assert a.rows("SELECT n FROM stock") == [(85,)]
    assert b.rows("SELECT count(*) FROM orders") == [(2,)]
    fleet.assert_equal()


def test_cascades_and_set_null_travel_as_their_effects(fleet: Fleet) -> None:
    schema = """
        CREATE TABLE parent (id INTEGER PRIMARY KEY);
        CREATE TABLE child (id INTEGER PRIMARY KEY, p INTEGER REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE);
        CREATE TABLE loose (id INTEGER PRIMARY KEY, p INTEGER REFERENCES parent ON DELETE SET NULL);
    """
    a, b = pair(fleet, schema)
    a.sql(
        """
        INSERT INTO parent VALUES (1), (2);
        INSERT INTO child VALUES (1, 1), (2, 1), (3, 2);
        INSERT INTO loose VALUES (1, 1);
        """
    )
    fleet.sync()
    b.sql("DELETE FROM parent WHERE id = 1; UPDATE parent SET id = 20 WHERE id = 2")
    fleet.sync()
    assert a.rows("SELECT * FROM child") == [(3, 20)]
    assert a.rows("SELECT * FROM loose") == [(1, None)]
    fleet.assert_equal()


def test_column_level_on_conflict_clauses_do_not_swallow_rows(fleet: Fleet) -> None:
    schema = "CREATE TABLE t (id INTEGER PRIMARY KEY ON CONFLICT REPLACE, u TEXT UNIQUE ON CONFLICT IGNORE, v)"
    a, b = pair(fleet, schema)
    a.sql("INSERT INTO t VALUES (1, 'x', 1), (2, 'y', 2); INSERT INTO t VALUES (1, 'z', 3)")
    fleet.sync()
    b.sql("INSERT INTO t VALUES (2, 'q', 9); INSERT INTO t VALUES (7, 'q', 10)")
    fleet.sync()
    assert a.rows("SELECT * FROM t ORDER BY id") == [(1, "z", 3), (2, "q", 9)]
    fleet.assert_equal()


def test_a_row_deleted_and_made_anew_is_another_row(fleet: Fleet) -> None:
    a, b = pair(fleet, USERS)
    a.sql("INSERT INTO users VALUES (1, 'x', 'first', 1)")
    fleet.sync()
    a.sql("DELETE FROM users WHERE id = 1; INSERT INTO users VALUES (1, 'new', 'other person', 1)")
    b.sql("UPDATE users SET name = 'renamed' WHERE id = 1")
    fleet.push(a)
    fleet.sync()
    assert a.rows("SELECT name FROM users") == [("other person",)]
    assert b.dead() == [("users", "row_absent", (1,))]
    fleet.assert_equal()


def test_a_sealed_write_to_a_row_made_anew_elsewhere_is_refused(fleet: Fleet) -> None:
    a, b = pair(fleet, USERS)
    a.sql("INSERT INTO users VALUES (1, 'x', 'first', 1)")
    fleet.sync()
    a.sql("DELETE FROM users WHERE id = 1; INSERT INTO users VALUES (1, 'new', 'other person', 1)")
    fleet.push(a)
    b.sql("UPDATE users SET name = 'renamed' WHERE id = 1")
    b.seal()
    fleet.sync()
    assert b.rows("SELECT name FROM users") == [("other person",)]
    assert b.dead() == [("users", "row_reborn", (1,))]
    assert b.store.dead(1)[0].cells == {"name": "renamed"}
    fleet.assert_equal()


def test_nothing_travels_for_rows_that_came_and_went(fleet: Fleet) -> None:
    a, _b = pair(fleet, NOTES)
    a.sql("INSERT INTO notes VALUES ('1', 'x', 1); DELETE FROM notes; UPDATE notes SET body = body")
    assert fleet.push(a).entries == []


def test_an_update_that_changes_nothing_is_not_logged(fleet: Fleet) -> None:
    a, _b = pair(fleet, NOTES)
    a.sql("INSERT INTO notes VALUES ('1', 'x', 1)")
    fleet.sync()
    a.sql("UPDATE notes SET body = body, rank = 1.0")
    assert a.rows("SELECT count(*) FROM tidewire_change") == [(0,)]


def test_wide_tables_keep_their_changes_apart(fleet: Fleet) -> None:
    columns = ", ".join(f"c{i} INTEGER DEFAULT 0" for i in range(150))
    a, b = pair(fleet, f"CREATE TABLE wide (id INTEGER PRIMARY KEY, {columns})")
    a.sql("INSERT INTO wide (id) VALUES (1)")
    fleet.sync()
    a.sql("UPDATE wide SET c0 = 1, c61 = 2, c62 = 3")
    b.sql("UPDATE wide SET c63 = 4, c149 = 5")
    fleet.sync()
    assert a.rows("SELECT c0, c61, c62, c63, c149 FROM wide") == [(1, 2, 3, 4, 5)]
    assert fleet.stream.conflicts() == []
    fleet.assert_equal()


def test_names_that_need_quoting_work(fleet: Fleet) -> None:
    a, b = pair(fleet, 'CREATE TABLE "we""ird name" ("pri mary" TEXT PRIMARY KEY, "select" INTEGER, "ünï" TEXT)')
    a.sql("""INSERT INTO "we""ird name" VALUES ('k', 1, 'x')""")
    fleet.sync()
    b.sql("""UPDATE "we""ird name" SET "select" = 2, "ünï" = 'y'""")
    fleet.sync()
    assert a.rows('SELECT * FROM "we""ird name"') == [("k", 2, "y")]
    fleet.assert_equal()
