"""One agent per database, and the document that the running one keeps beside it."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.waiting import wait_for
from tidewire_agent.errors import DatabaseNotUsable
from tidewire_agent.lock import AgentLock, lock_path, read_status
from tidewire_agent.status import AgentStatus
from tidewire_schemas.errors import AlreadyRunning

BOOT = "b" * 32


def status(**changes: object) -> AgentStatus:
    values = {
        "state": "live",
        "pid": os.getpid(),
        "since": 1,
        "updated_at": 2,
        "version": "0",
        "device": "d",
        "stream": "main",
        "broker": "mqtt://h:1883",
        "boot": BOOT,
    }
    return AgentStatus.model_validate(values | changes)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "a.db"
    path.touch()
    return path


def test_a_second_agent_is_refused_and_told_who_runs(database: Path) -> None:
    with AgentLock.acquire(database) as lock:
        lock.write(status(pid=4711))
        with pytest.raises(AlreadyRunning, match="process 4711"):
            AgentLock.acquire(database)
    AgentLock.acquire(database).release()


def test_a_link_to_the_database_is_the_same_database(database: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(database)
    with AgentLock.acquire(database), pytest.raises(AlreadyRunning):
        AgentLock.acquire(link)


HOLD = (
    "import sys, time; from pathlib import Path; from tidewire_agent.lock import AgentLock\n"
    "lock = AgentLock.acquire(Path(sys.argv[1])); print('ready', flush=True); time.sleep(60)"
)


@contextmanager
def held_elsewhere(database: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process holds the lock."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(database)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_a_hard_link_to_the_database_is_the_same_database(database: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere/link.db"
    link.hardlink_to(database)
    with AgentLock.acquire(database), pytest.raises(AlreadyRunning):
        AgentLock.acquire(link)
    with held_elsewhere(database):
        with pytest.raises(AlreadyRunning, match=r"link\.db") as refused:
            AgentLock.acquire(link)
        assert "another name" in refused.value.hint
    AgentLock.acquire(link).release()


def test_the_lock_follows_a_database_that_was_replaced(database: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.db"
    new.touch()
    with AgentLock.acquire(database) as lock:
        new.rename(database)
        lock.follow()
        link = tmp_path / "link.db"
        link.hardlink_to(database)
        with pytest.raises(AlreadyRunning):
            AgentLock.acquire(link)


def test_the_lock_is_in_nobodys_way_and_its_end_takes_no_lock_of_an_app_in_this_process(
    database: Path, tmp_path: Path
) -> None:
    app = sqlite3.connect(database, isolation_level=None)
    app.execute("CREATE TABLE t (a)")
    other = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('INSERT INTO t VALUES (1)')"
    write_elsewhere = [sys.executable, "-c", other, str(database)]
    with AgentLock.acquire(database):
        subprocess.run(write_elsewhere, check=True, timeout=120)
        app.execute("BEGIN IMMEDIATE")
    done = subprocess.run(write_elsewhere, capture_output=True, text=True, check=False, timeout=120)
    assert "database is locked" in done.stderr
    app.close()


def test_the_status_is_what_was_written_last(database: Path) -> None:
    with AgentLock.acquire(database) as lock:
        lock.write(status(device="a-very-long-name-that-makes-the-document-longer"))
        lock.write(status(device="short"))
        found = read_status(database)
    assert found is not None
    assert (found.state, found.device) == ("live", "short")


def test_an_agent_that_was_killed_is_told_as_not_running(database: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from tidewire_agent.lock import AgentLock\n"
        "from tidewire_agent.status import AgentStatus\n"
        "lock = AgentLock.acquire(Path(sys.argv[1])); lock.write(AgentStatus.model_validate_json(sys.argv[2]))\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(database), status().model_dump_json()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        found = read_status(database)
        assert found is not None
        assert found.state == "live"
        with pytest.raises(AlreadyRunning):
            AgentLock.acquire(database)
        process.kill()
        process.wait(30)
    wait_for(lambda: (told := read_status(database)) is not None and told.state == "not_running")
    AgentLock.acquire(database).release()


def test_a_stopped_agent_stays_told_as_stopped(database: Path) -> None:
    with AgentLock.acquire(database) as lock:
        lock.write(status(state="stopped"))
    found = read_status(database)
    assert found is not None
    assert found.state == "stopped"


def test_without_a_file_or_with_garbage_there_is_no_status(database: Path) -> None:
    assert read_status(database) is None
    lock_path(database).write_text("{")
    assert read_status(database) is None


def test_unknown_fields_of_a_newer_agent_do_not_matter(database: Path) -> None:
    lock_path(database).write_text(json.dumps(status(state="stopped").model_dump(mode="json") | {"new": 1}))
    assert read_status(database) is not None


def test_a_removed_lock_file_is_made_anew(database: Path) -> None:
    with AgentLock.acquire(database) as lock:
        lock.remove()
        with pytest.raises(AlreadyRunning):
            AgentLock.acquire(database)
    lock_path(database).unlink()
    with AgentLock.acquire(database), pytest.raises(AlreadyRunning):
        AgentLock.acquire(database)


def test_a_directory_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DatabaseNotUsable, match="cannot open"):
        AgentLock.acquire(tmp_path / "nowhere" / "a.db")


def test_writing_without_space_is_no_error(database: Path) -> None:
    lock = AgentLock.acquire(database)
    full = os.open("/dev/full", os.O_RDWR)
    os.dup2(full, lock._descriptor)
    os.close(full)
    lock.write(status())
    lock.release()
