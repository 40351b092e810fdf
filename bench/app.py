"""The app of a measurement: it writes readings as fast as it can, or at a pace, in a process of its own.

Called as `python -m bench.app DATABASE ROWS PER_TRANSACTION PAUSE_S SEED`; it prints when (monotonic seconds,
the same clock for all processes of a machine) it began and when each transaction was committed.
"""

from __future__ import annotations

import json
import random
import sqlite3
import sys
import time
import uuid
from pathlib import Path

SCHEMA = "CREATE TABLE readings (id TEXT PRIMARY KEY, device TEXT, ts INTEGER, temp REAL, note TEXT)"
NOTE_CHARS = 40
BUSY_TIMEOUT_S = 60.0

Reading = tuple[str, str, int, float, str]


def readings(count: int, seed: int = 1) -> list[Reading]:
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


def write(path: Path, rows: list[Reading], per_transaction: int, pause_s: float) -> tuple[float, list[float]]:
    """Insert the rows; when it began and when each transaction was committed."""
    app = connect(path)
    committed = []
    began = time.monotonic()
    for first in range(0, len(rows), per_transaction):
        app.execute("BEGIN IMMEDIATE")
        app.executemany("INSERT INTO readings VALUES (?, ?, ?, ?, ?)", rows[first : first + per_transaction])
        app.execute("COMMIT")
        committed.append(time.monotonic())
        if pause_s:
            time.sleep(pause_s)
    app.close()
    return began, committed


if __name__ == "__main__":
    path, count, per_transaction, pause_s, seed = sys.argv[1:]
    began, committed = write(Path(path), readings(int(count), int(seed)), int(per_transaction), float(pause_s))
    print(json.dumps({"began": began, "committed": committed}))
