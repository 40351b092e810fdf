"""What a measurement runs on: a broker, a hub, devices and their apps, all real processes, and what they use."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from bench.app import SCHEMA
from support.processes import Device, Site

PATIENCE_S = 300.0
"""Nobody waits that long unless something is broken."""

ARRIVAL_POLL_S = 0.001
LATENCY_POLL_S = 0.0002
SEED = 7


class Written(NamedTuple):
    """What an app did, in monotonic seconds."""

    began: float
    committed: list[float]


class Usage(NamedTuple):
    """What one process used."""

    cpu_s: float
    rss_mib: float
    """The most it ever had."""
    written_mib: float
    """Given to the kernel for files."""


class Bed(Site):
    """An installation with default settings, whose devices hold the table `readings`."""

    def add(self, name: str) -> Device:
        """A device, live."""
        device = self.device(name, SCHEMA, tables=("readings",))
        device.settings = ()
        return device.start()

    def processes(self) -> dict[str, psutil.Process]:
        """All that run now, by name."""
        found = {f"agent {device.device}": device.process.pid for device in self.devices if device.running}
        found |= {"hub": self.hub.process.pid, "broker": self.broker.pid}
        return {name: psutil.Process(pid) for name, pid in found.items()}

    @contextmanager
    def using(self, used: dict[str, Usage]) -> Iterator[None]:
        """Note in `used` what the processes use meanwhile; the peak of memory is that of their lives."""
        processes = self.processes()
        before = {name: _cpu_s(process) for name, process in processes.items()}
        wrote = {name: _written(process) for name, process in processes.items()}
        yield
        for name, process in processes.items():
            used[name] = Usage(
                _cpu_s(process) - before[name], _peak_mib(process.pid), (_written(process) - wrote[name]) / 2**20
            )


def begin_app(device: Device, rows: int, per_transaction: int, pause_s: float = 0.0) -> subprocess.Popen[str]:
    """Start an app that writes readings."""
    arguments = [device.db, rows, per_transaction, pause_s, SEED]
    return subprocess.Popen(
        [sys.executable, "-m", "bench.app", *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )


def end_app(app: subprocess.Popen[str]) -> Written:
    """What it did."""
    out, _ = app.communicate(timeout=PATIENCE_S)
    if app.returncode != 0:
        raise RuntimeError(f"the app failed with {app.returncode}")
    found: Mapping[str, object] = json.loads(out)
    return Written(**found)  # type: ignore[arg-type]  # it is our own program


def wait_arrival(device: Device, rows: int, *, poll_s: float = ARRIVAL_POLL_S) -> list[float]:
    """When each of so many rows was seen on a device: the first time that it held at least n of them."""
    seen: list[float] = []
    deadline = time.monotonic() + PATIENCE_S
    with closing(sqlite3.connect(device.db, timeout=PATIENCE_S, isolation_level=None)) as reader:
        while len(seen) < rows:
            # Rows are only inserted, so the greatest rowid counts them at the cost of one step.
            (there,) = reader.execute("SELECT coalesce(max(rowid), 0) FROM readings").fetchone()
            now = time.monotonic()
            seen += [now] * (there - len(seen))
            if now > deadline:
                raise TimeoutError(f"{device.device} holds {there} of {rows} rows after {PATIENCE_S} s")
            time.sleep(poll_s)
        (count,) = reader.execute("SELECT count(*) FROM readings").fetchone()
    if count != rows:
        raise RuntimeError(f"{device.device} holds {count} rows, {rows} were written")
    return seen


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _written(process: psutil.Process) -> int:
    return int(process.io_counters().write_bytes)


def _peak_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this kernel does not say how much memory a process had at most")
