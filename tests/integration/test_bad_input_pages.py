"""Messages that a device cannot use, in whole or in part: kept, and the next ones are taken."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.agent_process import AgentProcess, make_database, rows, tidewire_agent
from support.broker import Mosquitto
from support.hub_process import HandMadeDevice, HubProcess
from support.publish import publish
from support.waiting import wait_for, wait_for_async
from tidewire_schemas import codec, topics
from tidewire_schemas.digest import NO_DIGEST, message_digest

OTHER = "e" * 32
TOPICS = {"in": topics.inbox("till-a", "main"), "log": topics.log("main"), "head": topics.head("main")}


@pytest.fixture
def hub(tmp_path: Path, broker: Mosquitto) -> Iterator[HubProcess]:
    with HubProcess(tmp_path / "hub", broker.url, log=tmp_path / "hub.log") as running:
        yield running


@pytest.fixture
def agent(tmp_path: Path, broker: Mosquitto, hub: HubProcess) -> Iterator[AgentProcess]:
    make_database(tmp_path / "a.db").close()
    with AgentProcess(tmp_path / "a.db", "till-a", broker.url) as running:
        yield running.start()


def shape(table: str, **columns: str) -> dict[str, Any]:
    """A table as Hello declares it, with its first column as key; columns and their affinity."""
    listed = [{"name": name, "affinity": affinity} for name, affinity in columns.items()]
    return {"name": table, "columns": listed, "key": [next(iter(columns))]}


def run(table: str, columns: list[str], *values: list[Any], op: str = "put", key: int = 1) -> dict[str, Any]:
    return {"op": op, "table": table, "base": [0, 0], "key": key, "columns": columns, "rows": list(values)}


def seq(agent: AgentProcess) -> int:
    """The last entry that it applied."""
    position = agent.status.position
    return 0 if position is None else position.seq


class OtherDevice:
    """A device by hand: another app's tables and rows, through the hub."""

    def __init__(self, device: HandMadeDevice) -> None:
        self._device = device
        self._prev = NO_DIGEST
        self._batch = 0

    async def declare(self, *tables: dict[str, Any]) -> None:
        message = {"v": 1, "type": "hello", "incarnation": self._device.incarnation, "boot": self._device.boot}
        message |= {"log": None, "position": [0, 0], "epoch": 0, "last_sealed": None, "oldest_kept": 0}
        payload = json.dumps(message | {"tables": list(tables)}).encode()
        await self._device.publish(topics.ask("main", self._device.name), payload)

    async def write(self, *runs: dict[str, Any]) -> None:
        self._batch += 1
        payload = codec.encode_batch(
            incarnation=self._device.incarnation,
            batch=self._batch,
            prev_digest=self._prev,
            sealed_at=0,
            changes_json=json.dumps(runs).encode(),
        )
        self._prev = message_digest(payload)
        await self._device.send(payload)
        await self._device.until_acked(self._batch)


async def test_tables_and_columns_that_only_others_have_hold_nothing_up(agent: AgentProcess, broker: Mosquitto) -> None:
    """Guarantee 10."""
    async with HandMadeDevice(broker.url, "till-b") as device:
        other = OtherDevice(device)
        await other.declare(
            shape("elsewhere", id="BLOB", x="BLOB"), shape("orders", id="TEXT", total="REAL", colour="TEXT")
        )
        await other.write(run("elsewhere", ["id", "x"], [1, 2]))
        await other.write(run("orders", ["id", "total", "colour"], ["with a colour", 1.0, "red"]))
        await other.write(run("elsewhere", ["id", "x"], [2, 3]), run("orders", ["id", "total"], ["after", 2.0]))
        await wait_for_async(lambda: len(rows(agent.db)) == 2, what="the rows of the attached table are there")
    assert rows(agent.db) == [("after", 2.0), ("with a colour", 1.0)]
    # What no column takes is named where a person sees it, and comes with the app's next version.
    assert "columns not here: colour" in tidewire_agent("status", "--db", agent.db).stdout
    app = make_database(agent.db, "ALTER TABLE orders ADD COLUMN colour TEXT")
    app.close()
    wait_for(lambda: ("with a colour", 1.0, "red") in rows(agent.db), what="the cell is in its column")
    assert agent.status.parked == 0
    assert agent.running
    assert "Traceback" not in agent.log


async def test_a_row_that_breaks_a_constraint_of_this_device_alone_is_parked_until_it_fits(
    agent: AgentProcess, broker: Mosquitto
) -> None:
    """Guarantee 10."""
    make_database(agent.db, "CREATE TABLE strict (id INTEGER PRIMARY KEY, n INTEGER NOT NULL) STRICT")
    agent.stop()
    agent.tables = ("orders", "strict")
    agent.start()
    async with HandMadeDevice(broker.url, "till-b") as device:
        other = OtherDevice(device)
        await other.write(run("strict", ["id", "n"], [2, None], [3, "no number"], [4, 4]))
        await other.write(run("orders", ["id", "total"], ["after", 1.0]))
        await wait_for_async(lambda: rows(agent.db) == [("after", 1.0)], what="the entry after it")
        assert rows(agent.db, "SELECT * FROM strict") == [(4, 4)]
        wait_for(lambda: agent.status.parked == 2, what="two rows wait")
        await other.write(run("strict", ["id", "n"], [2, 2], [3, 3]))
        await wait_for_async(
            lambda: rows(agent.db, "SELECT n FROM strict ORDER BY id") == [(2,), (3,), (4,)], what="all fit now"
        )
    wait_for(lambda: agent.status.parked == 0, what="nothing waits")


@pytest.mark.parametrize(
    "bad",
    [
        run("orders", ["id", "total"], ["x", 1.0], key=2),
        run("orders", ["total", "id"], [1.0, "x"]),
        run("orders", ["total"], [1.0], op="delete"),
    ],
    ids=["key count", "key column", "delete by another column"],
)
def test_a_wrong_key_in_the_log_changes_no_row_and_is_said(
    agent: AgentProcess, broker: Mosquitto, bad: dict[str, Any]
) -> None:
    """No hub numbers such a thing; whoever else may publish on the log's topic could."""
    app = make_database(agent.db, "INSERT INTO orders VALUES ('mine', 1)")
    wait_for(lambda: seq(agent) == 1, what="it is in the log")
    position = agent.status.position
    assert position is not None
    entry = {"seq": position[1] + 1, "epoch": position[0], "device": "till-b", "incarnation": OTHER, "batch": 1}
    entry |= {"digest": OTHER, "at": 0, "refused": [], "changes": [bad]}
    page = {"v": 1, "type": "page", "log": agent.status.log, "prev": list(position), "entries": [entry]}
    publish(broker, (topics.log("main"), json.dumps(page).encode()))
    wait_for(lambda: agent.status.dead_letters == 1, what="it is kept")
    assert rows(agent.db) == [("mine", 1.0)]
    (letter,) = [json.loads(line) for line in dead(agent, "list", "--json").stdout.splitlines()]
    assert (letter["reason"], letter["seq"], letter["op"]) == ("wrong_key", position[1] + 1, bad["op"])
    assert "till-b" in letter["detail"]
    retried = dead(agent, "retry", str(letter["id"]))
    assert retried.returncode != 0
    assert "key" in retried.stderr
    assert "Traceback" not in agent.log + retried.stderr
    app.close()


def dead(agent: AgentProcess, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return tidewire_agent("dead", command, "--db", agent.db, *arguments)


def variants(kind: str) -> dict[str, bytes]:
    """Messages that would be good, but for one thing."""
    mine = {"v": 1, "incarnation": OTHER, "boot": OTHER}
    good: dict[str, Any] = {
        "in": mine | {"type": "ack", "epoch": 1, "batch": 1, "digest": OTHER, "seq": 1},
        "log": {"v": 1, "type": "page", "log": OTHER, "prev": [0, 0], "entries": []},
        "head": {"v": 1, "type": "head", "log": OTHER, "epoch": 1, "head": [1, 1], "oldest": 1, "leader": "x", "at": 0},
    }[kind]
    text = json.dumps(good).encode()
    return {
        "unknown field": json.dumps(good | {"surprise": 1}).encode(),
        "wrong version": json.dumps(good | {"v": 2}).encode(),
        "version as text": json.dumps(good | {"v": "1"}).encode(),
        "too deep": json.dumps(good)[:-1].encode() + b',"x":' + b"[" * 2000 + b"]" * 2000 + b"}",
        **{f"cut off after {size}": text[:size] for size in range(0, len(text), 7)},
    }


@pytest.mark.parametrize("kind", list(TOPICS))
def test_a_good_message_with_one_thing_wrong_is_set_aside_on_every_topic(
    agent: AgentProcess, broker: Mosquitto, kind: str
) -> None:
    """Guarantee 10."""
    bad = variants(kind)
    publish(broker, *((TOPICS[kind], payload) for payload in bad.values()))
    wait_for(lambda: agent.status.rejected_count == len(bad), what="each is set aside")
    assert agent.status.state == "live"
    assert "Traceback" not in agent.log


def test_a_message_above_the_limit_is_set_aside_and_nothing_is_held_up(tmp_path: Path, broker: Mosquitto) -> None:
    """Guarantee 12."""
    make_database(tmp_path / "a.db").close()
    options = ("--message-bytes-max", "50000", "--batch-bytes-max", "20000")
    with (
        HubProcess(tmp_path / "hub", broker.url, log=tmp_path / "hub.log"),
        AgentProcess(tmp_path / "a.db", "till-a", broker.url, *options) as agent,
    ):
        agent.start()
        for topic in TOPICS.values():
            publish(broker, (topic, b'{"v":1,"type":"page","x":"' + b"x" * 60_000 + b'"}'))
        wait_for(lambda: agent.status.rejected_count == 3, what="each is set aside")
        assert {record.code for record in agent.status.rejected} == {"message_too_large"}
        assert all("message_bytes_max" in record.reason for record in agent.status.rejected)
        app = make_database(agent.db, "INSERT INTO orders VALUES ('after', 1)")
        wait_for(lambda: seq(agent) == 1, what="a write is in the log")
        app.close()
