"""A hub that goes on from a backup, an empty one, and databases set back: real processes."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from support.agent_process import tidewire_agent
from support.hub_process import tidewire_hub
from support.processes import Device, Site
from support.waiting import wait_for

SCHEMA = "CREATE TABLE notes (id TEXT PRIMARY KEY, body)"
ALL = "SELECT id, body FROM notes ORDER BY id"


def put_in_place_of(site: Site, backup: Path) -> None:
    """As the how-to says: stop the hub, put the copy in the place of its data, start it."""
    site.hub.kill()
    shutil.rmtree(site.hub.data)
    if backup.exists():
        shutil.copytree(backup, site.hub.data)
    site.hub.start()


def two_with_rows(site: Site) -> tuple[Device, Device]:
    a, b = site.device("a", SCHEMA).start(), site.device("b", SCHEMA).start()
    a.sql("INSERT INTO notes VALUES ('first', 1), ('doomed', 1);")
    site.wait_at_rest()
    return a, b


def has_offered(device: Device) -> bool:
    return "and the hub had lost is offered to it again" in device.log


@pytest.mark.fault("a hub restored from an old backup")
@pytest.mark.parametrize("first", ["both", "a", "b"])
def test_a_hub_restored_from_a_backup_gets_back_what_it_lost(tmp_path: Path, first: str) -> None:
    """Guarantees 2, 3 and 7. Whoever comes back first: a wrote the row, and b changed it."""
    with Site(tmp_path) as site:
        a, b = two_with_rows(site)
        done = tidewire_hub("backup", "--data", site.hub.data, tmp_path / "backup")
        assert done.returncode == 0, done.stderr
        a.sql("INSERT INTO notes VALUES ('after', 1);")
        site.wait_at_rest()
        b.sql("UPDATE notes SET body = 2 WHERE id <> 'doomed';", "DELETE FROM notes WHERE id = 'doomed';")
        site.wait_at_rest()
        late = {"both": [], "a": [b], "b": [a]}[first]
        for device in late:
            device.stop()
        put_in_place_of(site, tmp_path / "backup")
        for device in sorted((a, b), key=late.__contains__):
            if device in late:
                site.wait_at_rest(*({a, b} - {device}))
                device.start()
            # What it says of itself is from before, until it has heard of it.
            wait_for(partial(has_offered, device), what=f"{device.device} offers what was lost")
        site.wait_at_rest()
        assert a.query(ALL) == [("after", 2), ("first", 2)]
        assert "its end was lost" in site.hub.log
        a.sql("INSERT INTO notes VALUES ('goes on', 1);")
        site.wait_at_rest()
        assert len(b.query(ALL)) == 3
        assert a.dead() == b.dead() == []
        site.assert_equal()


@pytest.mark.fault("a hub on an empty volume")
def test_a_hub_on_an_empty_volume_is_refused_until_a_person_says_adopt(tmp_path: Path) -> None:
    """Guarantee 3: and then no row is deleted on any device."""
    with Site(tmp_path) as site:
        a, b = two_with_rows(site)
        before, seq = a.query(ALL), a.standing().seq
        assert b.query(ALL) == before
        put_in_place_of(site, tmp_path / "nothing")
        for device in (a, b):
            device.wait_problem("log_foreign")
            assert device.status.state == "halted"
            device.stop()
            assert (device.query(ALL), device.standing().seq) == (before, seq)
            assert tidewire_agent("adopt", "--db", device.db).returncode == 0
        b.sql("DELETE FROM notes WHERE id = 'doomed';")
        a.start()
        site.wait_at_rest(a)
        b.start()
        site.wait_at_rest()
        assert set(before) - {("doomed", 1)} <= set(b.query(ALL))
        site.assert_equal()


@pytest.mark.fault("a device's database restored from an old copy")
def test_a_database_restored_from_an_old_copy_goes_on_and_keeps_what_it_wrote_since(tmp_path: Path) -> None:
    """Guarantees 2 and 7."""
    with Site(tmp_path) as site:
        a, b = two_with_rows(site)
        with closing(sqlite3.connect(a.db)) as source, closing(sqlite3.connect(tmp_path / "old.db")) as copy:
            source.backup(copy)
        a.sql("INSERT INTO notes VALUES ('lost here', 1);", "UPDATE notes SET body = 2 WHERE id = 'first';")
        site.wait_at_rest()
        a.stop()
        for suffix in ("", "-wal", "-shm"):
            a.db.with_name(a.db.name + suffix).unlink(missing_ok=True)
        shutil.copy(tmp_path / "old.db", a.db)
        a.sql("INSERT INTO notes VALUES ('written on the old copy', 1);")
        a.start()
        site.wait_at_rest()
        expected = [("doomed", 1), ("first", 2), ("lost here", 1), ("written on the old copy", 1)]
        assert a.query(ALL) == b.query(ALL) == expected
        assert "gets new numbers" in a.log
        site.assert_equal()
