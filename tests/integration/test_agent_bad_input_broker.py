"""A broker that is absent, refuses, denies, or is another one than before: a named problem, and on it goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.agent_process import AgentProcess, make_database, wait_rows
from support.broker import Mosquitto
from support.hub_process import HubProcess
from support.waiting import wait_for

pytestmark = [pytest.mark.both_protocols, pytest.mark.usefixtures("protocol")]

PASSWORDS = {"till-a": "secret-a", "hub": "secret-h"}
HUB_RULES = """
user hub
topic readwrite #
"""
DEVICE_RULES = """
user till-a
topic write tidewire/v1/stream/main/up/till-a
topic write tidewire/v1/stream/main/ask/till-a
topic write tidewire/v1/device/till-a/state
topic read tidewire/v1/device/till-a/in/main
topic read tidewire/v1/stream/main/log
topic read tidewire/v1/stream/main/head
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    make_database(tmp_path / "a.db").execute("INSERT INTO orders VALUES ('o-1', 1)")
    return tmp_path / "a.db"


def guarded(tmp_path: Path, without: str = "nothing") -> Mosquitto:
    """A broker with passwords and rules, of which one may be missing."""
    rules = "\n".join(line for line in DEVICE_RULES.splitlines() if without not in line)
    return Mosquitto(tmp_path / "broker", passwords=PASSWORDS, acl=HUB_RULES + rules)


def hub_at(broker: Mosquitto, tmp_path: Path) -> HubProcess:
    options = ("--username", "hub", "--password", PASSWORDS["hub"])
    return HubProcess(tmp_path / "hub", broker.url, *options, log=tmp_path / "hub.log")


def agent_at(broker: Mosquitto, database: Path, *options: str, password: str = "secret-a") -> AgentProcess:
    options = ("--username", "till-a", "--password", password, "--welcome-timeout-s", "0.5", *options)
    return AgentProcess(database, "till-a", broker.url, *options)


def wait_position(agent: AgentProcess, seq: int) -> None:
    wait_for(lambda: (agent.status.position or (0, 0))[1] == seq, 30, what=f"entry {seq} is applied")


def test_an_absent_broker_is_a_problem_until_it_is_there(tmp_path: Path, database: Path) -> None:
    broker = Mosquitto(tmp_path / "broker")
    with AgentProcess(database, "till-a", broker.url) as agent:
        agent.start(until="offline")
        agent.wait_problem("broker")
        with broker, HubProcess(tmp_path / "hub", broker.url, log=tmp_path / "hub.log"):
            agent.wait_state("live")
            agent.wait_no_problem()


def test_a_name_that_is_no_host_is_a_problem_with_a_hint(database: Path) -> None:
    with AgentProcess(database, "till-a", "mqtt://no-such-host.invalid") as agent:
        agent.start(until="offline")
        agent.wait_problem("broker")
        assert agent.status.problems[0].hint


def test_a_wrong_password_is_a_problem_and_never_shown(tmp_path: Path, database: Path) -> None:
    with guarded(tmp_path) as broker, agent_at(broker, database, password="wrong-word") as agent:
        agent.start(until="offline")
        agent.wait_problem("broker")
        assert "password" in agent.status.problems[0].hint
        assert agent.running
        assert "wrong-word" not in agent.log


def test_a_password_file_that_is_corrected_while_it_runs(tmp_path: Path, database: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("wrong\n")
    options = ("--username", "till-a", "--password-file", str(secret))
    with (
        guarded(tmp_path) as broker,
        hub_at(broker, tmp_path),
        AgentProcess(database, "till-a", broker.url, *options) as agent,
    ):
        agent.start(until="offline")
        agent.wait_problem("broker")
        secret.write_text(PASSWORDS["till-a"] + "\n")
        agent.wait_state("live")


@pytest.mark.parametrize(
    ("denied", "problems"),
    [
        ("/up/", {"publish_denied", "no_ack"}),
        ("/ask/", {"publish_denied", "no_welcome"}),
        ("/in/main", {"subscription_denied", "no_welcome"}),
    ],
)
def test_a_denied_topic_is_a_problem_that_names_it(
    tmp_path: Path, database: Path, denied: str, problems: set[str]
) -> None:
    """Under 3.1.1, or where the broker is silent, only the missing answer tells."""
    with guarded(tmp_path, without=denied) as broker, hub_at(broker, tmp_path):
        options = ("--ack-timeout-s", "0.5")
        with agent_at(broker, database, *options) as agent:
            agent.start(until=None)
            wait_for(lambda: agent.problems & problems, 20, what=f"one of {problems}")
            assert all(problem.hint for problem in agent.status.problems)
            assert agent.running


def test_a_log_topic_that_may_not_be_read_is_a_problem_and_the_log_is_followed_all_the_same(
    tmp_path: Path, database: Path
) -> None:
    """Mosquitto 2.0 grants the subscription and delivers nothing."""
    with (
        guarded(tmp_path, without="/log") as broker,
        hub_at(broker, tmp_path),
        agent_at(broker, database, "--stall-timeout-s", "0.3") as agent,
    ):
        agent.start()
        app = make_database(database, "SELECT 1")
        for number in range(1, 4):
            wait_position(agent, number)
            app.execute("INSERT INTO orders VALUES (?, 2)", (f"o-1{number}",))
        agent.wait_problem("no_live_pages")
        assert agent.status.problems[-1].hint
        app.close()


def test_a_broker_replaced_by_another_empty_one_is_followed(tmp_path: Path, database: Path) -> None:
    first = Mosquitto(tmp_path / "first")
    first.start()
    try:
        with (
            HubProcess(tmp_path / "hub", first.url, log=tmp_path / "hub.log"),
            AgentProcess(database, "till-a", first.url) as agent,
        ):
            agent.start()
            first.kill()
            app = make_database(database, "INSERT INTO orders VALUES ('between', 2)")
            with Mosquitto(tmp_path / "second", port=first.port):
                agent.wait_state("live")
                wait_for(lambda: agent.status.batches == 0 and agent.status.changes == 0, 30, what="all is in the log")
            app.close()
    finally:
        first.stop()


def test_a_hub_with_another_log_halts_the_agent_until_the_right_one_is_back(
    tmp_path: Path, database: Path, broker: Mosquitto
) -> None:
    make_database(tmp_path / "b.db")
    with AgentProcess(
        database, "till-a", broker.url, "--hello-backoff-max-s", "0.5", "--offline-changes-max", "1"
    ) as agent:
        with HubProcess(tmp_path / "right", broker.url, log=tmp_path / "hub.log") as right:
            agent.start()
            wait_position(agent, 1)
            right.terminate()
        with HubProcess(tmp_path / "wrong", broker.url, log=tmp_path / "wrong.log") as wrong:
            agent.wait_state("halted")
            agent.wait_problem("log_foreign")
            assert agent.status.problems[0].hint
            app = make_database(database, "INSERT INTO orders VALUES ('kept', 2)")
            wait_for(lambda: agent.status.batches == 1, what="the write is kept")
            wrong.terminate()
        with (
            HubProcess(tmp_path / "right", broker.url, log=tmp_path / "hub.log"),
            AgentProcess(tmp_path / "b.db", "till-b", broker.url) as other,
        ):
            agent.wait_state("live", deadline_s=30)
            other.start()
            wait_rows(tmp_path / "b.db", [("kept", 2.0), ("o-1", 1.0)])
            app.close()
