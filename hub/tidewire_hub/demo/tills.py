"""The apps of the demo: each till sells, by plain SQL into its own SQLite file. They know nothing of Tidewire."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Final

from tidewire_hub.demo.failure import DemoFailed

SCHEMA: Final = """
    PRAGMA journal_mode = WAL;
    CREATE TABLE orders (
        id    TEXT PRIMARY KEY NOT NULL,
        till  TEXT NOT NULL,
        item  TEXT NOT NULL,
        cents INTEGER NOT NULL
    );
    CREATE TABLE prices (item TEXT PRIMARY KEY NOT NULL, cents INTEGER NOT NULL);
"""

TABLES: Final = ("orders", "prices")

PRICES: Final = {"croissant": 180, "espresso": 220, "lemonade": 310, "tea": 240}

SALE: Final = """
    INSERT INTO orders (id, till, item, cents)
    SELECT :id, :till, item, cents FROM prices WHERE item = :item
"""

SALES_PER_S: Final = 15
"""Of each till; a sale is one transaction of one to three rows."""

BUSY_TIMEOUT_S: Final = 5.0


class Till:
    """One till: a SQLite file, and an app that writes it."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.path = directory / f"{name}.db"
        self.sold = 0
        """Rows it has committed into its own file."""
        self._random = random.Random(name)
        self._failure: sqlite3.Error | None = None
        self._closing_time = threading.Event()
        self._thread: threading.Thread | None = None
        with closing(sqlite3.connect(self.path)) as connection:
            connection.executescript(SCHEMA)

    def print_price_list(self) -> None:
        """Write the first prices."""
        self._write("INSERT INTO prices (item, cents) VALUES (?, ?)", PRICES.items())

    def set_price(self, item: str, cents: int) -> None:
        """Change a price, in this till's file."""
        self._write("UPDATE prices SET cents = ? WHERE item = ?", [(cents, item)])

    def open(self) -> None:
        """Begin to sell."""
        self._closing_time.clear()
        self._thread = threading.Thread(target=self._sell, name=self.name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Sell no more; what was sold is committed when this returns."""
        if self._thread is not None:
            self._closing_time.set()
            self._thread.join()
            self._thread = None

    def check(self) -> None:
        """Raise `DemoFailed` if the app met an error."""
        if self._failure is not None:
            raise DemoFailed(f"the app of {self.name} failed: {self._failure}")

    def _sell(self) -> None:
        try:
            with closing(sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection:
                while not self._closing_time.wait(self._random.uniform(0.5, 1.5) / SALES_PER_S):
                    self._one_sale(connection)
        except sqlite3.Error as error:
            self._failure = error

    def _one_sale(self, connection: sqlite3.Connection) -> None:
        items = self._random.choices(list(PRICES), k=self._random.randint(1, 3))
        connection.execute("BEGIN IMMEDIATE")
        for number, item in enumerate(items, self.sold + 1):
            connection.execute(SALE, {"id": f"{self.name}/{number}", "till": self.name, "item": item})
        connection.execute("COMMIT")
        self.sold += len(items)

    def _write(self, statement: str, values: Iterable[tuple[object, ...]]) -> None:
        with closing(sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S)) as connection, connection:
            connection.executemany(statement, values)
