"""One agent per database, and the document that the running one keeps beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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
        process.wait(10)
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
