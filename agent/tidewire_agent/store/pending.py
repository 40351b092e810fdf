"""The pending overlay: which cells hold a local change that the applied log does not include yet.

Such a cell keeps its local value when an entry of another device is applied. Pending are the batches above `released`,
and the changes not yet sealed. They are indexed in a temporary table (SQLite keeps it in a bounded cache and on its own
temporary file), and only once an entry of another device asks. Of the changes not yet sealed, of which an app at full
speed makes more in a second than can be indexed in one, only those are indexed whose keys are asked for: SQLite looks
through the change log, a hundred times faster than Python would.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, NamedTuple

from tidewire_agent.store import capture
from tidewire_agent.store.catalogue import Catalogue, Synced
from tidewire_agent.store.meta import Meta, trim_marks
from tidewire_agent.store.reading import fetch_all
from tidewire_agent.store.rows import key_is
from tidewire_agent.store.sql import quote
from tidewire_schemas.codec import parse_batch
from tidewire_schemas.names import fold
from tidewire_schemas.values import RawText, Value, decode_row

_UNSEALED: Final = 2**62
"""Stands for the number of a batch that changes will get when they are sealed."""

_CREATE: Final = """
    CREATE TEMP TABLE IF NOT EXISTS tidewire_pending (
        t     INTEGER NOT NULL,
        key   BLOB NOT NULL,
        batch INTEGER NOT NULL,
        cols  TEXT,                 -- JSON list of folded columns; NULL: the whole row; []: offered as a seed;
                                    -- {"without": list}: the whole row but columns that have come to the table since
        k     BLOB,                 -- the first value of the key, folded; NULL: unknown
        PRIMARY KEY (t, key, batch, cols)
    )
"""
_CREATE_WANTED: Final = "CREATE TEMP TABLE IF NOT EXISTS tidewire_wanted (k PRIMARY KEY) WITHOUT ROWID"
_FOLDED: Final = "CASE typeof({0}) WHEN 'text' THEN lower(rtrim({0})) ELSE {0} END"
"""Equal for all values that any collation of SQLite holds equal; the few others that it lets through do no harm."""
_WANT: Final = "INSERT OR IGNORE INTO temp.tidewire_wanted SELECT " + _FOLDED + " WHERE ?1 IS NOT NULL"

_ADD: Final = (
    "INSERT OR IGNORE INTO temp.tidewire_pending (t, key, batch, cols, k) VALUES (?1, ?2, ?3, ?4, "
    + _FOLDED.format("?5")
    + ")"
)

_OFFERED: Final = "[]"

_Row = tuple[int, bytes, int, str | None, Any]


class Overlay(NamedTuple):
    """What of a row is pending."""

    whole: bool
    columns: frozenset[str]
    """Folded names, where not the whole row is."""
    unsealed: frozenset[str] = frozenset()
    """Those of them that no batch holds yet."""
    only_unsealed: bool = False
    """The whole row is pending, and no batch holds it yet."""
    uncovered: frozenset[str] = frozenset()
    """Columns that no batch with the whole row names: they came to the table after it was sealed."""
    offered: bool = False
    """A batch offers the row as a seed: that yields to whatever the hub holds, so nothing of it is pending."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is pending."""
        return not self.whole and not self.columns


NOTHING_PENDING: Final = Overlay(whole=False, columns=frozenset())


class Pending:
    """The index of pending cells."""

    def __init__(self, connection: sqlite3.Connection, meta: Meta, catalogue: Catalogue) -> None:
        self._connection = connection
        self._meta = meta
        self._catalogue = catalogue
        self._batch: int | None = None
        """The newest batch that is indexed."""
        self._change = 0
        self._ids_of = (-1, -1)
        self._released = meta.included
        self._wants: Literal["all", "some", "none"] = "all"
        connection.execute(_CREATE)
        connection.execute(_CREATE_WANTED)

    def anything(self) -> bool:
        """Whether any local change is not in the applied log yet."""
        if self._meta.number("next_batch") > self._meta.number("released") + 1:
            return True
        return bool(self._connection.execute("SELECT EXISTS (SELECT 1 FROM tidewire_change)").fetchone()[0])

    def want(self, first_values: Iterable[Value]) -> None:
        """From now on `of` is asked only about rows whose keys begin with one of these values (until `forget`)."""
        values = list(first_values)
        alone = not self._connection.in_transaction
        if alone:
            self._connection.execute("BEGIN")  # one temporary transaction instead of many
        try:
            self._connection.execute("DELETE FROM temp.tidewire_wanted")
            self._connection.executemany(
                _WANT.format("?1"), ((value,) for value in values if type(value) is not RawText)
            )
            self._connection.executemany(
                _WANT.format("CAST(?1 AS TEXT)"), ((value.data,) for value in values if type(value) is RawText)
            )
            if alone:
                self._connection.execute("COMMIT")
        except BaseException:
            if alone:
                self._connection.rollback()
            raise
        self._wants = "some" if values else "none"
        self._forget_unsealed()

    def want_all(self) -> None:
        """`of` may be asked about any row."""
        if self._wants != "all":
            self._wants = "all"
            self._forget_unsealed()

    def uncovered(self) -> int:
        """About how many changes have come since `cover`."""
        if self._wants == "none":
            return 0
        newest = self._connection.execute("SELECT max(id) FROM tidewire_change").fetchone()[0] or 0
        return int(newest) - self._change

    def cover(self) -> None:
        """Index all that is pending now. Called before the write lock is taken, and again, for the rest, under it."""
        if self._wants == "none":
            return
        if not self._connection.in_transaction:
            self._connection.execute("DELETE FROM temp.tidewire_pending WHERE batch <= ?", (self._released,))
        self._cover_batches()
        self._cover_changes()

    def touches(self) -> bool:
        """Whether anything that is indexed may be about a row that is wanted."""
        if self._wants == "none":
            return False
        wanted = "" if self._wants == "all" else "AND (k IS NULL OR k IN (SELECT k FROM temp.tidewire_wanted))"
        found = self._connection.execute(
            f"SELECT EXISTS (SELECT 1 FROM temp.tidewire_pending WHERE batch > ? {wanted})", (self._released,)
        )
        return bool(found.fetchone()[0])

    def of(self, table_id: int, key: bytes) -> Overlay:
        """What of this row is pending."""
        rows = self._connection.execute(
            "SELECT batch, cols FROM temp.tidewire_pending WHERE t = ? AND key = ? AND batch > ?",
            (table_id, key, self._released),
        ).fetchall()
        if not rows:
            return NOTHING_PENDING
        whole = [(batch, cols) for batch, cols in rows if cols is None or cols.startswith("{")]
        if whole:
            return Overlay(
                whole=True,
                columns=frozenset(),
                only_unsealed={batch for batch, _cols in whole} == {_UNSEALED},
                uncovered=_uncovered(cols for _batch, cols in rows),
            )
        named = [(batch, name) for batch, cols in rows for name in json.loads(cols)]
        return Overlay(
            whole=False,
            columns=frozenset(name for _batch, name in named),
            unsealed=frozenset(name for batch, name in named if batch == _UNSEALED),
            offered=any(cols == _OFFERED for _batch, cols in rows),
        )

    def may_be_unsealed(self, synced: Synced, key: Sequence[Value]) -> bool:
        """Whether the app has perhaps written this row and no batch holds that yet, whatever was wanted."""
        folded = _FOLDED.format("?2" if type(key[0]) is not RawText else "CAST(?2 AS TEXT)")
        row = self._connection.execute(
            f"SELECT EXISTS (SELECT 1 FROM tidewire_change WHERE t = ?1 AND {_FOLDED.format('k0')} = {folded})",
            (synced.attached.id, key[0].data if isinstance(key[0], RawText) else key[0]),
        ).fetchone()
        return bool(row[0])

    def cells(self, synced: Synced, key: bytes) -> dict[str, Value]:
        """Values of a row's pending cells by column, from the batches that hold them."""
        found: dict[str, Value] = {}
        batches = self._connection.execute(
            """
            SELECT DISTINCT batch, payload FROM temp.tidewire_pending JOIN tidewire_batch USING (batch)
            WHERE t = ? AND key = ? AND batch > ? ORDER BY batch
            """,
            (synced.attached.id, key, self._released),
        ).fetchall()
        for _batch, payload in batches:
            for run in parse_batch(payload, bytes_max=len(payload)).batch.changes:
                if run.op != "set" or self._catalogue.by_name(run.table) != synced:
                    continue
                for row in run.rows:
                    values = decode_row(row)
                    if synced.table.key_bytes(tuple(values[: run.key])) == key:
                        found.update(zip(run.columns[run.key :], values[run.key :], strict=True))
        return {column.name: value for name, value in found.items() if (column := synced.table.by_name.get(fold(name)))}

    def release(self, batch: int) -> None:
        """The applied log includes our batches up to this one."""
        self._released = batch  # `cover` removes them once no lock is held

    def drop_unsealed(self, synced: Synced, key: tuple[Value, ...]) -> None:
        """In the caller's transaction: updates of this row that are not sealed are over, as the row is."""
        where, bound = key_is([f"k{place}" for place in range(len(key))], key)
        self._connection.execute(
            f"DELETE FROM tidewire_change WHERE t = ? AND op = ? AND {where}",
            (synced.attached.id, capture.UPDATED, *bound),
        )
        self._connection.execute(
            "DELETE FROM temp.tidewire_pending WHERE t = ? AND key = ? AND batch = ?",
            (synced.attached.id, synced.table.key_bytes(key), _UNSEALED),
        )
        trim_marks(self._connection, self._meta)

    def forget(self) -> None:
        """Index anew at the next call: batches were renumbered, or tables attached or changed."""
        self._connection.execute("DELETE FROM temp.tidewire_pending")
        self._batch = None
        self._change = 0
        # What a snapshot includes that is being loaded is judged, though the log is not applied so far yet.
        self._released = self._meta.included
        self._ids_of = (-1, -1)
        self._wants = "all"

    def _forget_unsealed(self) -> None:
        self._connection.execute("DELETE FROM temp.tidewire_pending WHERE batch = ?", (_UNSEALED,))
        self._change = 0

    def _cover_batches(self) -> None:
        released = self._meta.number("released")
        first = (released if self._batch is None else max(self._batch, released)) + 1
        last = max(0, self._meta.number("next_batch") - 1)
        for batch in range(first, last + 1):
            row = self._connection.execute("SELECT payload FROM tidewire_batch WHERE batch = ?", (batch,)).fetchone()
            if row is not None:
                self._connection.executemany(_ADD, self._batch_rows(batch, row[0]))
        if last >= first:
            # What was unsealed before may be in these batches now: look at the rest of the change log anew.
            self._forget_unsealed()
        self._batch = last

    def _batch_rows(self, batch: int, payload: bytes) -> list[_Row]:
        rows: list[_Row] = []
        sealed = parse_batch(payload, bytes_max=len(payload)).batch
        for run in sealed.changes:
            synced = self._catalogue.by_name(run.table)
            if synced is None or batch < synced.attached.first_batch or (sealed.was and run.op != "seed"):
                continue  # of what is offered again the hub says what counts
            cols = _OFFERED if run.op == "seed" else None
            named = [fold(name) for name in run.columns]
            if run.op == "set":
                cols = json.dumps(named[run.key :])
            elif run.op == "put" and (later := synced.table.by_name.keys() - set(named)):
                cols = json.dumps({"without": sorted(later)})
            for row in run.rows:
                key = tuple(decode_row(row[: run.key]))
                rows.append((synced.attached.id, synced.table.key_bytes(key), batch, cols, _known(key[0])))
        return rows

    def _cover_changes(self) -> None:
        ids_of = (self._meta.number("drained"), self._meta.number("trimmed"))
        if ids_of != self._ids_of:  # ids that were seen may have been given again
            self._forget_unsealed()
            self._ids_of = ids_of
        newest = self._connection.execute("SELECT max(id) FROM tidewire_change").fetchone()[0]
        if newest is None or newest <= self._change:
            return
        asked = "" if self._wants == "all" else f"AND {_FOLDED.format('k0')} IN (SELECT k FROM temp.tidewire_wanted)"
        changes = fetch_all(
            self._connection,
            f"""
            SELECT t, op, cols, k0, k1, k2, k3, k4, k5, k6, k7 FROM tidewire_change
            WHERE id > ? AND id <= ? {asked} ORDER BY id
            """,
            (self._change, newest),
        )
        self._change = newest
        rows: list[_Row] = []
        for table_id, op, cols, *key_columns in changes:
            synced = self._catalogue.by_id(table_id)
            if synced is None:
                continue
            key = tuple(key_columns[: len(synced.table.key)])
            if None in key or (op == capture.CANDIDATE and self._is_there(synced, key)):
                continue
            changed = capture.mask_columns(cols, synced.attached.columns) if op == capture.UPDATED else None
            text = None if changed is None else json.dumps(sorted(changed))
            rows.append((table_id, synced.table.key_bytes(key), _UNSEALED, text, _known(key[0])))
        self._connection.executemany(_ADD, rows)

    def _is_there(self, synced: Synced, key: tuple[Value, ...]) -> bool:
        where, bound = key_is(synced.table.key, key)
        row = self._connection.execute(f"SELECT 1 FROM {quote(synced.table.name)} WHERE {where}", bound).fetchone()
        return row is not None


def _known(value: Value) -> Any:
    """A value as it can be bound; None for what cannot."""
    return None if type(value) is RawText else value


def _uncovered(found: Iterable[str | None]) -> frozenset[str]:
    """Columns of a row of which nothing is pending, though the whole row was when it was sealed."""
    without: frozenset[str] | None = None
    named: set[str] = set()
    for cols in found:
        read = {"without": ()} if cols is None else json.loads(cols)
        if isinstance(read, dict):
            without = frozenset(read["without"]) & (frozenset(read["without"]) if without is None else without)
        else:
            named.update(read)
    return (without or frozenset()) - named
