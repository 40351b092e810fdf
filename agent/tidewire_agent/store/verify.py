"""Looking at this device's rows to compare them with the hub's, and giving rows the hub's values.

A scan of a whole table may take long: it has a connection of its own, which only reads, so that sealing and applying go
on. Single rows are read and repaired in short transactions on the store's connection, which knows what is pending.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tidewire_agent.errors import sqlite_errors
from tidewire_agent.session.verify_steps import (
    ListedRow,
    Repair,
    Repaired,
    RowHere,
    RowsHere,
    Scan,
    ScanTable,
    Subject,
    Sum,
)
from tidewire_agent.store import rows as rows_of
from tidewire_agent.store.apply import Applier
from tidewire_agent.store.catalogue import Catalogue, Synced, Transaction
from tidewire_agent.store.dead_letters import DeadLetters
from tidewire_agent.store.loads import Loads
from tidewire_agent.store.meta import Meta
from tidewire_agent.store.parked import Parked
from tidewire_agent.store.pending import Pending
from tidewire_agent.store.reading import fetch_all, read_texts_as_they_are
from tidewire_agent.store.row_change import RowChange, overtaken_letter
from tidewire_agent.store.row_writer import RowWriter
from tidewire_agent.store.sql import names, quote
from tidewire_agent.store.tables import Table
from tidewire_agent.verify_report import NOT_ATTACHED
from tidewire_schemas.digest import add, as_hex, column_order, key_hash, row_digest, table_digest
from tidewire_schemas.names import fold
from tidewire_schemas.positions import Position
from tidewire_schemas.values import Value, WireRow, decode_row, encode_row
from tidewire_schemas.verification import RANGE_DIGITS

REPAIRED: Final = "repaired"
"""Reason of the dead letter that keeps what a repaired row held here."""

_SLICE_ROWS: Final = 500
"""Rows looked at before others get as long a time: a few milliseconds."""

_BUSY_TIMEOUT_S: Final = 5.0


class TableDigest(NamedTuple):
    """Rows and digest of an attached table, to be compared with the hub's at the same position."""

    table: str
    rows: int
    digest: str


Rest = Callable[[float], None]
"""Does nothing for so many seconds, or raises to end a scan."""


class _Total:
    """Rows that are being added up."""

    __slots__ = ("digest", "rows")

    def __init__(self) -> None:
        self.rows = 0
        self.digest = 0

    def add(self, digest: int) -> None:
        self.rows += 1
        self.digest = add(self.digest, digest)


def scan(path: Path, table: Table, wanted: ScanTable, *, rows_max: int, rest: Rest) -> Scan:
    """What is here of some ranges of a table, all of one moment, read beside whatever else uses the database.

    A wanted sum is that of the range, if that is of all keys, and those of its parts. At most about `rows_max` rows are
    listed. Rows whose key is NULL are left out: no other device can hold them.

    Raises:
        DatabaseError: it cannot be read, or is another table by now.
    """
    uri = f"{path.resolve().as_uri()}?mode=ro"
    with sqlite_errors(), closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S)) as connection:
        connection.execute("BEGIN")  # one snapshot for all
        found = Scan(Meta(connection).checkpoint)
        sums: dict[str, _Total] = {}
        lengths = sorted({len(prefix) for prefix in wanted.sums | wanted.listed})
        listed = 0
        for key, hashed, digest in _digests(connection, table, rest):
            for length in lengths:
                prefix = hashed[:length]
                if prefix in wanted.sums:
                    for name in {hashed[: length + RANGE_DIGITS], *([""] if length == 0 else [])}:
                        sums.setdefault(name, _Total()).add(digest)
                if prefix in wanted.listed and listed < rows_max:
                    listed += 1
                    found.rows.setdefault(prefix, []).append(ListedRow(list(encode_row(key)), as_hex(digest)))
        found.sums = {prefix: Sum(total.rows, as_hex(total.digest)) for prefix, total in sums.items()}
        found.cut = listed >= rows_max
    return found


def _digests(connection: sqlite3.Connection, table: Table, rest: Rest) -> Iterator[tuple[tuple[Value, ...], str, int]]:
    """Key, hash of the key, and digest of every row; leaves others their time."""
    read_texts_as_they_are(connection)
    folded = [fold(name) for name in table.column_names]
    order = column_order(folded)
    ordered = [folded[place] for place in order]
    width = len(table.key)
    rows = connection.execute(_all_rows(table))
    began = time.monotonic()
    for number, row in enumerate(rows, 1):
        key = row[:width]
        yield key, key_hash(table.key_bytes(key)), row_digest(ordered, [row[place] for place in order])
        if number % _SLICE_ROWS == 0:
            rest(time.monotonic() - began)
            began = time.monotonic()


class Verifier:
    """Reads and repairs single rows of one database.

    Args:
        applier: whose transactions are covered against what the app writes meanwhile.
        silently: gives a part of a transaction in which no trigger runs.
        dead_letters_max: how many letters are kept: a repair never pushes one out.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        meta: Meta,
        catalogue: Catalogue,
        silently: Transaction,
        applier: Applier,
        rows: RowWriter,
        pending: Pending,
        parked: Parked,
        dead_letters: DeadLetters,
        loads: Loads,
        *,
        dead_letters_max: int,
    ) -> None:
        self._connection = connection
        self._meta = meta
        self._catalogue = catalogue
        self._silently = silently
        self._applier = applier
        self._rows = rows
        self._pending = pending
        self._parked = parked
        self._dead_letters = dead_letters
        self._loads = loads
        self._dead_letters_max = dead_letters_max

    def subjects(self, wanted: Iterable[str]) -> list[Subject]:
        """These tables, or all that are attached, by name."""
        by_name = {fold(synced.table.name): synced for synced in self._catalogue}
        found = []
        for name in {fold(name): name for name in wanted}.values() or sorted(by_name):
            synced = by_name.get(fold(name))
            if synced is None:
                found.append(Subject(name, (), 0, NOT_ATTACHED))
            else:
                table = synced.table
                found.append(Subject(table.name, table.column_names, len(table.key), self._why_not(synced)))
        return found

    def digests(self) -> list[TableDigest]:
        """Rows and digest of each attached table; to be called in one snapshot."""
        found = []
        for _attached, table in sorted(self._catalogue, key=lambda synced: synced.table.name):
            folded = [fold(name) for name in table.column_names]
            order = column_order(folded)
            ordered = [folded[place] for place in order]
            rows = fetch_all(self._connection, _all_rows(table))
            digest = table_digest(row_digest(ordered, [row[place] for place in order]) for row in rows)
            found.append(TableDigest(table.name, len(rows), as_hex(digest)))
        return found

    def table(self, subject: Subject) -> Table | None:
        """A table as it is now; None where it is not what was to be compared."""
        synced = self._synced(subject)
        return None if synced is None else synced.table

    def read(self, subject: Subject, keys: Iterable[WireRow]) -> RowsHere | None:
        """Rows by their keys, all of one moment; None where the table is another one by now."""
        synced = self._synced(subject)
        if synced is None:
            return None
        wanted = [(tuple(decode_row(key)), key) for key in keys]
        with self._covered(key[0] for key, _ in wanted):
            found = [self._row(synced, key, wire) for key, wire in wanted]
            return RowsHere(self._meta.checkpoint, tuple(found))

    def repair(self, subject: Subject, position: Position, repairs: Iterable[Repair]) -> Repaired:
        """Give rows the values that the hub held at `position`; what they held here becomes a dead letter.

        Only rows that are still as they were looked at, and only while nothing after `position` is applied here: else
        what the hub held then may be obsolete.
        """
        wanted = list(repairs)
        nothing = (False,) * len(wanted)
        synced = self._synced(subject)
        if synced is None:
            return Repaired(nothing, "the table was changed meanwhile")
        keys = {repair.here.name: tuple(decode_row(repair.here.key)) for repair in wanted}
        with self._covered(key[0] for key in keys.values()), self._silently():
            if self._meta.checkpoint.seq > position.seq:
                return Repaired(nothing, "")
            lost = sum(repair.here.values is not None for repair in wanted)
            if self._dead_letters.count() + lost > self._dead_letters_max:
                return Repaired(
                    nothing, "not repaired: there is no room for more dead letters, which a person must see"
                )
            done = [self._row(synced, keys[r.here.name], r.here.key) == r.here for r in wanted]
            chosen = [repair for repair, fits in zip(wanted, done, strict=True) if fits]
            changes = [_change(synced, repair, keys[repair.here.name], position) for repair in chosen]
            self._keep(synced, chosen, changes)
            self._rows.apply(sorted(changes, key=lambda change: change.op != "delete"))
            self._rows.bound_parked()
            return Repaired(tuple(done), "")

    @contextmanager
    def _covered(self, first_values: Iterable[Value]) -> Iterator[None]:
        """A transaction that knows what is pending of the rows whose keys begin with these values."""
        try:
            with sqlite_errors(), self._applier.covered(first_values):
                self._rows.look_at_pending()
                yield
        except BaseException:
            self._pending.forget()
            raise

    def _synced(self, subject: Subject) -> Synced | None:
        synced = self._catalogue.by_name(subject.table)
        if synced is None or synced.table.column_names != subject.columns or self._why_not(synced):
            return None
        return synced

    def _why_not(self, synced: Synced) -> str:
        """Why a table does not stand where the log is applied to; empty where it does."""
        if self._loads.is_under_way(synced.attached.id):
            return "it is being loaded from a snapshot"
        if synced.attached.has_originals or synced.attached.cursor is not None:
            return "it is being taken over still"
        if synced.attached.state == "behind":
            return "it has fallen behind"
        return ""

    def _row(self, synced: Synced, key: tuple[Value, ...], wire: WireRow) -> RowHere:
        """In a covered transaction."""
        name = synced.table.key_bytes(key)
        local = rows_of.fetch(self._connection, synced.table, key)
        overlay = self._pending.of(synced.attached.id, name)
        parked = self._parked.get(synced.attached.id, name)
        excused = not overlay.is_empty or overlay.offered or parked is not None
        values = None if local is None else list(encode_row(local))
        return RowHere(name, wire, values, excused, not excused and self._is_unsent(synced, name))

    def _is_unsent(self, synced: Synced, name: bytes) -> bool:
        found = self._connection.execute(
            "SELECT 1 FROM tidewire_unsent WHERE t = ? AND key = ?", (synced.attached.id, name)
        ).fetchone()
        return found is not None

    def _keep(self, synced: Synced, repairs: Iterable[Repair], changes: Iterable[RowChange]) -> None:
        """What the rows hold here goes to the dead letters."""
        letters = []
        for repair, change in zip(repairs, changes, strict=True):
            if repair.here.values is not None:
                cells = dict(zip(synced.table.column_names, repair.here.values, strict=True))
                detail = "verify found the row unlike the log says, and took the hub's"
                letters.append(overtaken_letter(change, "put", cells, REPAIRED, detail))
        self._dead_letters.add(letters)


def _change(synced: Synced, repair: Repair, key: tuple[Value, ...], position: Position) -> RowChange:
    table = synced.table
    if repair.hub is None:
        return RowChange(synced, "delete", table.key, key, {}, position.seq)
    # Named in full: a cell that is empty at the hub must become so here.
    return RowChange(synced, "put", table.column_names, tuple(decode_row(repair.hub)), {}, position.seq)


def _all_rows(table: Table) -> str:
    """All rows whose key has no NULL: another device can hold no others."""
    has_key = " AND ".join(f"{quote(column)} IS NOT NULL" for column in table.key)
    return f"SELECT {names(table.column_names)} FROM {quote(table.name)} WHERE {has_key}"
