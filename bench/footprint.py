"""What Tidewire costs besides time: bytes on the wire, on the disk and on flash, and how much it takes while idle."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from bench.app import SCHEMA, begin_app, connect, end_app
from bench.bed import Bed, file_bytes
from bench.jobs import PER_TRANSACTION, ROWS, SINGLE_ROWS
from bench.relay import Relay
from bench.results import Sample, Usage
from bench.usage import usage_of
from support.processes import Device
from tidewire_agent.lock import read_status

PATTERNS = {"batches": (ROWS, PER_TRANSACTION), "singles": (SINGLE_ROWS, 1)}
"""Rows, and how many of them in a transaction; without pauses."""

IDLE_S = 10.0
SETTLE_S = 2.0
"""After which what a start leaves to do is done."""

START_POLL_S = 0.002
STARTS = 5
IMPORTS = "from tidewire_link import startup; startup.prepare(); import tidewire_agent.cli.run"
"""What the command does before it runs."""


def wire(folder: Path) -> Sample:
    """Bytes of TCP per row between the broker and each of A and B, with all that MQTT and Tidewire say besides rows."""
    figures = {}
    for name, (rows, per_transaction) in PATTERNS.items():
        with Bed(folder / name) as bed, Relay(bed.broker.port) as to_a, Relay(bed.broker.port) as to_b:
            a, _ = bed.add("a", broker=to_a.url), bed.add("b", broker=to_b.url)
            before = [to_a.up_bytes, to_a.down_bytes, to_b.up_bytes, to_b.down_bytes]
            end_app(begin_app(a.db, rows, per_transaction))
            bed.wait_at_rest()
            after = [to_a.up_bytes, to_a.down_bytes, to_b.up_bytes, to_b.down_bytes]
        titles = ("A sends", "A receives", "B sends", "B receives")
        for title, early, late in zip(titles, before, after, strict=True):
            figures[f"{name}: {title} bytes/row"] = (late - early) / rows
    return Sample(figures=figures)


def growth(folder: Path) -> Sample:
    """How large files are per row once all is at rest: a database without Tidewire, A's, B's, the hub's."""
    figures = {}
    for name, (rows, per_transaction) in PATTERNS.items():
        with Bed(folder / name) as bed:
            plain = Device(bed.folder / "plain.db", "plain", bed.broker.url)
            with closing(connect(plain.db)) as app:
                app.execute(SCHEMA)
            end_app(begin_app(plain.db, rows, per_transaction))
            a, b = bed.add("a"), bed.add("b")
            end_app(begin_app(a.db, rows, per_transaction))
            bed.wait_at_rest()
            for device in (plain, a, b):
                figures[f"{name}: {device.device.upper()} bytes/row"] = file_bytes(device) / rows
        for kind in ("log", "state"):
            figures[f"{name}: hub {kind} bytes/row"] = _sqlite_bytes(bed.hub.data, f"{kind}.db") / rows
    return Sample(figures=figures)


def idle(folder: Path) -> Sample:
    """Agent, hub and broker while nobody writes."""
    with Bed(folder) as bed:
        bed.add("a")
        time.sleep(SETTLE_S)
        processes = bed.processes()
        before = {name: usage_of(process) for name, process in processes.items()}
        time.sleep(IDLE_S)
        after = {name: usage_of(process) for name, process in processes.items()}
    used = {
        name: Usage(
            cpu_s=after[name].cpu_s - before[name].cpu_s,
            rss_mib=after[name].rss_mib,
            written_mib=after[name].written_mib - before[name].written_mib,
        )
        for name in processes
    }
    figures = {}
    for name, process in {"agent a": "agent", "hub": "hub", "broker": "broker"}.items():
        figures[f"{process} CPU %"] = 100 * used[name].cpu_s / IDLE_S
        figures[f"{process} MiB"] = used[name].rss_mib
    return Sample(figures=figures, used=used)


def start(folder: Path) -> Sample:
    """From the start of the agent's process until it is live, on a database that it knows; and what imports take."""
    took = []
    with Bed(folder) as bed:
        a = bed.add("a")
        for _ in range(STARTS):
            a.stop()
            began = time.monotonic()
            a.start(until=None)
            while (status := read_status(a.db)) is None or status.pid != a.process.pid or status.state != "live":
                time.sleep(START_POLL_S)
            took.append(time.monotonic() - began)
    return Sample(
        figures={
            "live ms": 1000 * min(took),
            "of which imports ms": 1000 * min(_run_s(IMPORTS) for _ in range(STARTS)),
            "of which Python ms": 1000 * min(_run_s("pass") for _ in range(STARTS)),
        }
    )


def _run_s(program: str) -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.monotonic() - began


def _sqlite_bytes(folder: Path, name: str) -> int:
    """How large a database is once all of it is in the file itself; it is the only one of this name in the folder."""
    (path,) = folder.rglob(name)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.stat().st_size
