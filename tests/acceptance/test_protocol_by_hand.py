"""A person with `mosquitto_pub`, `mosquitto_sub` and the protocol page takes part."""

from __future__ import annotations

import json
import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from jsonschema import Draft202012Validator

from support.broker import Mosquitto
from support.waiting import wait_for
from tidewire_schemas import topics
from tidewire_schemas.digest import message_digest

ROOT = Path(__file__).parents[2]


@contextmanager
def running(log: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(10)


def heard(log: Path) -> list[tuple[str, str]]:
    """Topic and payload of each whole line that `mosquitto_sub -v` has printed."""
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return [(topic, payload) for topic, _, payload in (line.partition(" ") for line in lines)]


def test_the_batch_of_the_protocol_page_is_accepted_and_all_that_is_heard_fits_the_schemas(
    broker: Mosquitto, tmp_path: Path
) -> None:
    page = (ROOT / "docs/reference/protocol.md").read_text()
    (command,) = re.findall(r"^mosquitto_pub .*$", page, re.MULTILINE)
    publish = [*shlex.split(command), "-p", str(broker.port)]
    payload = publish[publish.index("-m") + 1]
    all_heard = tmp_path / "heard"
    files = [tmp_path / "a.db", tmp_path / "b.db"]

    def rows(file: Path) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(file)) as database:
            return database.execute("SELECT * FROM readings ORDER BY id").fetchall()

    with ExitStack() as stack:
        start = stack.enter_context
        start(running(all_heard, "mosquitto_sub", "-p", str(broker.port), "-q", "1", "-v", "-t", "tidewire/v1/#"))
        hub = ("run", "--data", str(tmp_path / "hub"), "--broker", broker.url)
        start(running(tmp_path / "hub.log", sys.executable, "-m", "tidewire_hub", *hub))
        for file in files:
            with closing(sqlite3.connect(file)) as database:
                database.execute("CREATE TABLE readings (id TEXT PRIMARY KEY, device TEXT, temp REAL)")
            agent = ("run", "--db", str(file), "--device", file.stem, "--broker", broker.url, "--table", "readings")
            start(running(tmp_path / f"{file.stem}.log", sys.executable, "-m", "tidewire_agent", *agent))
        states = {topics.device_state(file.stem) for file in files}
        wait_for(lambda: {t for t, p in heard(all_heard) if '"state":"live"' in p} >= states, 30, what="both are live")

        subprocess.run(publish, check=True, timeout=10)
        expected = [("r-1", "by-hand", 21.5), ("r-2", "by-hand", 21.75)]
        wait_for(lambda: all(rows(file) == expected for file in files), 15, what="the rows are everywhere")

        subprocess.run(publish, check=True, timeout=10)
        inbox = topics.inbox("by-hand", "main")
        wait_for(lambda: len([t for t, _ in heard(all_heard) if t == inbox]) == 2, 10, what="two acks")
        answers = [json.loads(p) for t, p in heard(all_heard) if t == inbox]
        assert {answer["type"] for answer in answers} == {"ack"}
        assert {(answer["digest"], answer["seq"]) for answer in answers} == {(message_digest(payload.encode()), 1)}

    told = heard(all_heard)
    kinds = set()
    for name, text in told:
        topic = topics.parse(name)
        assert topic is not None, name
        kinds.add(topic.kind)
        schema = json.loads((ROOT / f"schemas/json/topics/{topic.kind}.json").read_text())
        Draft202012Validator(schema).validate(json.loads(text))
    assert kinds == {"up", "ask", "log", "head", "in", "device_state", "hub_state"}
