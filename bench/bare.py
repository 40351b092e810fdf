"""The bare way: the same parts as Tidewire in the least Python that moves a row from A to B, and no protocol at all.

A trigger writes each row into a change log as JSON; a sender publishes what it finds there and deletes it; a hub stores
each message durably and publishes it again; a receiver inserts its rows. Nothing is numbered, checked, bounded,
resolved or healed, and whatever falls over is lost: so much do the parts cost in company, before anything is promised.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from bench.app import SCHEMA, begin_app, connect, end_app
from bench.bed import ARRIVAL_POLL_S, LATENCY_POLL_S, wait_databases
from bench.machine import ROOT
from bench.results import Usage
from bench.usage import using
from support.broker import Mosquitto

CAPTURE = """
CREATE TABLE changes (seq INTEGER PRIMARY KEY, row TEXT NOT NULL);
CREATE TRIGGER capture AFTER INSERT ON readings BEGIN
    INSERT INTO changes (row) VALUES (json_array(NEW.id, NEW.device, NEW.ts, NEW.temp, NEW.note));
END;
"""


class Moved(NamedTuple):
    """How rows went the bare way: monotonic seconds, and what the processes but the app used."""

    began: float
    committed: list[float]
    seen: list[list[float]]
    used: dict[str, Usage]


def move(folder: Path, rows: int, per_transaction: int, *, pause_s: float = 0.0, receivers: int = 1) -> Moved:
    """Let an app write rows on A, and see them come to each B."""
    a, takers = folder / "a.db", [folder / f"b{n}.db" for n in range(receivers)]
    for db in (a, *takers):
        with connect(db) as app:
            app.execute(SCHEMA)
            if db == a:
                app.executescript(CAPTURE)
        app.close()
    used: dict[str, Usage] = {}
    with ExitStack() as running:
        broker = running.enter_context(Mosquitto(folder / "broker"))
        roles = [("take", db) for db in takers] + [("hub", folder / "hub.db"), ("send", a)]
        processes = {
            f"{role} {db.stem}": running.enter_context(_running(role, broker.port, db)).pid for role, db in roles
        }
        with using({name: psutil.Process(pid) for name, pid in {**processes, "broker": broker.pid}.items()}, used):
            app_process = begin_app(a, rows, per_transaction, pause_s)
            poll_s = LATENCY_POLL_S if pause_s else ARRIVAL_POLL_S
            seen = wait_databases(takers, rows, poll_s=poll_s)
            written = end_app(app_process)
    return Moved(written.began, written.committed, seen, used)


@contextmanager
def _running(role: str, port: int, db: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "bench.bare_roles", role, str(port), str(db)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            if process.stdout is None or not process.stdout.readline():
                raise RuntimeError(f"`{role}` ended early")
            yield process
        finally:
            process.terminate()
