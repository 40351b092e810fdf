"""Reading what a batch holds: the net change of the rows that a stretch of the change log names, encoded.

Rows that were only inserted, which a large backlog mostly is, are encoded as they are read, so that all that is held
of them is their bytes.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from operator import itemgetter
from typing import Any, Final, NamedTuple

from pydantic_core import to_json

from tidewire_agent.store import capture
from tidewire_agent.store.catalogue import Catalogue, Synced
from tidewire_agent.store.change_log import Bases, ChangeLog, Stretch
from tidewire_agent.store.dead_letters import DeadLetter, null_key_letters
from tidewire_agent.store.loads import Loads
from tidewire_agent.store.netchange import Change, LogRow, NetChange
from tidewire_agent.store.reading import read_again_as_raw
from tidewire_agent.store.seeds import Seeds
from tidewire_agent.store.sql import names, quote
from tidewire_schemas.names import fold
from tidewire_schemas.positions import START, Position
from tidewire_schemas.values import encode_row

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE: Final = 1000
"""Rows that are read and encoded together."""

_PLAIN: Final = frozenset({int, str, float, type(None)})

WireRun = dict[str, Any]


class TooManyBytes(Exception):
    """More than one batch may have."""


class Draft(NamedTuple):
    """A batch that is read and encoded, and not yet stored."""

    changes_json: bytes
    stretch: Stretch
    dead: list[DeadLetter]
    touched: list[tuple[int, bytes]]
    """Keys, by table id and key bytes, of rows that are no longer only this device's own originals."""
    nothing: list[tuple[int, bytes]]
    """Keys of rows that were written and have no net change."""
    whole: list[tuple[int, bytes]]
    """Keys of rows whose earlier change was too large, and which are sent whole with this batch."""
    offers: bool = False
    """Whether it offers rows that the hub has lost and the app has changed since: the changes come after it."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be sent."""
        return self.changes_json == b"[]"


@dataclass
class _Notes:
    """What reading notices besides the changes."""

    dead: list[DeadLetter] = field(default_factory=list)
    touched: list[tuple[int, bytes]] = field(default_factory=list)
    nothing: list[tuple[int, bytes]] = field(default_factory=list)
    whole: list[tuple[int, bytes]] = field(default_factory=list)
    lost: list[tuple[int, bytes]] = field(default_factory=list)
    """Keys of changed rows that the hub has lost, as far as is known."""
    offers: list[list[bytes]] = field(default_factory=list)
    """Runs with these rows."""


class Drafter:
    """Reads drafts of one database; writes nothing."""

    def __init__(
        self, connection: sqlite3.Connection, catalogue: Catalogue, changes: ChangeLog, seeds: Seeds, loads: Loads
    ) -> None:
        self._connection = connection
        self._catalogue = catalogue
        self._changes = changes
        self._seeds = seeds
        self._loads = loads

    def read(self, stretch: Stretch, now_ms: int) -> Draft:
        """In one snapshot with `ChangeLog.next`: what a stretch of the change log stands for.

        Raises:
            TooManyBytes: the stretch covers more bytes than it may. One that covers one change is read all the same.
        """
        bases = self._changes.bases()
        ties = count(1)
        notes = _Notes()
        deletes: list[list[bytes]] = []
        others: list[list[bytes]] = []
        size = 0
        unsent = set(self._connection.execute("SELECT t, key FROM tidewire_unsent"))
        tables = self._connection.execute(
            "SELECT DISTINCT t FROM tidewire_change WHERE id <= ? ORDER BY t", (stretch.cut,)
        ).fetchall()
        for (table_id,) in tables:
            synced = self._catalogue.by_id(table_id)
            if synced is None:
                logger.warning("changes of a table that is not attached any more were set aside")
                continue
            inserted = self._all_inserted(synced, stretch, bases, stretch.bytes_max - size)
            if inserted is not None:
                others += inserted
            else:
                for run in self._net_runs(synced, stretch.cut, bases, lambda: next(ties), unsent, notes, now_ms):
                    (deletes if run["op"] == "delete" else others).append([encoded_run(run)])
            size = sum(len(piece) for run in chain(deletes, others) for piece in run)
            size += sum(len(piece) for run in notes.offers for piece in run)
            if size > stretch.bytes_max and stretch.changes > 1:
                raise TooManyBytes
        if notes.offers:
            return Draft(_joined(notes.offers), stretch, [], notes.lost, [], [], offers=True)
        return Draft(_joined(chain(deletes, others)), stretch, notes.dead, notes.touched, notes.nothing, notes.whole)

    # ── a table with fresh inserts only ───────────────────────────────────────────────────────────────────────────

    def _all_inserted(self, synced: Synced, stretch: Stretch, bases: Bases, bytes_max: int) -> list[list[bytes]] | None:
        """The common case without looking at rows one by one: fresh inserts only, all still there.

        Pieces of encoded runs, one for each base; None where it is another case.
        """
        if synced.attached.has_originals or self._loads.seen(synced) is not None:
            return None
        first, last, count_of_all, inserted, placed = self._connection.execute(
            f"""
            SELECT min(id), max(id), count(*), count(*) FILTER (WHERE op = {capture.INSERTED}), count(row_id)
            FROM tidewire_change WHERE t = ? AND id <= ?
            """,
            (synced.attached.id, stretch.cut),
        ).fetchone()
        if inserted < count_of_all:
            return None
        rowid = synced.table.rowid if placed == count_of_all else None
        keys: set[int] = set()
        size = count_of_rows = 0
        width = len(synced.table.key)
        runs = []
        after = 0
        try:
            for until, base in bases.between(first, last):
                pieces: list[bytes] = []
                for rows in self._rows_of_changes(synced, after, until, rowid):
                    keys.update(map(hash, rows if width == len(rows[0]) else map(itemgetter(*range(width)), rows)))
                    count_of_rows += len(rows)
                    piece = _encoded_rows(rows)
                    size += len(piece)
                    if size > bytes_max and stretch.changes > 1:
                        raise TooManyBytes
                    pieces += (piece, b",")
                after = until
                if pieces:
                    opening = encoded_run(_run("put", synced, base, synced.table.column_names))[: -len(b"]}")]
                    runs.append([opening, *pieces[:-1], b"]}"])
        except sqlite3.OperationalError as error:
            if "decode" in str(error):  # a text that is not valid UTF-8 needs care
                return None
            raise
        # Else a row is not there any more, or was moved to another rowid, or is there for two changes.
        return runs if len(keys) == count_of_rows == inserted else None

    def _rows_of_changes(
        self, synced: Synced, after: int, until: int, rowid: str | None
    ) -> Iterator[list[tuple[Any, ...]]]:
        """The rows that are there for changes of the table after one up to another, some at once.

        With `rowid` only those that are where they were inserted: mostly all, side by side, and the index of their keys
        need not be read, which is all over the file where keys are random.
        """
        table = synced.table
        on = " AND ".join(f"r.{quote(column)} = c.k{i}" for i, column in enumerate(table.key))
        if rowid is not None:
            on = f"r.{rowid} = c.row_id AND {on}"
        return self._some_at_once(
            f"""
            SELECT {names(table.column_names, "r")}
            FROM tidewire_change AS c CROSS JOIN {quote(table.name)} AS r {"NOT INDEXED " * bool(rowid)}ON {on}
            WHERE c.t = ? AND c.id > ? AND c.id <= ?
            ORDER BY c.id
            """,
            (synced.attached.id, after, until),
        )

    def _joined(self, synced: Synced, cut: int) -> Iterator[list[tuple[Any, ...]]]:
        """(id, op, cols, key…, is there, columns…) for each change of the table, some rows at once."""
        table = synced.table
        width = len(table.key)
        on = " AND ".join(f"r.{quote(column)} = c.k{i}" for i, column in enumerate(table.key))
        return self._some_at_once(
            f"""
            SELECT c.id, c.op, c.cols, {", ".join(f"c.k{i}" for i in range(width))},
                   r.{quote(table.key[0])} IS NOT NULL, {names(table.column_names, "r")}
            FROM tidewire_change AS c LEFT JOIN {quote(table.name)} AS r ON {on}
            WHERE c.t = ? AND c.id <= ?
            ORDER BY c.id
            """,
            (synced.attached.id, cut),
        )

    def _some_at_once(self, query: str, bound: tuple[Any, ...]) -> Iterator[list[tuple[Any, ...]]]:
        cursor = self._connection.execute(query, bound)
        try:
            while rows := cursor.fetchmany(_ROWS_AT_ONCE):
                yield rows
        finally:
            cursor.close()

    # ── any table ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _net_runs(
        self,
        synced: Synced,
        cut: int,
        base_of: Bases,
        next_tie: Callable[[], int],
        unsent: set[tuple[int, bytes]],
        notes: _Notes,
        now_ms: int,
    ) -> list[WireRun]:
        seen = self._loads.seen(synced)
        row_base = _base_of_rows(synced, base_of, seen)

        def net_change() -> tuple[NetChange, Counter[tuple[Any, ...]]]:
            net = NetChange(synced.table.key_bytes, next_tie)
            without_key: Counter[tuple[Any, ...]] = Counter()
            for rows in self._joined(synced, cut):
                net.feed(_log_rows(synced, rows, row_base, without_key))
            return net, without_key

        net, without_key = read_again_as_raw(self._connection, net_change)
        for key, written in without_key.items():
            notes.dead.extend(null_key_letters(self._connection, synced.table, key, now_ms, rows_max=written))
        changes = net.changes()
        notes.nothing.extend((synced.attached.id, key) for key in net.nothing)
        if seen is None:
            changes = _taken_over(synced, changes)
        return self._runs(synced, changes, unsent, notes)

    def _runs(
        self, synced: Synced, changes: Sequence[Change], unsent: set[tuple[int, bytes]], notes: _Notes
    ) -> list[WireRun]:
        """Changes grouped into runs of one operation, base and set of columns."""
        table = synced.table
        width = len(table.key)
        order = table.column_names
        grouped: dict[tuple[str, Position, tuple[int, ...]], WireRun] = {}
        had_all = self._seeds.had_all(synced)
        lost: list[Sequence[Any]] = []
        for change in changes:
            op = change.op
            if synced.attached.has_originals:
                key = (synced.attached.id, table.key_bytes(change.key))
                if op != "put" and self._seeds.is_original(synced, change.key):
                    if had_all and change.row is not None:
                        notes.lost.append(key)
                        lost.append(encode_row(change.row))
                        continue
                    if change.row is None and not had_all:  # it was here before and the hub never heard of it
                        notes.nothing.append(key)
                        continue
                    op = "seed" if change.row is not None else op
                notes.touched.append(key)
            if unsent and (key := (synced.attached.id, table.key_bytes(change.key))) in unsent:
                op = "put" if op == "set" else op
                notes.whole.append(key)
            if op == "set":
                places = tuple(i for i, name in enumerate(order) if i < width or fold(name) in change.changed)
            elif op == "delete":
                places = tuple(range(width))
            else:
                places = tuple(range(len(order)))
            if op == "set" and len(places) == width:
                continue  # the changed columns are gone
            run = grouped.get((op, change.base, places))
            if run is None:
                run = grouped[op, change.base, places] = _run(op, synced, change.base, [order[i] for i in places])
                run["ties"] = []
            row = change.key if change.row is None else change.row
            run["rows"].append(encode_row(row if len(places) == len(row) else [row[i] for i in places]))
            run["ties"].append(change.tie)
        if lost:
            notes.offers.append([encoded_run({**_run("seed", synced, START, order), "rows": lost})])
        for run in grouped.values():
            if not any(run["ties"]):
                del run["ties"]
        return list(grouped.values())


def encoded_seeds(synced: Synced, base: Position, rows: Sequence[Sequence[Any]]) -> bytes:
    """The changes of a batch that offers rows, given as wire values."""
    run = _run("seed", synced, base, synced.table.column_names)
    run["rows"] = rows
    return _joined([[encoded_run(run)]])


def encoded_run(run: WireRun) -> bytes:
    """A run as it stands in a batch."""
    return to_json(run)


def _joined(runs: Iterator[list[bytes]] | Sequence[list[bytes]]) -> bytes:
    pieces = [b"["]
    for run in runs:
        pieces += (*run, b",")
    pieces[-1 if len(pieces) > 1 else 1 :] = [b"]"]
    return b"".join(pieces)


def _encoded_rows(values: list[tuple[Any, ...]]) -> bytes:
    """The rows between the brackets of a run."""
    rows: list[Any] = values
    if not _PLAIN.issuperset(map(type, chain.from_iterable(values))):
        rows = [tuple(encode_row(row)) for row in values]
    encoded = to_json(rows)
    if b"Infinity" in encoded:  # a row taken as plain holds ±inf (or a text says so)
        encoded = to_json([tuple(encode_row(row)) for row in values])
    return encoded[1:-1]


def _log_rows(
    synced: Synced,
    rows: Sequence[tuple[Any, ...]],
    base_of: Callable[[Sequence[Any], int], Position],
    without_key: Counter[tuple[Any, ...]],
) -> Iterator[LogRow]:
    """Rows of the change log as net changes are made of them; those with NULL in their key are counted apart."""
    width = len(synced.table.key)
    columns = synced.attached.columns
    masks = {mask: capture.mask_columns(mask, columns) for mask in {row[2] for row in rows}}
    for row in rows:
        key = row[3 : 3 + width]
        if None in key:
            without_key[key] += row[1] in capture.LEAVES_A_ROW
            continue
        yield LogRow(
            id=row[0],
            op=row[1],
            changed=masks[row[2]],
            key=key,
            row=row[4 + width :] if row[3 + width] else None,
            base=base_of(key, row[0]),
        )


def _base_of_rows(
    synced: Synced, base_of: Bases, seen: Callable[[Sequence[Any], int], Position | None] | None
) -> Callable[[Sequence[Any], int], Position]:
    """(key, change id) → what the device had applied of the row when the app changed it."""
    if seen is None:
        return lambda _key, change_id: base_of(change_id)
    is_new = synced.attached.cursor is not None and synced.attached.has_originals
    # Where the snapshot has not brought the row yet, the app knows what it knew before; of a new table that is nothing.
    return lambda key, change_id: seen(key, change_id) or (START if is_new else base_of(change_id))


def _taken_over(synced: Synced, changes: list[Change]) -> list[Change]:
    """While a table is being taken over from the log, the device has applied less of it than the checkpoint says."""
    cursor = synced.attached.cursor
    if cursor is None or not synced.attached.has_originals:
        return changes
    # A row that the app makes meanwhile was made in ignorance of all that is still to come.
    return [change._replace(base=START if change.op == "put" else min(change.base, cursor)) for change in changes]


def _run(op: str, synced: Synced, base: Position, columns: Sequence[str]) -> WireRun:
    return {
        "op": op,
        "table": synced.table.name,
        "base": base,
        "key": len(synced.table.key),
        "columns": columns,
        "rows": [],
    }
