"""A copy made by `tidewire-agent backup` knows nothing of the device it was made from."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from support.fleet import Fleet
from tidewire_agent.cli import main
from tidewire_link.command_line import ExitCode

NOTES = "CREATE TABLE notes (id TEXT PRIMARY KEY, body)"


def back_up(source: Path, target: Path) -> Result:
    return CliRunner().invoke(main, ["backup", "--db", str(source), str(target)])


def test_a_copy_can_be_started_as_another_device(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    a = fleet.edge("a", NOTES)
    a.sql("INSERT INTO notes VALUES ('1', 'synced')")
    fleet.sync()
    a.sql("INSERT INTO notes VALUES ('2', 'not sent')")
    assert back_up(a.path, tmp_path / "copy.db").exit_code == 0
    assert [path.name for path in tmp_path.glob("*copy*")] == ["copy.db"]
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        made = {name for (name,) in copy.execute("SELECT name FROM sqlite_master WHERE type <> 'index'")}
        rows = copy.execute("SELECT * FROM notes ORDER BY 1").fetchall()
    assert made == {"notes"}
    assert rows == [("1", "synced"), ("2", "not sent")]
    (tmp_path / "copy.db").rename(tmp_path / "b.db")
    b = fleet.edge("b")
    fleet.sync()
    fleet.assert_equal()
    assert a.store.incarnation != b.store.incarnation
    assert b.dead() == []
    fleet.close()


def test_a_database_that_no_agent_has_used_is_copied_as_it_is(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "app.db")) as app:
        app.execute(NOTES)
    assert back_up(tmp_path / "app.db", tmp_path / "copy.db").exit_code == 0
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == [("notes",)]


@pytest.mark.parametrize("target", ["there.db", "no/such/folder.db"])
def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path: Path, target: str) -> None:
    with closing(sqlite3.connect(tmp_path / "app.db")) as app:
        app.execute(NOTES)
    (tmp_path / "there.db").write_text("mine")
    result = back_up(tmp_path / "app.db", tmp_path / target)
    assert result.exit_code != ExitCode.OK
    assert "Traceback" not in result.output
    expected = "exists already" if target == "there.db" else f"there is no folder {tmp_path / 'no' / 'such'}"
    assert expected in result.output
    assert "hint:" in result.output
    assert (tmp_path / "there.db").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["app.db", "there.db"]
