"""What apps do to their databases: random transactions, each with marks by which it is found again everywhere.

Every transaction writes one row into `ledger` and one into `ledger_twin`, which nothing ever changes: they tell
whether a transaction arrived, once, whole and in its order. Texts like `w.a.17` ("write 17 of app a") are marks of
single values: whatever becomes of the row, the mark must turn up in the log or in a dead letter, unless the same app
wrote over it before it was sent.
"""

from __future__ import annotations

import random
import re
import sqlite3
from pathlib import Path
from typing import Final

from simulation.virtual_time import connect_outside

SCHEMA: Final = """
    CREATE TABLE ledger (id TEXT PRIMARY KEY, app TEXT NOT NULL, number INTEGER NOT NULL);
    CREATE TABLE ledger_twin (id TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT UNIQUE COLLATE NOCASE, name TEXT, n INTEGER);
    CREATE TABLE tags (
        name TEXT COLLATE NOCASE, kind TEXT, note TEXT UNIQUE, PRIMARY KEY (name, kind)
    ) WITHOUT ROWID;
    CREATE TABLE orders (
        id TEXT PRIMARY KEY, user INTEGER REFERENCES users ON DELETE CASCADE ON UPDATE CASCADE, v
    );
    CREATE TABLE pairs (a, b, c UNIQUE, d, PRIMARY KEY (b, a));
    CREATE TRIGGER counted AFTER INSERT ON orders BEGIN UPDATE users SET n = n + 1 WHERE id = NEW.user; END;
"""

TABLES: Final = ("ledger", "ledger_twin", "users", "tags", "orders", "pairs")

GROWING: Final = ("users", "tags", "orders", "pairs")
"""Tables to which apps add columns."""

NEW_COLUMNS: Final = {"x1": "x1", "x2": "x2 DEFAULT 7", "x3": "x3"}
"""The columns that come, and how they are declared."""

RENAMED: Final = ("x1", "x3")
"""A column that may get another one's name."""

MARK: Final = re.compile(r"w\.[a-z]+\.\d+")

_MARKED: Final = """
    SELECT substr(x, 1, 40) FROM (
        SELECT name AS x FROM users UNION ALL SELECT note FROM tags UNION ALL SELECT v FROM orders
        UNION ALL SELECT d FROM pairs{more}
    )
    WHERE x GLOB ?
"""
"""The beginnings of values that begin with a mark."""

_TEXTS: Final = ("x", "X", "y", "zed", "q", " x", "x ")
_VALUES: Final = ("1", "1.0", "'1'", "x'31'", "2.5", "9e999", "CAST(x'ff' AS TEXT)", "'é'", "7", "{mark}", "{mark}")
_STATEMENTS: Final = (
    "INSERT OR IGNORE INTO users (id, email, name, n) VALUES ({one}, {text}, {mark}, {two})",
    "INSERT OR REPLACE INTO users (id, email, name, n) VALUES ({one}, {text}, {mark}, {two})",
    "INSERT OR REPLACE INTO users (email, name, n) VALUES ({text}, {mark}, {two})",
    "UPDATE OR IGNORE users SET email = {text} WHERE id = {one}",
    "UPDATE OR REPLACE users SET id = {two} WHERE id = {one}",
    "UPDATE OR REPLACE users SET email = {text}, id = {two} WHERE id = {one}",
    "UPDATE users SET n = {two} WHERE id >= {one}",
    "UPDATE users SET name = {mark} WHERE id = {two}",
    "INSERT INTO users (id, email, name, n) VALUES ({one}, {text}, {mark}, 1)"
    " ON CONFLICT (id) DO UPDATE SET name = {mark} ON CONFLICT (email) DO UPDATE SET n = n + 1",
    "DELETE FROM users WHERE id = {one}",
    "DELETE FROM users WHERE id = {one}; INSERT OR IGNORE INTO users (id, email, name, n)"
    " VALUES ({one}, 'new{two}', {mark}, 0)",
    "UPDATE users SET email = 't' || id WHERE id IN ({one}, {two});"
    " UPDATE OR IGNORE users SET email = {text} WHERE id = {two}",
    "INSERT OR REPLACE INTO tags (name, kind, note) VALUES ({name}, 'k{one}', {mark})",
    "INSERT OR REPLACE INTO tags (name, kind, note) VALUES ({name}, 'k{one}', {text})",
    "UPDATE OR REPLACE tags SET kind = 'k{two}' WHERE kind = 'k{one}'",
    "UPDATE OR IGNORE tags SET name = upper(name) WHERE kind = 'k{one}'",
    "DELETE FROM tags WHERE kind = 'k{one}'",
    "INSERT OR IGNORE INTO orders (id, user, v) SELECT 'o{two}', id, {value} FROM users WHERE id = {one}",
    "UPDATE orders SET v = {value} WHERE id > 'o{one}'",
    "DELETE FROM orders WHERE id = 'o{two}'",
    "INSERT OR REPLACE INTO pairs (a, b, c, d) VALUES ({value}, {one}, {value}, {mark})",
    "UPDATE OR IGNORE pairs SET c = {value} WHERE b = {one}",
    "UPDATE OR REPLACE pairs SET b = {two} WHERE b = {one}",
    "DELETE FROM pairs WHERE b = {one}",
    "INSERT OR REPLACE INTO orders (id, user, v) VALUES ('o{one}', NULL, {mark} || ' ' || hex(zeroblob({large})))",
)

_SOME_ROWS: Final = {
    "users": "id >= {one}",
    "tags": "kind = 'k{one}'",
    "orders": "id > 'o{one}'",
    "pairs": "b = {one}",
}


class App:
    """One program with one database.

    Args:
        label: its name in marks: letters alone, never used twice in a world.
        path: the database.
        chance: decides what it writes.
    """

    def __init__(self, label: str, path: Path, chance: random.Random) -> None:
        self.label = label
        self.path = path
        self.waiting: set[str] = set()
        """Marks of values that it wrote, did not write over, and that were not seen to arrive."""
        self.written: dict[str, int] = {}
        """Ledger ids of its transactions, with their numbers."""
        self.holds = False
        """It has written and not committed yet."""
        self.columns: frozenset[tuple[str, str]] = frozenset()
        """Tables and the new columns that they have."""
        self._chance = chance
        self._marks = 0
        self._transactions = 0
        self._connection: sqlite3.Connection | None = None
        self._before: set[str] = set()

    @property
    def running(self) -> bool:
        """Whether it has its database open."""
        return self._connection is not None

    def start(self) -> None:
        """Open the database."""
        self._connection = connect_outside(self.path)
        self._connection.execute("PRAGMA foreign_keys = ON")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute("PRAGMA wal_autocheckpoint = 60")
        self.holds = False
        self._look_at_columns()

    def stop(self) -> None:
        """End, with whatever it had not committed."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self.holds = False

    def seed(self, count: int) -> None:
        """Rows that are there before the database is synced."""
        self._account(lambda: self._random_statements(count))

    def write(self, *, hold: bool = False) -> bool:
        """One transaction; with `hold` it is left open for `finish`. Whether it was done."""
        if self.holds or self._connection is None:
            return False
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        self._before = self.seen()
        self._transactions += 1
        entry = f"{self.label}-{self._transactions}"
        self._connection.execute("INSERT INTO ledger VALUES (?, ?, ?)", (entry, self.label, self._transactions))
        self._random_statements(self._chance.choice((0, 1, 1, 2, 3)))
        self._connection.execute("INSERT INTO ledger_twin VALUES (?)", (entry,))
        self.holds = True
        return hold or self.finish()

    def finish(self) -> bool:
        """Commit what is held."""
        if not self.holds or self._connection is None:
            return False
        self._connection.execute("COMMIT")
        self.holds = False
        self.written[f"{self.label}-{self._transactions}"] = self._transactions
        self._settle(self._before)
        return True

    # ── new columns ───────────────────────────────────────────────────────────────────────────────────────────────

    def add_column(self, table: str, column: str, *, fill: bool) -> bool:
        """Give a table one more column, and with `fill` some of its rows a value there. Whether it was done."""
        if (table, column) in self.columns:
            return False
        statements = [f"ALTER TABLE {table} ADD COLUMN {NEW_COLUMNS[column]}"]
        if fill:
            statements.append(self._filled(f"UPDATE {table} SET {column} = {{mark}} WHERE {_SOME_ROWS[table]}"))
        return self._migrate(*statements)

    def rename_column(self, table: str) -> bool:
        """Give a column the name of another one, which is not there. Whether it was done."""
        old, new = RENAMED
        if (table, old) not in self.columns or (table, new) in self.columns:
            return False
        return self._migrate(f"ALTER TABLE {table} RENAME COLUMN {old} TO {new}")

    def drop_column(self, table: str, column: str) -> bool:
        """Drop a column of a table that is not synced now. Whether it was done."""
        return self._migrate(f"ALTER TABLE {table} DROP COLUMN {column}")

    def _migrate(self, *statements: str) -> bool:
        if self.holds or self._connection is None:
            return False
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        before = self.seen()
        for statement in statements:
            self._connection.execute(statement)
        self._connection.execute("COMMIT")
        self._look_at_columns()
        self._settle(before)
        return True

    def _look_at_columns(self) -> None:
        assert self._connection is not None
        self.columns = frozenset(
            (table, column)
            for table in GROWING
            for (column,) in self._connection.execute("SELECT name FROM pragma_table_info(?)", (table,))
            if column in NEW_COLUMNS
        )

    # ── around its work ───────────────────────────────────────────────────────────────────────────────────────────

    def checkpoint(self) -> None:
        """Have SQLite copy the write-ahead log into the database, as it does on its own now and then."""
        if self._connection is not None and not self.holds:
            mode = self._chance.choice(("PASSIVE", "RESTART", "TRUNCATE"))
            self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()

    def seen(self) -> set[str]:
        """This app's marks in its tables."""
        assert self._connection is not None
        more = "".join(f" UNION ALL SELECT {column} FROM {table}" for table, column in sorted(self.columns))
        rows = self._connection.execute(_MARKED.format(more=more), (f"w.{self.label}.*",))
        return {mark for (value,) in rows for mark in MARK.findall(value)}

    def forget(self, ledger: set[str], marks: set[str]) -> None:
        """The machine lost writes that had not left it: only these were kept."""
        self.written = {entry: number for entry, number in self.written.items() if entry in ledger}
        self.waiting &= marks

    def _account(self, work: object) -> None:
        before = self.seen()
        assert callable(work)
        work()
        self._settle(before)

    def _settle(self, before: set[str]) -> None:
        after = self.seen()
        self.waiting -= before - after
        self.waiting |= after - before

    def _random_statements(self, count: int) -> None:
        assert self._connection is not None
        for _ in range(count):
            for statement in self._statement().split("; "):
                try:
                    self._connection.execute(statement)
                except sqlite3.IntegrityError:
                    break  # as an app meets them

    def _statement(self) -> str:
        if self.columns and self._chance.random() < 0.2:
            table, column = self._chance.choice(sorted(self.columns))
            return self._filled(f"UPDATE {table} SET {column} = {{value}} WHERE {_SOME_ROWS[table]}")
        return self._filled(self._chance.choice(_STATEMENTS))

    def _filled(self, statement: str) -> str:
        chance = self._chance
        self._marks += 1
        mark = f"'w.{self.label}.{self._marks}'"
        return statement.format(
            one=chance.randrange(10),
            two=chance.randrange(10),
            text=chance.choice([*(f"'{text}'" for text in _TEXTS), "NULL"]),
            name=f"'{chance.choice(_TEXTS)}'",
            value=chance.choice(_VALUES).format(mark=mark),
            mark=mark,
            large=chance.choice((1, 1, 1, 40, 4000)),
        )
