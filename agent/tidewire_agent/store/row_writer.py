"""Writing rows of the log into the app's tables, one by one, with care for what is local.

A cell with a local change that the applied log does not include keeps its value (`pending`). Rows that clash on a
constraint are taken out together and put in again, as two rows may have swapped a unique value; what cannot be applied
even then is parked, and tried again when that may help.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

from tidewire_agent.store import capture
from tidewire_agent.store import rows as rows_of
from tidewire_agent.store.catalogue import Catalogue, Synced, Transaction
from tidewire_agent.store.dead_letters import TAKEN, DeadLetters
from tidewire_agent.store.parked import Parked, ParkedOp, ParkedRow
from tidewire_agent.store.pending import NOTHING_PENDING, Overlay, Pending
from tidewire_agent.store.row_change import RowChange, from_parked, overtaken_letter
from tidewire_agent.store.seeds import Seeds
from tidewire_agent.store.sql import names, quote
from tidewire_schemas.messages import Entry
from tidewire_schemas.names import fold
from tidewire_schemas.values import Value, decode_row, encode

CONSTRAINT: Final = "constraint"

RETRIED_ROWS_MAX: Final = 500
"""Clashing rows tried again at the end of one transaction: bounds how long that holds the app's write lock."""
OVERLAID: Final = "overlaid"
"""The whole row is pending locally, in no batch yet. Obsolete once the log has judged a batch with the row."""


class RowWriter:
    """Writes rows of entries. All methods belong to a transaction of the caller in which no trigger runs.

    Args:
        parked_rows_max: changes that may be parked; above it the table with most of them falls behind.
        silently: gives a part of a transaction in which no trigger runs.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        catalogue: Catalogue,
        silently: Transaction,
        pending: Pending,
        parked: Parked,
        dead_letters: DeadLetters,
        seeds: Seeds,
        *,
        parked_rows_max: int,
    ) -> None:
        self._connection = connection
        self._catalogue = catalogue
        self._silently = silently
        self._pending = pending
        self._parked = parked
        self._dead_letters = dead_letters
        self._seeds = seeds
        self._parked_rows_max = parked_rows_max
        self._retried = 0
        """The entry up to which clashing rows were tried again, when there are many."""
        self.overlaid = False
        """Whether anything pending locally may be about a row that the running transaction writes."""

        self.some_unsent = True
        """Whether any row is too large to be sent."""

    def look_at_pending(self) -> None:
        """Learn what is pending now, at the beginning of a transaction."""
        some = self._connection.execute("SELECT EXISTS (SELECT 1 FROM tidewire_unsent)").fetchone()
        self.some_unsent = bool(some[0])
        self.overlaid = self._pending.anything()
        if self.overlaid:
            self._pending.cover()
            self.overlaid = self._pending.touches()

    def apply(self, changes: Iterable[RowChange]) -> None:
        """Apply these rows, deletes before the others."""
        clashing = [change for change in changes if not self._apply_row(change)]
        if clashing:
            self._apply_together(clashing)

    def load(self, changes: Iterable[RowChange], make_way: Callable[[RowChange], bool]) -> None:
        """Write rows of a snapshot; `make_way` takes rows that are obsolete out of the way of one that clashes."""
        clashing = [
            change
            for change in changes
            if not self._apply_row(change) and not (make_way(change) and self._apply_row(change))
        ]
        if clashing:
            self._apply_together(clashing)
        self.bound_parked()

    def _apply_row(self, change: RowChange) -> bool:
        """Apply one row under the overlay; False where it breaks a constraint."""
        synced = change.synced
        key = synced.table.key_bytes(change.key)
        if synced.attached.has_originals:
            self._take_over(change, key)
        overlay = self._overlay(synced, key)
        if overlay.whole:
            if overlay.only_unsealed:
                self._set_aside(change, key)
            else:  # the log will judge the batch that holds the row, all of it that the batch names
                self._write_uncovered(change, key, overlay)
                self._settle(change, key)
            return True
        if change.op == "delete":
            self._parked.drop(synced.attached.id, key)
            self._keep_unsealed(change, overlay)
            rows_of.delete(self._connection, synced.table, change.key)
            if self.some_unsent:
                forget = "DELETE FROM tidewire_unsent WHERE t = ? AND key = ?"
                self._connection.execute(forget, (synced.attached.id, key))
            return True
        try:
            self._write(change, key, overlay)
        except sqlite3.IntegrityError:
            return False
        return True

    def _write(self, change: RowChange, key: bytes, overlay: Overlay) -> None:
        synced = change.synced
        parked = self._parked.get(synced.attached.id, key)
        columns, values = change.without(overlay)
        width = len(synced.table.key)
        if change.op == "set":
            if parked is not None and parked.op == "put":
                self._park(change, key, parked.reason)  # the row itself is not here yet
                return
            if len(columns) > width:
                rows_of.set_cells(self._connection, synced.table, columns, values)
        elif not overlay.columns:
            rows_of.put(self._connection, synced.table, change.columns, change.values)
        elif rows_of.fetch(self._connection, synced.table, change.key) is None:
            # The row was deleted under the pending cells and is made anew: they keep their values all the same.
            merged = change.named
            merged.update(self._pending.cells(synced, key))
            rows_of.put(self._connection, synced.table, tuple(merged), tuple(merged.values()))
        else:
            rows_of.respell(self._connection, synced.table, change.key)
            if len(columns) > width:
                rows_of.set_cells(self._connection, synced.table, columns, values)
        self._settle(change, key)

    def _write_uncovered(self, change: RowChange, key: bytes, overlay: Overlay) -> None:
        """Cells of columns that came to the table after the pending row was sealed are not pending."""
        table = change.synced.table
        if (
            change.op == "delete"
        ):  # the row that the batch makes anew has their defaults, save where they are judged yet
            judged = overlay.uncovered - self._catalogue.elsewhere.arrived(change.synced.attached.id)
            values = {table.by_name[name].name: table.by_name[name].default for name in judged}
        else:
            values = {name: value for name, value in change.named.items() if fold(name) in overlay.uncovered}
        if not values:
            return
        columns, cells = (*table.key, *values), (*change.key, *values.values())
        try:
            rows_of.set_cells(self._connection, table, columns, cells)
        except sqlite3.IntegrityError:
            self._park(change._replace(op="set", columns=columns, values=cells, unknown={}), key, CONSTRAINT)

    def _settle(self, change: RowChange, key: bytes) -> None:
        """A change is in the table: older parked ones of the row are obsolete."""
        table_id = change.synced.attached.id
        if change.op != "set":
            self._parked.drop(table_id, key)
        elif (parked := self._parked.get(table_id, key)) is not None:
            self._supersede(parked, change.columns)
        self._pass_over(change)

    def _pass_over(self, change: RowChange) -> None:
        """Cells of columns that the table does not have are not taken: that there are such columns is remembered."""
        if change.unknown:
            self._catalogue.elsewhere.note(change.synced.attached.id, change.unknown, change.seq)

    def _apply_together(self, clashing: Sequence[RowChange]) -> None:
        """Rows that clash one by one may fit together: take them all out, then put them in."""
        before: list[tuple[Value, ...] | None] = []
        for change in clashing:
            before.append(rows_of.fetch(self._connection, change.synced.table, change.key))
            rows_of.delete(self._connection, change.synced.table, change.key)
        for change, row in zip(clashing, before, strict=True):
            table = change.synced.table
            key = table.key_bytes(change.key)
            overlay = self._overlay(change.synced, key)
            columns, values = change.without(overlay)
            if row is None and change.op == "set":
                self._park(change, key, CONSTRAINT)
                continue
            merged = dict(zip(table.column_names, row, strict=True)) if row is not None else {}
            first = len(table.key) if change.op == "set" else 0  # there the key only says which row: its spelling stays
            merged.update(zip(columns[first:], values[first:], strict=True) if row is not None else change.named)
            if row is None and overlay.columns:
                merged.update(self._pending.cells(change.synced, key))
            try:
                rows_of.put(self._connection, table, tuple(merged), tuple(merged.values()))
            except sqlite3.IntegrityError:
                self._put_back(change, row)
                self._park(change, key, CONSTRAINT)
            else:
                self._settle(change, key)

    def _put_back(self, change: RowChange, row: tuple[Value, ...] | None) -> None:
        if row is None:
            return
        try:
            rows_of.put(self._connection, change.synced.table, change.synced.table.column_names, row)
        except sqlite3.IntegrityError:
            # Another row of this entry has taken its unique value: keep all its cells with the parked change.
            table = change.synced.table
            cells = {fold(n): encode(v) for n, v in zip(table.column_names, row, strict=True)}
            key = table.key_bytes(change.key)
            self._parked.fold(ParkedRow(change.synced.attached.id, key, "put", cells, CONSTRAINT, change.seq))

    def _take_over(self, change: RowChange, key: bytes) -> None:
        """The first time that the log speaks of a key: a row that was here and differs is kept as a dead letter."""
        synced = change.synced
        known = not self._seeds.is_original(synced, change.key) or self._seeds.had_all(synced)
        if not known and not self._overlay(synced, key).whole:
            local = rows_of.fetch(self._connection, synced.table, change.key)
            if local is not None and (change.op == "delete" or change.differs_from(local)):
                cells = {n: encode(v) for n, v in zip(synced.table.column_names, local, strict=True)}
                self._dead_letters.add([overtaken_letter(change, "seed", cells, "row_known", TAKEN)])
            if local is not None and change.op != "delete":
                self._offer_unnamed(change, local)
        elif self._seeds.had_all(synced) and change.op != "delete" and self._seeds.is_original(synced, change.key):
            self._reset_unnamed(change, key)
        self._connection.execute(
            "INSERT OR IGNORE INTO tidewire_touched (t, key) VALUES (?, ?)", (synced.attached.id, key)
        )

    def touch(self, entry: Entry, *, but_not: Callable[[int], bool]) -> None:
        """The log has rows of an own entry now: where they were offered as they were here, they are so no more.

        `but_not` names, by id, tables that do not follow the log: the entry comes to them later.
        """
        for run in entry.changes:
            synced = self._catalogue.by_name(run.table)
            if synced is not None and synced.attached.has_originals and not but_not(synced.attached.id):
                table = synced.table
                self._connection.executemany(
                    "INSERT OR IGNORE INTO tidewire_touched (t, key) VALUES (?, ?)",
                    ((synced.attached.id, table.key_bytes(tuple(decode_row(row[: run.key])))) for row in run.rows),
                )

    def _reset_unnamed(self, change: RowChange, key: bytes) -> None:
        """Cells that only a lost part of the log has spoken of are as at the hub, until they are offered again."""
        synced = change.synced
        overlay = self._overlay(synced, key)
        if overlay.whole:
            return
        stays = overlay.columns | self._catalogue.elsewhere.arrived(synced.attached.id)
        stays |= {fold(name) for name in (*change.columns, *synced.table.key)}
        values = {column.name: column.default for name, column in synced.table.by_name.items() if name not in stays}
        if values:
            columns, cells = (*synced.table.key, *values), (*change.key, *values.values())
            with suppress(sqlite3.IntegrityError):  # a column that must hold something keeps what it has
                rows_of.set_cells(self._connection, synced.table, columns, cells)

    def _offer_unnamed(self, change: RowChange, local: tuple[Value, ...]) -> None:
        """Cells of a row that was here, in columns that the log does not speak of: they are sent as a change."""
        synced = change.synced
        named = {fold(name) for name in change.columns}
        columns = synced.attached.columns
        values = {fold(n): v for n, v in zip(synced.table.column_names, local, strict=True)}
        places = [
            place
            for place, name in enumerate(columns)
            if fold(name) in values and fold(name) not in named and values[fold(name)] is not None
        ]
        self._capture(synced, change.key, places)

    def send_again(self, synced: Synced, key: tuple[Value, ...], names_: Iterable[str]) -> None:
        """Columns of a row that were sent, and judged before the hub had the row: they are sent once more."""
        wanted = {fold(name) for name in names_}
        self._capture(synced, key, [n for n, name in enumerate(synced.attached.columns) if fold(name) in wanted])
        self._pending.cover()
        self.overlaid = True

    def _capture(self, synced: Synced, key: tuple[Value, ...], places: Sequence[int]) -> None:
        """As a trigger would have written it: the key natively, from the row itself."""
        if not places:
            return
        columns = synced.attached.columns
        where, bound = rows_of.key_is(synced.table.key, key)
        key_columns = ", ".join(f"k{place}" for place in range(len(key)))
        self._connection.execute(
            f"""
            INSERT INTO tidewire_change (t, op, cols, {key_columns})
            SELECT ?, ?, ?, {names(synced.table.key)} FROM {quote(synced.table.name)} WHERE {where}
            """,
            [synced.attached.id, capture.UPDATED, capture.full_mask(places, len(columns)), *bound],
        )

    def _keep_unsealed(self, change: RowChange, overlay: Overlay) -> None:
        """A delete wins over cells that were written here and not sealed: a letter tells of them, and no batch."""
        table = change.synced.table
        local = rows_of.fetch(self._connection, table, change.key) if overlay.unsealed else None
        if local is None:
            return
        cells = {n: encode(v) for n, v in zip(table.column_names, local, strict=True) if fold(n) in overlay.unsealed}
        self._dead_letters.add([overtaken_letter(change, "set", cells, "row_absent", "another device deleted the row")])
        self._pending.drop_unsealed(change.synced, change.key)

    def _overlay(self, synced: Synced, key: bytes) -> Overlay:
        return self._pending.of(synced.attached.id, key) if self.overlaid else NOTHING_PENDING

    def _set_aside(self, change: RowChange, key: bytes) -> None:
        """The app may yet take back what it wrote over this row; then what the log says is applied after all."""
        if change.op == "delete":
            self._parked.drop(change.synced.attached.id, key)
        else:
            self._park(change, key, OVERLAID)

    def sealed(self, nothing: Sequence[tuple[int, bytes]]) -> None:
        """In the sealing transaction: local writes to these rows, by table id and key, came to nothing.

        What was set aside under them is applied after all, and what clashed with them may fit now.
        """
        if self._parked.count == 0 or not nothing:
            return
        self._pending.forget()
        self._pending.cover()
        self.overlaid = True
        with self._silently():
            for parked in filter(None, (self._parked.get(*key) for key in nothing)):
                synced = self._catalogue.by_id(parked.table_id)
                if parked.reason != OVERLAID or synced is None or self._overlay(synced, parked.key).whole:
                    continue
                self._parked.drop(parked.table_id, parked.key)
                change = from_parked(synced, parked)
                if not self._apply_row(change):
                    self._park(change, parked.key, CONSTRAINT)
            self.retry_parked()

    def _park(self, change: RowChange, key: bytes, reason: str) -> None:
        op: ParkedOp = "set" if change.op == "set" else "put"
        cells = {fold(name): encode(value) for name, value in change.named.items()}
        if op == "set" and (parked := self._parked.get(change.synced.attached.id, key)) is not None:
            spelled = {fold(name) for name in change.synced.table.key}  # as in the row that waits: a set changes no key
            cells.update((name, value) for name, value in parked.cells.items() if name in spelled)
        self._parked.fold(ParkedRow(change.synced.attached.id, key, op, cells, reason, change.seq))
        self._pass_over(change)

    def _supersede(self, parked: ParkedRow, columns: Sequence[str]) -> None:
        """Parked cells that a later change has written are obsolete."""
        synced = self._catalogue.by_id(parked.table_id)
        width = len(synced.table.key) if synced else 0
        written = {fold(name) for name in columns[width:]}
        left = {name: value for name, value in parked.cells.items() if name not in written}
        if left == parked.cells:
            return
        self._parked.drop(parked.table_id, parked.key)
        if len(left) > width:
            if parked.reason == OVERLAID:  # the row it was set aside under stays: what is left changes that
                parked = parked._replace(op="set", reason=CONSTRAINT)
            self._parked.fold(parked._replace(cells=left))

    def to_retry(self) -> list[ParkedRow]:
        """What `retry_parked` would try now."""
        return self._parked.of_reason(CONSTRAINT, after=self._retried, limit=RETRIED_ROWS_MAX)

    def _judged(self, parked: ParkedRow, synced: Synced, key: bytes) -> bool:
        """Whether a row was set aside under a local one that the log has judged since."""
        return parked.reason == OVERLAID and not self._overlay(synced, key).only_unsealed

    def is_as_logged(self, synced: Synced, name: bytes) -> bool:
        """Whether a row is here what the log says: nothing of it is pending or unsent, none waits for its place."""
        table_id = synced.attached.id
        unsent = "SELECT EXISTS (SELECT 1 FROM tidewire_unsent WHERE t = ? AND key = ?)"
        return (
            self._pending.of(table_id, name).is_empty
            and self._parked.get(table_id, name) is None
            and not self._connection.execute(unsent, (table_id, name)).fetchone()[0]
        )

    def retry_parked(self) -> None:
        """Try what is parked again, where something may have changed."""
        waiting = self.to_retry()
        self._retried = waiting[-1].seq if len(waiting) == RETRIED_ROWS_MAX else 0
        changes = []
        for parked in waiting:
            synced = self._catalogue.by_id(parked.table_id)
            self._parked.drop(parked.table_id, parked.key)
            if synced is not None:
                changes.append(from_parked(synced, parked))
        # One that fits now may make room for another.
        while len(left := [change for change in changes if not self._apply_row(change)]) < len(changes):
            changes = left
        self._apply_together(left)
        self.bound_parked()

    def bound_parked(self) -> None:
        """Give up the tables with most that is parked, until it is not too much."""
        while self._parked.count > self._parked_rows_max and (fullest := self._parked.fullest_table()) is not None:
            self._fall_behind(fullest)

    def _fall_behind(self, table_id: int) -> None:
        """More is parked than may be: give the table up for now, to take it anew when its schema has changed."""
        attached = self._catalogue.registry.by_id.get(table_id)
        self._parked.drop_table(table_id)
        if attached is None:  # detached by another process meanwhile
            return
        self._catalogue.registry.update(
            table_id,
            state="behind",
            problem=f"table {attached.name!r} is behind: more than parked_rows_max={self._parked_rows_max} changes of"
            " other devices clash with its rows; mend these, then attach it again",
        )

    def problems(self) -> list[str]:
        """What a person should know about changes that wait."""
        found = []
        for table_id, reason, rows in self._parked.by_table():
            attached = self._catalogue.registry.by_id.get(table_id)
            if attached is not None and reason == CONSTRAINT:
                found.append(
                    f"table {attached.name!r}: {rows} rows of other devices wait, as they clash with rows here"
                )
        return found

    def drop_older(self, entry: Entry) -> None:
        """What is parked for a row is obsolete when an own entry, later in the log, has written the row."""
        for run in entry.changes:
            synced = self._catalogue.by_name(run.table)
            if synced is None:
                continue
            for row in run.rows:
                key = synced.table.key_bytes(tuple(decode_row(row[: run.key])))
                parked = self._parked.get(synced.attached.id, key)
                if parked is None:
                    continue
                if run.op != "set":
                    self._parked.drop(synced.attached.id, key)
                elif parked.op == "set" or self._judged(parked, synced, key):
                    self._supersede(parked, run.columns)
                else:
                    cells = dict(zip(map(fold, run.columns[run.key :]), row[run.key :], strict=True))
                    self._parked.fold(parked._replace(cells={**parked.cells, **cells}))
