"""The commands beside running agents: keys between devices, watch, status, log, dead letters."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.agent_process import AgentProcess, make_database, rows, tidewire_agent, wait_rows
from support.broker import Mosquitto
from support.hub_process import HubProcess
from support.waiting import wait_for
from tidewire_link.command_line import ExitCode


@pytest.fixture
def hub(tmp_path: Path, broker: Mosquitto) -> Iterator[HubProcess]:
    with HubProcess(tmp_path / "hub", broker.url, log=tmp_path / "hub.log") as running:
        yield running


@pytest.fixture
def pair(tmp_path: Path, broker: Mosquitto, hub: HubProcess) -> Iterator[tuple[AgentProcess, AgentProcess]]:
    """Two devices that share the table `orders` and the keys."""
    agents = []
    for name in "ab":
        make_database(tmp_path / f"{name}.db").close()
        agents.append(
            AgentProcess(tmp_path / f"{name}.db", f"till-{name}", broker.url, tables=("orders", "tidewire_kv"))
        )
    with agents[0] as first, agents[1] as second:
        yield first.start(), second.start()


def test_a_key_put_on_one_device_is_got_on_another(pair: tuple[AgentProcess, AgentProcess]) -> None:
    a, b = (str(agent.db) for agent in pair)
    done = tidewire_agent("put", "--db", a, "lamp/kitchen", '{"on":true}', "--flush", "20")
    assert done.returncode == 0, done.stderr
    wait_for(lambda: tidewire_agent("get", "--db", b, "lamp/kitchen").stdout == '{"on":true}\n', 20)
    assert tidewire_agent("delete", "--db", b, "lamp/kitchen", "--flush", "20").returncode == 0
    wait_for(lambda: tidewire_agent("get", "--db", a, "lamp/kitchen").returncode == ExitCode.ERROR, 20)


def test_watch_prints_what_another_device_writes_and_ends_on_ctrl_c(pair: tuple[AgentProcess, AgentProcess]) -> None:
    a, b = (str(agent.db) for agent in pair)
    tidewire_agent("put", "--db", a, "lamp/old", "0", "--flush", "20")
    wait_for(lambda: tidewire_agent("get", "--db", b, "lamp/old").returncode == 0, 20)
    command = [sys.executable, "-m", "tidewire_agent", "watch", "--db", b, "--initial", "--json", "lamp/"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["key"] == "lamp/old"
        tidewire_agent("put", "--db", a, "lamp/new", "1")
        assert json.loads(watching.stdout.readline()) == {"key": "lamp/new", "deleted": False, "value": 1}
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 0


def test_a_flush_without_a_hub_says_so(pair: tuple[AgentProcess, AgentProcess], hub: HubProcess) -> None:
    hub.kill()
    done = tidewire_agent("put", "--db", pair[0].db, "k", "1", "--flush", "0.3")
    assert done.returncode == ExitCode.ERROR
    assert "error:" in done.stderr
    assert tidewire_agent("get", "--db", pair[0].db, "k").stdout == "1\n"


def test_status_tells_of_the_running_agent(pair: tuple[AgentProcess, AgentProcess], broker: Mosquitto) -> None:
    agent = pair[0]
    document = json.loads(tidewire_agent("status", "--db", agent.db, "--json").stdout)
    assert (document["state"], document["pid"], document["device"]) == ("live", agent.process.pid, "till-a")
    assert document["problems"] == []
    text = tidewire_agent("status", "--db", agent.db).stdout
    assert text.startswith("live since ")
    assert "0 dead letters" in text
    agent.kill()
    assert json.loads(tidewire_agent("status", "--db", agent.db, "--json").stdout)["state"] == "not_running"
    agent.start()
    agent.stop()
    assert tidewire_agent("status", "--db", agent.db).stdout.startswith("stopped since ")


def test_log_lists_batches_and_says_which_are_in_the_log(pair: tuple[AgentProcess, AgentProcess]) -> None:
    app = make_database(pair[0].db, "INSERT INTO orders VALUES ('o-1', 1)")
    wait_rows(pair[1].db, [("o-1", 1.0)])

    def listed() -> bool:
        done = tidewire_agent("log", "--db", pair[0].db, "--json")
        records = [json.loads(line) for line in done.stdout.splitlines()]
        return bool(records) and all(record["in_log"] for record in records)

    wait_for(listed, 20, what="the batch is listed as in the log")
    assert "in log" in tidewire_agent("log", "--db", pair[0].db).stdout
    app.close()


def test_a_refused_row_is_a_dead_letter_that_can_be_retried_and_discarded(
    tmp_path: Path, broker: Mosquitto, hub: HubProcess
) -> None:
    schema = "CREATE TABLE people (id TEXT PRIMARY KEY, email TEXT UNIQUE)"
    apps = [make_database(tmp_path / f"{name}.db", schema) for name in "ab"]
    with (
        AgentProcess(tmp_path / "a.db", "till-a", broker.url, tables=("people",)) as a,
        AgentProcess(tmp_path / "b.db", "till-b", broker.url, tables=("people",)) as b,
    ):
        a.start()
        b.start()
        b.stop()
        apps[0].execute("INSERT INTO people VALUES ('anna', 'x@example.org')")
        wait_for(lambda: a.status.batches == 0 and (a.status.heard or 0) == 1, 20)
        apps[1].execute("INSERT INTO people VALUES ('berta', 'x@example.org')")
        b.start()
        query = "SELECT * FROM people"
        wait_rows(tmp_path / "b.db", [("anna", "x@example.org")], query=query)
        listed = [
            json.loads(line) for line in tidewire_agent("dead", "list", "--db", b.db, "--json").stdout.splitlines()
        ]
        assert [(letter["key"], letter["reason"]) for letter in listed] == [(["berta"], "unique")]
        assert "berta" in tidewire_agent("dead", "list", "--db", b.db).stdout
        apps[0].execute("UPDATE people SET email = 'y@example.org'")
        wait_rows(tmp_path / "b.db", [("anna", "y@example.org")], query=query)
        assert tidewire_agent("dead", "retry", "--db", b.db, str(listed[0]["id"])).returncode == 0
        expected = [("anna", "y@example.org"), ("berta", "x@example.org")]
        wait_rows(tmp_path / "a.db", expected, query=query + " ORDER BY id")
        assert tidewire_agent("dead", "list", "--db", b.db, "--json").stdout == ""


def test_a_table_that_fell_behind_is_taken_anew_by_the_running_agent_once_it_is_attached_again(
    tmp_path: Path, broker: Mosquitto, hub: HubProcess
) -> None:
    schema = "CREATE TABLE people (id INTEGER PRIMARY KEY, email TEXT)"
    apps = [make_database(tmp_path / f"{name}.db", schema) for name in "ab"]
    apps[1].execute("CREATE UNIQUE INDEX one ON people (email) WHERE id > 0")  # which the hub cannot keep
    options = ("--parked-rows-max", "1", "--allow-unkept-unique")
    with (
        AgentProcess(tmp_path / "a.db", "till-a", broker.url, tables=("people",)) as a,
        AgentProcess(tmp_path / "b.db", "till-b", broker.url, *options, tables=("people",)) as b,
    ):
        a.start()
        b.start()

        def tables() -> list[tuple[str, str]]:
            document = json.loads(tidewire_agent("status", "--db", b.db, "--json").stdout)
            return [(table["table"], table["state"]) for table in document["tables"]]

        assert tables() == [("people", "synced")]
        apps[0].execute("INSERT INTO people VALUES (1, 'x'), (2, 'x'), (3, 'x')")
        wait_for(lambda: tables() == [("people", "behind")], 20, what="the table is behind")
        b.wait_problem("tables_not_synced")
        apps[1].execute("DROP INDEX one")
        assert tidewire_agent("attach", "--db", b.db, "people").returncode == 0
        wait_rows(tmp_path / "b.db", [(1, "x"), (2, "x"), (3, "x")], query="SELECT * FROM people ORDER BY id")
        b.wait_no_problem()
        assert tables() == [("people", "synced")]


def test_the_device_is_named_after_the_host_if_nobody_names_it(tmp_path: Path) -> None:
    make_database(tmp_path / "a.db").close()
    done = tidewire_agent("attach", "--db", tmp_path / "a.db", "orders")
    status = json.loads(tidewire_agent("status", "--db", tmp_path / "a.db", "--json").stdout)
    assert (done.returncode == 0 and status["device"]) or "--device" in done.stderr


def test_detach_leaves_the_rows_and_nothing_else(pair: tuple[AgentProcess, AgentProcess]) -> None:
    agent = pair[0]
    app = make_database(agent.db, "INSERT INTO orders VALUES ('o-1', 1)")
    wait_rows(pair[1].db, [("o-1", 1.0)])
    assert tidewire_agent("detach", "--db", agent.db).returncode == ExitCode.LOCKED
    wait_for(lambda: agent.status.batches == 0 and agent.status.changes == 0, 20)
    agent.stop()
    assert tidewire_agent("detach", "--db", agent.db).returncode == 0
    assert rows(agent.db) == [("o-1", 1.0)]
    left = rows(agent.db, "SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name")
    assert left == [("orders",)]
    assert not agent.db.with_name("a.db-tidewire").exists()
    app.close()
