"""The state as the resolution of one batch reads it: everything a batch asks for in a few statements."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Final

from tidewire_hub.catalogue import Table
from tidewire_hub.resolve_view import Row, RowId
from tidewire_hub.state.cells import row_of
from tidewire_hub.state.chunks import select_in

_READ_ROWS: Final = """
    SELECT key, cells, born_seq, born.name, seq, writer.name, cells_by
    FROM row
    JOIN device AS born ON born.id = born_by
    LEFT JOIN device AS writer ON writer.id = by
    WHERE table_id = ? AND key IN ({})
"""
_READ_HOLDERS: Final = """
    SELECT value, key FROM unique_value WHERE table_id = ? AND number = ? AND value IN ({})
"""


class StateView:
    """`resolve_view.View` on the state's file. Keeps what it read: to be thrown away when something was written."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection: Final = connection
        self._rows: dict[RowId, Row | None] = {}
        self._stored_cells: dict[RowId, bytes] = {}
        self._holders: dict[tuple[int, int, bytes], list[bytes]] = {}

    def prefetch(self, rows: Iterable[RowId]) -> None:
        """See `View`."""
        keys: dict[int, list[bytes]] = defaultdict(list)
        for row in rows:
            if row not in self._rows:
                self._rows[row] = None
                keys[row[0]].append(row[1])
        for table_id, wanted in keys.items():
            for stored in select_in(self._connection, _READ_ROWS, (table_id,), wanted):
                self._rows[table_id, stored[0]] = row_of(stored)
                if stored[1] is not None:
                    self._stored_cells[table_id, stored[0]] = stored[1]

    def row(self, row: RowId) -> Row | None:
        """See `View`."""
        if row not in self._rows:
            self.prefetch((row,))
        return self._rows[row]

    def stored_cells(self, row: RowId) -> bytes | None:
        """A row's cells as they are stored, None for a tombstone or no row."""
        self.row(row)
        return self._stored_cells.get(row)

    def prefetch_holders(self, table: Table, number: int, values: Iterable[bytes]) -> None:
        """See `View`."""
        wanted = [value for value in values if (table.id, number, value) not in self._holders]
        for value in wanted:
            self._holders[table.id, number, value] = []
        for value, key in select_in(self._connection, _READ_HOLDERS, (table.id, number), wanted):
            self._holders[table.id, number, value].append(key)

    def holders(self, table: Table, number: int, value: bytes) -> Collection[bytes]:
        """See `View`."""
        if (table.id, number, value) not in self._holders:
            self.prefetch_holders(table, number, (value,))
        return self._holders[table.id, number, value]
