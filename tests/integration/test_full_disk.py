"""A disk that is full in the middle of a write: what is said is that, and nothing is half done."""

from __future__ import annotations

import pytest

from support.fleet import Edge, Fleet
from support.snapshots import FleetSnapshot
from tidewire_agent.errors import DiskFull

NOTES = "CREATE TABLE notes (id INTEGER PRIMARY KEY, title TEXT)"
ROWS = 400


def no_space_left(edge: Edge) -> None:
    """SQLite fails in the same way where a file may have no more pages."""
    pages = edge.store.connection.execute("PRAGMA page_count").fetchone()[0]
    edge.store.connection.execute(f"PRAGMA max_page_count = {pages + 5}")


def space_returns(edge: Edge) -> None:
    edge.store.connection.execute("PRAGMA max_page_count = 1000000")


def with_rows(fleet: Fleet) -> Edge:
    a = fleet.edge("a", NOTES)
    a.sql(f"BEGIN; {''.join(f'INSERT INTO notes VALUES ({n}, hex(zeroblob(500)));' for n in range(ROWS))} COMMIT")
    fleet.push(a)
    return a


def test_an_entry_for_which_there_is_no_space_is_not_applied_in_part_and_is_when_space_returns(fleet: Fleet) -> None:
    """Guarantee 3."""
    with_rows(fleet)
    b = fleet.edge("b", NOTES)
    no_space_left(b)
    with pytest.raises(DiskFull):
        fleet.pull(b)
    assert b.rows("SELECT count(*) FROM notes") == [(0,)]
    space_returns(b)
    fleet.sync()
    fleet.assert_equal()


def test_a_snapshot_for_which_there_is_no_space_says_so_and_goes_on_when_space_returns(fleet: Fleet) -> None:
    with_rows(fleet)
    snapshot = FleetSnapshot(fleet)
    b = fleet.edge("b", NOTES)
    no_space_left(b)
    with pytest.raises(DiskFull):
        snapshot.take(b)
    space_returns(b)
    snapshot.take(b)
    fleet.sync()
    fleet.assert_equal()


def test_a_batch_for_which_there_is_no_space_is_not_sealed_in_part_and_is_when_space_returns(fleet: Fleet) -> None:
    """Guarantee 1."""
    a, b = fleet.edge("a", NOTES), fleet.edge("b", NOTES)
    a.sql(f"BEGIN; {''.join(f'INSERT INTO notes VALUES ({n}, hex(zeroblob(500)));' for n in range(ROWS))} COMMIT")
    no_space_left(a)
    with pytest.raises(DiskFull):
        a.seal()
    assert a.store.last_sealed is None
    space_returns(a)
    fleet.sync()
    assert b.rows("SELECT count(*) FROM notes") == [(ROWS,)]
    fleet.assert_equal()
