"""The fast path: plain runs taken up many rows at a time, where they meet nothing that would have to be judged.

That is so if a batch has one operation for each key, and if

- a `seed` meets neither a row nor a tombstone,
- `set` and `delete` meet a row, and they and `put` none of which somebody else wrote anything after their base,
- every unique value has one holder afterwards.

Then no row is refused and nobody's write is lost: the state becomes what `resolve` and `effects_of` would make of it,
and the entry repeats the batch's bytes. Everything is looked at before anything is written, so a batch that is not of
this kind is left to them with the state untouched.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import starmap
from typing import Any, Final, NamedTuple, TypeAlias

from pydantic_core import from_json, to_json

from tidewire_hub.catalogue import Table
from tidewire_hub.resolve_view import Life, Writer
from tidewire_hub.state.cells import cells_json, digest_sum
from tidewire_hub.state.chunks import CHUNK, select_in
from tidewire_hub.state.plain import PlainRun, unique_values
from tidewire_hub.state.unique_values import HeldValue, UniqueValues
from tidewire_schemas.values import WireValue

_READ: Final = """
    SELECT key, id, cells, born_seq, born_by, seq, by, cells_by FROM row WHERE table_id = ? AND key IN ({})
"""
_INSERT: Final = "INSERT OR IGNORE INTO row (table_id, born_seq, born_by, key, cells) VALUES {}"
_AT_ONCE: Final = 50
"""Rows in one statement: a statement per row costs as much again as the row itself; more than 50 save nothing more."""

_INSERT_ONE: Final = _INSERT.format("(?1, ?2, ?3, ?4, ?5)")
_INSERT_MANY: Final = _INSERT.format(
    ", ".join(f"(?1, ?2, ?3, ?{number}, ?{number + 1})" for number in range(4, 4 + 2 * _AT_ONCE, 2))
)
_NEWEST: Final = "SELECT coalesce(max(id), 0) FROM row"
_UNDO: Final = "DELETE FROM row WHERE id > ?"  # rows are never deleted else, so ids only grow
_PUT_OVER: Final = "UPDATE row SET seq = ?, by = ?, cells = ?, cells_by = NULL WHERE id = ?"
_PUT_ANEW: Final = """
    UPDATE row SET born_seq = ?, born_by = ?, cells = ?, seq = NULL, by = NULL, cells_by = NULL WHERE id = ?
"""
_SET: Final = "UPDATE row SET cells = ?, cells_by = ? WHERE id = ?"
_DELETE: Final = "UPDATE row SET seq = ?, by = ?, cells = NULL, cells_by = NULL WHERE id = ?"


Held: TypeAlias = tuple[bytes, int, bytes | None, int, int, int | None, int | None, bytes | None]
"""A row or tombstone, as `_READ` gives it."""


class Author(NamedTuple):
    """Whose entry it is."""

    seq: int
    by: int
    """The number of `life`."""
    life: str


class Growth(NamedTuple):
    """By how much a table's total grows."""

    table_id: int
    rows: int
    digest: int


class PlainRows:
    """What the plain runs of one batch do to the rows they meet: looked at first, written then."""

    def __init__(self, connection: sqlite3.Connection, author: Author) -> None:
        self._connection: Final = connection
        self._author: Final = author
        self._unique: Final = UniqueValues(connection)
        self._born: Final[dict[Table, list[tuple[bytes, bytes]]]] = defaultdict(list)
        self._written: Final[dict[str, list[tuple[Any, ...]]]] = defaultdict(list)
        self._removed: Final[list[HeldValue]] = []
        self._added: Final[list[HeldValue]] = []
        self.growths: Final[list[Growth]] = []
        """What becomes of totals, bit by bit."""

    def insert(self, runs: Sequence[PlainRun]) -> bool:
        """Write whole rows if all are new, without looking at rows first; otherwise change nothing and say False."""
        added = [
            (run.table.id, number, value, key)
            for run in runs
            for number, values in enumerate(run.unique)
            for value, key in zip(values, run.keys, strict=True)
            if value is not None
        ]
        if not self._unique.free(added):
            return False
        (newest,) = self._connection.execute(_NEWEST).fetchone()
        for run in runs:
            if not self._insert(run.table, run.keys, run.cells):
                self._connection.execute(_UNDO, (newest,))
                return False
        if added:
            self._unique.replace((), added)
        self.growths.extend(Growth(run.table.id, len(run.keys), digest_sum(run.cells)) for run in runs)
        return True

    def look_at(self, runs: Sequence[PlainRun]) -> bool:
        """Whether nothing of the batch has to be judged. Nothing is written yet."""
        keys = {(run.table.id, key) for run in runs for key in run.keys}
        if len(keys) < sum(len(run.keys) for run in runs):
            return False
        return all(map(self._look_at_run, runs)) and self._unique.free(self._added, self._removed)

    def write(self) -> None:
        """Write what was looked at."""
        for table, rows in self._born.items():
            self._insert(table, [key for key, _ in rows], [cells for _, cells in rows])
        for statement, values in self._written.items():
            self._connection.executemany(statement, values)
        if self._removed or self._added:
            self._unique.replace(self._removed, self._added)

    def _insert(self, table: Table, keys: Sequence[bytes], cells: Sequence[bytes]) -> bool:
        """Insert new rows until one is not new; whether all are."""
        birth = (table.id, self._author.seq, self._author.by)
        values: list[Any] = [*birth, *[None] * (2 * _AT_ONCE)]
        whole = len(keys) - len(keys) % _AT_ONCE
        for start in range(0, whole, _AT_ONCE):
            stop = start + _AT_ONCE
            values[len(birth) :: 2] = keys[start:stop]
            values[len(birth) + 1 :: 2] = cells[start:stop]
            if self._connection.execute(_INSERT_MANY, values).rowcount < _AT_ONCE:
                return False
        left = [(*birth, *pair) for pair in zip(keys[whole:], cells[whole:], strict=True)]
        return not left or self._connection.executemany(_INSERT_ONE, left).rowcount == len(left)

    def _look_at_run(self, run: PlainRun) -> bool:
        apart = _Apart(self._author, run)
        for start in range(0, len(run.keys), CHUNK):
            part = slice(start, start + CHUNK)
            keys = run.keys[part]
            found: dict[bytes, Held] = {
                stored[0]: stored for stored in select_in(self._connection, _READ, (run.table.id,), keys)
            }
            if found and not self._had_seen(found.values(), run.run.base.seq, apart):
                return False
            held = [found.get(key) for key in keys]
            if run.whole:
                if found and run.run.op == "seed":
                    return False
                self._put(run, part, held)
                continue
            ids = [row[1] for row in held if row is not None]
            before = [row[2] for row in held if row is not None and row[2] is not None]
            if len(before) < len(keys):
                return False
            if run.run.op == "delete":
                self._delete(run, part, ids, before)
            else:
                self._set(run, part, ids, before, [apart.after(row[7]) for row in held if row is not None])
        return True

    def _had_seen(self, rows: Iterable[Held], base: int, apart: _Apart) -> bool:
        """Whether the writer had seen all that others wrote of these rows."""
        us = self._author.by
        for _, _, _, born_seq, born_by, seq, by, cells_by in rows:
            if born_seq > base and born_by != us:
                return False
            if seq is not None and seq > base and by != us:
                return False
            if cells_by is not None and not apart.had_seen(cells_by):
                return False
        return True

    def _put(self, run: PlainRun, part: slice, held: Sequence[Held | None]) -> None:
        table, author = run.table, self._author[:2]
        keys, after = run.keys[part], run.cells[part]
        before = [None if row is None else row[2] for row in held]
        for key, cells, row in zip(keys, after, held, strict=True):
            if row is None:
                self._born[table].append((key, cells))
            else:
                self._written[_PUT_ANEW if row[2] is None else _PUT_OVER].append((*author, cells, row[1]))
        self._grow(table, [cells for cells in before if cells is not None], after)
        if table.unique:
            rows = _parsed(before)
            for number, values in enumerate(run.unique):
                self._exchange(table, number, keys, unique_values(rows, table.unique[number]), values[part])

    def _set(
        self, run: PlainRun, part: slice, ids: list[int], before: list[bytes], cells_by: Sequence[bytes | None]
    ) -> None:
        table, width, keys = run.table, run.run.key, run.keys[part]
        names = run.names[width:]
        rows = _parsed(before)
        concerned = [number for number, unique in enumerate(table.unique) if not set(names).isdisjoint(unique.columns)]
        held = {number: unique_values(rows, table.unique[number]) for number in concerned}
        after = []
        for cells, wire in zip(rows, run.run.rows[part], strict=True):
            count = len(cells)
            cells.update(zip(names, wire[width:], strict=True))
            if len(cells) != count or None in wire:
                for name in [name for name, value in cells.items() if value is None]:
                    del cells[name]
                after.append(cells_json(cells))
            else:  # a column that was there keeps its place
                after.append(to_json(list(cells.items())))
        for number in concerned:
            self._exchange(table, number, keys, held[number], unique_values(rows, table.unique[number]))
        self._grow(table, before, after)
        self._written[_SET].extend(zip(after, cells_by, ids, strict=True))

    def _delete(self, run: PlainRun, part: slice, ids: list[int], before: list[bytes]) -> None:
        table, keys = run.table, run.keys[part]
        if table.unique:
            rows = _parsed(before)
            for number in range(len(table.unique)):
                self._exchange(table, number, keys, unique_values(rows, table.unique[number]), [None] * len(keys))
        self._grow(table, before, ())
        author = self._author[:2]
        self._written[_DELETE].extend((*author, row) for row in ids)

    def _grow(self, table: Table, before: Sequence[bytes], after: Sequence[bytes]) -> None:
        self.growths.append(Growth(table.id, len(after) - len(before), digest_sum(after) - digest_sum(before)))

    def _exchange(
        self,
        table: Table,
        number: int,
        keys: Sequence[bytes],
        before: Sequence[bytes | None],
        after: Sequence[bytes | None],
    ) -> None:
        """Note what becomes of the values of one unique set."""
        for key, old, new in zip(keys, before, after, strict=True):
            if old == new:
                continue
            if old is not None:
                self._removed.append((table.id, number, old, key))
            if new is not None:
                self._added.append((table.id, number, new, key))


class _Apart:
    """Which columns of a row have writers of their own: few texts, the same in many rows, so each is read once."""

    def __init__(self, author: Author, run: PlainRun) -> None:
        self._author: Final = author
        self._base: Final = run.run.base.seq
        self._ours: Final = dict.fromkeys(run.names[run.run.key :], (author.seq, author.life))
        self._seen: Final[dict[bytes, bool]] = {}
        self._after: Final[dict[bytes | None, bytes]] = {}

    def had_seen(self, cells_by: bytes) -> bool:
        """Whether none of them is a write that this one had not seen."""
        seen = self._seen.get(cells_by)
        if seen is None:
            life = Life(self._author.life)  # what its earlier lives wrote is left to the full resolution
            writers = starmap(Writer, from_json(cells_by).values())
            seen = not any(writer.concurrent_to(life, self._base) for writer in writers)
            self._seen[cells_by] = seen
        return seen

    def after(self, cells_by: bytes | None) -> bytes:
        """The same after this run has set its columns."""
        after = self._after.get(cells_by)
        if after is None:
            after = to_json({**(from_json(cells_by) if cells_by is not None else {}), **self._ours})
            self._after[cells_by] = after
        return after


def _parsed(stored: Iterable[bytes | None]) -> list[dict[str, WireValue]]:
    """Cells of many rows; those of no row are empty."""
    together = b",".join([b"[]" if cells is None else cells for cells in stored])
    return list(map(dict, from_json(b"[%s]" % together)))
