"""Rows, unique values and totals of the state, written from an entry's effects."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from pydantic_core import from_json, to_json

from tidewire_hub.catalogue import Table
from tidewire_hub.effects import Effects
from tidewire_hub.resolve_view import Cells, Row, unique_value
from tidewire_hub.state.cells import Total, cells_digest, cells_json, cells_of
from tidewire_hub.state.devices import Devices
from tidewire_hub.state.plain import PlainRun
from tidewire_hub.state.plain_rows import Author, PlainRows
from tidewire_hub.state.unique_values import HeldValue, UniqueValues
from tidewire_hub.state.view import StateView

_WRITE_ROW: Final = """
    INSERT INTO row (table_id, key, cells, born_seq, born_by, seq, by, cells_by)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (table_id, key) DO UPDATE SET
        cells = excluded.cells,
        born_seq = excluded.born_seq, born_by = excluded.born_by,
        seq = excluded.seq, by = excluded.by, cells_by = excluded.cells_by
"""
_SAVE_TOTAL: Final = """
    INSERT INTO total (table_id, rows, digest) VALUES (?, ?, ?)
    ON CONFLICT (table_id) DO UPDATE SET rows = excluded.rows, digest = excluded.digest
"""
_SCAN: Final = "SELECT key, cells FROM row WHERE table_id = ? AND cells IS NOT NULL ORDER BY key"
_SCAN_WRITERS: Final = """
    SELECT key, cells, cells_by FROM row WHERE table_id = ? AND key > ? AND cells IS NOT NULL ORDER BY key LIMIT ?
"""
_RESHAPED_AT_ONCE: Final = 5_000
"""Rows in memory while a table is brought in line with its new columns."""

_REPLACE_CELLS: Final = "UPDATE row SET cells = ?, cells_by = ? WHERE table_id = ? AND key = ?"
_FORGET_UNIQUE: Final = "DELETE FROM unique_value WHERE table_id = ?"


class Rows:
    """The state's rows, with totals that are written at the end of a transaction."""

    def __init__(self, connection: sqlite3.Connection, devices: Devices) -> None:
        self._connection: Final = connection
        self._devices: Final = devices
        self._unique: Final = UniqueValues(connection)
        self._totals: dict[int, Total] = {}
        self._changed: set[int] = set()

    def load(self) -> None:
        """Read again what is held in memory, after opening and after a rollback."""
        stored = self._connection.execute("SELECT table_id, rows, digest FROM total")
        self._totals = {table_id: Total(rows, int(digest, 16)) for table_id, rows, digest in stored}
        self._changed = set()

    def save_totals(self) -> None:
        """Write the totals that have changed, within the transaction."""
        changed = [(table_id, self._totals[table_id]) for table_id in self._changed]
        values = [(table_id, total.rows, total.hex) for table_id, total in changed]
        self._connection.executemany(_SAVE_TOTAL, values)
        self._changed.clear()

    def total(self, table: Table) -> Total:
        """How many rows the table has, and their digest."""
        return self._totals.get(table.id) or Total()

    def scan(self, table: Table) -> Iterator[tuple[bytes, Cells]]:
        """Key and cells of every row, by key."""
        for key, cells in self._connection.execute(_SCAN, (table.id,)):
            yield key, cells_of(cells)

    def write_plain(self, runs: Sequence[PlainRun], seq: int, life: str) -> bool:
        """Write plain runs where nothing of them has to be judged; otherwise change nothing and say False."""
        rows = PlainRows(self._connection, Author(seq, self._devices.id_of(life), life))
        if not (all(run.whole for run in runs) and rows.insert(runs)):
            if not rows.look_at(runs):
                return False
            rows.write()
        for table_id, count, digest in rows.growths:
            self._changing_total(table_id).add(count, digest)
        return True

    def write(self, effects: Effects, view: StateView) -> None:
        """Bring rows, unique values and totals to what an entry left; `view` has them as they were."""
        rows = []
        removed: list[HeldValue] = []
        added: list[HeldValue] = []
        id_of = self._devices.id_of
        for (table_id, key), row in effects.rows.items():
            table = effects.tables[table_id]
            before = view.row((table_id, key))
            cells = None if row.cells is None else cells_json(row.cells)
            self._count(table_id, view.stored_cells((table_id, key)), cells)
            if table.unique:
                _compare_unique(table, key, before, row, removed=removed, added=added)
            writer: tuple[int | None, int | None] = (None, None)
            if row.written != row.born:
                writer = (row.written.seq, id_of(row.written.life))
            cells_by = to_json(row.cells_by) if row.cells_by else None
            rows.append((table_id, key, cells, row.born.seq, id_of(row.born.life), *writer, cells_by))
        self._connection.executemany(_WRITE_ROW, rows)
        if removed or added:
            self._unique.replace(removed, added)

    def reshape(self, table: Table, given_up: Collection[str], added: Collection[str]) -> None:
        """Bring every row in line with a table that has changed: take columns away, then give new ones their defaults,
        as devices' rows have them."""
        defaults = {name: table.defaults[name] for name in added if name in table.defaults}
        if not defaults and not given_up:
            return
        total = Total()
        last = b""
        while rows := self._connection.execute(_SCAN_WRITERS, (table.id, last, _RESHAPED_AT_ONCE)).fetchall():
            changed = []
            for key, stored, cells_by in rows:
                kept = {name: value for name, value in cells_of(stored).items() if name not in given_up}
                cells = cells_json({**defaults, **kept})
                apart = _without(cells_by, given_up)
                total.add(1, cells_digest(cells))
                if (cells, apart) != (stored, cells_by):
                    changed.append((cells, apart, table.id, key))
            self._connection.executemany(_REPLACE_CELLS, changed)
            last = rows[-1][0]
        self._totals[table.id] = total
        self._changed.add(table.id)

    def forget_unique(self, table: Table) -> None:
        """Unique sets are no longer in force, or have other numbers: none of their values is filed."""
        self._connection.execute(_FORGET_UNIQUE, (table.id,))

    def index_unique(self, table: Table, number: int) -> None:
        """File the values of a unique set that is new in force."""
        unique = table.unique[number]
        values = ((key, unique_value(cells, unique)) for key, cells in self.scan(table))
        self._unique.replace((), [(table.id, number, value, key) for key, value in values if value is not None])

    def _changing_total(self, table_id: int) -> Total:
        self._changed.add(table_id)
        total = self._totals.get(table_id)
        if total is None:
            total = self._totals[table_id] = Total()
        return total

    def _count(self, table_id: int, before: bytes | None, after: bytes | None) -> None:
        total = self._changing_total(table_id)
        if before is not None:
            total.remove(cells_digest(before))
        if after is not None:
            total.add(1, cells_digest(after))


def _without(cells_by: bytes | None, given_up: Collection[str]) -> bytes | None:
    """Who wrote columns apart, less those that are given up."""
    if cells_by is None or not given_up:
        return cells_by
    kept = {name: writer for name, writer in from_json(cells_by).items() if name not in given_up}
    return to_json(kept) if kept else None


def _compare_unique(
    table: Table, key: bytes, before: Row | None, after: Row, *, removed: list[HeldValue], added: list[HeldValue]
) -> None:
    """What changes in the unique values of one row."""
    for number, unique in enumerate(table.unique):
        old = None if before is None else unique_value(before.cells, unique)
        new = unique_value(after.cells, unique)
        if old == new:
            continue
        if old is not None:
            removed.append((table.id, number, old, key))
        if new is not None:
            added.append((table.id, number, new, key))
