"""The plain oracle: one SQLite database to which the log is applied naively. What it holds every edge must hold.

It knows nothing of sealing, resolution, overlays or parking: it takes entries as they stand in the log, deletes before
all else, row by row, in tables without any constraint but the key.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from simulation.apps import TABLES
from tidewire_schemas.messages import Entry, Run
from tidewire_schemas.positions import START, Position
from tidewire_schemas.values import RawText, decode_row

_SCHEMA: Final = """
    CREATE TABLE ledger (id TEXT PRIMARY KEY, app TEXT, number INTEGER);
    CREATE TABLE ledger_twin (id TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT COLLATE NOCASE, name TEXT, n INTEGER, x1, x2, x3);
    CREATE TABLE tags (
        name TEXT COLLATE NOCASE, kind TEXT, note TEXT, x1, x2, x3, PRIMARY KEY (name, kind)
    ) WITHOUT ROWID;
    CREATE TABLE orders (id TEXT PRIMARY KEY, user INTEGER, v, x1, x2, x3);
    CREATE TABLE pairs (a, b, c, d, x1, x2, x3, PRIMARY KEY (b, a));
"""

_TORN: Final = """
    SELECT id FROM (SELECT id FROM ledger EXCEPT SELECT id FROM ledger_twin)
    UNION ALL
    SELECT id FROM (SELECT id FROM ledger_twin EXCEPT SELECT id FROM ledger)
"""

Content = dict[str, int]
"""A fingerprint of each table."""


class Oracle:
    """The log's meaning, at each of its positions."""

    def __init__(self) -> None:
        self.lost: set[Position] = set()
        """Entries that the hub had and lost."""
        self.torn_and_lost: frozenset[bytes] = frozenset()
        """Transactions of which a lost part of the log had one half for a while: devices may give that back alone."""
        self._entries: list[Entry] = []
        self._begin()

    def _begin(self) -> None:
        self.newest: dict[str, int] = {}
        """The seq of each device's newest entry."""
        self._database = sqlite3.connect(":memory:", isolation_level=None)
        self._database.executescript(_SCHEMA)
        self._database.text_factory = bytes
        self.positions: list[Position] = [START]
        """The log's positions by seq."""
        self.contents: list[Content] = [contents(self._database, TABLES)]
        """What the tables hold after each entry, by seq."""
        self.ledgers: list[Counter[str]] = [Counter()]
        """How many transactions of each app the log has, by seq."""
        self.torn: list[frozenset[bytes]] = [frozenset()]
        """Transactions of which the log has one half, by seq: where rows were offered one by one after a loss."""

    @property
    def head(self) -> Position:
        """The newest entry."""
        return self.positions[-1]

    def take(self, entry: Entry) -> None:
        """Apply the next entry."""
        for run in sorted(entry.changes, key=lambda run: run.op != "delete"):
            self._run(run)
        self._entries.append(entry)
        self.newest[entry.device] = entry.seq
        changed = {run.table for run in entry.changes}
        self.positions.append(entry.position)
        self.contents.append({**self.contents[-1], **contents(self._database, sorted(changed))})
        self.torn.append(torn(self._database) if changed & {"ledger", "ledger_twin"} else self.torn[-1])
        ledger = self.ledgers[-1]
        if "ledger" in changed:
            rows = self._database.execute("SELECT app, count(*) FROM ledger GROUP BY app")
            ledger = Counter({app.decode(): count for app, count in rows})
        self.ledgers.append(ledger)

    def has(self, position: Position) -> bool:
        """Whether this is an entry of the log."""
        return position.seq < len(self.positions) and self.positions[position.seq] == position

    def lose_end(self, seq: int) -> list[Entry]:
        """The hub has lost all after this entry; what is left."""
        self.lost.update(self.positions[seq + 1 :])
        self.torn_and_lost = self.torn_and_lost.union(*self.torn[seq + 1 :])
        left, self._entries = self._entries[:seq], []
        self._database.close()
        self._begin()
        for entry in left:
            self.take(entry)
        return left

    def column(self, table: str, column: str) -> list[tuple[Any, ...]]:
        """A new column of a table at the head, with the key of each row."""
        return column_of(self._database, table, column)

    def rows(self, table: str, seq: int) -> list[tuple[Any, ...]]:
        """A table's rows after an entry, for people."""
        then = Oracle()
        for entry in self._entries[:seq]:
            then.take(entry)
        return rows_of(then._database, table)

    def _run(self, run: Run) -> None:
        key = " AND ".join(f"{column} = {{}}" for column in run.columns[: run.key])
        for wire in run.rows:
            row = decode_row(wire)
            marks = ["CAST(? AS TEXT)" if type(value) is RawText else "?" for value in row]
            values: list[Any] = [value.data if type(value) is RawText else value for value in row]
            where = key.format(*marks[: run.key])
            here = self._database.execute(
                f"SELECT 1 FROM {run.table} WHERE {where}",
                values[: run.key],  # the simulation's own names
            ).fetchone()
            if run.op == "delete":
                self._database.execute(f"DELETE FROM {run.table} WHERE {where}", values)
            elif here:
                first = run.key if run.op == "set" else 0  # there the key only says which row: its spelling stays
                pairs = list(zip(run.columns, marks, strict=True))[first:]
                cells = ", ".join(f"{name} = {mark}" for name, mark in pairs)
                self._database.execute(
                    f"UPDATE {run.table} SET {cells} WHERE {where}", [*values[first:], *values[: run.key]]
                )
            elif run.op != "set":
                self._database.execute(
                    f"INSERT INTO {run.table} ({', '.join(run.columns)}) VALUES ({', '.join(marks)})", values
                )


def torn(database: sqlite3.Connection) -> frozenset[bytes]:
    """Transactions of which only one half is there."""
    return frozenset(name for (name,) in database.execute(_TORN))


def contents(database: sqlite3.Connection, tables: Sequence[str]) -> Content:
    """A fingerprint of each of these tables."""
    return {table: sum(map(hash, rows_of(database, table))) for table in tables}


def rows_of(database: sqlite3.Connection, table: str) -> list[tuple[Any, ...]]:
    """A table's rows with each value's storage class, in any order. `text_factory` must be bytes."""
    return database.execute(_ROWS[table]).fetchall()


def column_of(database: sqlite3.Connection, table: str, column: str) -> list[tuple[Any, ...]]:
    """One column besides those that a table had from the beginning, with all of these. As `rows_of`."""
    select = ", ".join(f"typeof({name}), {name}" for name in (*_COLUMNS[table], column))
    return sorted(database.execute(f"SELECT {select} FROM {table}").fetchall(), key=repr)


_COLUMNS: Final = {
    "ledger": ("id", "app", "number"),
    "ledger_twin": ("id",),
    "users": ("id", "email", "name", "n"),
    "tags": ("name", "kind", "note"),
    "orders": ("id", "user", "v"),
    "pairs": ("a", "b", "c", "d"),
}

_ROWS: Final = {
    table: f"SELECT {', '.join(f'typeof({column}), {column}' for column in columns)} FROM {table}"
    for table, columns in _COLUMNS.items()
}
