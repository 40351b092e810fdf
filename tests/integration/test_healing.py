"""A hub that lost the end of its log, and what its devices give back to it."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from support.fleet import Edge, Fleet
from support.snapshots import FleetSnapshot
from tidewire_agent.errors import BatchDamaged
from tidewire_agent.store.edge_store import EdgeStore
from tidewire_agent.store.settings import StoreSettings
from tidewire_hub.stream import Commit
from tidewire_schemas.messages import Entry

TABLES = """
    CREATE TABLE notes (id TEXT PRIMARY KEY, body, more);
    CREATE TABLE orders (id INTEGER PRIMARY KEY, total, note UNIQUE);
"""
ALL_AT_ONCE = StoreSettings(lock_hold_ms_max=10_000)
"""On a machine however slow a page is applied in one piece."""
FORGETFUL = StoreSettings(kept_batches_max=0)


def fleet_of(fleet: Fleet, settings: StoreSettings | None = None) -> tuple[Edge, Edge]:
    a, b = (fleet.edge(name, TABLES, settings=settings) for name in "ab")
    a.sql("INSERT INTO notes VALUES ('kept', 1, 1), ('doomed', 1, 1); INSERT INTO orders VALUES (1, 1, 'one')")
    fleet.sync()
    return a, b


def heal(fleet: Fleet, *edges: Edge) -> None:
    for edge in edges:
        fleet.hello(edge)
    fleet.sync()
    fleet.assert_equal()


@pytest.mark.fault("a hub that lost the end of its log")
def test_what_a_hub_lost_comes_back_from_the_devices_that_wrote_it(fleet: Fleet) -> None:
    """Guarantees 2, 3 and 7."""
    a, b = fleet_of(fleet)
    backed_up = fleet.stream.head.seq
    a.sql("INSERT INTO notes VALUES ('new', 1, 1); DELETE FROM notes WHERE id = 'doomed'")
    fleet.sync()
    b.sql("UPDATE notes SET body = 2 WHERE id = 'new'; UPDATE notes SET body = 2 WHERE id = 'kept'")
    fleet.sync()
    a.sql("UPDATE notes SET body = 3 WHERE id = 'new'; UPDATE orders SET total = 3")
    fleet.sync()
    before = a.rows("SELECT * FROM notes ORDER BY 1")
    fleet.lose_tail(backed_up)
    heal(fleet, b, a)
    assert before == [("kept", 2, 1), ("new", 3, 1)]
    for edge in (a, b):
        assert edge.rows("SELECT * FROM notes ORDER BY 1") == before
        assert edge.rows("SELECT * FROM orders") == [(1, 3, "one")]
        assert edge.dead() == []


def test_rows_of_a_new_device_are_offered_where_the_log_it_was_to_take_first_lost_its_end(fleet: Fleet) -> None:
    """Guarantees 2 and 7. The device has applied nothing of what was lost, so it has nothing to go back from."""
    a, _ = fleet_of(fleet)
    backed_up = fleet.stream.head.seq
    for number in range(3):
        a.sql(f"INSERT INTO notes VALUES ('new {number}', 1, 1)")
        fleet.push(a)
    c = fleet.edge("c", TABLES, rows="INSERT INTO notes VALUES ('of c', 1, 1)")
    fleet.lose_tail(backed_up)
    fleet.hello(c)
    fleet.sync([c])
    assert "of c" in [row["id"] for row in fleet.stream.rows("notes")]


@pytest.mark.fault("a byte of a device's database that the disk has changed")
def test_a_kept_batch_that_the_disk_has_changed_is_not_offered_again(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    """Guarantee 7: what others have of it comes from them."""
    a, b = fleet_of(fleet)
    backed_up = fleet.stream.head.seq
    a.sql("INSERT INTO notes VALUES ('new', 1, 1)")
    fleet.sync()
    b.sql("INSERT INTO notes VALUES ('other', 1, 1)")
    fleet.sync()
    a.sql("UPDATE tidewire_batch SET payload = CAST(replace(payload, 'new', 'mew') AS BLOB)")
    fleet.lose_tail(backed_up)
    heal(fleet, a, b)
    assert "is not as it was sealed, so it is not offered again" in caplog.text
    assert a.rows("SELECT id FROM notes ORDER BY 1") == [("doomed",), ("kept",), ("new",), ("other",)]


@pytest.mark.fault("a byte of a device's database that the disk has changed")
def test_a_batch_that_the_disk_has_changed_before_it_was_sent_is_not_sent(fleet: Fleet) -> None:
    """Guarantee 7."""
    a, _ = fleet_of(fleet)
    a.sql("INSERT INTO notes VALUES ('new', 1, 1)")
    a.seal()
    a.sql("UPDATE tidewire_batch SET payload = CAST(replace(payload, 'new', 'mew') AS BLOB)")
    with pytest.raises(BatchDamaged):
        a.store.outbox(0, count_max=100, bytes_max=10**6)


def test_older_values_never_win_over_newer_ones_whoever_comes_first(fleet: Fleet) -> None:
    a, b = fleet_of(fleet)
    backed_up = fleet.stream.head.seq
    for value, edge in enumerate((a, b, a, b, a), start=10):
        edge.sql(f"UPDATE notes SET body = {value} WHERE id = 'kept'")
        fleet.sync()
    fleet.lose_tail(backed_up)
    fleet.hello(a)
    fleet.push(a)
    fleet.pull(a)
    assert a.rows("SELECT body FROM notes WHERE id = 'kept'") == [(14,)]
    a.sql("UPDATE notes SET more = 'since' WHERE id = 'kept'")
    heal(fleet, a, b)
    assert b.rows("SELECT * FROM notes WHERE id = 'kept'") == [("kept", 14, "since")]


def test_new_writes_win_over_what_was_lost(fleet: Fleet) -> None:
    a, b = fleet_of(fleet)
    c = fleet.edge("c", TABLES)
    fleet.sync()
    backed_up = fleet.stream.head.seq
    a.sql("UPDATE notes SET body = 'lost', more = 'lost' WHERE id = 'kept'")
    fleet.sync([a, b])
    fleet.lose_tail(backed_up)
    c.sql("UPDATE notes SET body = 'new' WHERE id = 'kept'")
    fleet.sync([c])
    heal(fleet, a, b)
    assert c.rows("SELECT * FROM notes WHERE id = 'kept'") == [("kept", "new", "lost")]


def test_nothing_is_deleted_because_the_log_lacks_it(fleet: Fleet) -> None:
    """Nobody keeps the batches: rows that only devices have are offered as seeds, and deletes are forgotten."""
    a, b = fleet_of(fleet, FORGETFUL)
    backed_up = fleet.stream.head.seq
    a.sql("INSERT INTO notes VALUES ('new', 1, 1); INSERT INTO orders VALUES (2, 2, 'two')")
    a.sql("DELETE FROM notes WHERE id = 'doomed'")
    fleet.sync()
    fleet.lose_tail(backed_up)
    heal(fleet, a, b)
    assert a.rows("SELECT id FROM notes ORDER BY 1") == [("doomed",), ("kept",), ("new",)]
    assert b.rows("SELECT id FROM orders ORDER BY 1") == [(1,), (2,)]


def test_what_was_never_sent_goes_on_top(fleet: Fleet) -> None:
    a, b = fleet_of(fleet, ALL_AT_ONCE)
    backed_up = fleet.stream.head.seq
    b.sql("INSERT INTO orders VALUES (2, 2, 'two'); UPDATE notes SET body = 'b' WHERE id = 'kept'")
    fleet.sync()
    a.sql("UPDATE notes SET body = 'unsent' WHERE id = 'kept'")
    a.seal()
    a.sql("UPDATE orders SET total = 'unsealed'; DELETE FROM notes WHERE id = 'doomed'")
    fleet.lose_tail(backed_up)
    heal(fleet, a, b)
    assert b.rows("SELECT id, total FROM orders") == [(1, "unsealed"), (2, "unsealed")]
    assert b.rows("SELECT id, body FROM notes") == [("kept", "unsent")]
    assert a.dead() == []


def test_what_the_app_writes_meanwhile_is_not_lost(fleet: Fleet) -> None:
    a, b = fleet_of(fleet)
    backed_up = fleet.stream.head.seq
    a.sql("INSERT INTO notes VALUES ('new', 1, 1)")
    fleet.sync()
    fleet.lose_tail(backed_up)
    fleet.hello(a)
    a.sql("UPDATE notes SET body = 'while' WHERE id <> 'doomed'; DELETE FROM notes WHERE id = 'doomed'")
    a.sql("INSERT INTO notes VALUES ('newer', 1, 1)")
    assert a.store.seal(1).batch is None
    heal(fleet, a, b)
    assert b.rows("SELECT id, body FROM notes ORDER BY 1") == [("kept", "while"), ("new", "while"), ("newer", 1)]


@pytest.mark.fault("a hub that lost the end of its log")
@pytest.mark.parametrize("first", ["writer", "changer", "changer, whose rows are sealed by then"])
@pytest.mark.parametrize(
    "change", ["UPDATE notes SET body = 'of b' WHERE id = 'new'", "DELETE FROM notes WHERE id = 'new'"]
)
def test_what_the_app_changes_meanwhile_counts_whoever_offers_the_row(fleet: Fleet, first: str, change: str) -> None:
    """Guarantees 1 and 2. What a third device changed after that is none of it, and stays as well."""
    a, b = fleet_of(fleet)
    backed_up = fleet.stream.head.seq
    a.sql("INSERT INTO notes VALUES ('new', 1, 1)")
    fleet.sync()
    a.sql("UPDATE notes SET more = 2 WHERE id = 'new'")
    fleet.sync([a])
    fleet.lose_tail(backed_up)
    fleet.hello(b)
    b.sql(change)
    for edge in (a, b) if first == "writer" else (b, a):
        fleet.hello(edge)
        fleet.push(edge)
        fleet.pull(edge)
        if "sealed" in first:
            edge.seal()
    heal(fleet, b, a)
    expected = [("new", "of b", 2)] if change.startswith("UPDATE") else []
    assert a.rows("SELECT * FROM notes WHERE id = 'new'") == expected
    assert a.dead() == b.dead() == []


def test_a_restart_in_the_middle_changes_nothing(fleet: Fleet) -> None:
    a, b = fleet_of(fleet)
    backed_up = fleet.stream.head.seq
    a.sql("UPDATE notes SET body = 2; INSERT INTO orders VALUES (2, 2, 'two')")
    fleet.sync()
    fleet.lose_tail(backed_up)
    fleet.hello(a)
    fleet.pull(a, until=1)
    a.store.close()
    a.store = EdgeStore.open(a.path, device="a")
    heal(fleet, a, b)
    assert b.rows("SELECT body FROM notes") == [(2,), (2,)]


@pytest.mark.parametrize("settings", [None, FORGETFUL], ids=["kept", "forgotten"])
def test_a_hub_that_loses_its_end_again_and_again_is_healed_each_time(
    fleet: Fleet, settings: StoreSettings | None
) -> None:
    a, b = fleet_of(fleet, settings)
    for round_ in range(3):
        backed_up = fleet.stream.head.seq - round_
        for edge in (a, b):
            edge.sql(f"INSERT INTO notes VALUES ('{edge.device}{round_}', {round_}, 1)")
            fleet.sync()
        fleet.lose_tail(backed_up)
        fleet.hello(b if round_ else a)
        fleet.push(b if round_ else a)
        heal(fleet, a, b)
    assert len(a.rows("SELECT * FROM notes")) == 8


def test_rows_that_were_refused_once_are_not_offered_again(fleet: Fleet) -> None:
    a, b = fleet_of(fleet)
    backed_up = fleet.stream.head.seq
    a.sql("INSERT INTO orders VALUES (5, 1, 'taken')")
    b.sql("INSERT INTO orders VALUES (6, 2, 'taken'), (7, 2, 'free')")
    fleet.sync()
    letters = a.dead() + b.dead()
    fleet.lose_tail(backed_up)
    heal(fleet, b, a)
    assert a.rows("SELECT id FROM orders ORDER BY 1") == [(1,), (5,), (7,)]
    assert a.dead() + b.dead() == letters


def test_another_log_is_followed_only_once_a_person_says_so_and_deletes_nothing(fleet: Fleet) -> None:
    a, _b = fleet_of(fleet)
    told = fleet.stream.log_id
    assert a.store.log_id == told
    a.store.adopt()
    assert a.store.log_id is None
    assert a.rows("SELECT count(*) FROM notes") == [(2,)]


def test_what_a_copy_is_refused_takes_no_row_away_that_is_offered(fleet: Fleet) -> None:
    """Two copies of one database: the one offers a row, the other one's change of it comes before that."""
    a, b = fleet_of(fleet, FORGETFUL)
    copy = fleet.clone(b, "copy")
    fleet.edges.remove(a)
    a.close()
    fleet.lose_tail(0)
    fleet.hello(b)
    fleet.pull(b)
    b.seal()
    copy.sql("UPDATE notes SET body = 2 WHERE id = 'kept'")
    assert [refusal.reason for refusal in entries_of(fleet.push(copy))[0].refused] == ["row_absent"]
    heal(fleet, b, copy)
    for edge in (b, copy):
        assert edge.rows("SELECT id FROM notes ORDER BY id") == [("doomed",), ("kept",)]


def test_a_snapshot_of_what_the_hub_lost_that_was_half_loaded_leaves_nothing_behind(fleet: Fleet) -> None:
    """Guarantees 2 and 7: who applied the lost entries gives them back, whoever else had begun to load them."""
    a, b = fleet_of(fleet)
    backed_up = fleet.stream.head.seq
    a.sql("INSERT INTO notes VALUES ('a1', 1, 1), ('a2', 1, 1), ('new', 1, 1); DELETE FROM notes WHERE id = 'doomed'")
    fleet.push(a)
    b.sql("UPDATE notes SET more = 'of b' WHERE id = 'kept'")
    fleet.push(b)
    fleet.pull(a)
    lost = FleetSnapshot(fleet, rows_per_chunk=1)
    b.store.load_begin(lost.manifest(b), whole=True)
    pieces = lost.pieces(b)
    for _ in range(3):
        next(pieces)
    half = b.rows("SELECT count(*) FROM notes WHERE id IN ('a1', 'a2', 'new')")
    fleet.lose_tail(backed_up)
    b.sql("UPDATE notes SET body = 'meanwhile' WHERE id = 'kept'")
    b.store.load_forget()
    assert b.store.loading is not None
    assert b.store.loading.least == 0  # the hub has none that reaches as far as the lost one did
    fleet.hello(b)
    FleetSnapshot(fleet).take(b)
    assert half != [(0,)]
    assert b.rows("SELECT id FROM notes ORDER BY id") == [("doomed",), ("kept",)]
    heal(fleet, b, a)
    assert b.rows("SELECT * FROM notes ORDER BY id") == [
        ("a1", 1, 1),
        ("a2", 1, 1),
        ("kept", "meanwhile", "of b"),
        ("new", 1, 1),
    ]
    assert a.dead() + b.dead() == []


@pytest.mark.parametrize("attached", ["before", "meanwhile"])
def test_a_row_that_no_log_ever_had_is_listed_where_the_hub_has_another(fleet: Fleet, attached: str) -> None:
    """Guarantee 2: also where its table is attached while the device goes back to what the hub has left."""
    a, b = fleet_of(fleet)
    backed_up = fleet.stream.head.seq
    b.sql("INSERT INTO notes VALUES ('lost', 1, 1)")
    fleet.sync()
    a.store.tables.detach("orders")
    a.sql("UPDATE orders SET total = 'mine'; INSERT INTO orders VALUES (2, 'mine', 'two'), (3, 'mine', 'three')")
    if attached == "before":
        a.attach("orders")
    b.sql("UPDATE orders SET total = 2; INSERT INTO orders VALUES (2, 'theirs', 'second')")
    fleet.sync([b])
    fleet.lose_tail(backed_up)
    fleet.hello(b)
    fleet.sync([b])
    fleet.hello(a)
    if attached == "meanwhile":
        a.attach("orders")
    heal(fleet, a, b)
    assert a.rows("SELECT * FROM orders ORDER BY 1") == [(1, 2, "one"), (2, "theirs", "second"), (3, "mine", "three")]
    assert a.dead() == [("orders", "row_known", (1,)), ("orders", "row_known", (2,))]
    assert a.rows("SELECT count(*) FROM notes WHERE id = 'lost'") == [(1,)]


def test_a_table_attached_anew_while_a_hub_is_healed_is_another_table(fleet: Fleet) -> None:
    a, b = fleet_of(fleet)
    backed_up = fleet.stream.head.seq
    b.sql("INSERT INTO notes VALUES ('lost', 1, 1)")
    fleet.sync()
    fleet.lose_tail(backed_up)
    fleet.hello(a)
    a.store.tables.detach("orders")
    a.sql("UPDATE orders SET total = 'mine'")
    a.attach("orders")
    heal(fleet, a, b)
    assert a.rows("SELECT * FROM orders") == [(1, 1, "one")]
    assert a.dead() == [("orders", "row_known", (1,))]


@pytest.mark.fault("a hub that lost the end of its log")
@pytest.mark.parametrize("then", ["UPDATE notes SET body = 'their second'", "DELETE FROM notes WHERE id = 'mine'"])
def test_a_seed_that_never_left_goes_over_what_a_lost_entry_made_of_its_row(fleet: Fleet, then: str) -> None:
    """Guarantee 7: the hub takes the seed as it was sealed, so the row here becomes that again."""
    b = fleet.edge("b", TABLES)
    a = fleet.edge("a", TABLES, rows="INSERT INTO notes VALUES ('mine', 'mine', 1), ('other', 1, 1)")
    a.seal()
    a.sql("UPDATE notes SET more = 'since' WHERE id = 'other'")
    a.seal()
    for statement in ("INSERT INTO notes VALUES ('mine', 'theirs', 1)", then):
        b.sql(statement)
        fleet.push(b)
    fleet.pull(a)
    assert a.rows("SELECT body FROM notes WHERE id = 'mine'") != [("mine",)]
    fleet.lose_tail(0)
    fleet.hello(a)
    fleet.sync([a])
    fleet.assert_equal(edges=[a])
    assert a.rows("SELECT * FROM notes ORDER BY id") == [("mine", "mine", 1), ("other", 1, "since")]
    heal(fleet, b, a)


@pytest.mark.fault("a hub that lost the end of its log")
@pytest.mark.parametrize(
    "first", ["writer", "changer", "changer, and is through with it", "changer, whose rows are sealed by then"]
)
@pytest.mark.parametrize(
    "change", ["UPDATE notes SET body = 'of b' WHERE id = 'new'", "DELETE FROM notes WHERE id = 'new'"]
)
@pytest.mark.parametrize("left", ["not yet sealed", "not yet sent", "in the log"])
def test_a_change_of_a_lost_row_counts_whoever_comes_back_first(
    fleet: Fleet, first: str, change: str, left: str
) -> None:
    """Guarantees 1 and 2: the row that its writer offers again is the one that was changed, and changed it stays.

    No dead letter tells of a row that the hub has otherwise for the moment, as the change is still on its way.
    """
    a, b = fleet_of(fleet)
    backed_up = fleet.stream.head.seq
    a.sql("INSERT INTO notes VALUES ('new', 1, 1)")
    fleet.sync()
    b.sql(change)
    if left == "not yet sent":
        b.seal()
    elif left == "in the log":
        fleet.sync()
    fleet.lose_tail(backed_up)
    for edge in (a, b) if first == "writer" else (b, a):
        fleet.hello(edge)
        fleet.push(edge)
        fleet.pull(edge)
        if "through" in first:
            fleet.sync([edge])
        elif "sealed" in first:
            edge.seal()
    heal(fleet, a, b)
    expected = [("new", "of b", 1)] if change.startswith("UPDATE") else []
    assert a.rows("SELECT * FROM notes WHERE id = 'new'") == expected
    assert b.dead() == []


def test_what_is_to_be_offered_once_more_waits_across_a_restart_and_another_loss(fleet: Fleet) -> None:
    """Guarantee 1."""
    a, b = fleet_of(fleet, ALL_AT_ONCE)
    backed_up = fleet.stream.head.seq
    a.sql("INSERT INTO notes VALUES ('new', 1, 1)")
    fleet.sync()
    b.sql("UPDATE notes SET body = 'of b' WHERE id = 'new'")
    fleet.sync()
    fleet.lose_tail(backed_up)
    fleet.hello(b)
    fleet.push(b)
    fleet.pull(b)
    b.store.close()
    b.store = EdgeStore.open(b.path, device="b", settings=ALL_AT_ONCE)
    fleet.lose_tail(backed_up)
    fleet.hello(a)
    fleet.push(a)
    heal(fleet, b, a)
    assert a.rows("SELECT body FROM notes WHERE id = 'new'") == [("of b",)]


def test_a_change_of_an_older_row_is_none_of_the_one_that_comes_back(fleet: Fleet) -> None:
    a, b = fleet_of(fleet)
    b.sql("UPDATE notes SET body = 'of b' WHERE id = 'doomed'")
    b.seal()
    a.sql("DELETE FROM notes WHERE id = 'doomed'")
    fleet.sync([a])
    backed_up = fleet.stream.head.seq
    a.sql("INSERT INTO notes VALUES ('doomed', 'another', 1)")
    fleet.sync([a])
    fleet.lose_tail(backed_up)
    heal(fleet, a, b)
    assert b.rows("SELECT body FROM notes WHERE id = 'doomed'") == [("another",)]
    assert b.dead() == [("notes", "row_reborn", ("doomed",))]


def entries_of(commit: Commit) -> list[Entry]:
    """The entries that a commit made."""
    return [TypeAdapter(Entry).validate_json(entry.data) for entry in commit.entries]
