"""An app that writes without pause and remembers what it committed, so that loss and duplication can be proven."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

SCHEMA = """
    -- Row n is the device's transaction n. Nobody else writes it, nothing removes it.
    CREATE TABLE journal (device TEXT, n INTEGER, note TEXT, PRIMARY KEY (device, n)) WITHOUT ROWID;
    -- The device's newest n, written in the same transaction.
    CREATE TABLE tally (device TEXT PRIMARY KEY, n INTEGER NOT NULL);
    -- Rows that come, change and go, by their own device alone.
    CREATE TABLE own (device TEXT, slot INTEGER, n INTEGER, note TEXT, PRIMARY KEY (device, slot));
    -- Rows that all devices make, change and remove, in whole or cell by cell. Keys are the app's, so the later wins.
    CREATE TABLE shared (key TEXT PRIMARY KEY, left TEXT, right TEXT);
    -- Rows whose keys SQLite hands out: of two devices that take the same one, the later gets a dead letter.
    CREATE TABLE tickets (id INTEGER PRIMARY KEY, device TEXT NOT NULL, n INTEGER NOT NULL);
"""
PAUSE_MAX_S = 0.06
SLOTS = 40
SHARED_KEYS = 15
LARGE_NOTE = 150_000
"""Characters: more than fits one MQTT message."""
BUSY_TIMEOUT_S = 60.0


class Writer:
    """One app on one device's file, in a thread of its own.

    Attributes:
        committed: how many transactions it committed; `tally` and `journal` must say so everywhere.
        own: its rows of `own`, slot → (n, note).
        shared: every (key, column, word) it ever wrote to `shared`.
        tickets: the n of each row it inserted into `tickets`.
        refused: how many transactions found the disk full.
    """

    def __init__(self, db: Path, device: str, seed: int) -> None:
        self.db = db
        self.device = device
        self.committed = 0
        self.own: dict[int, tuple[int, str]] = {}
        self.shared: set[tuple[str, str, str]] = set()
        self.tickets: list[int] = []
        self.refused = 0
        self.failure: BaseException | None = None
        self._chance = random.Random(f"{seed} {device}")
        self._stop = threading.Event()
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"writer of {device}")

    def start(self) -> None:
        self._thread.start()

    def pause(self) -> None:
        """Write nothing after the transaction that is under way, until `resume`; what stopped it earlier is raised."""
        self._turn.acquire()
        if self.failure is not None:
            raise self.failure

    def resume(self) -> None:
        """Go on after `pause`."""
        self._turn.release()

    def end(self) -> None:
        """End while it rests."""
        self._stop.set()
        self._turn.release()
        self._thread.join()

    def write(self, count: int) -> None:
        """Write so many transactions here and now, while it does not run or rests."""
        with closing(sqlite3.connect(self.db, isolation_level=None, timeout=BUSY_TIMEOUT_S)) as app:
            for _ in range(count):
                self._transaction(app)

    def stop(self) -> None:
        """End after the transaction that is under way; what stopped it earlier is raised."""
        self._stop.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            with closing(sqlite3.connect(self.db, isolation_level=None, timeout=BUSY_TIMEOUT_S)) as app:
                while not self._stop.wait(self._chance.random() * PAUSE_MAX_S):
                    with self._turn:
                        if not self._stop.is_set():
                            self._try_transaction(app)
        except BaseException as error:
            self.failure = error

    def _try_transaction(self, app: sqlite3.Connection) -> None:
        try:
            self._transaction(app)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise
            self.refused += 1
            if app.in_transaction:
                app.execute("ROLLBACK")

    def _transaction(self, app: sqlite3.Connection) -> None:
        n = self.committed + 1
        own, shared, tickets = dict(self.own), set[tuple[str, str, str]](), list[int]()
        app.execute("BEGIN IMMEDIATE")
        app.execute("INSERT INTO journal VALUES (?, ?, ?)", (self.device, n, f"{self.device} {n}"))
        app.execute(
            "INSERT INTO tally VALUES (?, ?) ON CONFLICT (device) DO UPDATE SET n = excluded.n", (self.device, n)
        )
        for _ in range(30 if self._chance.random() < 0.02 else self._chance.randint(0, 2)):
            self._write_own(app, n, own)
        if self._chance.random() < 0.4:
            self._write_shared(app, n, shared)
        if self._chance.random() < 0.2:
            app.execute("INSERT INTO tickets (device, n) VALUES (?, ?)", (self.device, n))
            tickets.append(n)
        app.execute("COMMIT")
        self.committed, self.own = n, own
        self.shared |= shared
        self.tickets += tickets

    def _write_own(self, app: sqlite3.Connection, n: int, own: dict[int, tuple[int, str]]) -> None:
        slot = self._chance.randrange(SLOTS)
        note = ("ü" if self._chance.random() < 0.5 else "x") * (LARGE_NOTE if self._chance.random() < 0.005 else 20)
        if slot not in own:
            app.execute("INSERT INTO own VALUES (?, ?, ?, ?)", (self.device, slot, n, note))
            own[slot] = (n, note)
        elif self._chance.random() < 0.4:
            app.execute("DELETE FROM own WHERE device = ? AND slot = ?", (self.device, slot))
            del own[slot]
        elif self._chance.random() < 0.3:
            app.execute("REPLACE INTO own VALUES (?, ?, ?, ?)", (self.device, slot, n, note))
            own[slot] = (n, note)
        else:
            app.execute("UPDATE own SET n = ? WHERE device = ? AND slot = ?", (n, self.device, slot))
            own[slot] = (n, own[slot][1])

    def _write_shared(self, app: sqlite3.Connection, n: int, written: set[tuple[str, str, str]]) -> None:
        key, word = f"key {self._chance.randrange(SHARED_KEYS)}", f"{self.device} {n}"
        chance = self._chance.random()
        if chance < 0.3:
            app.execute("DELETE FROM shared WHERE key = ?", (key,))
        elif chance < 0.6:
            column = self._chance.choice(["left", "right"])
            app.execute(f"UPDATE shared SET {column} = ? WHERE key = ?", (word, key))
            written.add((key, column, word))
        else:
            app.execute("REPLACE INTO shared VALUES (?, ?, ?)", (key, word, word))
            written.update({(key, "left", word), (key, "right", word)})


class Observer:
    """Looks at a device's file again and again: what a reader of it may never see.

    At any moment the rows of each device are those of its first n transactions, whole, and n never gets less; nor does
    the checkpoint.
    """

    def __init__(self, db: Path, pause_s: float = 0.05) -> None:
        self.db = db
        self.looks = 0
        self.failure: BaseException | None = None
        self._pause_s = pause_s
        self._highest: Counter[str] = Counter()
        self._checkpoint = (0, 0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"observer of {db.name}")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End; what it saw and should not have seen is raised."""
        self._stop.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            with closing(sqlite3.connect(self.db, isolation_level=None, timeout=BUSY_TIMEOUT_S)) as reader:
                while not self._stop.wait(self._pause_s):
                    self._look(reader)
        except BaseException as error:
            self.failure = error

    def _look(self, reader: sqlite3.Connection) -> None:
        reader.execute("BEGIN")
        meta: dict[str, Any] = dict(reader.execute("SELECT name, value FROM tidewire_meta"))
        tally = dict(reader.execute("SELECT device, n FROM tally"))
        journal = list(reader.execute("SELECT device, count(*), max(n) FROM journal GROUP BY device"))
        reader.execute("COMMIT")
        self.looks += 1
        checkpoint = (meta.get("epoch") or 0, meta.get("seq") or 0)
        assert checkpoint >= self._checkpoint, f"{self.db.name} went back from {self._checkpoint} to {checkpoint}"
        assert checkpoint[1] >= self._checkpoint[1], f"{self.db.name} went back from {self._checkpoint} to {checkpoint}"
        self._checkpoint = checkpoint
        assert {device: (n, n) for device, n in tally.items()} == {d: (rows, last) for d, rows, last in journal}
        for device, n in tally.items():
            assert n >= self._highest[device], f"{self.db.name}: {device} went back from {self._highest[device]} to {n}"
            self._highest[device] = n
