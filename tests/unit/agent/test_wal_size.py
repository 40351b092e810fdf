"""The `-wal` stays about as small as `wal_bytes_max` says, whatever the agent writes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from support.fleet import Fleet
from tidewire_agent.store.settings import StoreSettings

LIMIT = 1024 * 1024
ROUNDS = 10
ROWS = 500
LONG = "k" * 380
"""A few keys to a page."""


@pytest.mark.parametrize("keys", ["random", "ascending"])
def test_rows_of_others_do_not_gather_in_the_wal(tmp_path: Path, keys: str) -> None:
    """Each row with a random key writes a page of its own to it; ascending ones share pages."""
    fleet = Fleet(tmp_path)
    chance = random.Random(1)
    schema = "CREATE TABLE t (id TEXT PRIMARY KEY, v)"
    a = fleet.edge("a", schema)
    b = fleet.edge("b", schema, settings=StoreSettings(wal_bytes_max=LIMIT))
    sizes = []
    for start in range(0, ROUNDS * ROWS, ROWS):
        numbers = [chance.getrandbits(64) if keys == "random" else start + n for n in range(ROWS)]
        a.app.execute("BEGIN")
        a.app.executemany("INSERT INTO t VALUES (?, 0)", [(f"{number:020}{LONG}",) for number in numbers])
        a.app.execute("COMMIT")
        fleet.push(a)
        fleet.pull(b)
        sizes.append((tmp_path / "b.db-wal").stat().st_size)
    assert max(sizes) < 4 * LIMIT, sizes
    assert len(b.rows("SELECT * FROM t")) == ROUNDS * ROWS
    fleet.close()
