"""What the database remembers of a snapshot that is being loaded: the tables `tidewire_loading` and `tidewire_loaded`.

A load survives a restart at every step. Once it has ended its marks are kept until all changes that the app made
meanwhile are sealed, as they tell what the app had seen when it made them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from tidewire_agent.load_standing import LoadStanding
from tidewire_agent.store.catalogue import Catalogue, Synced
from tidewire_agent.store.meta import Meta
from tidewire_schemas.positions import Position
from tidewire_schemas.values import Value, decode, encode

Stage = Literal["waiting", "loading", "sweeping", "loaded", "ended"]

_DRAIN_BITS: Final = 40
"""A stamp is a change's id, and above so many bits how often the change log was emptied before: it only grows."""

_MARKS_REMOVED_MAX: Final = 5000
"""Marks removed at once: a few milliseconds."""


@dataclass(frozen=True)
class TableLoad:
    """One table's part of a load: a row of `tidewire_loading`."""

    load: int
    table_id: int
    whole: bool
    position: Position
    """Of the snapshot; while it waits for one, `seq` is the entry that it must hold."""
    stage: Stage
    first: int
    chunks: int
    next: int
    """The chunk that is due."""
    row: int
    """How many rows of it are in."""
    swept: tuple[Value, ...] | None
    until: int | None

    @property
    def end(self) -> int:
        """The number after its last chunk."""
        return self.first + self.chunks


class Loads:
    """The load that is under way, if any, and the marks of those that have ended. Writes go with the caller's
    transaction."""

    def __init__(self, connection: sqlite3.Connection, meta: Meta, catalogue: Catalogue) -> None:
        self._connection = connection
        self._meta = meta
        self._catalogue = catalogue
        self._by_table: dict[int, TableLoad] = {}
        self._has_litter = True
        self.reload()

    # ── what is there ─────────────────────────────────────────────────────────────────────────────────────────────

    def reload(self) -> None:
        """Read them again: after a rollback, or when another process may have detached a table."""
        rows = self._connection.execute(_SELECT).fetchall()
        self._by_table = {row[1]: _table_load(row) for row in rows}

    def is_under_way(self, table_id: int) -> bool:
        """Whether this table is being loaded, or waits for a snapshot: the log is not applied to it."""
        load = self._by_table.get(table_id)
        return load is not None and load.stage != "ended"

    @property
    def snapshot(self) -> str | None:
        """Which snapshot is being loaded."""
        return self._meta.text("load_snapshot")

    @property
    def whole(self) -> bool:
        """Whether a snapshot of all tables is being loaded: until it has ended no entry can be applied."""
        return bool(self._meta.number("load_whole"))

    @property
    def position(self) -> Position:
        """The position of the snapshot that is being loaded."""
        return Position(self._meta.number("load_epoch"), self._meta.number("load_seq"))

    @property
    def included(self) -> int:
        """The newest own batch whose effect is in the snapshot."""
        return self._meta.included

    @property
    def under_way(self) -> list[TableLoad]:
        """Tables that are not done, in the order of their chunks."""
        return sorted((load for load in self._by_table.values() if load.stage != "ended"), key=lambda load: load.first)

    def waiting_for_more(self, position: Position) -> dict[int, int]:
        """Tables that must hold an entry after this position, each with the entry."""
        waiting = (load for load in self.under_way if load.stage == "waiting")
        return {load.table_id: load.position.seq for load in waiting if load.position.seq > position.seq}

    def of_chunk(self, number: int) -> TableLoad | None:
        """The table for which this chunk is due."""
        return next((load for load in self.under_way if load.stage == "loading" and load.next == number), None)

    @property
    def standing(self) -> LoadStanding | None:
        """How far the load is; None where there is none."""
        loads = self.under_way
        if not loads and not self.whole:
            return None
        names = (self._catalogue.registry.by_id[load.table_id].name for load in loads)
        return LoadStanding(
            snapshot=self.snapshot,
            whole=self.whole,
            position=self.position,
            tables=tuple(names),
            missing=tuple(range(load.next, load.end) for load in loads if load.stage == "loading"),
            loaded=sum(load.next - load.first for load in loads if load.stage != "waiting"),
            chunks=sum(load.chunks for load in loads if load.stage != "waiting"),
            least=max((load.position.seq for load in loads if load.stage == "waiting"), default=0),
        )

    def is_loaded(self, load: TableLoad, key: bytes) -> bool:
        """Whether the load has brought this key."""
        return self._stamp_of(load, key) is not None

    # ── what changes it ───────────────────────────────────────────────────────────────────────────────────────────

    def wait(self, tables: Mapping[int, int]) -> None:
        """These tables take a snapshot that holds the entry given for each, before they follow the log again.

        The one that is being loaded, if any, is forgotten where all its tables were detached meanwhile.
        """
        if self.snapshot and not self.whole and all(load.stage == "waiting" for load in self.under_way):
            self._no_snapshot()
        self.wait_on(tables)

    def wait_on(self, tables: Mapping[int, int]) -> None:
        """The same while a snapshot is loaded that does not hold the entries given."""
        for table_id, least in tables.items():
            self._add(table_id, whole=False, position=Position(0, least), stage="waiting", first=0, chunks=0)
        self.reload()

    def begin(self, snapshot: str, position: Position, *, whole: bool, included: int) -> None:
        """A snapshot is loaded from now on, in place of any other; then `add` its tables."""
        self._connection.execute("DELETE FROM tidewire_loading WHERE stage <> 'ended'")
        self._has_litter = True
        self._meta.set(
            load_snapshot=snapshot,
            load_epoch=position.epoch,
            load_seq=position.seq,
            load_whole=int(whole),
            load_included=included,
        )
        self.reload()

    def add(self, table_id: int, first: int, chunks: int, *, stage: Stage) -> None:
        """A table whose chunks follow each other from `first`; then `reload`."""
        self._add(table_id, whole=self.whole, position=self.position, stage=stage, first=first, chunks=chunks)

    def update(
        self,
        load: TableLoad,
        *,
        stage: Stage | None = None,
        next_chunk: int | None = None,
        row: int = 0,
        swept: Sequence[Value] | None = None,
    ) -> TableLoad:
        """A table is so far now."""
        load = replace(
            load,
            stage=stage or load.stage,
            next=load.next if next_chunk is None else next_chunk,
            row=row,
            swept=load.swept if swept is None else tuple(swept),
        )
        swept_json = None if load.swept is None else json.dumps([encode(value) for value in load.swept])
        self._connection.execute(
            "UPDATE tidewire_loading SET stage = ?, next = ?, row = ?, swept = ? WHERE load = ?",
            (load.stage, load.next, load.row, swept_json, load.load),
        )
        self._by_table[load.table_id] = load
        return load

    def drop(self, table_id: int) -> None:
        """This table's part of the load is off."""
        self._connection.execute("DELETE FROM tidewire_loading WHERE t = ?", (table_id,))
        self._by_table.pop(table_id, None)
        self._has_litter = True

    def mark(self, load: TableLoad, keys: Iterable[bytes]) -> None:
        """These keys are loaded: what the app changes of them from now on it changes at the snapshot's position."""
        stamp = self._stamp_now()
        self._connection.executemany(
            "INSERT OR REPLACE INTO tidewire_loaded (load, key, stamp) VALUES (?, ?, ?)",
            ((load.load, key, stamp) for key in keys),
        )

    def end(self) -> None:
        """The tables that are loaded are done; those that wait for a snapshot go on waiting."""
        self._connection.execute(
            "UPDATE tidewire_loading SET stage = 'ended', until = ? WHERE stage = 'loaded'", (self._stamp_now(),)
        )
        self._meta.set(load_whole=0)
        self._no_snapshot()

    def forget_snapshot(self) -> None:
        """The snapshot is gone, and its tables wait for another: half loaded, they are at no place in the log.

        Where all tables are, any will do: if the hub has lost its end, none reaches as far any more.
        """
        self._connection.execute("UPDATE tidewire_loading SET stage = 'waiting' WHERE stage <> 'ended'")
        self._connection.execute("UPDATE tidewire_loading SET epoch = 0, seq = 0 WHERE whole AND stage = 'waiting'")
        self._no_snapshot()

    def clear(self) -> None:
        """Nothing is loaded, and nothing waits for a snapshot."""
        self._connection.execute("DELETE FROM tidewire_loading")
        self._meta.set(load_whole=0)
        self._no_snapshot()

    def renumbered(self, included: int) -> None:
        """Own batches have other numbers: up to this one they are in the snapshot that is being loaded."""
        if self.snapshot is not None:
            self._meta.set(load_included=included)

    # ── what the app had seen ─────────────────────────────────────────────────────────────────────────────────────

    def seen(self, synced: Synced) -> Callable[[Sequence[Value], int], Position | None] | None:
        """For a table with marks: (key, change id) → where the row stood for who made the change, if a load brought it.

        None for tables without marks.
        """
        load = self._by_table.get(synced.attached.id)
        if load is None or load.stage == "waiting":
            return None
        drained = self._meta.number("drained")

        def position(key: Sequence[Value], change_id: int) -> Position | None:
            made = _stamp(drained, change_id)
            if load.until is not None and made > load.until and synced.attached.cursor is None:
                return None  # made since: at the checkpoint
            stamp = self._stamp_of(load, synced.table.key_bytes(tuple(key)))
            return load.position if stamp is not None and stamp < made else None

        return position

    # ── tidying up ────────────────────────────────────────────────────────────────────────────────────────────────

    def has_litter(self) -> bool:
        """Whether there is something for `tidy`. Takes no lock."""
        if self._is_over():
            self._has_litter = True
        elif self._has_litter:
            self._has_litter = next(self._litter(), None) is not None
        return self._has_litter

    def tidy(self) -> None:
        """Remove some of the marks that nobody needs any more."""
        self._connection.executemany("DELETE FROM tidewire_loading WHERE load = ?", [(n,) for n in self._is_over()])
        self.reload()
        litter = next(self._litter(), None)
        if litter is None:
            return
        last = self._connection.execute(
            "SELECT key FROM tidewire_loaded WHERE load = ? ORDER BY key LIMIT 1 OFFSET ?", (litter, _MARKS_REMOVED_MAX)
        ).fetchone()
        self._connection.execute(
            "DELETE FROM tidewire_loaded WHERE load = ? AND (? OR key < ?)", (litter, last is None, last and last[0])
        )

    def _is_over(self) -> list[int]:
        """Loads that have ended, of which no change is left to be sealed."""
        if not any(load.stage == "ended" for load in self._by_table.values()):
            return []
        oldest = self._connection.execute("SELECT min(id) FROM tidewire_change").fetchone()[0]
        rows = self._connection.execute(
            """
            SELECT load FROM tidewire_loading WHERE stage = 'ended' AND (? OR until < ?)
            AND t NOT IN (SELECT id FROM tidewire_table WHERE cursor_seq IS NOT NULL)
            """,
            (oldest is None, _stamp(self._meta.number("drained"), oldest or 0)),
        )
        return [load for (load,) in rows]

    def _litter(self) -> Iterator[int]:
        """Numbers of loads that have marks and are over."""
        needed = {load.load for load in self._by_table.values()}
        number = -1
        while True:
            row = self._connection.execute("SELECT min(load) FROM tidewire_loaded WHERE load > ?", (number,)).fetchone()
            if row[0] is None:
                return
            number = int(row[0])
            if number not in needed:
                yield number

    # ── common ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _no_snapshot(self) -> None:
        self._meta.set(load_snapshot=None, load_epoch=0, load_seq=0, load_included=None, load_refused=None)
        self.reload()

    def _add(self, table_id: int, *, whole: bool, position: Position, stage: Stage, first: int, chunks: int) -> None:
        number = self._meta.number("next_load")
        self._meta.set(next_load=number + 1)
        self._connection.execute("DELETE FROM tidewire_loading WHERE t = ?", (table_id,))
        self._connection.execute(
            """
            INSERT INTO tidewire_loading (load, t, whole, epoch, seq, stage, first, chunks, next, row)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)
            """,
            (number, table_id, whole, position.epoch, position.seq, stage, first, chunks, first),
        )

    def _stamp_now(self) -> int:
        newest = self._connection.execute("SELECT max(id) FROM tidewire_change").fetchone()[0]
        return _stamp(self._meta.number("drained"), newest or 0)

    def _stamp_of(self, load: TableLoad, key: bytes) -> int | None:
        row = self._connection.execute(
            "SELECT stamp FROM tidewire_loaded WHERE load = ? AND key = ?", (load.load, key)
        ).fetchone()
        return None if row is None else int(row[0])


_SELECT: Final = """
    SELECT load, t, whole, epoch, seq, stage, first, chunks, next, row, swept, until FROM tidewire_loading
"""


def _table_load(row: Sequence[Any]) -> TableLoad:
    return TableLoad(
        load=row[0],
        table_id=row[1],
        whole=bool(row[2]),
        position=Position(row[3], row[4]),
        stage=row[5],
        first=row[6],
        chunks=row[7],
        next=row[8],
        row=row[9],
        swept=None if row[10] is None else tuple(decode(value) for value in json.loads(row[10])),
        until=row[11],
    )


def _stamp(drained: int, change_id: int) -> int:
    return (drained << _DRAIN_BITS) + change_id
