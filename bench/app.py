"""The app of a measurement: it writes readings as fast as it can, or at a pace, in a process of its own.

Called as `python -m bench.app DATABASE ROWS PER_TRANSACTION PAUSE_S SEED`; it prints when (monotonic seconds,
the same clock for all processes of a machine) it began and when each transaction was committed, and what it used.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import NamedTuple

import psutil

from bench.machine import ROOT
from bench.results import Usage
from bench.usage import peak_mib, usage_of

SCHEMA = "CREATE TABLE readings (id TEXT PRIMARY KEY, device TEXT, ts INTEGER, temp REAL, note TEXT)"
INSERT = "INSERT INTO readings VALUES (?, ?, ?, ?, ?)"
NOTE_CHARS = 40
BUSY_TIMEOUT_S = 60.0
SEED = 7

PATIENCE_S = 300.0
"""Nobody waits that long unless something is broken."""

Reading = tuple[str, str, int, float, str]


class Written(NamedTuple):
    """What an app did, in monotonic seconds."""

    began: float
    committed: list[float]
    used: Usage


def readings(count: int, seed: int = SEED) -> list[Reading]:
    """Rows as sensors make them: a UUID, a device, milliseconds, a temperature, a note of 40 characters."""
    chance = random.Random(seed)
    return [
        (
            str(uuid.UUID(int=chance.getrandbits(128), version=4)),
            f"sensor-{n % 20}",
            1_760_000_000_000 + n,
            round(chance.uniform(-20, 40), 2),
            f"{n:0{NOTE_CHARS}d}",
        )
        for n in range(count)
    ]


def connect(path: Path) -> sqlite3.Connection:
    """As the documentation tells apps to open their database."""
    app = sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_S)
    app.execute("PRAGMA journal_mode = WAL")
    app.execute("PRAGMA synchronous = NORMAL")
    return app


def write(path: Path, rows: list[Reading], per_transaction: int, pause_s: float) -> Written:
    """Insert the rows."""
    myself = psutil.Process()
    app = connect(path)
    committed = []
    written_mib = usage_of(myself).written_mib
    cpu_s = time.process_time()
    began = time.monotonic()
    for first in range(0, len(rows), per_transaction):
        app.execute("BEGIN IMMEDIATE")
        app.executemany(INSERT, rows[first : first + per_transaction])
        app.execute("COMMIT")
        committed.append(time.monotonic())
        if pause_s:
            time.sleep(pause_s)
    used = Usage(
        cpu_s=time.process_time() - cpu_s,
        rss_mib=peak_mib(os.getpid()),
        written_mib=usage_of(myself).written_mib - written_mib,
    )
    app.close()
    return Written(began, committed, used)


def begin_app(
    db: Path, rows: int, per_transaction: int, pause_s: float = 0.0, seed: int = SEED
) -> subprocess.Popen[str]:
    """Start an app that writes readings."""
    command = [sys.executable, "-m", "bench.app", *map(str, (db, rows, per_transaction, pause_s, seed))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def end_app(app: subprocess.Popen[str]) -> Written:
    """What it did."""
    out, _ = app.communicate(timeout=PATIENCE_S)
    if app.returncode != 0:
        raise RuntimeError(f"the app failed with {app.returncode}")
    found = json.loads(out)
    return Written(found["began"], found["committed"], Usage.model_validate(found["used"]))


def main() -> None:
    """Write, and say how it went."""
    path, count, per_transaction, pause_s, seed = sys.argv[1:]
    began, committed, used = write(Path(path), readings(int(count), int(seed)), int(per_transaction), float(pause_s))
    print(json.dumps({"began": began, "committed": committed, "used": used.model_dump()}))


if __name__ == "__main__":
    main()
