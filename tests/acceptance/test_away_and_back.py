"""A device that was away while others wrote catches up: each entry of the log once, in order, none left out."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support.hub_process import tidewire_hub
from support.processes import Device, Site
from support.waiting import wait_for

SCHEMA = "CREATE TABLE readings (id TEXT PRIMARY KEY, device TEXT, n INTEGER)"
ROWS_EACH = 10_000
PER_TRANSACTION = 100
COUNTERS = 50
"""Rows that are written again and again: an entry applied twice, or out of order, would set them back."""

Rows = dict[str, tuple[Any, ...]]


def write(device: Device) -> None:
    """Many rows, and counters that go up with every transaction."""
    name = device.device
    with closing(sqlite3.connect(device.db, isolation_level=None, timeout=10)) as app:
        for first in range(0, ROWS_EACH, PER_TRANSACTION):
            app.execute("BEGIN IMMEDIATE")
            app.executemany(
                "INSERT INTO readings VALUES (?, ?, ?)",
                [(f"{name}-{n}", name, n) for n in range(first, first + PER_TRANSACTION)],
            )
            app.executemany(
                "INSERT INTO readings VALUES (?, ?, 1) ON CONFLICT (id) DO UPDATE SET n = n + 1",
                [(f"counter-{name}-{n}", name) for n in range(COUNTERS)],
            )
            app.execute("DELETE FROM readings WHERE id = ?", (f"{name}-{first}",))
            app.execute("COMMIT")


def look(device: Device) -> tuple[int, Rows]:
    """The position and all rows, at one moment."""
    with closing(sqlite3.connect(device.db, timeout=10)) as reader:
        reader.execute("BEGIN")
        (seq,) = reader.execute("SELECT value FROM tidewire_meta WHERE name = 'seq'").fetchone()
        return seq, {row[0]: row for row in reader.execute("SELECT id, device, n FROM readings")}


def entries(site: Site) -> list[dict[str, Any]]:
    """The hub's log."""
    done = tidewire_hub("log", "--data", site.folder / "hub", "--from", "1", "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def fold_entry(rows: Rows, entry: dict[str, Any]) -> None:
    """What an entry says, put into rows: the end state, deletes first."""
    assert not entry["refused"]
    for run in sorted(entry["changes"], key=lambda run: run["op"] != "delete"):
        for values in run["rows"]:
            cells = dict(zip(run["columns"], values, strict=True))
            if run["op"] == "delete":
                rows.pop(cells["id"], None)
            else:
                before = dict(zip(("id", "device", "n"), rows.get(cells["id"], (None, None, None)), strict=True))
                rows[cells["id"]] = tuple({**before, **cells}.values())


@pytest.mark.fault("an agent killed while it catches up")
def test_a_device_that_was_away_applies_each_entry_once_and_in_order(tmp_path: Path) -> None:
    """Guarantees 3 and 4: at every moment it holds exactly what entries 1..k make, also if it is killed meanwhile."""
    with Site(tmp_path) as site:
        # Small pieces, so that there are many moments to look at.
        a, b, c = (
            site.device("a", SCHEMA),
            site.device("b", SCHEMA, "--lock-hold-ms-max", "1"),
            site.device("c", SCHEMA),
        )
        for device in (a, b, c):
            device.start()
        assert not b.sql("INSERT INTO readings VALUES ('b-1', 'b', 1);").stderr
        site.wait_at_rest()
        assert b.stop() == 0
        away_at, _ = look(b)
        for device in (a, c):
            write(device)
        site.wait_at_rest(a, c)
        head = site.head()
        assert head > away_at > 0

        seen: list[tuple[int, Rows]] = []

        def caught_up(to: int) -> bool:
            seen.append(look(b))
            return seen[-1][0] >= to

        b.start(until=None)
        wait_for(lambda: caught_up((away_at + head) // 2), 60, what="half of it is applied")
        b.kill()
        seen.append(look(b))
        b.start(until=None)
        wait_for(lambda: caught_up(head), 60, what="all of it is applied")
        b.wait_state("live")
        site.wait_at_rest()
        site.assert_equal()

        positions = [seq for seq, _rows in seen]
        assert positions == sorted(positions), "the checkpoint never goes back"
        log = entries(site)
        assert [entry["seq"] for entry in log] == list(range(1, head + 1))
        rows: Rows = {}
        applied = 0
        for seq, found in seen:
            for entry in log[applied:seq]:
                fold_entry(rows, entry)
            applied = seq
            assert found == rows, f"the rows at entry {seq} are those of entries 1 to {seq}"
        assert len(rows) == 2 * (ROWS_EACH - ROWS_EACH // PER_TRANSACTION + COUNTERS) + 1
        assert {row[2] for key, row in rows.items() if key.startswith("counter")} == {ROWS_EACH // PER_TRANSACTION}
