"""Parked changes: what the log says and this table cannot take yet.

A UNIQUE clash with a local row that is not judged yet. Later changes of the row are folded in, and all is tried again
when that can help.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any, Literal, NamedTuple

from tidewire_schemas.values import WireValue

ParkedOp = Literal["put", "set"]


class ParkedRow(NamedTuple):
    """One parked change: wire values by folded column, the key's among them."""

    table_id: int
    key: bytes
    op: ParkedOp
    cells: dict[str, WireValue]
    reason: str
    seq: int


class Parked:
    """The `tidewire_parked` table. All methods belong to the caller's transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.count = int(connection.execute("SELECT count(*) FROM tidewire_parked").fetchone()[0])

    def recount(self) -> None:
        """Count again, after a transaction was rolled back."""
        self.count = int(self._connection.execute("SELECT count(*) FROM tidewire_parked").fetchone()[0])

    def get(self, table_id: int, key: bytes) -> ParkedRow | None:
        """What is parked for this row."""
        if self.count == 0:
            return None
        row = self._connection.execute(f"{_SELECT} WHERE t = ? AND key = ?", (table_id, key)).fetchone()
        return None if row is None else _parked(row)

    def fold(self, row: ParkedRow) -> None:
        """Park a change, over what is parked for this row already."""
        before = self.get(row.table_id, row.key)
        if before is not None and row.op == "set":
            row = row._replace(op=before.op, cells={**before.cells, **row.cells})
        self._connection.execute(
            """
            INSERT INTO tidewire_parked (t, key, op, cells, reason, seq) VALUES (?, ?, ?, ?, ?, ?)
            ON CONFLICT (t, key) DO UPDATE
            SET op = excluded.op, cells = excluded.cells, reason = excluded.reason, seq = excluded.seq
            """,
            (row.table_id, row.key, row.op, json.dumps(row.cells), row.reason, row.seq),
        )
        self.count += before is None

    def drop(self, table_id: int, key: bytes) -> None:
        """Nothing is parked for this row any more."""
        if self.count:
            self.count -= self._connection.execute(
                "DELETE FROM tidewire_parked WHERE t = ? AND key = ?", (table_id, key)
            ).rowcount

    def drop_table(self, table_id: int) -> None:
        """Nothing is parked for this table any more."""
        self.count -= self._connection.execute("DELETE FROM tidewire_parked WHERE t = ?", (table_id,)).rowcount

    def of_reason(self, reason: str, *, after: int, limit: int) -> list[ParkedRow]:
        """What is parked for a reason since an entry, oldest first."""
        if self.count == 0:
            return []
        rows = self._connection.execute(
            f"{_SELECT} WHERE reason = ? AND seq > ? ORDER BY seq LIMIT ?", (reason, after, limit)
        ).fetchall()
        return [_parked(row) for row in rows]

    def by_table(self) -> list[tuple[int, str, int]]:
        """How much is parked: (table id, reason, rows)."""
        if self.count == 0:
            return []
        return self._connection.execute(
            "SELECT t, reason, count(*) FROM tidewire_parked GROUP BY t, reason ORDER BY t, reason"
        ).fetchall()

    def fullest_table(self) -> int | None:
        """The table of which most is parked, None where nothing is."""
        row = self._connection.execute(
            "SELECT t FROM tidewire_parked GROUP BY t ORDER BY count(*) DESC LIMIT 1"
        ).fetchone()
        return None if row is None else int(row[0])


_SELECT = "SELECT t, key, op, cells, reason, seq FROM tidewire_parked"


def _parked(row: tuple[Any, ...]) -> ParkedRow:
    return ParkedRow(row[0], row[1], row[2], json.loads(row[3]), row[4], row[5])
