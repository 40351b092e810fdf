"""A database that is missing, read-only, locked, corrupt, replaced, or on a full disk."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support.agent_process import AgentProcess, make_database, rows, tidewire_agent, wait_rows
from support.broker import Mosquitto
from support.hub_process import HubProcess
from support.mounts import remount, small_disk
from support.waiting import wait_for
from tidewire_link.command_line import ExitCode


@pytest.fixture
def hub(tmp_path: Path, broker: Mosquitto) -> Iterator[HubProcess]:
    with HubProcess(tmp_path / "hub", broker.url, log=tmp_path / "hub.log") as running:
        yield running


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte of its own."""
    with small_disk(tmp_path / "disk", "1m") as path:
        yield path


def test_a_missing_database_ends_the_start_with_a_hint(tmp_path: Path) -> None:
    done = tidewire_agent("run", "--db", tmp_path / "no.db", "--device", "x")
    assert done.returncode == ExitCode.DATABASE
    assert "hint:" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_corrupt_database_ends_the_start_with_a_hint(tmp_path: Path) -> None:
    make_database(tmp_path / "a.db").close()
    with (tmp_path / "a.db").open("r+b") as file:
        file.seek(100)  # what says that it is a database stays
        file.write(os.urandom(4096 - 100))
    done = tidewire_agent("run", "--db", tmp_path / "a.db", "--device", "x")
    assert done.returncode == ExitCode.DATABASE
    assert "integrity_check" in done.stderr


@pytest.mark.needs("mount")
def test_a_read_only_database_ends_the_start_with_a_hint(tmp_path: Path, disk: Path) -> None:
    make_database(disk / "a.db").close()
    remount(disk, "ro")
    done = tidewire_agent("run", "--db", disk / "a.db", "--device", "x")
    assert done.returncode == ExitCode.DATABASE
    assert "hint:" in done.stderr


def test_an_unknown_setting_ends_the_start_with_what_may_be_meant(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text('db = "a.db"\nbrocker = "mqtt://h"\n')
    done = tidewire_agent("run", "--config", tmp_path / "agent.toml")
    assert done.returncode == ExitCode.USAGE
    assert "broker" in done.stderr


def test_a_locked_database_is_waited_for(tmp_path: Path, broker: Mosquitto, hub: HubProcess) -> None:
    app = make_database(tmp_path / "a.db")
    with AgentProcess(tmp_path / "a.db", "till-a", broker.url, "--busy-timeout-s", "0.1") as agent:
        agent.start()
        app.execute("INSERT INTO orders VALUES ('o-1', 1)")
        app.execute("BEGIN IMMEDIATE")
        app.execute("INSERT INTO orders VALUES ('o-2', 2)")
        other = make_database(tmp_path / "b.db")
        with AgentProcess(tmp_path / "b.db", "till-b", broker.url) as agent_b:
            agent_b.start()
            other.execute("INSERT INTO orders VALUES ('from b', 3)")
            agent.wait_problem("database_busy")
            assert agent.running
            app.execute("COMMIT")
            expected = [("from b", 3.0), ("o-1", 1.0), ("o-2", 2.0)]
            wait_rows(tmp_path / "b.db", expected)
            wait_rows(tmp_path / "a.db", expected)
            agent.wait_no_problem()


def test_a_database_locked_at_start_is_waited_for(tmp_path: Path, broker: Mosquitto, hub: HubProcess) -> None:
    app = make_database(tmp_path / "a.db")
    app.execute("BEGIN IMMEDIATE")
    with AgentProcess(tmp_path / "a.db", "till-a", broker.url, "--busy-timeout-s", "0.1") as agent:
        agent.start(until=None)
        wait_for(lambda: "locked" in agent.log, what="the problem is said")
        assert agent.running
        app.execute("COMMIT")
        agent.wait_state("live")
        agent.wait_no_problem()


def test_a_database_deleted_while_it_runs_is_a_problem_until_it_is_back(
    tmp_path: Path, broker: Mosquitto, hub: HubProcess
) -> None:
    app = make_database(tmp_path / "a.db")
    with AgentProcess(tmp_path / "a.db", "till-a", broker.url, "--retry-delay-max-s", "0.5") as agent:
        agent.start()
        app.execute("INSERT INTO orders VALUES ('o-1', 1)")
        wait_for(lambda: agent.status.position is not None and agent.status.position[1] == 1)
        app.close()
        for file in tmp_path.glob("a.db*"):
            if not file.name.endswith("-tidewire"):
                file.rename(file.with_name("away-" + file.name))
        agent.wait_problem("database_missing")
        agent.wait_state("halted")
        for file in tmp_path.glob("away-*"):
            file.rename(file.with_name(file.name.removeprefix("away-")))
        agent.wait_state("live")
        agent.wait_no_problem()
        assert rows(tmp_path / "a.db") == [("o-1", 1.0)]


def test_a_database_restored_from_a_backup_while_it_runs_is_opened_anew(
    tmp_path: Path, broker: Mosquitto, hub: HubProcess
) -> None:
    app = make_database(tmp_path / "a.db")
    with AgentProcess(tmp_path / "a.db", "till-a", broker.url, "--retry-delay-max-s", "0.5") as agent:
        agent.start()
        app.execute("INSERT INTO orders VALUES ('o-1', 1)")
        wait_for(lambda: agent.status.position is not None and agent.status.position[1] == 1)
        backup = sqlite3.connect(tmp_path / "backup.db")
        app.backup(backup)
        backup.close()
        app.execute("INSERT INTO orders VALUES ('o-2', 2)")
        wait_for(lambda: agent.status.position is not None and agent.status.position[1] == 2)
        app.close()
        for name in ("a.db-wal", "a.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / "backup.db").replace(tmp_path / "a.db")
        wait_rows(tmp_path / "a.db", [("o-1", 1.0), ("o-2", 2.0)], 30)
        agent.wait_state("live")


@pytest.mark.parametrize("names", [("a.db-wal", "a.db-shm"), ("a.db-wal",), ("a.db-shm",)])
def test_a_wal_deleted_while_it_runs_is_said_and_what_the_app_commits_to_the_new_one_is_sent_and_kept(
    tmp_path: Path, broker: Mosquitto, hub: HubProcess, names: tuple[str, ...]
) -> None:
    make_database(tmp_path / "a.db").close()
    make_database(tmp_path / "b.db").close()
    with (
        AgentProcess(tmp_path / "a.db", "till-a", broker.url, "--retry-delay-max-s", "0.5") as agent,
        AgentProcess(tmp_path / "b.db", "till-b", broker.url) as agent_b,
    ):
        agent.start()
        agent_b.start()
        with closing(make_database(tmp_path / "a.db", "PRAGMA wal_checkpoint(TRUNCATE)")):
            pass  # nothing is in the -wal that is about to go
        for name in names:
            (tmp_path / name).unlink()
        with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None, timeout=5)) as app:
            app.execute("INSERT INTO orders VALUES ('o-1', 1)")
        wait_rows(tmp_path / "b.db", [("o-1", 1.0)])
        assert "was deleted while the agent ran" in agent.log
        agent.wait_state("live")
        agent.wait_no_problem()
        assert agent.stop() == 0
        assert rows(tmp_path / "a.db") == [("o-1", 1.0)]
        assert rows(tmp_path / "a.db", "PRAGMA integrity_check") == [("ok",)]


def test_an_agent_that_stops_leaves_a_wal_that_is_not_its_own(
    tmp_path: Path, broker: Mosquitto, hub: HubProcess
) -> None:
    """It may hold commits that are nowhere else."""
    make_database(tmp_path / "a.db").close()
    options = ("--watch", "poll", "--poll-interval-s", "3600", "--stat-interval-s", "60")
    with AgentProcess(tmp_path / "a.db", "till-a", broker.url, *options) as agent:
        agent.start()
        for name in ("a.db-wal", "a.db-shm"):
            (tmp_path / name).unlink()
        with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None, timeout=5)) as app:
            app.execute("INSERT INTO orders VALUES ('o-1', 1)")
        assert agent.stop() == 0
        assert rows(tmp_path / "a.db") == [("o-1", 1.0)]


@pytest.mark.needs("mount")
@pytest.mark.fault("a device's disk that is full")
def test_a_full_disk_is_a_problem_and_nothing_is_lost_when_space_returns(
    tmp_path: Path, disk: Path, broker: Mosquitto, hub: HubProcess
) -> None:
    """Guarantee 11."""
    make_database(disk / "a.db").close()
    other = make_database(tmp_path / "b.db")
    with (
        AgentProcess(
            disk / "a.db", "till-a", broker.url, "--retry-delay-max-s", "0.5", "--disk-reserve-bytes", "0"
        ) as agent,
        AgentProcess(tmp_path / "b.db", "till-b", broker.url) as agent_b,
    ):
        agent.log_path = tmp_path / "a.log"
        agent.start()
        agent_b.start()
        fill(disk / "ballast")
        for number in range(50):
            other.execute("INSERT INTO orders VALUES (?, 1)", (f"{number:02}" + "x" * 20_000,))
        wait_for(lambda: "disk" in agent.log, 30, what="the full disk is said")
        assert agent.running
        remount(disk, "size=16m")
        wait_for(lambda: len(rows(disk / "a.db")) == 50, 30, what="all rows are there")
        agent.wait_no_problem()
        assert rows(disk / "a.db") == rows(tmp_path / "b.db")


@pytest.mark.needs("mount")
@pytest.mark.fault("a device's disk that is nearly full")
def test_below_the_reserve_an_agent_leaves_the_disk_to_the_app_and_goes_on_when_there_is_space(
    tmp_path: Path, disk: Path, broker: Mosquitto, hub: HubProcess
) -> None:
    """Guarantee 1. Guarantee 11."""
    remount(disk, "size=8m")
    app = make_database(disk / "a.db")
    other = make_database(tmp_path / "b.db")
    options = ("--retry-delay-max-s", "0.2", "--disk-reserve-bytes", "5000000")
    with (
        AgentProcess(disk / "a.db", "till-a", broker.url, *options) as agent,
        AgentProcess(tmp_path / "b.db", "till-b", broker.url) as agent_b,
    ):
        agent.start()
        agent_b.start()
        (disk / "ballast").write_bytes(b"x" * 4_000_000)
        app.execute("INSERT INTO orders VALUES ('mine', 1)")
        other.execute("INSERT INTO orders VALUES ('theirs', 2)")
        agent.wait_problem("disk_low")
        assert agent.status.state == "live"
        assert rows(disk / "a.db", "SELECT count(*) FROM tidewire_change") == [(1,)]
        assert rows(disk / "a.db") == [("mine", 1.0)]
        (disk / "ballast").unlink()
        for path in (disk / "a.db", tmp_path / "b.db"):
            wait_rows(path, [("mine", 1.0), ("theirs", 2.0)])
        agent.wait_no_problem()


@pytest.mark.needs("mount")
def test_an_idle_agent_notices_that_the_disk_is_low_and_that_it_is_no_longer(
    disk: Path, broker: Mosquitto, hub: HubProcess
) -> None:
    remount(disk, "size=8m")
    make_database(disk / "a.db")
    options = ("--disk-interval-s", "0.1", "--disk-reserve-bytes", "5000000")
    with AgentProcess(disk / "a.db", "till-a", broker.url, *options) as agent:
        agent.start()  # and there is nothing to seal or to apply, nor a Hello to say
        wait_for(lambda: "disk_low" not in agent.problems, what="there is space")
        (disk / "ballast").write_bytes(b"x" * 4_000_000)
        agent.wait_problem("disk_low")
        (disk / "ballast").unlink()
        wait_for(lambda: "disk_low" not in agent.problems, what="there is space again")


def fill(ballast: Path) -> None:
    """Write until nothing fits any more."""
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return
