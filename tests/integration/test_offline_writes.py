"""What an agent does with an app's writes while it has nobody to send them to."""

from __future__ import annotations

import json
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from support.agent_process import AgentProcess, make_database, rows, tidewire_agent
from support.broker import Mosquitto
from support.hub_process import HubProcess
from support.waiting import wait_for
from tidewire_schemas.codec import parse_batch

BATCHES = "SELECT payload FROM tidewire_batch WHERE batch > 0 ORDER BY batch"
CHANGES = "SELECT count(*) FROM tidewire_change"


def written(path: Path) -> list[int]:
    """Rows of each batch that was sealed."""
    batches = [parse_batch(payload).batch for (payload,) in rows(path, BATCHES)]
    return [sum(len(run.rows) for run in batch.changes) for batch in batches]


def test_a_row_that_is_written_again_and_again_while_offline_is_one_change_of_one_batch(
    tmp_path: Path, broker: Mosquitto
) -> None:
    """Guarantee 1. Guarantee 4."""
    path = tmp_path / "a.db"
    with (
        closing(make_database(path)) as app,
        AgentProcess(path, "till-a", broker.url, "--welcome-timeout-s", "0.5") as agent,
    ):
        agent.start(until="handshaking")
        for n in range(100):
            app.execute("INSERT INTO orders VALUES ('o-1', ?) ON CONFLICT DO UPDATE SET total = excluded.total", (n,))
        wait_for(lambda: agent.status.changes, what="the agent has seen them")
        assert written(path) == []
        with HubProcess(tmp_path / "hub", broker.url, log=tmp_path / "hub.log"):
            agent.wait_state("live")
            wait_for(lambda: rows(path, CHANGES) == [(0,)] and agent.status.batches == 0, what="it is in the log")
            assert written(path) == [1]
            app.execute("INSERT INTO orders VALUES ('o-2', 1)")
            wait_for(lambda: written(path) == [1, 1], what="what is written now goes at once")


def test_enough_changes_are_a_batch_also_while_offline(tmp_path: Path, broker: Mosquitto) -> None:
    path = tmp_path / "a.db"
    with (
        closing(make_database(path)) as app,
        AgentProcess(path, "till-a", broker.url, "--offline-changes-max", "10") as agent,
    ):
        agent.start(until="handshaking")
        app.execute("INSERT INTO orders WITH RECURSIVE n(i) AS (VALUES (1) UNION SELECT i + 1 FROM n LIMIT 10)"
                    " SELECT 'o-' || i, i FROM n")  # fmt: skip
        wait_for(lambda: written(path) == [10], what="they are sealed")


def test_what_waits_long_enough_is_a_batch_also_while_offline(tmp_path: Path, broker: Mosquitto) -> None:
    path = tmp_path / "a.db"
    with (
        closing(make_database(path)) as app,
        AgentProcess(path, "till-a", broker.url, "--offline-pause-max-s", "0.1") as agent,
    ):
        agent.start(until="handshaking")
        app.execute("INSERT INTO orders VALUES ('o-1', 1)")
        wait_for(lambda: written(path) == [1], what="it is sealed")


def test_with_a_pause_between_batches_changes_gather_though_they_could_be_sent(
    tmp_path: Path, broker: Mosquitto
) -> None:
    path = tmp_path / "a.db"
    options = ("--seal-pause-s", "3600", "--offline-changes-max", "10")
    with (
        closing(make_database(path)) as app,
        HubProcess(tmp_path / "hub", broker.url, log=tmp_path / "hub.log"),
        AgentProcess(path, "till-a", broker.url, *options) as agent,
    ):
        agent.start()
        for n in range(9):
            app.execute("INSERT INTO orders VALUES ('o-' || ?, 1)", (n,))
        wait_for(lambda: agent.status.changes == 9, what="the agent has seen them")
        assert written(path) == []
        app.execute("INSERT INTO orders VALUES ('o-9', 1)")
        wait_for(lambda: written(path) == [10], what="enough are a batch")
        wait_for(lambda: agent.status.batches == 0, what="it is in the log")


def test_what_gathered_for_the_pause_between_batches_is_sent(tmp_path: Path, broker: Mosquitto) -> None:
    path = tmp_path / "a.db"
    with (
        closing(make_database(path)) as app,
        HubProcess(tmp_path / "hub", broker.url, log=tmp_path / "hub.log"),
        AgentProcess(path, "till-a", broker.url, "--seal-pause-s", "0.1") as agent,
    ):
        agent.start()
        app.execute("INSERT INTO orders VALUES ('o-1', 1)")
        wait_for(lambda: agent.status.batches == 0 and written(path) == [1], what="it is in the log")


@pytest.mark.fault("more written while offline than the outbox may hold")
def test_a_full_outbox_refuses_the_writes_of_any_program_and_says_so_until_a_hub_takes_what_waits(
    tmp_path: Path, broker: Mosquitto
) -> None:
    """Guarantee 11."""
    path = tmp_path / "a.db"
    make_database(path).close()
    options = ("--outbox-bytes-max", "10000", "--outbox-full", "refuse", "--offline-changes-max", "1")
    with AgentProcess(path, "till-a", broker.url, *options, "--welcome-timeout-s", "0.5") as agent:
        agent.start(until="handshaking")
        assert insert(path, 1) == ""
        agent.wait_problem("outbox_full")
        assert "tidewire: outbox full" in insert(path, 2)
        said = json.loads(tidewire_agent("status", "--db", path, "--json").stdout)
        assert said["outbox_bytes_max"] == 10_000
        assert said["batch_bytes"] > 10_000
        assert "of 10000 bytes" in tidewire_agent("status", "--db", path).stdout
        with HubProcess(tmp_path / "hub", broker.url, log=tmp_path / "hub.log"):
            agent.wait_state("live")
            agent.wait_no_problem()
            assert insert(path, 3) == ""
    assert rows(path, "SELECT length(id) FROM orders ORDER BY 1") == [(20_001,), (20_003,)]


def insert(path: Path, number: int) -> str:
    """A row, written by a program that knows nothing of Tidewire; what it says is wrong."""
    script = f"INSERT INTO orders VALUES (printf('%0{20_000 + number}d', {number}), 1)"
    return subprocess.run(["sqlite3", path, script], capture_output=True, text=True, check=False, timeout=120).stderr
