"""What an agent does with messages it cannot use, on every topic it listens to. Real broker, real hub, real agent."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.agent_process import AgentProcess, make_database, rows, wait_rows
from support.broker import Mosquitto
from support.hub_process import HubProcess
from support.publish import publish
from support.waiting import PATIENCE_S, wait_for
from tidewire_schemas import topics
from tidewire_schemas.digest import message_digest
from tidewire_schemas.positions import Position

TOPICS = {
    "in": topics.inbox("till-a", "main"),
    "log": topics.log("main"),
    "head": topics.head("main"),
}
OTHER = "f" * 32


@pytest.fixture
def hub(tmp_path: Path, broker: Mosquitto) -> Iterator[HubProcess]:
    with HubProcess(tmp_path / "hub", broker.url, log=tmp_path / "hub.log") as running:
        yield running


@pytest.fixture
def agent(tmp_path: Path, broker: Mosquitto, hub: HubProcess) -> Iterator[AgentProcess]:
    make_database(tmp_path / "a.db").execute("INSERT INTO orders VALUES ('o-1', 1)")
    with AgentProcess(tmp_path / "a.db", "till-a", broker.url) as running:
        running.start()
        wait_for(lambda: running.status.position is not None and running.status.position[1] == 1, what="the seed is in")
        yield running


def still_works(agent: AgentProcess, key: str = "after") -> None:
    """A write travels up and its entry comes back."""
    before = agent.status.position
    assert before is not None
    app = make_database(agent.db, "SELECT 1")
    app.execute("INSERT INTO orders VALUES (?, 2)", (key,))
    app.close()

    def moved() -> bool:
        position = agent.status.position
        return position is not None and position[1] > before[1] and agent.status.batches == 0

    wait_for(moved, 30, what="a write is in the log")
    agent.wait_state("live")


def page(agent: AgentProcess, prev: Position, key: str, **changes: Any) -> dict[str, Any]:
    """A page with one entry that puts an order; as valid as it can be."""
    status = agent.status
    entry = {
        "seq": prev.seq + 1,
        "epoch": prev.epoch,
        "device": "till-b",
        "incarnation": OTHER,
        "batch": 1,
        "digest": OTHER,
        "at": 0,
        "refused": [],
        "changes": [
            {
                "op": "put",
                "table": "orders",
                "base": [0, 0],
                "key": 1,
                "columns": ["id", "total"],
                "rows": [[key, 1.0]],
            }
        ],
    }
    return {"v": 1, "type": "page", "log": status.log, "prev": list(prev), "entries": [entry]} | changes


GARBAGE: dict[str, bytes] = {
    "nothing at all": b"",
    "not JSON": b"hello",
    "not UTF-8": b'{"v":1,"type":"\xff\xfe"}',
    "cut off": b'{"v":1,"type":"page","log":"',
    "too deep": b"[" * 5000 + b"]" * 5000,
    "another version": b'{"v":2,"type":"page"}',
    "another type": b'{"v":1,"type":"batch"}',
    "no type": b'{"v":1}',
    "a list": b"[]",
    "a huge number": b'{"v":1,"type":"head","at":' + b"9" * 5000 + b"}",
    "a part that lies": json.dumps(
        {"v": 1, "type": "part", "digest": OTHER, "part": 0, "parts": 2, "size": 10**12, "text": "x"}
    ).encode(),
}


@pytest.mark.parametrize("kind", list(TOPICS))
@pytest.mark.fault("garbage on every topic")
def test_garbage_is_set_aside_and_nothing_is_held_up(agent: AgentProcess, broker: Mosquitto, kind: str) -> None:
    """Guarantee 10."""
    publish(broker, *((TOPICS[kind], payload) for payload in GARBAGE.values()))
    # An empty payload travels like any other; it is not retained, so it clears nothing.
    wait_for(lambda: agent.status.rejected_count >= len(GARBAGE), what="all of it is set aside")
    last = agent.status.rejected[-1]
    assert last.topic == TOPICS[kind]
    assert last.reason
    assert agent.status.state == "live"
    still_works(agent)
    assert agent.running
    assert "Traceback" not in agent.log


def test_unknown_fields_are_refused(agent: AgentProcess, broker: Mosquitto) -> None:
    position = Position(*(agent.status.position or (0, 0)))
    publish(broker, (TOPICS["log"], json.dumps(page(agent, position, "x", surprise=1)).encode()))
    wait_for(lambda: agent.status.rejected_count == 1, what="it is set aside")
    assert "surprise" in agent.status.rejected[0].reason
    assert rows(agent.db) == [("o-1", 1.0)]
    still_works(agent)


def test_a_value_that_sqlite_cannot_hold_is_refused(agent: AgentProcess, broker: Mosquitto) -> None:
    position = Position(*(agent.status.position or (0, 0)))
    bad = page(agent, position, "x")
    bad["entries"][0]["changes"][0]["rows"] = [["x", 2**70]]
    publish(broker, (TOPICS["log"], json.dumps(bad).encode()))
    wait_for(lambda: agent.status.rejected_count == 1, what="it is set aside")
    assert rows(agent.db) == [("o-1", 1.0)]
    still_works(agent)


def mine(agent: AgentProcess, **values: Any) -> dict[str, Any]:
    return {"v": 1, "incarnation": agent.status.incarnation, "boot": agent.status.boot} | values


def to_another(field: str) -> Callable[[AgentProcess, dict[str, Any]], dict[str, Any]]:
    return lambda _agent, message: message | {field: OTHER}


@pytest.mark.parametrize("change", [to_another("incarnation"), to_another("boot")], ids=["incarnation", "boot"])
def test_what_is_for_another_start_or_incarnation_is_ignored(
    agent: AgentProcess,
    broker: Mosquitto,
    change: Callable[[AgentProcess, dict[str, Any]], dict[str, Any]],
) -> None:
    position = Position(*(agent.status.position or (0, 0)))
    later = page(agent, position, "forged")
    messages = [
        mine(agent, type="ack", epoch=position.epoch, batch=2, digest=OTHER, seq=2),
        mine(agent, type="replay", last=True, page=later),
        mine(agent, type="problem", code="hello_needed", message="?", hint="", retry=False, batch=None),
        mine(agent, type="fresh_answer", nonce=OTHER, head=list(position)),
    ]
    publish(broker, *((TOPICS["in"], json.dumps(change(agent, message)).encode()) for message in messages))
    still_works(agent)
    assert ("forged", 1.0) not in rows(agent.db)
    assert agent.status.rejected_count == 0
    assert agent.log.count("handshaking") == 1


def test_pages_that_come_again_or_out_of_order_are_applied_once_and_in_order(
    agent: AgentProcess, broker: Mosquitto, tmp_path: Path
) -> None:
    """Guarantee 3."""
    position = Position(*(agent.status.position or (0, 0)))
    repeated = json.dumps(page(agent, Position(position.epoch, position.seq - 1), "forged")).encode()
    ahead = json.dumps(page(agent, Position(position.epoch, position.seq + 5), "from the future")).encode()
    publish(broker, (TOPICS["log"], repeated), (TOPICS["log"], ahead), (TOPICS["log"], repeated))
    still_works(agent)
    keys = {key for key, _ in rows(agent.db)}
    assert keys == {"o-1", "after"}


@pytest.mark.fault("a hub that was replaced and goes on talking")
def test_a_page_of_an_earlier_leader_is_not_applied(agent: AgentProcess, broker: Mosquitto) -> None:
    """Guarantee 8."""
    position = Position(*(agent.status.position or (0, 0)))
    stale = page(agent, position, "stale")
    stale["entries"][0]["epoch"] = position.epoch - 1
    publish(broker, (TOPICS["log"], json.dumps(stale).encode()))
    still_works(agent)
    assert ("stale", 1.0) not in rows(agent.db)


def test_a_page_or_head_of_another_log_or_a_later_epoch_is_not_believed(
    agent: AgentProcess, broker: Mosquitto, hub: HubProcess
) -> None:
    """Guarantee 8: a new epoch or log is learned from a Welcome alone."""
    position = Position(*(agent.status.position or (0, 0)))
    later = page(agent, position, "later")
    later["entries"][0]["epoch"] = position.epoch + 7
    head = {
        "v": 1,
        "type": "head",
        "log": agent.status.log,
        "epoch": position.epoch + 9,
        "head": [position.epoch + 9, 99],
        "oldest": 1,
        "leader": "other",
        "at": 0,
    }
    foreign = page(agent, position, "foreign", log=os.urandom(16).hex())
    for topic, payload in (("log", later), ("log", foreign), ("head", head | {"log": OTHER})):
        publish(broker, (TOPICS[topic], json.dumps(payload).encode()))
        agent.wait_state("live")
    publish(broker, (TOPICS["head"], json.dumps(head).encode()))
    assert hub.process.wait(PATIENCE_S) != 0  # it takes this for the hub that replaced it
    hub.options += ("--take-over",)
    hub.start()
    agent.wait_state("live")
    still_works(agent)
    assert {key for key, _ in rows(agent.db)} == {"o-1", "after"}


def test_a_welcome_that_nobody_asked_for_is_ignored(agent: AgentProcess, broker: Mosquitto) -> None:
    position = Position(*(agent.status.position or (0, 0)))
    forged = mine(
        agent,
        type="welcome",
        log=OTHER,
        epoch=position.epoch + 1,
        head=[0, 0],
        oldest=0,
        checkpoint="off_log",
        accepted=None,
        recent=[],
        table_problems=[],
        payload_bytes_max=100_000,
        batch_bytes_max=100_000,
    )
    publish(broker, (TOPICS["in"], json.dumps(forged).encode()))
    still_works(agent)
    assert agent.status.rejected_count == 0


def test_topics_that_are_not_the_agents_are_nothing_to_it(agent: AgentProcess, broker: Mosquitto) -> None:
    publish(broker, (topics.inbox("till-b", "main"), b"?"), (topics.log("other"), b"?"), ("elsewhere", b"?"))
    still_works(agent)
    assert agent.status.rejected_count == 0


def test_parts_of_a_message_that_never_ends_do_not_hold_up_others(
    agent: AgentProcess, broker: Mosquitto, tmp_path: Path
) -> None:
    """Guarantee 12."""
    for number in range(20):
        digest = message_digest(str(number).encode())
        part = {"v": 1, "type": "part", "digest": digest, "part": 0, "parts": 3, "size": 3000, "text": "x" * 1000}
        publish(broker, (TOPICS["log"], json.dumps(part).encode()))
    still_works(agent)
    assert agent.status.rejected_count == 0


def test_a_large_row_travels_in_parts(agent: AgentProcess, broker: Mosquitto, tmp_path: Path) -> None:
    make_database(tmp_path / "b.db", "CREATE TABLE orders (id TEXT PRIMARY KEY, total)")
    app = make_database(agent.db, "SELECT 1")
    large = 'ä"\\' * 200_000
    with AgentProcess(tmp_path / "b.db", "till-b", broker.url) as other:
        other.start()
        app.execute("INSERT INTO orders VALUES (?, 7)", (large,))
        wait_rows(tmp_path / "b.db", [(large, 7.0)], 30, query="SELECT id, total FROM orders WHERE total = 7")
    app.close()
