"""A device loads a snapshot instead of entries: what is pending stays on top, what is gone goes."""

from __future__ import annotations

import pytest

from support.fleet import Edge, Fleet
from support.snapshots import FleetSnapshot
from tidewire_agent.store.edge_store import EdgeStore

NOTES = "CREATE TABLE notes (id INTEGER PRIMARY KEY, title TEXT, n INTEGER)"
USERS = "CREATE TABLE users (id TEXT PRIMARY KEY, email TEXT UNIQUE, name TEXT)"


def reopened(edge: Edge) -> None:
    """The process is killed: what it had in memory is gone."""
    edge.store.close()
    edge.store = EdgeStore.open(edge.path, device=edge.device)


def test_a_new_device_takes_a_snapshot_and_follows_from_there(fleet: Fleet) -> None:
    """Guarantee 6."""
    a = fleet.edge("a", NOTES)
    a.sql("INSERT INTO notes VALUES (1, 'one', 1), (2, 'two', 2), (3, 'three', 3), (4, 'four', 4)")
    fleet.push(a)
    snapshot = FleetSnapshot(fleet)
    a.sql(
        "UPDATE notes SET n = 20 WHERE id = 2; DELETE FROM notes WHERE id = 3; INSERT INTO notes VALUES (5, 'five', 5)"
    )
    fleet.push(a)
    b = fleet.edge("b", NOTES)
    snapshot.take(b)
    assert b.rows("SELECT id, n FROM notes ORDER BY id") == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert b.store.checkpoint == snapshot.position
    assert b.store.loading is None
    fleet.sync()
    fleet.assert_equal()


def test_rows_that_the_hub_no_longer_has_are_removed(fleet: Fleet) -> None:
    a, b = fleet.edge("a", NOTES), fleet.edge("b", NOTES)
    a.sql(f"INSERT INTO notes (id) VALUES {', '.join(f'({number})' for number in range(50))}")
    fleet.sync()
    a.sql("DELETE FROM notes WHERE id % 2 = 0")
    fleet.push(a)
    FleetSnapshot(fleet, rows_per_chunk=7).take(b)
    assert b.rows("SELECT count(*) FROM notes") == [(25,)]
    fleet.sync()
    fleet.assert_equal()


def test_pending_writes_stay_on_top_and_own_batches_that_it_includes_do_not(fleet: Fleet) -> None:
    a, b = fleet.edge("a", NOTES), fleet.edge("b", NOTES)
    a.sql("INSERT INTO notes VALUES (1, 'one', 1), (2, 'two', 2), (3, 'three', 3)")
    fleet.sync()
    b.sql("UPDATE notes SET title = 'of b' WHERE id = 1")
    fleet.push(b)  # in the log, and so in the snapshot; b has not applied it
    a.sql("UPDATE notes SET n = 10 WHERE id = 1")
    fleet.pull(a)
    a.sql("UPDATE notes SET title = 'of a' WHERE id = 1")
    fleet.push(a)
    snapshot = FleetSnapshot(fleet, rows_per_chunk=1)
    b.sql("UPDATE notes SET title = 'later' WHERE id = 2")
    b.seal()  # a batch that the snapshot does not include
    b.sql("UPDATE notes SET n = 33 WHERE id = 3; INSERT INTO notes VALUES (4, 'four', 4)")  # not sealed
    snapshot.take(b)
    assert b.rows("SELECT * FROM notes ORDER BY id") == [
        (1, "of a", 10),
        (2, "later", 2),
        (3, "three", 33),
        (4, "four", 4),
    ]
    assert b.store.batches.released == 1
    fleet.sync()
    fleet.assert_equal()


def test_rows_that_were_refused_before_a_snapshot_are_dead_letters_once_it_is_loaded(fleet: Fleet) -> None:
    """Guarantee 10: also where the snapshot takes the place of the entries that say so, and after a crash."""
    a, b = fleet.edge("a", USERS), fleet.edge("b", USERS)
    a.sql("INSERT INTO users VALUES ('1', 'one@x', 'one'), ('2', 'two@x', 'two')")
    fleet.sync()
    b.sql("INSERT INTO users VALUES ('8', 'three@x', 'told by an entry')")
    a.sql("INSERT INTO users VALUES ('3', 'three@x', 'three')")
    fleet.push(a)
    fleet.sync()
    a.sql("DELETE FROM users WHERE id = '1'; INSERT INTO users VALUES ('4', 'four@x', 'four')")
    fleet.push(a)
    b.sql("UPDATE users SET name = 'changed' WHERE id = '1'; UPDATE users SET name = 'fine' WHERE id = '2'")
    fleet.push(b)
    b.sql("INSERT INTO users VALUES ('9', 'four@x', 'late')")
    fleet.push(b)
    snapshot = FleetSnapshot(fleet, rows_per_chunk=1)
    b.sql("INSERT INTO users VALUES ('7', 'fourth@x', 'not sent yet')")
    b.store.load_begin(snapshot.manifest(b), whole=True)
    assert len(b.dead()) == 1
    reopened(b)
    for _ in snapshot.pieces(b):
        pass
    assert b.dead() == [("users", "unique", ("8",)), ("users", "row_absent", ("1",)), ("users", "unique", ("9",))]
    late, gone = b.store.dead(2)
    assert (late.op, late.cells, late.batch) == ("put", {"email": "four@x", "name": "late"}, 3)
    assert (gone.op, gone.cells, gone.seq) == ("set", {"name": "changed"}, late.seq and late.seq - 1)
    fleet.sync()
    assert len(b.dead()) == 3, "each is told once"
    fleet.assert_equal()


def test_a_refused_row_that_the_hub_holds_as_it_is_by_then_is_no_dead_letter_of_a_snapshot(fleet: Fleet) -> None:
    """Guarantee 10: a letter tells of what is lost."""
    a, b = fleet.edge("a", USERS), fleet.edge("b", USERS)
    a.sql("INSERT INTO users VALUES ('1', 'one@x', 'one'), ('2', 'two@x', 'two')")
    fleet.push(a)
    b.sql("INSERT INTO users VALUES ('8', 'one@x', 'alike'), ('9', 'two@x', 'lost')")
    fleet.push(b)
    fleet.pull(a)
    a.sql("DELETE FROM users WHERE id = '1'; INSERT INTO users VALUES ('8', 'one@x', 'alike'), ('9', 'else', 'lost')")
    fleet.push(a)
    FleetSnapshot(fleet).take(b)
    assert b.dead() == [("users", "unique", ("9",))]
    fleet.sync()
    fleet.assert_equal()


def test_a_refused_row_is_a_dead_letter_also_while_the_hubs_row_waits_for_its_place(fleet: Fleet) -> None:
    """Guarantee 10: the row that stands here then is not the hub's."""
    schema = "CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT UNIQUE, name TEXT)"
    a, b = fleet.edge("a", schema), fleet.edge("b", schema)
    a.sql("INSERT INTO users VALUES (9, 'nine@x', 'of a')")
    fleet.push(a)
    b.sql("INSERT INTO users VALUES (9, 'mine@x', 'of b')")
    fleet.push(b)
    b.sql("INSERT INTO users VALUES (7, 'nine@x', 'not sent yet')")
    FleetSnapshot(fleet).take(b)
    assert b.store.backlog().parked == 1
    assert b.rows("SELECT name FROM users WHERE id = 9") == [("of b",)]
    fleet.sync()
    assert b.dead() == [("users", "key_taken", (9,)), ("users", "unique", (7,))]
    fleet.assert_equal()


@pytest.mark.fault("a hub that lost the end of its log")
def test_a_copy_offered_again_to_a_hub_that_has_the_row_is_no_dead_letter_of_a_snapshot(fleet: Fleet) -> None:
    """Guarantee 10: a change of it that is offered after it counts."""
    a, b = fleet.edge("a", USERS), fleet.edge("b", USERS)
    a.sql("INSERT INTO users VALUES ('kept', 'k@x', 'kept')")
    fleet.sync()
    backed_up = fleet.stream.head.seq
    a.sql("INSERT INTO users VALUES ('lost', 'l@x', 'lost')")
    fleet.sync()
    b.sql("UPDATE users SET name = 'of b' WHERE id = 'lost'")
    fleet.sync()
    fleet.lose_tail(backed_up)
    fleet.hello(b)
    fleet.push(b)
    fleet.pull(b)
    b.seal()
    fleet.hello(a)
    fleet.push(a)
    fleet.push(b)  # what b has of the row comes too late
    FleetSnapshot(fleet).take(b)
    fleet.sync()
    fleet.assert_equal()
    assert a.rows("SELECT name FROM users WHERE id = 'lost'") == [("of b",)]
    assert a.dead() == b.dead() == []


def test_what_a_copy_of_the_database_was_refused_is_no_dead_letter_where_the_row_here_won(fleet: Fleet) -> None:
    """Guarantee 10: nor where both have it alike. A row that is overwritten here is one."""
    a = fleet.edge("a", NOTES)
    fleet.sync()
    a.sql("INSERT INTO notes VALUES (1, 'not sent yet', 1)")
    copy = fleet.clone(a, "copy")
    a.sql("INSERT INTO notes VALUES (2, 'of the first', 2)")
    copy.sql("INSERT INTO notes VALUES (2, 'of the copy', 2)")
    fleet.push(a)
    fleet.push(copy)
    assert {tuple(row.key) for _device, row in fleet.stream.refused()} == {(1,), (2,)}
    FleetSnapshot(fleet).take(a)
    fleet.sync()
    fleet.assert_equal()
    assert (a.dead(), copy.dead()) == ([], [("notes", "key_taken", (2,))])


def test_refusals_that_the_hub_has_forgotten_are_said_to_be_unknown(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = fleet.edge("a", USERS), fleet.edge("b", USERS)
    a.sql("INSERT INTO users VALUES ('3', 'three@x', 'three')")
    fleet.push(a)
    b.sql("INSERT INTO users VALUES ('9', 'three@x', 'late')")
    fleet.push(b)
    snapshot = FleetSnapshot(fleet)
    manifest = snapshot.manifest(b)
    b.store.load_begin(manifest.model_copy(update={"refused": (), "refused_since": 2}), whole=True)
    assert "which rows it refused in entries up to 2: of batches 1 to 1" in caplog.text
    caplog.clear()
    b.store.load_begin(manifest, whole=True)
    assert not caplog.text


def test_what_the_app_changes_of_a_loaded_row_is_made_at_the_snapshots_position(fleet: Fleet) -> None:
    """Else the hub would take a row that was born meanwhile for another thing than the one the app saw."""
    a, b = fleet.edge("a", NOTES), fleet.edge("b", NOTES)
    a.sql("INSERT INTO notes VALUES (1, 'first', 1), (9, 'last', 9)")
    fleet.push(a)
    snapshot = FleetSnapshot(fleet, rows_per_chunk=1)
    b.store.load_begin(snapshot.manifest(b), whole=True)
    b.store.load(snapshot.chunk(0))
    b.sql("UPDATE notes SET n = 100 WHERE id = 1; INSERT INTO notes VALUES (9, 'mine', 0)")
    for _ in snapshot.pieces(b):
        pass
    fleet.sync()
    fleet.assert_equal()
    assert a.rows("SELECT id, n FROM notes ORDER BY id") == [(1, 100), (9, 9)]
    assert b.dead() == [("notes", "key_taken", (9,))]


def test_a_unique_value_may_move_from_row_to_row(fleet: Fleet) -> None:
    a, b = fleet.edge("a", USERS), fleet.edge("b", USERS)
    a.sql("INSERT INTO users VALUES ('a', 'x@', 'A'), ('b', 'y@', 'B'), ('c', 'z@', 'C'), ('d', 'w@', 'D')")
    fleet.sync()
    a.sql(
        "BEGIN; UPDATE users SET email = NULL; DELETE FROM users WHERE id = 'd';"
        " UPDATE users SET email = 'w@' WHERE id = 'a';"
        " UPDATE users SET email = 'x@' WHERE id = 'b'; UPDATE users SET email = 'y@' WHERE id = 'c'; COMMIT"
    )
    fleet.push(a)
    FleetSnapshot(fleet, rows_per_chunk=1).take(b)
    assert b.rows("SELECT id, email FROM users ORDER BY id") == [("a", "w@"), ("b", "x@"), ("c", "y@")]
    assert b.store.backlog().parked == 0
    fleet.sync()
    fleet.assert_equal()


def test_a_table_attached_late_takes_the_hubs_rows_and_offers_its_own(fleet: Fleet) -> None:
    a = fleet.edge("a", NOTES + ";" + USERS)
    a.sql("INSERT INTO notes VALUES (1, 'one', 1); INSERT INTO users VALUES ('a', 'a@', 'A'), ('b', 'b@', 'B')")
    fleet.push(a)
    b = fleet.edge(
        "b", NOTES + ";" + USERS, tables=["notes"], rows="INSERT INTO users VALUES ('b', 'old@', 'B'), ('m', 'm@', 'M')"
    )
    fleet.pull(b)
    b.attach("users")
    fleet.hello(b)
    b.store.load_wait()
    assert b.store.replay_from == b.store.checkpoint
    snapshot = FleetSnapshot(fleet, rows_per_chunk=1)
    a.sql("UPDATE users SET name = 'AA' WHERE id = 'a'; UPDATE notes SET n = 11")
    fleet.push(a)
    fleet.pull(b)  # the other table goes on
    assert b.rows("SELECT n FROM notes") == [(11,)]
    snapshot.take(b, whole=False)
    assert b.store.replay_from == snapshot.position
    fleet.sync()
    fleet.assert_equal()
    assert a.rows("SELECT id, email, name FROM users ORDER BY id") == [
        ("a", "a@", "AA"),
        ("b", "b@", "B"),
        ("m", "m@", "M"),
    ]
    assert b.dead() == [("users", "row_known", ("b",))]


def test_seeds_on_their_way_are_not_swept(fleet: Fleet) -> None:
    a = fleet.edge("a", NOTES)
    a.sql("INSERT INTO notes VALUES (1, 'one', 1)")
    fleet.push(a)
    b = fleet.edge("b", NOTES, rows="INSERT INTO notes VALUES (7, 'seven', 7)")
    fleet.pull(b)
    snapshot = FleetSnapshot(fleet)
    b.seal()
    assert b.store.backlog().batches == 1
    snapshot.take(b)
    assert b.rows("SELECT id FROM notes ORDER BY id") == [(1,), (7,)]
    fleet.sync()
    fleet.assert_equal()


@pytest.mark.fault("the load of a snapshot cut between any two pieces")
def test_a_load_goes_on_where_a_crash_has_cut_it(fleet: Fleet) -> None:
    """Guarantee 3: the position moves with the last piece, whatever is cut before."""
    a, b = fleet.edge("a", NOTES), fleet.edge("b", NOTES)
    a.sql("INSERT INTO notes VALUES (1, 'one', 1), (2, 'two', 2), (3, 'three', 3), (4, 'four', 4), (5, 'five', 5)")
    fleet.sync()
    before = b.store.checkpoint
    a.sql("DELETE FROM notes WHERE id = 2; UPDATE notes SET n = n + 10; INSERT INTO notes VALUES (6, 'six', 6)")
    fleet.push(a)
    snapshot = FleetSnapshot(fleet, rows_per_chunk=2)
    b.sql("UPDATE notes SET title = 'mine' WHERE id = 3")
    b.store.load_begin(snapshot.manifest(b), whole=True)
    pieces = 0
    for _ in snapshot.pieces(b):
        assert b.store.checkpoint == before
        reopened(b)
        pieces += 1
    assert pieces >= 5
    assert b.store.checkpoint == snapshot.position
    assert b.rows("SELECT * FROM notes ORDER BY id") == [
        (1, "one", 11),
        (3, "mine", 13),
        (4, "four", 14),
        (5, "five", 15),
        (6, "six", 6),
    ]
    fleet.sync()
    fleet.assert_equal()


def test_a_snapshot_with_batches_of_a_copy_waits_until_the_numbers_have_parted(fleet: Fleet) -> None:
    """Before that nobody can say which batches of this device it holds."""
    a = fleet.edge("a", USERS)
    b = fleet.edge("b", USERS)
    a.sql("INSERT INTO users VALUES ('a', 'x@', 'A')")
    fleet.push(a)
    b.sql("INSERT INTO users VALUES ('b', 'x@', 'B'), ('c', 'c@', 'C')")
    b.seal()
    copy = fleet.clone(b, "copy")
    copy.sql("INSERT INTO users VALUES ('d', 'd@', 'D')")
    fleet.push(copy)  # the batch that both have, of which a row is refused, and one of its own
    b.sql("INSERT INTO users VALUES ('e', 'e@', 'E')")
    b.seal()
    snapshot = FleetSnapshot(fleet)
    b.store.load_begin(snapshot.manifest(b), whole=True)
    assert b.store.loading is None
    fleet.hello(b)
    snapshot.take(b)
    assert b.rows("SELECT id FROM users ORDER BY id") == [("a",), ("c",), ("d",), ("e",)]
    fleet.sync()
    fleet.assert_equal()


def test_nor_is_one_begun_with_batches_that_only_a_copy_has(fleet: Fleet) -> None:
    """Numbers that this device has yet to give would count as included."""
    b = fleet.edge("b", NOTES)
    b.sql("INSERT INTO notes VALUES (1, 'one', 1)")
    b.seal()
    copy = fleet.clone(b, "copy")
    for number in (2, 3):
        copy.sql(f"INSERT INTO notes VALUES ({number}, 'of the copy', 0)")
        fleet.push(copy)
    snapshot = FleetSnapshot(fleet)
    b.store.load_begin(snapshot.manifest(b), whole=True)
    assert b.store.loading is None
    fleet.hello(b)
    b.store.load_begin(snapshot.manifest(b), whole=True)
    b.sql("UPDATE notes SET title = 'later' WHERE id = 1")
    for _ in snapshot.pieces(b):
        b.seal()
    fleet.sync()
    fleet.assert_equal()
    assert copy.rows("SELECT id, title FROM notes ORDER BY id") == [
        (1, "later"),
        (2, "of the copy"),
        (3, "of the copy"),
    ]


def test_a_snapshot_from_before_the_checkpoint_is_not_loaded(fleet: Fleet) -> None:
    """Guarantee 3."""
    a, b = fleet.edge("a", NOTES), fleet.edge("b", NOTES)
    a.sql("INSERT INTO notes VALUES (1, 'one', 1)")
    fleet.push(a)
    snapshot = FleetSnapshot(fleet)
    a.sql("UPDATE notes SET n = 2")
    fleet.sync()
    b.store.load_begin(snapshot.manifest(b), whole=True)
    assert b.store.loading is None


def test_a_row_that_was_just_written_makes_no_way_for_one_of_the_snapshot(fleet: Fleet) -> None:
    """Nothing holds it but the table, as it is not sealed: the hub judges between the two."""
    a, b = fleet.edge("a", USERS), fleet.edge("b", USERS)
    a.sql("INSERT INTO users VALUES ('a', 'x@', 'A')")
    fleet.push(a)
    snapshot = FleetSnapshot(fleet)
    b.sql("INSERT INTO users VALUES ('b', 'x@', 'B')")
    snapshot.take(b)
    assert b.rows("SELECT id FROM users") == [("b",)]
    fleet.sync()
    fleet.assert_equal()
    assert b.rows("SELECT id FROM users") == [("a",)]
    assert b.dead() == [("users", "unique", ("b",))]


def test_a_row_changed_while_its_table_was_detached_is_listed_though_an_older_batch_of_it_arrives(fleet: Fleet) -> None:
    a, b = fleet.edge("a", NOTES), fleet.edge("b", NOTES)
    a.sql("INSERT INTO notes VALUES (1, 'one', 1)")
    fleet.sync()
    b.sql("INSERT INTO notes VALUES (2, 'sent', 0)")
    b.seal()
    b.store.detach_table("notes")
    b.sql("UPDATE notes SET title = 'unseen' WHERE id = 2")
    b.attach("notes")
    fleet.hello(b)
    b.store.load_wait()
    snapshot = FleetSnapshot(fleet)
    b.store.load_begin(snapshot.manifest(b), whole=False)
    fleet.push(b)
    fleet.pull(b)
    for _ in snapshot.pieces(b):
        pass
    fleet.sync()
    fleet.assert_equal()
    assert b.rows("SELECT title FROM notes WHERE id = 2") == [("sent",)]
    assert [letter.cells["title"] for letter in b.store.dead(9)] == ["unseen"]


def test_another_snapshot_takes_the_place_of_one_that_is_gone(fleet: Fleet) -> None:
    a, b = fleet.edge("a", NOTES), fleet.edge("b", NOTES)
    a.sql("INSERT INTO notes VALUES (1, 'one', 1), (2, 'two', 2), (3, 'three', 3), (4, 'four', 4)")
    fleet.push(a)
    gone = FleetSnapshot(fleet, rows_per_chunk=1)
    a.sql("DELETE FROM notes WHERE id = 1; UPDATE notes SET n = 22 WHERE id = 2")
    fleet.push(a)
    b.store.load_begin(gone.manifest(b), whole=True)
    b.store.load(gone.chunk(0))
    b.store.load(gone.chunk(1))
    b.store.load_forget()
    assert b.store.loading is not None  # the tables are at no place in the log until another is loaded
    FleetSnapshot(fleet, rows_per_chunk=3).take(b)
    assert b.rows("SELECT id, n FROM notes ORDER BY id") == [(2, 22), (3, 3), (4, 4)]
    fleet.sync()
    fleet.assert_equal()


def test_a_table_that_one_snapshot_has_finished_is_taken_from_the_next_one_in_full(fleet: Fleet) -> None:
    """Guarantee 6: what stayed on top of the one may be judged in the other, though the hub's rows are the same."""
    a, b = (fleet.edge(name, NOTES + ";" + USERS) for name in "ab")
    a.sql("INSERT INTO users VALUES ('a', 'a@', 'A'), ('b', 'b@', 'B'), ('c', 'c@', 'C'), ('d', 'd@', 'D')")
    fleet.sync()
    a.sql("INSERT INTO notes VALUES (1, 'of a', 1), (2, 'two', 2)")
    fleet.push(a)
    b.sql("INSERT INTO notes VALUES (1, 'of b', 1)")
    b.seal()
    first = FleetSnapshot(fleet)
    b.store.load_begin(first.manifest(b), whole=True)
    notes, users = first.manifest(b).tables
    for _ in first.pieces(b):
        standing = b.store.loading
        if standing is not None and standing.missing[0].start > users.first:
            break
    assert b.rows("SELECT * FROM notes") == [(1, "of b", 1), (2, "two", 2)]
    fleet.push(b)
    second = FleetSnapshot(fleet)
    assert second.manifest(b).tables[0].digest == notes.digest
    b.store.load_forget()
    second.take(b)
    assert b.rows("SELECT * FROM notes") == [(1, "of a", 1), (2, "two", 2)]
    assert b.dead() == [("notes", "key_taken", (1,))]
    fleet.sync()
    fleet.assert_equal()


def test_a_late_device_cannot_bring_a_deleted_row_back(fleet: Fleet) -> None:
    a, b = fleet.edge("a", NOTES), fleet.edge("b", NOTES)
    a.sql("INSERT INTO notes VALUES (1, 'one', 1), (2, 'two', 2)")
    fleet.sync()
    a.sql("DELETE FROM notes WHERE id = 1")
    fleet.push(a)
    b.sql("UPDATE notes SET n = 99 WHERE id = 1")  # never sealed, and b comes back by a snapshot
    FleetSnapshot(fleet).take(b)
    fleet.sync()
    fleet.assert_equal()
    assert a.rows("SELECT id FROM notes") == [(2,)]
    assert b.dead() == [("notes", "row_absent", (1,))]


def test_rows_without_a_key_and_tables_that_the_hub_has_not_heard_of_are_left_alone(fleet: Fleet) -> None:
    a = fleet.edge("a", "CREATE TABLE k (id TEXT PRIMARY KEY, v)")
    a.sql("INSERT INTO k VALUES ('x', 1)")
    fleet.push(a)
    snapshot = FleetSnapshot(fleet)
    b = fleet.edge("b", "CREATE TABLE k (id TEXT PRIMARY KEY, v);" + NOTES, rows="INSERT INTO k VALUES (NULL, 5)")
    b.sql("INSERT INTO notes VALUES (1, 'new', 1)")
    snapshot.take(b)
    assert sorted(b.rows("SELECT v FROM k")) == [(1,), (5,)]
    assert b.rows("SELECT id FROM notes") == [(1,)]


def test_a_table_attached_while_a_snapshot_is_loaded_comes_after_it(fleet: Fleet) -> None:
    a = fleet.edge("a", NOTES + ";" + USERS)
    a.sql("INSERT INTO notes VALUES (1, 'one', 1); INSERT INTO users VALUES ('a', 'a@', 'A')")
    fleet.push(a)
    b = fleet.edge("b", NOTES + ";" + USERS, tables=["notes"])
    snapshot = FleetSnapshot(fleet)
    b.store.load_begin(snapshot.manifest(b), whole=True)
    b.attach("users")
    for _ in snapshot.pieces(b):
        pass
    assert b.store.checkpoint == snapshot.position
    assert b.store.replay_from.seq == 0
    fleet.sync()
    fleet.assert_equal()


def test_a_table_that_is_detached_while_it_is_loaded_and_attached_again_waits_for_another_snapshot(
    fleet: Fleet,
) -> None:
    a, b = fleet.edge("a", NOTES), fleet.edge("b", NOTES)
    a.sql(f"INSERT INTO notes (id) VALUES {', '.join(f'({number})' for number in range(20))}")
    fleet.sync()
    for _ in range(2):
        b.store.detach_table("notes")
        b.attach("notes")
        fleet.hello(b)
        b.store.load_wait()
        loading = b.store.loading
        assert loading is not None
        assert loading.snapshot is None
        b.store.load_begin(FleetSnapshot(fleet).manifest(b), whole=False)
    b.store.detach_table("notes")
    b.store.load_begin(FleetSnapshot(fleet).manifest(b), whole=False)  # it was asked for before
    b.attach("notes")
    fleet.sync()
    fleet.assert_equal()
