"""A disk loses in a power cut what it had acknowledged: exactly what is lost then, and what is not.

    device   what the hub has comes back from there; what only the device had is gone, and nothing else is
    hub      what any device holds comes back, each write at its old place; what one that is away holds comes with it

Either is noticed and said, nothing comes twice, and all are equal afterwards.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from sqlite3 import connect
from typing import Any

import pytest

from support.lying_disk import LyingDisk
from support.processes import Device, Site
from support.waiting import wait_for

SCHEMA = "CREATE TABLE notes (id TEXT PRIMARY KEY, body)"
ALL = "SELECT id, body FROM notes ORDER BY id"


def entries(site: Site) -> list[dict[str, Any]]:
    """The hub's log."""
    log = connect(site.hub.data / "main" / "log.db")
    try:
        return [json.loads(data) for (data,) in log.execute("SELECT data FROM entry ORDER BY seq")]
    finally:
        log.close()


def births_of(site: Site, key: str) -> int:
    """How often the log makes this row."""
    runs = [run for entry in entries(site) for run in entry["changes"] if run["op"] in ("put", "seed")]
    return sum(row[0] == key for run in runs for row in run["rows"])


def has_offered(device: Device) -> bool:
    return "and the hub had lost is offered to it again" in device.log


@pytest.mark.fault("the power cut at a device whose disk lied about what it had written")
def test_a_device_loses_what_it_alone_had_and_nothing_that_the_hub_has(tmp_path: Path) -> None:
    """Guarantees 2, 3, 5 and 7."""
    with Site(tmp_path) as site:
        a, b = site.device("a", SCHEMA).start(), site.device("b", SCHEMA).start()
        a.sql("INSERT INTO notes VALUES ('before', 1);")
        site.wait_at_rest()
        disk = LyingDisk(tmp_path / "kept", a.db)

        a.sql("INSERT INTO notes VALUES ('acked', 1);", "UPDATE notes SET body = 2 WHERE id = 'before';")
        site.wait_at_rest()
        site.hub.kill()
        a.sql("INSERT INTO notes VALUES ('sealed', 1);")
        wait_for(lambda: a.standing().batches == 1, what="a batch waits")
        a.kill()
        a.sql("INSERT INTO notes VALUES ('committed', 1);")
        disk.lose()
        assert a.query(ALL) == [("before", 1)]

        site.hub.start()
        a.start()
        a.sql("INSERT INTO notes VALUES ('after', 1);")
        wait_for(lambda: "gets new numbers" in a.log, what="a says that it has lost something")
        site.wait_at_rest()
        assert a.query(ALL) == b.query(ALL) == [("acked", 1), ("after", 1), ("before", 2)]
        assert [births_of(site, key) for key in ("before", "acked", "after")] == [1, 1, 1]
        assert a.dead() == b.dead() == []
        site.assert_equal()


@pytest.mark.fault("the power cut at a hub whose disk lied about what it had written")
@pytest.mark.parametrize("lost", [("log.db", "state.db"), ("log.db",)], ids=["all", "the log's alone"])
def test_a_hub_loses_only_what_no_device_that_is_there_holds(tmp_path: Path, lost: tuple[str, ...]) -> None:
    """Guarantees 2, 3 and 7: acknowledged entries are gone from its disk, and come back from the devices."""
    with Site(tmp_path) as site:
        a, b, away = (site.device(name, SCHEMA).start() for name in ("a", "b", "away"))
        a.sql("INSERT INTO notes VALUES ('kept', 1), ('doomed', 1), ('changed', 1);")
        site.wait_at_rest()
        disk = LyingDisk(tmp_path / "kept", *(site.hub.data / "main" / name for name in lost))

        a.sql("INSERT INTO notes VALUES ('of a', 1);", "UPDATE notes SET body = 2 WHERE id = 'changed';")
        site.wait_at_rest()
        b.sql("UPDATE notes SET body = 3 WHERE id = 'changed';", "DELETE FROM notes WHERE id = 'doomed';")
        site.wait_at_rest()
        for device in (a, b):
            device.stop()
        away.sql("INSERT INTO notes VALUES ('only of the one that is away', 1);")
        site.wait_at_rest(away)
        away.stop()
        acked = away.query("SELECT count(*) FROM tidewire_batch WHERE seq IS NOT NULL")
        assert acked >= [(1,)]
        site.hub.kill()
        disk.lose()

        site.hub.start()
        a.start()
        b.start()
        for device in (a, b):
            wait_for(partial(has_offered, device), what="it is offered again")
        site.wait_at_rest(a, b)
        assert "its end was lost" in site.hub.log
        assert a.query(ALL) == b.query(ALL) == [("changed", 3), ("kept", 1), ("of a", 1)]
        site.assert_equal(a, b)

        away.start()
        wait_for(partial(has_offered, away), what="it is offered again")
        site.wait_at_rest()
        everything = [("changed", 3), ("kept", 1), ("of a", 1), ("only of the one that is away", 1)]
        assert a.query(ALL) == b.query(ALL) == away.query(ALL) == everything
        assert a.dead() == b.dead() == away.dead() == []
        site.assert_equal()
        numbers = [entry["seq"] for entry in entries(site)]
        assert numbers == list(range(1, len(numbers) + 1))
        assert births_of(site, "of a") == births_of(site, "only of the one that is away") == 1
