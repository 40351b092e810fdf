"""What a device wrote before its database got a new incarnation is its own; what a copy wrote since is a stranger's."""

from __future__ import annotations

import pytest

from support.fleet import Edge, Fleet
from tidewire_agent.store.taking_apart import TakeApart

TABLES = """
    CREATE TABLE orders (id INTEGER PRIMARY KEY, total, note UNIQUE);
    CREATE TABLE notes (id TEXT PRIMARY KEY, body);
"""


def renumber_after_accepted(fleet: Fleet, edge: Edge) -> None:
    accepted = fleet.stream.accepted(edge.device, edge.store.incarnation)
    if accepted is None:
        edge.store.renumber(0, edge.store.batches.parent)
    else:
        edge.store.renumber(accepted.batch, accepted.digest)


@pytest.mark.parametrize("times", [1, 3])
def test_a_device_goes_on_with_rows_that_its_earlier_incarnation_made(fleet: Fleet, times: int) -> None:
    """Guarantee 7."""
    a, b = fleet.edge("a", TABLES), fleet.edge("b", TABLES)
    fleet.sync()
    a.sql("INSERT INTO orders VALUES (1, 1, 'x'), (2, 2, 'y'), (3, 3, 'z'); INSERT INTO notes VALUES ('n', 'made')")
    fleet.push(a)  # in the log, and not applied
    for _ in range(times):
        renumber_after_accepted(fleet, a)
    a.sql("UPDATE orders SET total = 10 WHERE id = 1; DELETE FROM orders WHERE id = 2")
    a.sql("INSERT OR REPLACE INTO orders VALUES (3, 30, 'again'); UPDATE notes SET body = 'changed'")
    assert fleet.push(a).refused == 0
    fleet.sync()
    fleet.assert_equal()
    assert b.rows("SELECT id, total FROM orders") == [(1, 10), (3, 30)]
    assert b.rows("SELECT body FROM notes") == [("changed",)]
    assert a.dead() == []


def test_what_is_in_the_log_and_not_applied_stays_on_top_across_a_change_of_numbers(fleet: Fleet) -> None:
    a, b = fleet.edge("a", TABLES), fleet.edge("b", TABLES)
    a.sql("INSERT INTO notes VALUES ('n', 'first')")
    fleet.sync()
    b.sql("UPDATE notes SET body = 'by b'")
    fleet.push(b)
    a.sql("UPDATE notes SET body = 'by a'")
    fleet.push(a)
    renumber_after_accepted(fleet, a)
    fleet.pull(a, until=fleet.stream.head.seq - 1)
    assert a.rows("SELECT body FROM notes") == [("by a",)]
    assert a.store.backlog().batches == 1
    fleet.sync()
    fleet.assert_equal()
    assert a.store.backlog().batches == 0


def test_two_copies_of_one_database_part_and_nothing_of_either_is_lost(fleet: Fleet) -> None:
    """Guarantees 2 and 7."""
    a, b = fleet.edge("a", TABLES), fleet.edge("b", TABLES)
    a.sql("INSERT INTO notes VALUES ('common', 1)")
    fleet.sync()
    copy = fleet.clone(a, "copy")
    for edge in (a, copy):
        edge.sql(f"INSERT INTO notes VALUES ('of {edge.path.stem}', 1)")
    fleet.sync()
    fleet.assert_equal()
    assert b.rows("SELECT id FROM notes ORDER BY 1") == [("common",), ("of a",), ("of copy",)]
    assert a.store.incarnation != copy.store.incarnation


def test_what_a_copy_made_after_it_parted_is_about_another_thing(fleet: Fleet) -> None:
    """Guarantee 7."""
    a = fleet.edge("a", TABLES)
    fleet.sync()
    a.sql("INSERT INTO orders VALUES (1, 1, 'common')")
    fleet.push(a)
    copy = fleet.clone(a, "copy")
    a.sql("DELETE FROM orders; INSERT INTO orders VALUES (1, 2, 'made anew'), (2, 2, 'another')")
    fleet.push(a)
    copy.sql("UPDATE orders SET total = 7 WHERE id = 1; INSERT INTO orders VALUES (2, 7, 'of the copy')")
    fleet.push(copy)
    fleet.sync()
    fleet.assert_equal()
    assert a.rows("SELECT * FROM orders") == [(1, 2, "made anew"), (2, 2, "another")]
    assert sorted(copy.dead()) == [("orders", "key_taken", (2,)), ("orders", "row_reborn", (1,))]
    assert a.dead() == []  # its rows won: what the copy was refused is no news here
    (taken,) = (letter for letter in copy.store.dead(10) if letter.reason == "key_taken")
    assert "another copy of a's database (incarnation " in taken.detail


def test_what_both_copies_had_before_they_parted_is_no_dead_letter_of_either(fleet: Fleet) -> None:
    a = fleet.edge("a", TABLES)
    fleet.sync()
    a.sql("INSERT INTO orders VALUES (1, 1, 'not sent yet'), (2, 1.5, NULL)")
    copy = fleet.clone(a, "copy")
    copy.sql("INSERT INTO orders VALUES (3, 3, 'of the copy')")
    a.sql("INSERT INTO orders VALUES (3, 4, 'of the first')")
    fleet.sync()
    fleet.assert_equal()
    letters = sorted((*a.dead(), *copy.dead()))
    assert letters == [("orders", "key_taken", (3,))]


def test_what_was_sealed_above_the_hubs_limit_goes_in_smaller_batches(fleet: Fleet) -> None:
    """Guarantees 5 and 10."""
    a, b = fleet.edge("a", TABLES), fleet.edge("b", TABLES)
    fleet.sync()
    a.sql("BEGIN; " + "; ".join(f"INSERT INTO notes VALUES ('n{n}', '{'x' * 100}')" for n in range(50)) + "; COMMIT")
    a.sql(f"INSERT INTO notes VALUES ('large', '{'x' * 5000}'); INSERT INTO orders VALUES (1, 1, 'after')")
    a.seal()
    a.store.renumber(0, None, TakeApart(2000, None))
    batches = a.store.outbox(0, count_max=1000, bytes_max=10**9)
    assert [batch.batch for batch in batches] == list(range(1, len(batches) + 1))
    assert all(len(batch.payload) <= 2000 for batch in batches)
    fleet.sync()
    assert b.rows("SELECT count(*) FROM notes") == [(50,)]
    assert b.rows("SELECT note FROM orders") == [("after",)]
    assert a.dead() == [("notes", "row_too_large", ("large",))]
    a.sql("UPDATE notes SET body = 'fits' WHERE id = 'large'")
    fleet.sync()
    fleet.assert_equal()
