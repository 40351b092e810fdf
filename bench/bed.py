"""What a measurement runs on: a broker, a hub, devices and their apps, all real processes."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import psutil

from bench.app import PATIENCE_S, SCHEMA
from bench.results import Usage
from bench.usage import using
from support.processes import Device, Site

ARRIVAL_POLL_S = 0.005
"""A look takes time of the processors that the jobs need: one each millisecond took a twentieth of it."""
LATENCY_POLL_S = 0.0002


class Bed(Site):
    """An installation with default settings, whose devices hold the table `readings`."""

    def add(self, name: str, *options: str, broker: str | None = None) -> Device:
        """A device, live; `broker` is where it finds the broker, if not directly."""
        device = self.device(name, SCHEMA, *options, tables=("readings",))
        device.settings = ()
        device.broker = broker or device.broker
        return device.start()

    def processes(self) -> dict[str, psutil.Process]:
        """All that run now, by name."""
        found = {f"agent {device.device}": device.process.pid for device in self.devices if device.running}
        found |= {"hub": self.hub.process.pid, "broker": self.broker.pid}
        return {name: psutil.Process(pid) for name, pid in found.items()}

    @contextmanager
    def using(self, used: dict[str, Usage]) -> Iterator[None]:
        """Note in `used` what the processes use meanwhile."""
        with using(self.processes(), used):
            yield


def wait_arrival(
    device: Device, rows: int, *, poll_s: float = ARRIVAL_POLL_S, patience_s: float = PATIENCE_S
) -> list[float]:
    """When each of so many rows was seen on a device: the first time that it held at least n of them."""
    return wait_arrivals([device], rows, poll_s=poll_s, patience_s=patience_s)[0]


def wait_arrivals(
    devices: Sequence[Device], rows: int, *, poll_s: float = ARRIVAL_POLL_S, patience_s: float = PATIENCE_S
) -> list[list[float]]:
    """The same of several devices, looked at in turn."""
    return wait_databases([device.db for device in devices], rows, poll_s=poll_s, patience_s=patience_s)


def wait_databases(
    paths: Sequence[Path], rows: int, *, poll_s: float = ARRIVAL_POLL_S, patience_s: float = PATIENCE_S
) -> list[list[float]]:
    """The same of several databases."""
    seen: list[list[float]] = [[] for _ in paths]
    readers = [sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None) for path in paths]
    deadline = time.monotonic() + patience_s
    try:
        while min(map(len, seen)) < rows:
            for reader, times in zip(readers, seen, strict=True):
                if len(times) < rows:
                    # Rows are only inserted, so the greatest rowid counts them at the cost of one step.
                    (there,) = reader.execute("SELECT coalesce(max(rowid), 0) FROM readings").fetchone()
                    times.extend([time.monotonic()] * (there - len(times)))
            if time.monotonic() > deadline:
                raise TimeoutError(f"{min(map(len, seen))} of {rows} rows came in {patience_s} s")
            time.sleep(poll_s)
        for reader, path in zip(readers, paths, strict=True):
            (count,) = reader.execute("SELECT count(*) FROM readings").fetchone()
            if count != rows:
                raise RuntimeError(f"{path} holds {count} rows, {rows} were written")
    finally:
        for reader in readers:
            reader.close()
    return seen


def file_bytes(device: Device) -> int:
    """How large a device's database is once all of it is in the file itself."""
    with closing(sqlite3.connect(device.db, timeout=PATIENCE_S)) as app:
        (pages,) = app.execute("PRAGMA page_count").fetchone()
        (page_bytes,) = app.execute("PRAGMA page_size").fetchone()
    return int(pages) * int(page_bytes)
