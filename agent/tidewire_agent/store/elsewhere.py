"""Columns that other devices have and a table here has not: known by name alone, as many as there are columns.

Their cells in the log are passed over. When such a column comes here (it was added, or renamed so), the hub has values
for it that were never taken: the table takes its rows anew, from a snapshot of what is applied by then or later.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable

from tidewire_agent.store.meta import Meta
from tidewire_schemas.names import fold


class Elsewhere:
    """The `tidewire_elsewhere` table; names are folded. All writes belong to the caller's transaction."""

    def __init__(self, connection: sqlite3.Connection, meta: Meta) -> None:
        self._connection = connection
        self._meta = meta
        self._noted: set[tuple[int, str]] = set()

    def reload(self) -> None:
        """After a rollback: what was noted may not be."""
        self._noted.clear()

    def lacking(self, table_id: int) -> frozenset[str]:
        """Columns that the table does not have."""
        return self._names(table_id, "arrived IS NULL")

    def arrived(self, table_id: int) -> frozenset[str]:
        """Columns that have come to the table, and whose values of the hub have not."""
        return self._names(table_id, "arrived IS NOT NULL")

    def awaited(self) -> dict[int, int]:
        """Tables to which columns have come, each with the entry that their rows must hold to be taken."""
        rows = self._connection.execute(
            "SELECT t, max(arrived) FROM tidewire_elsewhere WHERE arrived IS NOT NULL GROUP BY t"
        )
        return dict(rows.fetchall())

    def note(self, table_id: int, names: Iterable[str], seq: int) -> None:
        """An entry speaks of columns that the table does not have. The hub has told of those up to its Welcome."""
        if seq <= self._meta.number("elsewhere_at"):
            return
        for name in map(fold, names):
            if (table_id, name) not in self._noted:
                self._noted.add((table_id, name))
                self._add(table_id, name)

    def note_reused(self, table_id: int, names: Collection[str]) -> frozenset[str]:
        """These names stand for other columns elsewhere than they did here; the names."""
        for name in names:
            self._add(table_id, name)
        return frozenset(names)

    def told(self, tables: Iterable[tuple[int, Collection[str]]], head: int) -> None:
        """The hub tells all columns that each table lacks, as of entry `head`."""
        self._connection.execute("DELETE FROM tidewire_elsewhere WHERE arrived IS NULL")
        for table_id, names in tables:
            for name in names:
                self._add(table_id, fold(name))
        self._meta.set(elsewhere_at=head)
        self._noted.clear()

    def has_now(self, table_id: int, columns: Collection[str], new: Collection[str]) -> bool:
        """The table has these columns now, some of them `new`; whether others have values of those."""
        arrived = self.lacking(table_id).intersection(new)
        self._connection.executemany(
            "UPDATE tidewire_elsewhere SET arrived = ? WHERE t = ? AND name = ?",
            ((self._meta.checkpoint.seq, table_id, name) for name in arrived),
        )
        self._connection.executemany(
            "UPDATE tidewire_elsewhere SET arrived = NULL WHERE t = ? AND name = ?",
            ((table_id, name) for name in self.arrived(table_id).difference(columns)),
        )
        self._connection.executemany(
            "DELETE FROM tidewire_elsewhere WHERE arrived IS NULL AND t = ? AND name = ?",
            ((table_id, name) for name in columns),
        )
        self._noted.clear()
        return bool(arrived)

    def used_before(self, table_id: int, had: Collection[str], has: Collection[str]) -> frozenset[str]:
        """The table had these columns (folded) and has those now: which names it has anew after having lost them."""
        self._connection.executemany(
            "INSERT OR IGNORE INTO tidewire_gone (t, name) VALUES (?, ?)",
            ((table_id, name) for name in had if name not in has),
        )
        rows = self._connection.execute("SELECT name FROM tidewire_gone WHERE t = ?", (table_id,)).fetchall()
        back = frozenset(name for (name,) in rows if name in has)
        self._connection.executemany(
            "DELETE FROM tidewire_gone WHERE t = ? AND name = ?", ((table_id, name) for name in back)
        )
        return back

    def settle(self, table_id: int) -> None:
        """The hub's values of columns that have come are here."""
        self._connection.execute("DELETE FROM tidewire_elsewhere WHERE t = ? AND arrived IS NOT NULL", (table_id,))

    def forget(self, table_id: int) -> None:
        """The table is not synced any more, or is another one."""
        self._connection.execute("DELETE FROM tidewire_elsewhere WHERE t = ?", (table_id,))
        self._connection.execute("DELETE FROM tidewire_gone WHERE t = ?", (table_id,))
        self._noted.clear()

    def _add(self, table_id: int, name: str) -> None:
        self._connection.execute("INSERT OR IGNORE INTO tidewire_elsewhere (t, name) VALUES (?, ?)", (table_id, name))

    def _names(self, table_id: int, condition: str) -> frozenset[str]:
        rows = self._connection.execute(f"SELECT name FROM tidewire_elsewhere WHERE t = ? AND {condition}", (table_id,))
        return frozenset(name for (name,) in rows)
