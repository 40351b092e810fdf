"""Applying the ordered log: entries and checkpoint in one transaction.

An entry is applied by its end state, deletes before everything else. Where nothing local is pending, a run is one
`executemany`. Otherwise, or where that breaks a constraint, its rows are applied one by one under the pending overlay;
rows that still clash are taken out together and put in again (two rows may have swapped a unique value); what cannot be
applied even then is parked.

An own entry whose batch is still in the outbox brings nothing new: it releases the batch, and puts the hub's row in
place of each refused one. An own entry that the outbox no longer knows (its tail was lost in a power cut) is applied
like anyone's.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

from tidewire_agent import rows as rows_of
from tidewire_agent.catalogue import Catalogue, Synced, Transaction
from tidewire_agent.dead_letters import DeadLetter, DeadLetters
from tidewire_agent.errors import LogDiverged
from tidewire_agent.meta import Meta
from tidewire_agent.parked import Parked, ParkedOp, ParkedRow
from tidewire_agent.pending import NOTHING_PENDING, Overlay, Pending
from tidewire_agent.seeds import Seeds
from tidewire_schemas.codec import parse_batch
from tidewire_schemas.errors import SequenceGap
from tidewire_schemas.messages import Entry, Page, Refusal, Run
from tidewire_schemas.names import fold
from tidewire_schemas.positions import Position
from tidewire_schemas.values import RawText, Value, WireValue, decode, decode_row, encode

UNKNOWN_COLUMN: Final = "unknown_column"
CONSTRAINT: Final = "constraint"
OVERLAID: Final = "overlaid"
"""The whole row is pending locally, in no batch yet. Obsolete once the log has judged a batch with the row."""

_BINDABLE: Final = frozenset({int, str, float, type(None), bytes})


class Applied(NamedTuple):
    """What a call of `Applier.apply` did."""

    position: Position
    """Where the database stands now (`EdgeStore.replay_from`)."""
    entries: int
    released: int | None
    """The highest own batch released by it."""
    refused: int
    parked: int
    """Parked changes there are now."""


class RowChange(NamedTuple):
    """One row of an entry, in this device's columns."""

    synced: Synced
    op: str
    columns: tuple[str, ...]
    """Empty cells are not named; the key's columns come first."""
    values: tuple[Value, ...]
    unknown: dict[str, WireValue]
    """Cells of columns that this device does not have, by folded name."""
    seq: int

    @property
    def key(self) -> tuple[Value, ...]:
        """Values of the key."""
        return self.values[: len(self.synced.table.key)]


class Applier:
    """Applies pages to one database.

    Args:
        transaction: gives a write transaction.
        silently: gives a part of a transaction in which no trigger runs.
        rows_max: rows after which a long page is committed and begun anew, between entries.
        kept_batches_max, kept_bytes_max: released batches kept for a hub that has lost its tail.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        meta: Meta,
        catalogue: Catalogue,
        transaction: Transaction,
        silently: Transaction,
        pending: Pending,
        parked: Parked,
        dead_letters: DeadLetters,
        seeds: Seeds,
        *,
        rows_max: int,
        kept_batches_max: int,
        kept_bytes_max: int,
    ) -> None:
        self._connection = connection
        self._meta = meta
        self._catalogue = catalogue
        self._transaction = transaction
        self._silently = silently
        self._pending = pending
        self._parked = parked
        self._dead_letters = dead_letters
        self._seeds = seeds
        self._rows_max = rows_max
        self._kept_batches_max = kept_batches_max
        self._kept_bytes_max = kept_bytes_max
        self._overlaid = False
        """Whether anything is pending in the running transaction."""
        self._retry_unknown = True

    def schema_changed(self) -> None:
        """Parked cells of unknown columns may fit now: try them."""
        self._retry_unknown = True
        if self._parked.count:
            with self._transaction(), self._silently():
                self._overlaid = self._pending.anything()
                if self._overlaid:
                    self._pending.cover()
                self._retry_parked()

    @property
    def replay_from(self) -> Position:
        """The position from which entries are needed: behind the checkpoint while a new table is taken over."""
        return min(
            (s.attached.cursor for s in self._catalogue if s.attached.cursor is not None), default=self._meta.checkpoint
        )

    def apply(self, page: Page) -> Applied:
        """Apply the entries of a page that are new here.

        Raises:
            SequenceGap: the page begins after what is applied; nothing was done.
            LogDiverged: it says another history; nothing was done.
        """
        waiting = list(self._new_entries(page))
        released: int | None = None
        refused = 0
        for piece in _pieces(waiting, self._rows_max):
            if any(not self._is_own(entry) or entry.refused for entry in piece) and self._pending.anything():
                self._pending.cover()
            try:
                with self._transaction(), self._silently():
                    self._mark_base()
                    self._overlaid = self._pending.anything()
                    if self._overlaid:
                        self._pending.cover()
                    for entry in piece:
                        own = self._apply_entry(entry)
                        released = own or released
                        refused += len(entry.refused) if own else 0
                    self._retry_parked()
                    self._move_to(piece[-1].position, released)
            except BaseException:
                self._parked.recount()
                self._pending.forget()
                self._catalogue.registry.reload()
                raise
        return Applied(self.replay_from, len(waiting), released, refused, self._parked.count)

    # ── which entries ─────────────────────────────────────────────────────────────────────────────────────────────

    def _new_entries(self, page: Page) -> Iterator[Entry]:
        here = self.replay_from
        if page.prev.seq > here.seq:
            raise SequenceGap(what="entry", expected=here.seq + 1, got=page.prev.seq + 1)
        if page.prev.seq == here.seq and page.prev != here:
            raise LogDiverged(f"the page follows {tuple(page.prev)}, this device has applied {tuple(here)}")
        for entry in page.entries:
            if entry.seq == here.seq and entry.position != here:
                raise LogDiverged(f"entry {entry.seq} has epoch {entry.epoch}, this device applied it as {here.epoch}")
            if entry.seq > here.seq:
                yield entry

    def _is_own(self, entry: Entry) -> bool:
        return entry.device == self._meta.text("device") and entry.incarnation == self._meta.text("incarnation")

    def _mark_base(self) -> None:
        """Changes that are not sealed yet were made at the checkpoint that is about to move."""
        newest = self._connection.execute("SELECT max(id) FROM tidewire_change").fetchone()[0]
        if newest is not None:
            checkpoint = self._meta.checkpoint
            self._connection.execute(
                "INSERT OR IGNORE INTO tidewire_mark (id, epoch, seq) VALUES (?, ?, ?)",
                (newest, checkpoint.epoch, checkpoint.seq),
            )

    def _move_to(self, position: Position, released: int | None) -> None:
        checkpoint = self._meta.checkpoint
        for synced in self._catalogue:
            cursor = synced.attached.cursor
            if cursor is not None and cursor.seq < position.seq:
                done = position.seq >= checkpoint.seq
                self._catalogue.registry.update(
                    synced.attached.id,
                    cursor_epoch=None if done else position.epoch,
                    cursor_seq=None if done else position.seq,
                )
        if position.seq > checkpoint.seq:
            self._meta.checkpoint = position
        if released is not None:
            self._prune(released)
        self._seeds.advance(self.replay_from)

    # ── one entry ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _apply_entry(self, entry: Entry) -> int | None:
        """Apply one entry; the number of the own batch that it released."""
        own = entry.seq > self._meta.checkpoint.seq and entry.device == self._meta.text("device")
        if own and self._is_own(entry):
            payload = self._outbox_payload(entry)
            if payload is not None:
                self._release(entry, payload)
                return entry.batch
        self._apply_changes(entry, first_batch=0)
        if own and entry.refused:
            self._take_hub_rows(entry, {})
        return None

    def _apply_changes(self, entry: Entry, *, first_batch: int) -> None:
        """Apply an entry's changes to the tables whose `first_batch` is above the given one."""
        runs = sorted(entry.changes, key=lambda run: run.op != "delete")
        found = ((self._wanted(run.table, entry.seq), run) for run in runs)
        wanted = [(s, run) for s, run in found if s is not None and s.attached.first_batch > first_batch]
        if not (all(self._is_plain(synced, run) for synced, run in wanted) and self._apply_fast(wanted)):
            self._apply_carefully(list(chain.from_iterable(_row_changes(s, run, entry.seq) for s, run in wanted)))

    def _wanted(self, table: str, seq: int) -> Synced | None:
        """The attached table, if it does not hold this entry yet."""
        synced = self._catalogue.by_name(table)
        if synced is None:
            return None
        stands_at = synced.attached.cursor or self._meta.checkpoint
        return synced if seq > stands_at.seq else None

    def _is_plain(self, synced: Synced, run: Run) -> bool:
        """Whether a run can be applied without looking at its rows one by one."""
        return (
            not self._overlaid
            and self._parked.count == 0
            and not synced.attached.has_originals
            and all(fold(name) in synced.table.by_name for name in run.columns)
        )

    def _apply_fast(self, wanted: Sequence[tuple[Synced, Run]]) -> bool:
        """Apply runs as they are; False, with nothing done, where a row needs care."""
        self._connection.execute("SAVEPOINT entry")
        try:
            for synced, run in wanted:
                values: list[Any] = run.rows
                if not _BINDABLE.issuperset(map(type, chain.from_iterable(values))):
                    values = [decode_row(row) for row in values]
                    if any(type(value) is RawText for row in values for value in row):
                        raise sqlite3.IntegrityError("text that is not valid UTF-8 is bound row by row")
                columns, _unknown = rows_of.local_columns(synced.table, run.columns)
                if run.op == "delete":
                    rows_of.delete_many(self._connection, synced.table, columns, values)
                elif run.op == "set":
                    rows_of.set_many(self._connection, synced.table, columns, values)
                else:
                    rows_of.put_many(self._connection, synced.table, columns, values)
        except sqlite3.IntegrityError:
            self._connection.execute("ROLLBACK TO entry")
            return False
        finally:
            self._connection.execute("RELEASE entry")
        return True

    # ── row by row ────────────────────────────────────────────────────────────────────────────────────────────────

    def _apply_carefully(self, changes: Iterable[RowChange]) -> None:
        clashing = [change for change in changes if not self._apply_row(change)]
        if clashing:
            self._apply_together(clashing)

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
            else:  # the log will judge the batch that holds the row, and that is what counts then
                self._parked.drop(synced.attached.id, key)
            return True
        if change.op == "delete":
            self._parked.drop(synced.attached.id, key)
            self._keep_unsealed(change, overlay)
            rows_of.delete(self._connection, synced.table, change.key)
            return True
        try:
            self._write(change, key, overlay)
        except sqlite3.IntegrityError:
            return False
        return True

    def _write(self, change: RowChange, key: bytes, overlay: Overlay) -> None:
        synced = change.synced
        parked = self._parked.get(synced.attached.id, key)
        columns, values = _without(change, overlay)
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
            merged = _named(change)
            merged.update(self._pending.cells(synced, key))
            rows_of.put(self._connection, synced.table, tuple(merged), tuple(merged.values()))
        else:
            rows_of.respell(self._connection, synced.table, change.key)
            if len(columns) > width:
                rows_of.set_cells(self._connection, synced.table, columns, values)
        self._settle(change, key)

    def _settle(self, change: RowChange, key: bytes) -> None:
        """A change is in the table: older parked ones of the row are obsolete, cells of unknown columns wait."""
        table_id = change.synced.attached.id
        if change.op != "set":
            self._parked.drop(table_id, key)
        elif (parked := self._parked.get(table_id, key)) is not None:
            self._supersede(parked, change.columns)
        if change.unknown:
            width = len(change.synced.table.key)
            of_key = {fold(n): encode(v) for n, v in zip(change.columns[:width], change.key, strict=True)}
            cells = {**of_key, **change.unknown}
            self._parked.fold(ParkedRow(table_id, key, "set", cells, UNKNOWN_COLUMN, change.seq))

    def _apply_together(self, clashing: Sequence[RowChange]) -> None:
        """Rows that clash one by one may fit together: take them all out, then put them in."""
        before: list[tuple[Value, ...] | None] = []
        for change in clashing:
            before.append(rows_of.fetch(self._connection, change.synced.table, change.key))
            rows_of.delete(self._connection, change.synced.table, change.key)
        for change, row in zip(clashing, before, strict=True):
            table = change.synced.table
            key = table.key_bytes(change.key)
            columns, values = _without(change, self._overlay(change.synced, key))
            if row is None and change.op == "set":
                self._park(change, key, CONSTRAINT)
                continue
            merged = dict(zip(table.column_names, row, strict=True)) if row is not None else {}
            merged.update(zip(columns, values, strict=True) if row is not None else _named(change))
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
        if self._seeds.is_original(synced, change.key) and not self._overlay(synced, key).whole:
            local = rows_of.fetch(self._connection, synced.table, change.key)
            if local is not None and (change.op == "delete" or _differs(synced, local, change)):
                cells = {n: encode(v) for n, v in zip(synced.table.column_names, local, strict=True)}
                detail = "the hub's row was taken when the table was attached"
                self._dead_letters.add([_letter(change, "seed", cells, "row_known", detail)])
        self._connection.execute(
            "INSERT OR IGNORE INTO tidewire_touched (t, key) VALUES (?, ?)", (synced.attached.id, key)
        )

    def _keep_unsealed(self, change: RowChange, overlay: Overlay) -> None:
        """A delete wins over cells that were written here and not sealed: a letter tells of them, and no batch."""
        table = change.synced.table
        local = rows_of.fetch(self._connection, table, change.key) if overlay.unsealed else None
        if local is None:
            return
        cells = {n: encode(v) for n, v in zip(table.column_names, local, strict=True) if fold(n) in overlay.unsealed}
        self._dead_letters.add([_letter(change, "set", cells, "row_absent", "another device deleted the row")])
        self._pending.drop_unsealed(change.synced, change.key)

    def _overlay(self, synced: Synced, key: bytes) -> Overlay:
        return self._pending.of(synced.attached.id, key) if self._overlaid else NOTHING_PENDING

    def _set_aside(self, change: RowChange, key: bytes) -> None:
        """The app may yet take back what it wrote over this row; then what the log says is applied after all."""
        if change.op == "delete":
            self._parked.drop(change.synced.attached.id, key)
        else:
            self._park(change, key, OVERLAID)

    def sealed(self, nothing: Iterable[tuple[int, bytes]]) -> None:
        """In the sealing transaction: local writes to these rows, by table id and key, came to nothing.

        What was set aside under them is applied after all, and what clashed with them may fit now.
        """
        if self._parked.count == 0:
            return
        self._pending.forget()
        self._pending.cover()
        self._overlaid = True
        with self._silently():
            for parked in filter(None, (self._parked.get(*key) for key in nothing)):
                synced = self._catalogue.by_id(parked.table_id)
                if parked.reason != OVERLAID or synced is None or self._overlay(synced, parked.key).whole:
                    continue
                self._parked.drop(parked.table_id, parked.key)
                change = _from_parked(synced, parked)
                if not self._apply_row(change):
                    self._park(change, parked.key, CONSTRAINT)
            self._retry_parked()

    # ── parked rows ───────────────────────────────────────────────────────────────────────────────────────────────

    def _park(self, change: RowChange, key: bytes, reason: str) -> None:
        op: ParkedOp = "set" if change.op == "set" else "put"
        cells = {fold(name): encode(value) for name, value in _named(change).items()}
        self._parked.fold(
            ParkedRow(change.synced.attached.id, key, op, {**cells, **change.unknown}, reason, change.seq)
        )

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
            self._parked.fold(parked._replace(cells=left))

    def _retry_parked(self) -> None:
        waiting = self._parked.of_reason(CONSTRAINT)
        if self._retry_unknown:
            waiting += self._parked.of_reason(UNKNOWN_COLUMN)
            self._retry_unknown = False
        changes = []
        for parked in waiting:
            synced = self._catalogue.by_id(parked.table_id)
            change = None if synced is None else _from_parked(synced, parked)
            if change is not None and len(change.columns) == len(change.synced.table.key) and change.unknown:
                continue  # none of its columns is here yet
            self._parked.drop(parked.table_id, parked.key)
            if change is not None:
                changes.append(change)
        # One that fits now may make room for another.
        while len(clashing := [change for change in changes if not self._apply_row(change)]) < len(changes):
            changes = clashing
        self._apply_together(clashing)

    # ── own entries ───────────────────────────────────────────────────────────────────────────────────────────────

    def _outbox_payload(self, entry: Entry) -> bytes | None:
        """The batch of an own entry, where the outbox still holds it as the log has it."""
        row = self._connection.execute(
            "SELECT payload FROM tidewire_batch WHERE batch = ? AND digest = ? AND batch > ?",
            (entry.batch, entry.digest, self._meta.number("released")),
        ).fetchone()
        payload: bytes | None = row[0] if row else None
        return payload

    def _release(self, entry: Entry, payload: bytes) -> None:
        self._meta.set(released=entry.batch)
        self._pending.release(entry.batch)
        if self._parked.count:
            self._drop_older_parked(entry)
        self._apply_changes(entry, first_batch=entry.batch)
        if not entry.refused:
            return
        self._take_hub_rows(entry, _batch_cells(payload))

    def _take_hub_rows(self, entry: Entry, mine: dict[tuple[str, str, str], dict[str, WireValue]]) -> None:
        """Keep this device's versions of refused rows as dead letters, and put the hub's rows in their place."""
        letters = []
        put_back: dict[tuple[int, bytes], RowChange] = {}
        for refusal in entry.refused:
            synced = self._wanted(refusal.table, entry.seq)
            key = tuple(decode_row(refusal.key))
            cells = mine.get((fold(refusal.table), refusal.op, json.dumps(refusal.key)), {})
            letters.append(_refused_letter(entry, refusal, cells))
            if synced is not None and refusal.reason not in ("unknown_table", "wrong_key"):
                change = _hub_row(synced, refusal, key, entry.seq)
                put_back[synced.attached.id, synced.table.key_bytes(key)] = change
        self._dead_letters.add(letters)
        self._overlaid = True
        ordered = sorted(put_back.values(), key=lambda change: change.op != "delete")
        self._apply_carefully(ordered)

    def _drop_older_parked(self, entry: Entry) -> None:
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
                elif parked.op == "set":
                    self._supersede(parked, run.columns)
                else:
                    cells = dict(zip(map(fold, run.columns[run.key :]), row[run.key :], strict=True))
                    self._parked.fold(parked._replace(cells={**parked.cells, **cells}))

    def _prune(self, released: int) -> None:
        """Forget the oldest released batches above the limits."""
        kept = self._connection.execute(
            "SELECT batch, bytes FROM tidewire_batch WHERE batch <= ? ORDER BY batch DESC", (released,)
        ).fetchall()
        size = 0
        for place, (batch, size_of_batch) in enumerate(kept):
            size += size_of_batch
            if place >= self._kept_batches_max or size > self._kept_bytes_max:
                self._connection.execute("DELETE FROM tidewire_batch WHERE batch <= ?", (batch,))
                return


def _pieces(entries: Sequence[Entry], rows_max: int) -> Iterator[list[Entry]]:
    """Whole entries, in groups of about `rows_max` rows."""
    piece: list[Entry] = []
    count = 0
    for entry in entries:
        piece.append(entry)
        count += sum(len(run.rows) for run in entry.changes)
        if count >= rows_max:
            yield piece
            piece, count = [], 0
    if piece:
        yield piece


def _row_changes(synced: Synced, run: Run, seq: int) -> Iterator[RowChange]:
    columns, unknown = rows_of.local_columns(synced.table, run.columns)
    for wire_row in run.rows:
        row = decode_row(wire_row)
        if unknown:
            extra = {fold(run.columns[place]): wire_row[place] for place in unknown}
            row = [value for place, value in enumerate(row) if place not in unknown]
        else:
            extra = {}
        yield RowChange(synced, run.op, columns, tuple(row), extra, seq)


def _from_parked(synced: Synced, parked: ParkedRow) -> RowChange:
    table = synced.table
    key = [fold(name) for name in table.key]
    order = [*key, *(name for name in parked.cells if name not in key)]
    known = [name for name in order if name in table.by_name]
    return RowChange(
        synced=synced,
        op=parked.op,
        columns=tuple(table.by_name[name].name for name in known),
        values=tuple(decode(parked.cells[name]) for name in known),
        unknown={name: value for name, value in parked.cells.items() if name not in table.by_name},
        seq=parked.seq,
    )


def _hub_row(synced: Synced, refusal: Refusal, key: tuple[Value, ...], seq: int) -> RowChange:
    """What puts the hub's row, or its absence, in place of a refused one."""
    table = synced.table
    if refusal.row is None:
        return RowChange(synced, "delete", table.key, key, {}, seq)
    cells = {fold(n): v for n, v in zip(refusal.row.columns, refusal.row.values, strict=True)}
    return _from_parked(synced, ParkedRow(synced.attached.id, b"", "put", cells, "", seq))


def _letter(change: RowChange, op: str, cells: dict[str, WireValue], reason: str, detail: str) -> DeadLetter:
    return DeadLetter(
        at=_now_ms(),
        table=change.synced.table.name,
        op=op,
        key=[encode(value) for value in change.key],
        cells=cells,
        reason=reason,
        detail=detail,
        seq=change.seq,
    )


def _refused_letter(entry: Entry, refusal: Refusal, cells: dict[str, WireValue]) -> DeadLetter:
    return DeadLetter(
        at=_now_ms(),
        table=refusal.table,
        op=refusal.op,
        key=refusal.key,
        cells=cells,
        reason=refusal.reason,
        detail=refusal.detail,
        batch=entry.batch,
        seq=entry.seq,
    )


def _batch_cells(payload: bytes) -> dict[tuple[str, str, str], dict[str, WireValue]]:
    """The cells besides the key of each row of a batch, by (folded table, op, key as JSON)."""
    return {
        (fold(run.table), run.op, json.dumps(row[: run.key])): dict(
            zip(run.columns[run.key :], row[run.key :], strict=True)
        )
        for run in parse_batch(payload, bytes_max=len(payload)).batch.changes
        for row in run.rows
    }


def _without(change: RowChange, overlay: Overlay) -> tuple[tuple[str, ...], tuple[Value, ...]]:
    """The columns and values of a change less the cells that are pending locally."""
    if not overlay.columns:
        return change.columns, change.values
    width = len(change.synced.table.key)
    pairs = [
        (name, value)
        for place, (name, value) in enumerate(zip(change.columns, change.values, strict=True))
        if place < width or fold(name) not in overlay.columns
    ]
    return tuple(name for name, _ in pairs), tuple(value for _, value in pairs)


def _named(change: RowChange) -> dict[str, Value]:
    return dict(zip(change.columns, change.values, strict=True))


def _differs(synced: Synced, local: tuple[Value, ...], change: RowChange) -> bool:
    here = {fold(n): v for n, v in zip(synced.table.column_names, local, strict=True)}
    return any(
        (type(here[fold(name)]), here[fold(name)]) != (type(value), value) for name, value in _named(change).items()
    )


def _now_ms() -> int:
    return int(time.time() * 1000)
