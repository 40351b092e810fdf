"""An app of which one knows what its tables hold after n transactions: `python steady_app.py DB DEVICE SYNCHRONOUS`.

It prints the number of each transaction once that is committed, and goes on with the first that its file does not hold.
"""

from __future__ import annotations

import sqlite3
import sys
import time

SCHEMA = """
    CREATE TABLE journal (device TEXT, n INTEGER, PRIMARY KEY (device, n)) WITHOUT ROWID;
    CREATE TABLE tally (device TEXT PRIMARY KEY, n INTEGER NOT NULL);
    CREATE TABLE own (device TEXT, slot INTEGER, n INTEGER, note TEXT, PRIMARY KEY (device, slot));
"""
SLOTS = 20
DELETES_EVERY = 7
PAUSE_S = 0.01


def transaction(app: sqlite3.Connection, device: str, n: int) -> None:
    """The device's transaction number n."""
    app.execute("BEGIN IMMEDIATE")
    app.execute("INSERT INTO journal VALUES (?, ?)", (device, n))
    app.execute("INSERT INTO tally VALUES (?, ?) ON CONFLICT (device) DO UPDATE SET n = excluded.n", (device, n))
    if n % DELETES_EVERY == 0:
        app.execute("DELETE FROM own WHERE device = ? AND slot = ?", (device, n // DELETES_EVERY % SLOTS))
    else:
        app.execute("REPLACE INTO own VALUES (?, ?, ?, ?)", (device, n % SLOTS, n, f"{device} {n} " + "x" * (n % 300)))
    app.execute("COMMIT")


def main(db: str, device: str, synchronous: str) -> None:
    app = sqlite3.connect(db, isolation_level=None, timeout=60)
    app.execute(f"PRAGMA synchronous = {synchronous}")
    n = app.execute("SELECT coalesce(max(n), 0) FROM tally WHERE device = ?", (device,)).fetchone()[0]
    while True:
        n += 1
        transaction(app, device, n)
        print(n, flush=True)  # noqa: T201  # whoever reads it knows what is committed
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
