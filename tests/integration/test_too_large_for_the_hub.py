"""A batch that the hub cannot take does not stop its device: real processes."""

from __future__ import annotations

from pathlib import Path

from support.processes import Site
from support.waiting import wait_for

SCHEMA = "CREATE TABLE items (id INTEGER PRIMARY KEY, note TEXT)"
LIMITS = ("--batch-bytes-max", "40000", "--payload-bytes-max", "20000")


def rows(device: str, count: int = 200) -> str:
    values = ", ".join(f"({number}, '{device} {'x' * 100}')" for number in range(count))
    return f"INSERT INTO items VALUES {values};"


def test_a_batch_sealed_before_the_hub_lowered_its_limit_goes_in_pieces(tmp_path: Path) -> None:
    """Guarantees 2 and 10."""
    with Site(tmp_path) as site:
        a, b = site.device("a", SCHEMA).start(), site.device("b", SCHEMA).start()
        site.wait_at_rest()
        site.hub.kill()
        a.sql(rows("a", 1000))
        wait_for(lambda: a.standing().batches == 1, what="all is sealed")
        a.stop()
        site.hub.options = LIMITS
        site.hub.start()
        a.start()
        site.wait_at_rest()
        assert b.query("SELECT count(*) FROM items") == [(1000,)]
        assert "cannot take, becomes" in a.log
        site.assert_equal()


def test_refusals_that_would_make_an_entry_too_large_are_met_in_smaller_batches(tmp_path: Path) -> None:
    """Guarantees 7 and 10: two devices hand out the same keys, and the hub's row travels back for each."""
    with Site(tmp_path, *LIMITS) as site:
        a, b = site.device("a", SCHEMA).start(), site.device("b", SCHEMA).start()
        site.wait_at_rest()
        a.stop()
        a.sql(rows("a"))
        b.sql(rows("b"))
        site.wait_at_rest(b)
        a.start()
        a.sql("INSERT INTO items VALUES (1000, 'goes on');")
        site.wait_at_rest()
        assert b.query("SELECT count(*) FROM items WHERE note LIKE 'b%'") == [(200,)]
        assert b.query("SELECT note FROM items WHERE id = 1000") == [("goes on",)]
        assert len(a.dead()) == 200
        site.assert_equal()
