"""Two live copies of one device's database, one of which has migrated its tables before anybody noticed."""

from __future__ import annotations

import pytest

from support.fleet import Edge, Fleet

ITEMS = "CREATE TABLE items (id TEXT PRIMARY KEY, n INTEGER)"
ADD = "ALTER TABLE items ADD COLUMN note TEXT"


def twins(fleet: Fleet) -> tuple[Edge, Edge, Edge]:
    """A device, its copy under the same name, and another one."""
    a, other = fleet.edge("a", ITEMS), fleet.edge("other", ITEMS)
    a.sql("INSERT INTO items VALUES ('common', 1)")
    fleet.sync()
    return a, fleet.clone(a, "copy"), other


@pytest.mark.fault("a device's database copied, two agents run from it")
@pytest.mark.parametrize("first", ["the one that migrated", "the other one"])
@pytest.mark.parametrize("wrote", ["both wrote", "one wrote"])
def test_twins_of_which_one_has_a_column_more_lose_no_value_of_it(fleet: Fleet, first: str, wrote: str) -> None:
    """Guarantees 2 and 7: also when the hub hears in turns of a table with the column, and without it."""
    a, copy, other = twins(fleet)
    copy.sql(ADD + "; UPDATE items SET note = 'kept'; INSERT INTO items VALUES ('of copy', 2, 'new')")
    if wrote == "both wrote":
        a.sql("INSERT INTO items VALUES ('of a', 1)")
    order = [copy, a] if "migrated" in first else [a, copy]
    for edge in order * 3:
        fleet.hello(edge)
        fleet.push(edge)
        fleet.pull(edge)
    copy.sql("UPDATE items SET note = 'later' WHERE id = 'of copy'")
    fleet.sync()
    for edge in (a, other):
        edge.sql(ADD)
    fleet.sync()
    fleet.assert_equal()
    notes = other.rows("SELECT id, note FROM items WHERE id <> 'of a' ORDER BY id")
    assert notes == a.rows("SELECT id, note FROM items WHERE id <> 'of a' ORDER BY id")
    assert notes == [("common", "kept"), ("of copy", "later")]
    assert a.dead() == copy.dead() == other.dead() == []


@pytest.mark.fault("a device's database copied, two agents run from it")
def test_a_twin_that_drops_a_column_drops_nothing_of_the_other_one(fleet: Fleet) -> None:
    """Guarantees 2 and 7."""
    a, copy, other = twins(fleet)
    for edge in (a, copy):
        edge.sql(ADD)
    other.sql("INSERT INTO items VALUES ('of other', 3)")
    a.sql("UPDATE items SET note = 'kept'")
    copy.sql("INSERT INTO items (id) VALUES ('of copy')")
    fleet.sync()
    copy.store.detach_table("items")
    copy.sql("ALTER TABLE items DROP COLUMN note")
    copy.attach("items")
    for edge in (copy, a, copy):
        fleet.hello(edge)
    fleet.sync()
    other.sql(ADD)
    fleet.sync()
    assert other.rows("SELECT id, note FROM items ORDER BY id") == a.rows("SELECT id, note FROM items ORDER BY id")
    assert ("common", "kept") in other.rows("SELECT id, note FROM items")


@pytest.mark.fault("a device's database copied, two agents run from it")
def test_a_twin_that_renames_a_column_goes_on_as_any_device_does(fleet: Fleet) -> None:
    """Guarantee 2. The hub keeps the old column for as long as for a device that is away."""
    a, copy, other = twins(fleet)
    copy.sql("ALTER TABLE items RENAME COLUMN n TO amount; UPDATE items SET amount = 10")
    a.sql("INSERT INTO items VALUES ('of a', 1)")
    for edge in (copy, a, copy, a):
        fleet.hello(edge)
        fleet.push(edge)
    fleet.sync()
    for edge in (a, other):
        edge.sql("ALTER TABLE items RENAME COLUMN n TO amount")
    fleet.sync()
    for edge in (a, copy):
        assert edge.rows("SELECT id, amount FROM items ORDER BY id") == [("common", 10), ("of a", 1)]
    assert other.rows("SELECT id, amount FROM items ORDER BY id") == [("common", 10), ("of a", 1)]
