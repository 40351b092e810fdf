"""Attaching tables that hold rows already, and schemas that change under the agent."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from support.fleet import Edge, Fleet
from support.verifying import verify
from tidewire_agent.store.edge_store import EdgeStore
from tidewire_agent.store.overview import tables_of
from tidewire_agent.store.settings import StoreSettings
from tidewire_schemas.codec import parse_batch

NOTES = "CREATE TABLE notes (id TEXT PRIMARY KEY, body TEXT)"


def test_rows_that_were_there_before_are_offered_in_chunks(fleet: Fleet) -> None:
    rows = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) "
        "INSERT INTO notes SELECT printf('%05d', i), 'body ' || i FROM n"
    )
    a = fleet.edge("a", NOTES, rows=rows, settings=StoreSettings(seed_chunk_bytes=8192))
    b = fleet.edge("b", NOTES)
    fleet.sync()
    assert b.rows("SELECT count(*), max(id) FROM notes") == [(3000, "03000")]
    assert a.store.last_sealed is not None
    assert a.store.last_sealed.batch > 5
    fleet.assert_equal()


def test_a_row_written_just_when_old_rows_are_offered_travels_once(fleet: Fleet) -> None:
    a = fleet.edge("a", NOTES, rows="INSERT INTO notes VALUES ('1', 'old')")
    b = fleet.edge("b", NOTES)
    fleet.hello(a)
    fleet.take_tables(a)
    snapshots = 0

    def write_before_rows_are_read(statement: str) -> None:
        nonlocal snapshots
        snapshots += statement == "BEGIN"
        if statement == "BEGIN" and snapshots == 2:  # in the first one the change log was found to be empty
            a.sql("INSERT INTO notes VALUES ('2', 'new')")

    a.store.connection.set_trace_callback(write_before_rows_are_read)
    a.seal()
    a.store.connection.set_trace_callback(None)
    assert snapshots > 2
    fleet.sync()
    batches = [parse_batch(batch.payload).batch for batch in a.store.outbox(0, count_max=9, bytes_max=10**6)]
    sent = [(run.op, row) for batch in batches for run in batch.changes for row in run.rows]
    assert sent == [("put", ["2", "new"]), ("seed", ["1", "old"])]
    assert b.rows("SELECT * FROM notes ORDER BY id") == [("1", "old"), ("2", "new")]


def test_last_months_copy_changes_nothing_for_the_others(fleet: Fleet) -> None:
    a = fleet.edge("a", NOTES, rows="INSERT INTO notes VALUES ('1', 'old'), ('2', 'deleted later'), ('3', 'same')")
    b = fleet.edge("b", NOTES)
    fleet.sync()
    a.sql("UPDATE notes SET body = 'new' WHERE id = '1'; DELETE FROM notes WHERE id = '2'")
    fleet.sync()
    c = fleet.edge(
        "c",
        NOTES,
        rows="INSERT INTO notes VALUES ('1', 'edited here'), ('2', 'deleted later'), ('3', 'same'), ('4', 'only c')",
    )
    fleet.sync()
    assert a.rows("SELECT * FROM notes ORDER BY id") == [("1", "new"), ("3", "same"), ("4", "only c")]
    assert c.dead() == [("notes", "row_known", ("1",))]  # '2' is as the log once had it: nothing is lost with it
    assert c.store.dead(1)[0].cells == {"id": "1", "body": "edited here"}
    assert b.dead() == []
    fleet.assert_equal()


def test_writes_to_old_rows_before_they_are_offered_are_offered_with_them(fleet: Fleet) -> None:
    b = fleet.edge("b", NOTES)
    b.sql("INSERT INTO notes VALUES ('1', 'hub')")
    fleet.push(b)
    path = fleet.folder / "a.db"
    connection = sqlite3.connect(path)
    connection.executescript(f"{NOTES}; INSERT INTO notes VALUES ('1', 'mine'), ('2', 'mine'), ('3', 'mine')")
    connection.close()
    a = Edge(path, "a", tables=["notes"])
    fleet.edges.append(a)
    a.sql("UPDATE notes SET body = 'edited'; DELETE FROM notes WHERE id = '3'; INSERT INTO notes VALUES ('4', 'new')")
    a.seal()
    fleet.hello(a)
    fleet.sync()
    assert b.rows("SELECT * FROM notes ORDER BY id") == [("1", "hub"), ("2", "edited"), ("4", "new")]
    assert a.dead() == [("notes", "row_known", ("1",))]
    fleet.assert_equal()


def test_a_table_attached_later_is_brought_up_from_the_start_of_the_log(fleet: Fleet) -> None:
    schema = f"{NOTES}; CREATE TABLE extra (id INTEGER PRIMARY KEY, v TEXT)"
    a = fleet.edge("a", schema)
    b = fleet.edge("b", schema, tables=["notes"])
    a.sql("INSERT INTO notes VALUES ('1', 'x'); INSERT INTO extra VALUES (1, 'one'), (2, 'two')")
    fleet.sync()
    checkpoint = b.store.checkpoint
    b.sql("INSERT INTO extra VALUES (2, 'mine'), (3, 'three')")
    b.attach("extra")
    fleet.hello(b)
    assert b.store.checkpoint == checkpoint
    fleet.sync()
    assert b.rows("SELECT * FROM extra") == [(1, "one"), (2, "two"), (3, "three")]
    assert b.dead() == [("extra", "row_known", (2,))]
    fleet.assert_equal()


def test_a_table_attached_again_whose_rows_are_the_hubs_leaves_no_dead_letters(fleet: Fleet) -> None:
    a, b = fleet.edge("a", NOTES), fleet.edge("b", NOTES)
    a.sql("INSERT INTO notes VALUES ('1', 'x'), ('2', 'x'), ('5', 'x'), ('9', 'x')")
    fleet.sync()
    a.sql("UPDATE notes SET body = 'newer'; DELETE FROM notes WHERE id = '9'")
    fleet.sync()
    a.sql("INSERT INTO notes VALUES ('9', 'again')")
    fleet.sync()
    b.store.detach_table("notes")
    b.sql("UPDATE notes SET body = 'edited here' WHERE id = '5'")
    b.attach("notes")
    fleet.hello(b)
    fleet.sync()
    assert b.dead() == [("notes", "row_known", ("5",))]
    assert b.store.dead(1)[0].cells == {"id": "5", "body": "edited here"}
    fleet.assert_equal()


def test_a_row_for_which_the_hubs_row_waits_keeps_its_dead_letter(fleet: Fleet) -> None:
    """It is here still, and goes once the hub has judged the row that is in the way of the other."""
    people = "CREATE TABLE people (id TEXT PRIMARY KEY, email TEXT UNIQUE)"
    a = fleet.edge("a", people)
    a.sql("INSERT INTO people VALUES ('k', 'y@')")
    fleet.push(a)
    b = fleet.edge("b", people, rows="INSERT INTO people VALUES ('k', 'mine@')")
    b.sql("INSERT INTO people VALUES ('p', 'y@')")
    fleet.pull(b)
    assert b.store.backlog().parked == 1
    fleet.sync()
    fleet.assert_equal()
    assert sorted(b.dead()) == [("people", "row_known", ("k",)), ("people", "unique", ("p",))]


def test_detaching_removes_every_trace_and_leaves_the_rows(fleet: Fleet) -> None:
    a = fleet.edge("a", NOTES)
    before = fleet.edge("plain", NOTES, tables=["notes"])
    a.sql("INSERT INTO notes VALUES ('1', 'x')")
    fleet.sync([a, before])
    a.store.detach()
    names = [name for (name,) in a.rows("SELECT name FROM sqlite_master")]
    assert not [name for name in names if "tidewire" in name]
    assert a.rows("SELECT * FROM notes") == [("1", "x")]
    a.sql("INSERT INTO notes VALUES ('2', 'y')")


def test_an_added_column_arrives_and_rows_sent_before_it_is_known_are_completed(fleet: Fleet) -> None:
    a, b = fleet.edge("a", NOTES), fleet.edge("b", NOTES)
    a.sql("INSERT INTO notes VALUES ('1', 'x'), ('2', 'y')")
    fleet.sync()
    a.sql("ALTER TABLE notes ADD COLUMN stars INTEGER DEFAULT 3; UPDATE notes SET stars = 5 WHERE id = '1'")
    a.sql("INSERT INTO notes VALUES ('3', 'z', 1)")
    fleet.push(a)
    fleet.pull(b)  # b has no such column yet: its rows go on
    assert b.rows("SELECT * FROM notes ORDER BY id") == [("1", "x"), ("2", "y"), ("3", "z")]
    assert b.store.backlog().parked == 0
    b.sql("UPDATE notes SET body = 'still works' WHERE id = '2'")
    fleet.push(b)
    b.sql("ALTER TABLE notes ADD COLUMN stars INTEGER DEFAULT 3")
    fleet.sync()
    b.sql("UPDATE notes SET body = 'again' WHERE id = '2'")
    fleet.sync()
    assert b.rows("SELECT * FROM notes ORDER BY id") == [("1", "x", 5), ("2", "again", 3), ("3", "z", 1)]
    fleet.assert_equal()


def test_a_rebuilt_table_goes_on_with_only_its_true_differences(fleet: Fleet) -> None:
    a, b = fleet.edge("a", NOTES), fleet.edge("b", NOTES)
    a.sql("INSERT INTO notes VALUES ('1', 'x'), ('2', 'y')")
    fleet.sync()
    a.sql(
        """
        BEGIN;
        CREATE TABLE notes_new (id TEXT PRIMARY KEY, body TEXT, extra TEXT);
        INSERT INTO notes_new SELECT id, upper(body), 'e' || id FROM notes;
        DROP TABLE notes;
        ALTER TABLE notes_new RENAME TO notes;
        COMMIT;
        INSERT INTO notes VALUES ('3', 'written before the agent looked', NULL);
        """
    )
    fleet.sync()
    b.sql("ALTER TABLE notes ADD COLUMN extra TEXT")
    fleet.sync()
    assert b.rows("SELECT * FROM notes ORDER BY id") == [
        ("1", "X", "e1"),
        ("2", "Y", "e2"),
        ("3", "written before the agent looked", None),
    ]
    fleet.assert_equal()


def test_a_dropped_table_is_reported_and_deletes_nothing_elsewhere(fleet: Fleet) -> None:
    schema = f"{NOTES}; CREATE TABLE extra (id INTEGER PRIMARY KEY, v TEXT)"
    a, b = fleet.edge("a", schema, tables=["notes", "extra"]), fleet.edge("b", schema)
    a.sql("INSERT INTO notes VALUES ('1', 'x'); INSERT INTO extra VALUES (1, 'one')")
    fleet.sync()
    a.sql("DROP TABLE notes; INSERT INTO extra VALUES (2, 'two')")
    fleet.sync()
    assert b.rows("SELECT * FROM notes") == [("1", "x")]
    assert b.rows("SELECT count(*) FROM extra") == [(2,)]
    assert any("notes" in problem for problem in a.store.problems())


def test_a_renamed_table_is_reported_with_what_to_do(fleet: Fleet) -> None:
    a = fleet.edge("a", NOTES, tables=["notes"])
    a.sql("ALTER TABLE notes RENAME TO memos; INSERT INTO memos VALUES ('1', 'x')")
    a.store.refresh()
    (problem,) = a.store.problems()
    assert "renamed to 'memos'" in problem
    assert "attach 'memos'" in problem
    a.attach("memos")
    fleet.hello(a)
    fleet.sync()
    assert [digest.rows for digest in fleet.stream.digests() if digest.table == "memos"] == [1]


def test_a_renamed_column_goes_on_under_its_new_name(fleet: Fleet) -> None:
    a = fleet.edge("a", NOTES)
    a.sql("INSERT INTO notes VALUES ('1', 'x')")
    fleet.sync()
    a.sql("ALTER TABLE notes RENAME COLUMN body TO text; UPDATE notes SET text = 'renamed'")
    fleet.sync()
    (row,) = fleet.stream.rows("notes")
    assert row["text"] == "renamed"


def test_a_table_created_after_attach_is_synced_under_all_tables(fleet: Fleet) -> None:
    a, b = fleet.edge("a", NOTES), fleet.edge("b", NOTES)
    fleet.sync()
    for edge in (a, b):
        edge.sql("CREATE TABLE later (id INTEGER PRIMARY KEY, v TEXT)")
    a.sql("INSERT INTO later VALUES (1, 'x')")
    fleet.sync()
    assert b.rows("SELECT * FROM later") == [(1, "x")]
    fleet.assert_equal()


@pytest.mark.parametrize(
    ("schema", "table", "reason"),
    [
        ("CREATE TABLE t (a, b)", "t", "no PRIMARY KEY"),
        ("CREATE VIRTUAL TABLE t USING fts5(a)", "t", "virtual table"),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY, a); CREATE UNIQUE INDEX u ON t (a) WHERE a > 1", "t", "WHERE"),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY, a); CREATE UNIQUE INDEX u ON t (lower(a))", "t", "expression"),
        ("CREATE TABLE x (a)", "t", "no such table"),
    ],
)
def test_what_cannot_be_synced_says_why_and_stops_no_other_table(
    fleet: Fleet, schema: str, table: str, reason: str
) -> None:
    a = fleet.edge("a", f"{schema}; {NOTES}", tables=["notes"])
    (report,) = a.store.attach([table])
    assert not report.attached
    assert reason in report.reason
    a.sql("INSERT INTO notes VALUES ('1', 'x')")
    assert len(fleet.push(a).entries) == 1


def test_a_partial_unique_index_can_be_allowed(fleet: Fleet) -> None:
    schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, a); CREATE UNIQUE INDEX u ON t (a) WHERE a > 1"
    a = fleet.edge("a", schema, settings=StoreSettings(allow_unkept_unique=True))
    a.sql("INSERT INTO t VALUES (1, 5)")
    assert len(fleet.push(a).entries) == 1


def test_the_key_value_table_is_synced_whenever_it_is_there(fleet: Fleet) -> None:
    schema = "CREATE TABLE tidewire_kv (key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL) WITHOUT ROWID"
    a, b = fleet.edge("a", f"{NOTES}; {schema}", tables=["notes"]), fleet.edge("b", schema)
    a.sql("INSERT INTO tidewire_kv VALUES ('k', '1')")
    fleet.sync()
    assert b.rows("SELECT * FROM tidewire_kv") == [("k", "1")]


def test_a_detached_table_stays_detached_under_all_tables_until_it_is_asked_for(fleet: Fleet) -> None:
    a = fleet.edge("a", NOTES)
    assert a.store.detach_table("notes")
    a.sql("CREATE TABLE other (id INTEGER PRIMARY KEY); INSERT INTO notes VALUES ('1', 'x')")
    a.store.refresh()
    assert [shape.name for shape in a.store.tables.shapes()] == ["other"]
    a.attach("notes")
    assert {shape.name for shape in a.store.tables.shapes()} == {"notes", "other"}


def test_what_was_written_and_taken_back_over_a_foreign_row_gives_way_to_it(fleet: Fleet) -> None:
    a, b = fleet.edge("a", NOTES), fleet.edge("b", NOTES)
    a.sql("INSERT INTO notes VALUES ('1', 'from a')")
    fleet.push(a)
    b.sql("INSERT INTO notes VALUES ('1', 'from b')")
    fleet.pull(b)
    assert b.rows("SELECT body FROM notes") == [("from b",)]
    b.sql("DELETE FROM notes")
    fleet.sync()
    assert b.rows("SELECT body FROM notes") == [("from a",)]
    fleet.assert_equal()


def test_deletes_of_own_new_rows_travel_while_older_rows_are_still_offered(fleet: Fleet) -> None:
    a = fleet.edge("a", NOTES, rows="INSERT INTO notes VALUES ('old', 'x')")
    b = fleet.edge("b", NOTES)
    a.sql("INSERT INTO notes VALUES ('new', 'x')")
    a.store.seal(1)
    a.sql("DELETE FROM notes WHERE id = 'new'")
    fleet.sync()
    assert b.rows("SELECT id FROM notes") == [("old",)]
    fleet.assert_equal()


def test_parked_rows_that_make_room_for_each_other_all_fit_in_the_end(fleet: Fleet) -> None:
    schema = "CREATE TABLE u (id INTEGER PRIMARY KEY, email TEXT UNIQUE)"
    a, b = fleet.edge("a", schema), fleet.edge("b", schema)
    a.sql("INSERT INTO u VALUES (1, 'x'), (2, 'y')")
    fleet.sync()
    b.sql("INSERT INTO u VALUES (9, 'z')")  # not in the log yet, and in the way of row 1
    a.sql("INSERT INTO u VALUES (3, 'q')")
    a.sql("BEGIN; UPDATE u SET email = 'z' WHERE id = 1; UPDATE u SET email = 'x' WHERE id = 2; COMMIT")
    fleet.push(a)
    fleet.pull(b)
    fleet.sync()
    assert b.rows("SELECT id, email FROM u ORDER BY id") == [(1, "z"), (2, "x"), (3, "q")]
    fleet.assert_equal()


def test_a_new_log_is_adopted_with_all_rows_and_deletes_none(fleet: Fleet, tmp_path: Path) -> None:
    a, b = fleet.edge("a", NOTES), fleet.edge("b", NOTES)
    a.sql("INSERT INTO notes VALUES ('1', 'x'), ('2', 'y')")
    fleet.sync()
    b.sql("UPDATE notes SET body = 'not sent' WHERE id = '2'; INSERT INTO notes VALUES ('3', 'not sent')")
    fleet.close()
    (tmp_path / "anew").mkdir()
    anew = Fleet(tmp_path / "anew")
    for device in ("a", "b"):
        edge = Edge(tmp_path / f"{device}.db", device)
        edge.store.adopt()
        anew.edges.append(edge)
        anew.hello(edge)
        anew.sync([edge])
    anew.sync()
    anew.assert_equal()
    assert anew.edges[0].rows("SELECT * FROM notes") == [("1", "x"), ("2", "y"), ("3", "not sent")]
    assert anew.edges[1].store.dead(1)[0].cells == {"id": "2", "body": "not sent"}
    anew.close()


def test_renumbering_sends_nothing_again_that_the_applied_log_includes(fleet: Fleet) -> None:
    a = fleet.edge("a", NOTES)
    a.sql("INSERT INTO notes VALUES ('1', 'x')")
    fleet.sync()
    a.sql("UPDATE notes SET body = 'y'")
    a.seal()
    a.store.renumber(None, None)
    assert [batch.batch for batch in a.store.outbox(0, count_max=10, bytes_max=10**6)] == [1]
    fleet.sync()
    assert [row["body"] for row in fleet.stream.rows("notes")] == ["y"]


def test_a_table_with_too_much_parked_falls_behind_and_is_taken_anew_once_it_fits(fleet: Fleet) -> None:
    """Guarantee 12."""
    schema = "CREATE TABLE u (id INTEGER PRIMARY KEY, email TEXT UNIQUE)"
    a = fleet.edge("a", schema)
    b = fleet.edge(
        "b", f"{schema}; CREATE TABLE other (id INTEGER PRIMARY KEY)", settings=StoreSettings(parked_rows_max=3)
    )
    b.sql("INSERT INTO u VALUES (101, 'x1'), (102, 'x2'), (103, 'x3'), (104, 'x4')")
    a.sql("INSERT INTO u VALUES (1, 'x1'), (2, 'x2'), (3, 'x3'), (4, 'x4')")
    fleet.push(a)
    fleet.pull(b)
    assert any("behind" in problem and "parked_rows_max=3" in problem for problem in b.store.problems())
    b.sql("INSERT INTO u VALUES (200, 'still sent'); INSERT INTO other VALUES (1)")
    fleet.sync()
    assert a.rows("SELECT id FROM u WHERE email = 'still sent'") == [(200,)]
    for edge in (a, b):
        edge.sql("ALTER TABLE u ADD COLUMN extra TEXT")
    fleet.sync()
    assert b.store.problems() == []
    assert b.rows("SELECT * FROM u ORDER BY id") == a.rows("SELECT * FROM u ORDER BY id")
    fleet.assert_equal()


def test_attaching_a_table_that_is_behind_takes_it_anew(fleet: Fleet) -> None:
    schema = "CREATE TABLE u (id INTEGER PRIMARY KEY, email TEXT UNIQUE)"
    a, b = fleet.edge("a", schema), fleet.edge("b", schema, settings=StoreSettings(parked_rows_max=1))
    b.sql("INSERT INTO u VALUES (101, 'x1'), (102, 'x2'), (103, 'x3')")
    a.sql("INSERT INTO u VALUES (1, 'x1'), (2, 'x2'), (3, 'x3')")
    fleet.push(a)
    fleet.pull(b)
    assert any("behind" in problem for problem in b.store.problems())
    fleet.sync()
    b.attach("u")
    fleet.sync()
    assert b.rows("SELECT id FROM u ORDER BY id") == [(1,), (2,), (3,)]
    fleet.assert_equal()


def test_attaching_a_table_that_is_behind_is_noticed_by_the_process_that_works_on_the_file(fleet: Fleet) -> None:
    schema = "CREATE TABLE u (id INTEGER PRIMARY KEY, email TEXT UNIQUE)"
    a, b = fleet.edge("a", schema), fleet.edge("b", schema, settings=StoreSettings(parked_rows_max=1))
    b.sql("INSERT INTO u VALUES (101, 'x1'), (102, 'x2'), (103, 'x3')")
    a.sql("INSERT INTO u VALUES (1, 'x1'), (2, 'x2'), (3, 'x3')")
    fleet.push(a)
    fleet.pull(b)
    fleet.sync()
    with closing(EdgeStore.open(b.path, device=None)) as other:
        assert [report.reason for report in other.attach(["u"])] == ["taken anew"]
    fleet.sync()
    assert b.rows("SELECT id FROM u ORDER BY id") == [(1,), (2,), (3,)]
    assert b.store.problems() == []
    fleet.assert_equal()


def test_a_table_that_is_full_of_parked_changes_can_be_detached_by_another_process(fleet: Fleet) -> None:
    schema = "CREATE TABLE u (id INTEGER PRIMARY KEY, email TEXT UNIQUE)"
    a, b = fleet.edge("a", schema), fleet.edge("b", schema)
    b.sql("INSERT INTO u VALUES (101, 'x1'), (102, 'x2')")
    a.sql("INSERT INTO u VALUES (1, 'x1'), (2, 'x2')")
    fleet.push(a)
    fleet.pull(b)
    assert b.store.backlog().parked == 2
    with closing(EdgeStore.open(b.path, device=None)) as other:
        assert other.detach_table("u")
    a.sql("INSERT INTO u VALUES (3, 'x3'), (4, 'x4')")
    fleet.push(a)
    fleet.pull(b)
    assert b.store.backlog().parked == 0


def test_dropping_a_column_is_refused_by_sqlite_until_the_table_is_detached(fleet: Fleet) -> None:
    schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, keep TEXT, goes TEXT)"
    a, b = fleet.edge("a", schema), fleet.edge("b", schema)
    a.sql("INSERT INTO t VALUES (1, 'x', 'y')")
    fleet.sync()
    with pytest.raises(sqlite3.OperationalError, match="tidewire"):
        a.sql("ALTER TABLE t DROP COLUMN goes")
    a.store.detach_table("t")
    a.sql("ALTER TABLE t DROP COLUMN goes")
    a.attach("t")
    fleet.hello(a)
    a.sql("UPDATE t SET keep = 'z'")
    b.sql("UPDATE t SET goes = 'still here'")
    fleet.sync()
    assert a.rows("SELECT * FROM t") == [(1, "z")]
    assert b.rows("SELECT * FROM t") == [(1, "z", "still here")]


def test_a_row_too_large_to_send_stays_and_goes_whole_once_it_fits(fleet: Fleet) -> None:
    small = StoreSettings(batch_bytes_max=2048)
    a, b = fleet.edge("a", NOTES, settings=small), fleet.edge("b", NOTES)
    a.sql("INSERT INTO notes VALUES ('big', hex(zeroblob(4000)))")
    fleet.sync()
    assert a.dead() == [("notes", "row_too_large", ("big",))]
    assert a.store.dead(1)[0].cells == {"id": "big", "body": "00" * 4000}
    a.sql("ALTER TABLE notes ADD COLUMN stars INTEGER")
    a.sql("UPDATE notes SET stars = 1")
    fleet.sync()
    assert a.rows("SELECT length(body), stars FROM notes") == [(8000, 1)]
    assert b.rows("SELECT count(*) FROM notes") == [(0,)]
    assert a.dead() == [("notes", "row_too_large", ("big",))]  # not one for each time that it was written
    found = verify(fleet, a)["notes"]
    assert (found.too_large, found.pending, found.differing, found.complete) == (1, 0, 0, True)
    assert a.store.backlog().too_large == (("notes", 1),)
    a.sql("UPDATE notes SET body = 'short'")
    fleet.sync()
    assert b.rows("SELECT id, body FROM notes") == [("big", "short")]
    assert a.dead() == []
    assert a.store.backlog().too_large == ()
    assert verify(fleet, a)["notes"].too_large == 0


def test_a_row_too_large_to_change_that_another_device_deletes_is_counted_no_more(fleet: Fleet) -> None:
    a, b = fleet.edge("a", NOTES, settings=StoreSettings(batch_bytes_max=2048)), fleet.edge("b", NOTES)
    a.sql("INSERT INTO notes VALUES ('big', 'small')")
    fleet.sync()
    a.sql("UPDATE notes SET body = hex(zeroblob(4000))")
    fleet.sync()
    assert a.store.backlog().too_large == (("notes", 1),)
    b.sql("DELETE FROM notes")
    fleet.sync()
    assert a.rows("SELECT * FROM notes") == []
    assert a.store.backlog().too_large == ()
    fleet.assert_equal()


def test_a_row_too_large_is_sent_when_it_is_retried_under_a_higher_limit(fleet: Fleet) -> None:
    small = StoreSettings(batch_bytes_max=2048, dead_letter_bytes_max=100)
    a, b = fleet.edge("a", NOTES, settings=small), fleet.edge("b", NOTES)
    a.sql("INSERT INTO notes VALUES ('big', hex(zeroblob(4000)))")
    fleet.sync()
    (letter,) = a.store.dead(10)
    assert letter.cells == {"id": "big"}
    assert "body (8002 bytes)" in letter.detail
    assert letter.id is not None
    a.store.close()
    a.store = EdgeStore.open(a.path, device=None)
    fleet.hello(a)
    a.store.dead_retry(letter.id)
    fleet.sync()
    assert a.dead() == []
    assert b.rows("SELECT length(body) FROM notes") == [(8000,)]


def test_an_old_row_too_large_to_offer_holds_up_no_other(fleet: Fleet) -> None:
    """Guarantee 10."""
    small = StoreSettings(batch_bytes_max=2048, seed_chunk_bytes=1024)
    rows = "INSERT INTO notes VALUES ('1', 'x'), ('2', hex(zeroblob(4000))), ('3', 'y')"
    a, b = fleet.edge("a", NOTES, rows=rows, settings=small), fleet.edge("b", NOTES)
    fleet.sync()
    assert b.rows("SELECT id FROM notes ORDER BY id") == [("1",), ("3",)]
    assert a.dead() == [("notes", "row_too_large", ("2",))]


def test_inserts_into_a_table_that_is_being_taken_over_are_judged_as_made_in_ignorance(fleet: Fleet) -> None:
    schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT); CREATE TABLE other (id INTEGER PRIMARY KEY)"
    a, b = fleet.edge("a", schema), fleet.edge("b", schema, tables=["other"])
    a.sql("INSERT INTO t VALUES (1, 'from a'); INSERT INTO other VALUES (1)")
    fleet.sync()
    b.attach("t")
    fleet.hello(b)
    b.sql("INSERT INTO t VALUES (1, 'from b')")
    b.seal()
    fleet.sync()
    assert a.rows("SELECT v FROM t") == b.rows("SELECT v FROM t") == [("from a",)]
    assert b.dead() == [("t", "key_taken", (1,))]
    fleet.assert_equal()


def test_a_table_that_went_and_came_back_is_synced_again(fleet: Fleet) -> None:
    a, b = fleet.edge("a", NOTES, tables=["notes"]), fleet.edge("b", NOTES)
    a.sql("INSERT INTO notes VALUES ('1', 'x')")
    fleet.sync()
    a.sql(
        """
        CREATE TABLE n (id TEXT PRIMARY KEY, body TEXT);
        INSERT INTO n SELECT id, 'rebuilt' FROM notes;
        DROP TABLE notes;
        """
    )
    a.store.refresh()
    assert a.store.problems() != []
    a.sql("ALTER TABLE n RENAME TO notes")
    fleet.sync()
    a.sql("INSERT INTO notes VALUES ('2', 'y')")
    fleet.sync()
    assert a.store.problems() == []
    assert b.rows("SELECT * FROM notes ORDER BY id") == [("1", "rebuilt"), ("2", "y")]
    fleet.assert_equal()


def test_cells_of_old_rows_that_the_log_does_not_speak_of_are_sent(fleet: Fleet) -> None:
    a = fleet.edge("a", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", rows="INSERT INTO t VALUES (1, 'x')")
    fleet.sync()
    b = fleet.edge(
        "b",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, c TEXT)",
        rows="INSERT INTO t VALUES (1, 'x', 'only here')",
    )
    fleet.sync()
    (row,) = fleet.stream.rows("t")
    assert row == {"id": 1, "v": "x", "c": "only here"}
    fleet.assert_equal(edges=[b])
    assert a.rows("SELECT * FROM t") == [(1, "x")]


def test_a_full_text_index_beside_synced_tables_goes_on_working(fleet: Fleet) -> None:
    schema = f"""
        {NOTES}; CREATE VIRTUAL TABLE found USING fts5 (id, body);
        CREATE TRIGGER indexed AFTER INSERT ON notes BEGIN INSERT INTO found VALUES (NEW.id, NEW.body); END;
    """
    a, b = fleet.edge("a", schema), fleet.edge("b", schema)
    a.sql("INSERT INTO notes VALUES ('1', 'hello world')")
    fleet.sync()
    assert a.rows("SELECT id FROM found WHERE found MATCH 'hello'") == [("1",)]
    assert b.rows("SELECT body FROM notes") == [("hello world",)]
    assert [shape.name for shape in a.store.tables.shapes()] == ["notes"]
    assert any("'found'" in problem and "virtual" in problem for problem in a.store.problems())
    fleet.assert_equal()


def test_a_renamed_table_goes_on_under_its_new_name_when_all_are_synced(fleet: Fleet) -> None:
    a, b = fleet.edge("a", NOTES), fleet.edge("b", NOTES)
    a.sql("INSERT INTO notes VALUES ('1', 'x')")
    fleet.sync()
    for edge in (a, b):
        edge.sql("ALTER TABLE notes RENAME TO memos")
    a.sql("INSERT INTO memos VALUES ('2', 'y')")
    fleet.sync()
    assert b.rows("SELECT id FROM memos ORDER BY id") == [("1",), ("2",)]
    (problem,) = a.store.problems()
    assert "'notes' was renamed to 'memos', which is synced" in problem
    assert "tidewire-agent detach notes" in problem
    assert [(table.table, table.state) for table in tables_of(a.app, allow_unkept_unique=False)] == [
        ("memos", "synced"),
        ("notes", "missing"),
    ]
    a.store.detach_table("notes")
    assert a.store.problems() == []
    fleet.assert_equal()


def test_a_dropped_table_is_reported_with_what_to_do(fleet: Fleet) -> None:
    a, b = fleet.edge("a", NOTES), fleet.edge("b", NOTES)
    a.sql("INSERT INTO notes VALUES ('1', 'x')")
    fleet.sync()
    b.sql("DROP TABLE notes")
    fleet.sync()
    (problem,) = b.store.problems()
    assert "'notes' was dropped; its rows stay" in problem
    b.sql(NOTES)
    b.store.refresh()
    fleet.hello(b)
    fleet.sync()
    assert b.store.problems() == []
    fleet.assert_equal()


def test_no_batch_is_sealed_above_what_the_hub_takes(fleet: Fleet) -> None:
    a, b = fleet.edge("a", NOTES), fleet.edge("b", NOTES)
    a.store.heed(4096)
    a.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)"
        " INSERT INTO notes SELECT i, 'body ' || i FROM n"
    )
    fleet.sync()
    assert max(len(batch.payload) for batch in a.store.outbox(0, count_max=100, bytes_max=10**9)) < 5000
    assert b.rows("SELECT count(*) FROM notes") == [(500,)]
    fleet.assert_equal()
