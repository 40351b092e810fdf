"""A device comes back after very many entries of 50 others: by replay and by a snapshot, while its app goes on.

    python -m pytest tests/acceptance/test_away_for_long.py -s --away-entries 1000000

is the long run; it prints how long the return took, the memory of agent and hub, the longest that the agent held the
app's write lock, and the longest that the app waited for it. (SQLite lets a waiting app look again after 1, 3, 8, 18,
33, 53 ms …: it may wait longer than the lock is held.)
"""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from support.long_log import SCHEMA, write_long_log
from support.processes import Device, Site
from support.waiting import wait_for
from tidewire_agent.lock import read_status

APP_PAUSE_S: Final = 0.005


class PatientApp:
    """Writes a row every few milliseconds into a table that is not synced, and notes how long it waited."""

    def __init__(self, db: Path) -> None:
        self._db = db
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.waits_s: list[float] = []
        """For the write lock, of each transaction."""

    def __enter__(self) -> PatientApp:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with closing(sqlite3.connect(self._db, timeout=30, isolation_level=None)) as app:
            app.execute("PRAGMA synchronous = NORMAL")
            while not self._stop.wait(APP_PAUSE_S):
                began = time.perf_counter()
                app.execute("BEGIN IMMEDIATE")
                self.waits_s.append(time.perf_counter() - began)
                app.execute("INSERT INTO own VALUES (?)", (len(self.waits_s),))
                app.execute("COMMIT")


def peak_mib(pid: int) -> float:
    """The most memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024


@pytest.fixture(scope="module")
def entries(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--away-entries"))


@pytest.fixture(scope="module")
def long_log(tmp_path_factory: pytest.TempPathFactory, entries: int) -> Path:
    """A hub's data directory."""
    data = tmp_path_factory.mktemp("long-log")
    write_long_log(data, entries=entries, rows=entries // 10)
    return data


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", ["replay", "snapshot"])
def test_a_device_that_was_away_for_very_many_entries_returns(
    tmp_path: Path, entries: int, long_log: Path, way: str
) -> None:
    """Guarantee 5. Guarantee 7."""
    (tmp_path / "hub").symlink_to(long_log)
    advised = {"replay": 100_000_000, "snapshot": 100}[way]
    with Site(tmp_path, "--snapshot-advised-entries", str(advised)) as site:
        device = site.device("a", SCHEMA + "CREATE TABLE own (n INTEGER);", tables=("readings",))
        with PatientApp(device.db) as app:
            began = time.monotonic()
            device.start(until=None)
            wait_for(lambda: is_back(device, entries), 60 + entries / 400, what="it holds all entries", every_s=0.2)
            took_s = time.monotonic() - began
        status = read_status(device.db)
        assert status is not None
        print(  # noqa: T201  # what a long run is for
            f"\n{entries} entries by {way}: {took_s:.1f} s, agent {peak_mib(device.process.pid):.0f} MiB,"
            f" hub {peak_mib(site.hub.process.pid):.0f} MiB; the agent held the lock for {status.lock_longest_ms} ms"
            f" at most; of {len(app.waits_s)} transactions of its app the longest wait for it was"
            f" {max(app.waits_s) * 1000:.1f} ms, {sum(w > 0.05 for w in app.waits_s)} above 50 ms"
        )
        assert ("loading a snapshot" in device.log) == (way == "snapshot")
        assert device.digests() == site.hub_digests()
        assert device.digests()["readings"][0] == entries // 10


def is_back(device: Device, entries: int) -> bool:
    """Whether its file holds all there is; its agent makes Tidewire's tables first."""
    with closing(sqlite3.connect(device.db, timeout=5)) as reader:
        if not reader.execute("SELECT 1 FROM sqlite_master WHERE name = 'tidewire_meta'").fetchone():
            return False
    return device.standing().seq == entries and device.standing().at_rest
