"""Real agents take snapshots from a real hub, whose log is kept short, and either is killed in the middle."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support.agent_process import tidewire_agent
from support.hub_process import tidewire_hub
from support.processes import Device, Site
from support.waiting import wait_for

SCHEMA = "CREATE TABLE readings (id INTEGER PRIMARY KEY, note TEXT, n INTEGER)"
ROWS = 6000
SHORT_LOG = (
    *("--retention-entries", "5", "--retention-interval-s", "0.05", "--retention-step-entries", "4"),
    *("--snapshot-interval-s", "0.05", "--snapshot-hold-s", "30", "--snapshot-reuse-entries", "3"),
    *("--payload-bytes-max", "3000"),
)
"""A hub that keeps as little of its log as it may, and makes small chunks."""

SLOWLY = ("--snapshot-chunks-ahead-max", "1", "--stall-timeout-s", "1")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path, *SHORT_LOG) as site:
        yield site


def fill(device: Device) -> None:
    """Many rows, and a few entries that the log soon forgets."""
    note = "x" * 60
    with closing(sqlite3.connect(device.db, isolation_level=None, timeout=10)) as app:
        app.execute("BEGIN IMMEDIATE")
        app.executemany("INSERT INTO readings VALUES (?, ?, 0)", [(n, f"{n} {note}") for n in range(ROWS)])
        app.execute("COMMIT")
    for number in range(20):
        change = (
            f"UPDATE readings SET n = n + 1 WHERE id % 20 = {number}; DELETE FROM readings WHERE id = {number * 7};"
        )
        assert not device.sql(change).stderr
        wait_for(lambda: not device.standing().changes, what="it is sealed")


def until_trimmed(site: Site, *, oldest: int = 2) -> None:
    def trimmed() -> bool:
        answer = site.hub.http("readyz")
        return answer is not None and answer[1]["hub"]["oldest"] >= oldest

    wait_for(trimmed, what="the log no longer begins at 1")


def until_loaded(device: Device, chunks: int) -> None:
    """So many chunks are in, and more are to come."""

    def so_far() -> bool:
        loads = device.query("SELECT next - first, chunks FROM tidewire_loading WHERE stage = 'loading'")
        assert not loads or loads[0][0] < loads[0][1]
        return bool(loads) and loads[0][0] >= chunks

    wait_for(so_far, what=f"{chunks} chunks are loaded")


@pytest.mark.fault("agent and hub killed while a snapshot is loaded")
def test_a_device_that_was_away_too_long_takes_a_snapshot_though_both_sides_are_killed_meanwhile(site: Site) -> None:
    """Guarantees 3, 6 and 7."""
    a, b = site.device("a", SCHEMA).start(), site.device("b", SCHEMA, *SLOWLY).start()
    assert not a.sql("INSERT INTO readings VALUES (-1, 'both have it', 0), (-2, 'deleted while b is away', 0);").stderr
    site.wait_at_rest()
    before = b.standing().seq
    assert b.stop() == 0
    assert not b.sql(
        "UPDATE readings SET note = 'of b' WHERE id = -1;", "INSERT INTO readings VALUES (-3, 'b', 0);"
    ).stderr
    assert not a.sql("DELETE FROM readings WHERE id = -2;").stderr
    fill(a)
    site.wait_at_rest(a)
    until_trimmed(site, oldest=before + 2)

    b.start(until="loading_snapshot")
    until_loaded(b, 5)
    assert b.standing().seq == before
    b.kill()
    # Of a row that b knows from the snapshot alone: the hub must not take it for another thing.
    ((known,),) = b.query("SELECT max(id) FROM readings")
    assert not b.sql(f"UPDATE readings SET note = 'meanwhile' WHERE id = {known};").stderr
    b.start(until="loading_snapshot")
    until_loaded(b, 15)
    site.hub.kill()
    site.hub.start()
    until_loaded(b, 25)
    wait_for(lambda: b.status.snapshot is not None and b.status.snapshot.loaded > 0, what="status tells how far it is")
    b.wait_state("live")
    site.wait_at_rest()
    site.assert_equal()
    assert a.query("SELECT id, note FROM readings WHERE id < 0 ORDER BY id") == [(-3, "b"), (-1, "of b")]
    assert b.dead() == []
    assert a.query("SELECT id FROM readings WHERE note = 'meanwhile'") == [(known,)]


def test_a_table_attached_late_takes_a_snapshot_while_the_others_follow_the_log(site: Site) -> None:
    both = f"{SCHEMA}; CREATE TABLE notes (id INTEGER PRIMARY KEY, note TEXT);"
    a = site.device("a", both).start()
    b = site.device("b", both, tables=["notes"]).start()
    assert not b.sql("INSERT INTO readings VALUES (100000, 'was here before', 1), (1, 'old', 1);").stderr
    fill(a)
    site.wait_at_rest(a)
    until_trimmed(site)
    assert b.stop() == 0
    b.tables = ["notes", "readings"]
    b.start()
    assert not a.sql("INSERT INTO notes VALUES (1, 'the log goes on');").stderr
    site.wait_at_rest()
    site.assert_equal()
    assert a.query("SELECT note FROM readings WHERE id = 100000") == [("was here before",)]
    assert [letter["reason"] for letter in b.dead()] == ["row_known"]
    assert "the snapshot is loaded" in b.log


RENAME = "ALTER TABLE readings RENAME COLUMN note TO remark;"
"""A column that devices rename one after the other."""


def digests_of(device: Device) -> list[str]:
    """Rows and digest of each table, as a person compares them with the hub's."""
    said = tidewire_agent("digests", "--db", device.db, "--json")
    return [f"{line['table']} {line['rows']} {line['digest']}" for line in map(json.loads, said.stdout.splitlines())]


def test_a_renamed_column_is_taken_by_the_others_and_forgotten_by_the_hub(tmp_path: Path) -> None:
    """Guarantee 7."""
    few = ("--parked-rows-max", "50")
    with Site(tmp_path) as site:
        a, b = (site.device(name, SCHEMA, *few).start() for name in "ab")
        rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)"
        assert not a.sql(f"{rows} INSERT INTO readings SELECT i, 'old', i FROM n;").stderr
        site.wait_at_rest()
        assert not a.sql(RENAME, "UPDATE readings SET remark = 'of a' WHERE id = 1;").stderr
        site.wait_at_rest()
        told = tidewire_agent("status", "--db", b.db).stdout
        assert "table readings: synced; columns not here: remark" in told
        assert not b.sql("UPDATE readings SET note = 'of b' WHERE id = 2;", RENAME).stderr
        c = site.device("c", SCHEMA.replace("note", "remark"), *few).start()
        site.wait_at_rest()

        def equal() -> bool:
            hub = tidewire_hub("digests", "--data", site.hub.data, "--json").stdout
            counted = [f"{line['table']} {line['rows']} {line['digest']}" for line in map(json.loads, hub.splitlines())]
            return all(digests_of(device) == counted for device in (a, b, c))

        wait_for(equal, what="devices and hub have equal rows")
        for device in (a, b, c):
            assert device.query("SELECT id, remark FROM readings WHERE id IN (1, 3) ORDER BY id") == [
                (1, "of a"),
                (3, "old"),
            ]
            assert device.status.parked == 0
            assert device.problems == set()
