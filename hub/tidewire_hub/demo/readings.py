"""What the demo shows: read from the tills' files, the agents' status documents and the hub."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

from tidewire_hub.demo.failure import DemoFailed
from tidewire_hub.demo.tills import BUSY_TIMEOUT_S, TABLES, Till
from tidewire_hub.offline import LogReader
from tidewire_schemas.digest import as_hex, column_order, row_digest, table_digest
from tidewire_schemas.names import fold

ITEM: Final = "espresso"
"""Whose price both sides change."""

COMMAND_TIMEOUT_S: Final = 20.0


class TillReading(NamedTuple):
    """One till at this moment."""

    name: str
    orders: int
    """Rows of `orders` in its file."""
    price: int | None
    """Of `ITEM`, in its file."""
    state: str
    """As its agent says."""
    seq: int
    """The last entry of the hub's log that is applied to its file."""
    waiting: int
    """Changes and batches that the log does not have yet."""


class Reading(NamedTuple):
    """All of them."""

    head: int
    """Seq of the newest entry in the hub's log."""
    tills: tuple[TillReading, ...]


class Digest(NamedTuple):
    """Rows and digest of a table."""

    table: str
    rows: int
    digest: str


class Conflict(NamedTuple):
    """A write that lost against a concurrent one, as the hub's conflict log has it."""

    seq: int
    table: str
    key: list[Any]
    winner: str
    loser: str
    lost: dict[str, Any]


class Instruments:
    """Reads files and commands. `directory` is where the hub's `--data` is."""

    def __init__(self, tills: Sequence[Till], hub_data: Path) -> None:
        self._tills = tills
        self._hub_data = hub_data
        self._log: LogReader | None = None

    def read(self) -> Reading:
        """How things are now."""
        if self._log is None:
            self._log = LogReader(self._hub_data / "main" / "log.db")
        return Reading(self._log.newest(), tuple(_read_till(till) for till in self._tills))

    def state(self, till: Till) -> str:
        """What a till's agent says it is doing."""
        return str(_status(till).get("state", "starting"))

    def file_digests(self, till: Till) -> list[Digest]:
        """Rows and digest of each table in a till's file, computed here from its rows."""
        with closing(_reader(till)) as connection:
            connection.execute("BEGIN")  # one snapshot for all tables
            return [_digest(connection, table) for table in TABLES]

    def hub_digests(self) -> list[Digest]:
        """The hub's own, by `tidewire-hub digests`."""
        records = self._ask_hub("digests")
        digests = {
            str(record["table"]): Digest(record["table"], record["rows"], record["digest"]) for record in records
        }
        return [digests.get(table, Digest(table, 0, as_hex(0))) for table in TABLES]

    def conflicts(self) -> list[Conflict]:
        """The hub's conflict log, by `tidewire-hub conflicts`."""
        return [
            Conflict(record["seq"], record["table"], record["key"], record["device"], record["loser"], record["lost"])
            for record in self._ask_hub("conflicts")
        ]

    def _ask_hub(self, command: str) -> list[dict[str, Any]]:
        words = [sys.executable, "-m", "tidewire_hub", command, "--data", str(self._hub_data), "--json"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)
        if done.returncode != 0:
            raise DemoFailed(f"tidewire-hub {command} failed: {done.stderr.strip()}")
        return [json.loads(line) for line in done.stdout.splitlines()]


def _read_till(till: Till) -> TillReading:
    status = _status(till)
    with closing(_reader(till)) as connection:
        orders, price = connection.execute(
            "SELECT (SELECT count(*) FROM orders), (SELECT cents FROM prices WHERE item = ?)", (ITEM,)
        ).fetchone()
    _epoch, seq = status.get("position") or (0, 0)
    waiting = (status.get("changes") or 0) + (status.get("batches") or 0)
    return TillReading(till.name, orders, price, str(status.get("state", "starting")), seq, waiting)


def _status(till: Till) -> dict[str, Any]:
    """The document that a running agent keeps beside the database."""
    try:
        document = json.loads(till.path.with_name(till.path.name + "-tidewire").read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):  # not started yet, or being written
        return {}
    return document if isinstance(document, dict) else {}


def _reader(till: Till) -> sqlite3.Connection:
    return sqlite3.connect(till.path, timeout=BUSY_TIMEOUT_S, isolation_level=None)


def _digest(connection: sqlite3.Connection, table: str) -> Digest:
    cursor = connection.execute(f"SELECT * FROM {table}")
    folded = [fold(column[0]) for column in cursor.description]
    order = column_order(folded)
    names = [folded[place] for place in order]
    digests = [row_digest(names, [row[place] for place in order]) for row in cursor]
    return Digest(table, len(digests), as_hex(table_digest(digests)))
