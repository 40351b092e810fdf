"""Applying the ordered log: entries and checkpoint in one transaction.

An entry is applied by its end state, deletes before everything else. Where nothing local is pending, a run is one
`executemany`. Otherwise, or where that breaks a constraint, its rows are written one by one (`row_writer.py`).

An own entry whose batch is still in the outbox brings nothing new: it releases the batch, and puts the hub's row in
place of each refused one. An own entry that the outbox no longer knows (its tail was lost in a power cut) is applied
like anyone's.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, Final, NamedTuple

from tidewire_agent.errors import LogDiverged
from tidewire_agent.store import rows as rows_of
from tidewire_agent.store.attempt import RowNeedsCare, attempt
from tidewire_agent.store.catalogue import Catalogue, Synced, Transaction
from tidewire_agent.store.dead_letters import DeadLetters
from tidewire_agent.store.history import move_on
from tidewire_agent.store.loads import Loads
from tidewire_agent.store.meta import Meta, mark_base
from tidewire_agent.store.once_more import OnceMore
from tidewire_agent.store.outbox import Outbox
from tidewire_agent.store.parked import Parked
from tidewire_agent.store.pending import Pending
from tidewire_agent.store.piece_size import PieceSize
from tidewire_agent.store.row_change import (
    RowChange,
    batch_cells,
    has_key_of,
    held_row,
    hub_row,
    refused_letter,
    row_changes,
    says_nothing_new,
    wrong_key_letters,
)
from tidewire_agent.store.row_writer import RowWriter
from tidewire_agent.store.seeds import Seeds
from tidewire_schemas.errors import SequenceGap
from tidewire_schemas.messages import Entry, Page, Run
from tidewire_schemas.names import fold
from tidewire_schemas.positions import Position
from tidewire_schemas.values import RawText, Value, WireValue, decode, decode_row, encode

_UNCOVERED_MAX: Final = 500
"""Changes that may be looked at under the write lock: far below a millisecond."""

_COVER_ROUNDS_MAX: Final = 5
"""Each round is much shorter than the one before; more would say that the app writes faster than SQLite reads."""

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
    lock_s: float
    """Seconds for which it held the app's write lock."""
    more: bool
    """Whether the page holds more."""


class _Piece(NamedTuple):
    """What one transaction did."""

    locked_at: float
    released: int | None
    refused: int


class Applier:
    """Applies pages to one database.

    Args:
        transaction: gives a write transaction.
        silently: gives a part of a transaction in which no trigger runs.
        lock_ms_max: how long the write lock should be held at most; an entry is never parted.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        meta: Meta,
        catalogue: Catalogue,
        transaction: Transaction,
        silently: Transaction,
        outbox: Outbox,
        rows: RowWriter,
        pending: Pending,
        parked: Parked,
        dead_letters: DeadLetters,
        seeds: Seeds,
        loads: Loads,
        once_more: OnceMore,
        *,
        lock_ms_max: float,
    ) -> None:
        self._connection = connection
        self._meta = meta
        self._catalogue = catalogue
        self._transaction = transaction
        self._silently = silently
        self._outbox = outbox
        self._rows = rows
        self._pending = pending
        self._parked = parked
        self._dead_letters = dead_letters
        self._seeds = seeds
        self._loads = loads
        self._once_more = once_more
        self._piece = PieceSize(lock_ms_max)
        self._undo = False
        """Whether the present transaction can undo what was done for an entry."""

    @property
    def replay_from(self) -> Position:
        """The position from which entries are needed: behind the checkpoint while a new table is taken over."""
        catalogue = self._catalogue
        following = (
            attached.cursor
            for attached in catalogue.registry.by_id.values()
            if attached.cursor is not None and attached.state != "behind" and catalogue.by_id(attached.id) is not None
            if not self._loads.is_under_way(attached.id)
        )
        return min(following, default=None) or self._meta.checkpoint

    def apply(self, page: Page) -> Applied:
        """Apply entries of a page that are new here, as many as the lock may be held for; call it while there are more.

        Raises:
            SequenceGap: the page begins after what is applied; nothing was done.
            LogDiverged: it says another history; nothing was done.
        """
        # While a snapshot of all tables is loaded, the tables stand at no entry that another could follow.
        waiting = [] if self._loads.whole else list(self._new_entries(page))
        if not waiting:
            return Applied(self.replay_from, 0, None, 0, self._parked.count, 0.0, more=False)
        piece, rows = _first_of(waiting, self._piece.rows)
        began = time.perf_counter()
        try:
            # While something is pending, what is known of it would have to be learned again after a rollback.
            done = self._apply_piece(piece, undo=self._pending.anything())
        except RowNeedsCare:
            done = self._apply_piece(piece, undo=True)._replace(locked_at=began)
        lock_s = time.perf_counter() - done.locked_at
        self._piece.took(rows, lock_s)
        more = len(piece) < len(waiting)
        return Applied(self.replay_from, len(piece), done.released, done.refused, self._parked.count, lock_s, more=more)

    def _apply_piece(self, piece: Sequence[Entry], *, undo: bool) -> _Piece:
        """Apply entries in one transaction.

        Raises:
            RowNeedsCare: without `undo`: an entry needs care; nothing was done.
        """
        self._undo = undo
        released: int | None = None
        refused = 0
        try:
            with self.covered(self._keys_of(piece)), self._silently():
                locked_at = time.perf_counter()
                mark_base(self._connection, self._meta)
                self._rows.look_at_pending()
                for entry in piece:
                    own = self._apply_entry(entry)
                    released = released if own is None else own
                    refused += 0 if own is None else len(entry.refused)
                self._rows.retry_parked()
                self._move_to(piece[-1].position, released)
        except BaseException:
            self._pending.forget()
            raise
        return _Piece(locked_at, released, refused)

    @contextmanager
    def covered(self, first_values: Iterable[Value]) -> Iterator[None]:
        """A write transaction in which next to nothing is left to learn of what is pending for some keys.

        `first_values` are the first values of the keys of all rows that are written in it.

        An app at full speed commits while the index is made, and while the write lock is waited for: what came
        meanwhile is indexed under the lock only if it is little, and else with the lock given back.
        """
        wanted = False
        for round_ in range(_COVER_ROUNDS_MAX):
            last = round_ == _COVER_ROUNDS_MAX - 1
            if self._pending.anything():
                if not wanted:
                    wanted = True
                    self._pending.want(first_values)
                self._pending.cover()
            with self._transaction():
                if not wanted and self._pending.anything():
                    if not last:
                        continue  # the app has begun to write just now
                    wanted = True
                    self._pending.want(first_values)
                if not wanted:
                    self._pending.want_all()  # nothing is pending: what is written now may be
                if last or not wanted or self._pending.uncovered() <= _UNCOVERED_MAX:
                    yield
                    return

    def _keys_of(self, piece: Sequence[Entry]) -> Iterator[Value]:
        """The first values of the keys of all rows that this piece may write."""
        for entry in piece:
            if not entry.refused and not self._parked.count and self._brings_nothing(entry):
                continue
            for run in entry.changes:
                yield from (decode(row[0]) for row in run.rows)
            yield from (decode(refusal.key[0]) for refusal in entry.refused if refusal.key)
        yield from self.keys_to_retry()

    def keys_to_retry(self) -> Iterator[Value]:
        """The first values of the keys of parked rows that may be written."""
        for parked in self._rows.to_retry():
            synced = self._catalogue.by_id(parked.table_id)
            if synced is not None:
                yield decode(parked.cells[fold(synced.table.key[0])])

    def _brings_nothing(self, entry: Entry) -> bool:
        """Whether an entry does no more than release a batch, as all of it is here."""
        number = self._own_number(entry)
        return (
            number is not None
            and number > self._outbox.released
            and entry.digest == self._outbox.digest_of(number)
            and all(synced.attached.first_batch <= number for synced in self._catalogue)
            and not any(self._may_differ(entry, run) for run in entry.changes)
        )

    def _may_differ(self, entry: Entry, run: Run) -> bool:
        """Whether rows of an own batch may be others here than the hub took.

        Seeds yield to the log, so a log that the hub has lost since may have gone over rows that wait to be offered.
        Of a change that is offered again the hub takes what nobody later has written over.
        """
        return self._seeds.healing is not None if run.op == "seed" else entry.was is not None

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

    def _own_number(self, entry: Entry) -> int | None:
        """The number in the outbox of the batch behind a new entry, None where it is somebody else's."""
        if entry.device != self._meta.text("device") or entry.seq <= self._meta.checkpoint.seq:
            return None
        return self._outbox.number_of(entry.incarnation, entry.batch)

    def _move_to(self, position: Position, released: int | None) -> None:
        checkpoint = self._meta.checkpoint
        for synced in self._catalogue:
            cursor = synced.attached.cursor
            if cursor is None or self._loads.is_under_way(synced.attached.id):
                continue
            if cursor.seq < position.seq:
                done = position.seq >= checkpoint.seq
                self._catalogue.registry.update(
                    synced.attached.id,
                    cursor_epoch=None if done else position.epoch,
                    cursor_seq=None if done else position.seq,
                )
        if position.seq > checkpoint.seq:
            move_on(self._meta, checkpoint, position)
            self._meta.checkpoint = position
        if released is not None:
            self._outbox.prune()
        self._seeds.advance(self.replay_from)

    # ── one entry ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _apply_entry(self, entry: Entry) -> int | None:
        """Apply one entry; the number of the own batch that it released."""
        number = self._own_number(entry)
        if number is not None and self._outbox.is_waiting(number, entry.digest):
            self._release(entry, number)
            return number
        self._apply_changes(entry, first_batch=None)
        own = entry.seq > self._meta.checkpoint.seq and entry.device == self._meta.text("device")
        if own and entry.refused:
            self._take_hub_rows(entry, None, {})
        return None

    def _apply_changes(self, entry: Entry, *, first_batch: int | None) -> None:
        """Apply an entry's changes, or what the own batch `first_batch` does not say of the rows here already."""
        runs = sorted(entry.changes, key=lambda run: run.op != "delete")
        found = ((self._wanted(run.table, entry.seq), run) for run in runs)
        wanted = [
            (s, run)
            for s, run in found
            if s is not None
            and (first_batch is None or s.attached.first_batch > first_batch or self._may_differ(entry, run))
        ]
        for synced, run in wanted:
            if not has_key_of(synced, run):
                self._dead_letters.add(wrong_key_letters(entry, run))
        wanted = [(synced, run) for synced, run in wanted if has_key_of(synced, run)]
        if not (all(self._is_plain(synced, run) for synced, run in wanted) and self._apply_fast(wanted)):
            self._rows.apply(list(chain.from_iterable(row_changes(s, run, entry.seq) for s, run in wanted)))

    def _wanted(self, table: str, seq: int) -> Synced | None:
        """The attached table, if it does not hold this entry yet."""
        synced = self._catalogue.by_name(table)
        if synced is None or self._loads.is_under_way(synced.attached.id):
            return None
        stands_at = synced.attached.cursor or self._meta.checkpoint
        return synced if seq > stands_at.seq and synced.attached.state != "behind" else None

    def _is_plain(self, synced: Synced, run: Run) -> bool:
        """Whether a run can be applied without looking at its rows one by one."""
        return (
            not self._rows.overlaid
            and not (run.op == "delete" and self._rows.some_unsent)
            and self._parked.count == 0
            and not synced.attached.has_originals
            and all(fold(name) in synced.table.by_name for name in run.columns)
        )

    def _apply_fast(self, wanted: Sequence[tuple[Synced, Run]]) -> bool:
        """Apply runs as they are; False, with nothing done, where a row needs care.

        Raises:
            RowNeedsCare: a row does, and the transaction cannot undo a part of it.
        """
        try:
            with attempt(self._connection, undo=self._undo):
                for synced, run in wanted:
                    self._write_run(synced, run)
        except RowNeedsCare:
            if not self._undo:
                raise
            return False
        return True

    def _write_run(self, synced: Synced, run: Run) -> None:
        values: list[Any] = run.rows
        if not _BINDABLE.issuperset(map(type, chain.from_iterable(values))):
            values = [decode_row(row) for row in values]
            if any(type(value) is RawText for row in values for value in row):
                raise RowNeedsCare  # text that is not valid UTF-8 is bound row by row
        columns, _unknown = rows_of.local_columns(synced.table, run.columns)
        if run.op == "delete":
            rows_of.delete_many(self._connection, synced.table, columns, values)
        elif run.op == "set":
            rows_of.set_many(self._connection, synced.table, columns, values)
        else:
            rows_of.put_many(self._connection, synced.table, columns, values)

    # ── own entries ───────────────────────────────────────────────────────────────────────────────────────────────

    def _release(self, entry: Entry, number: int) -> None:
        self._outbox.release(number, entry)
        self._pending.release(number)
        if self._parked.count:
            self._rows.drop_older(entry)
        self._apply_changes(entry, first_batch=number)
        self._rows.touch(entry, but_not=self._loads.is_under_way)
        if self._seeds.healing is not None:
            self._once_more.keep_deletes(entry, self._outbox.payload_of(number))
        if entry.refused:
            self._take_hub_rows(entry, number, batch_cells(self._outbox.payload_of(number)))

    def _take_hub_rows(
        self, entry: Entry, number: int | None, mine: dict[tuple[str, str, str], dict[str, WireValue]]
    ) -> None:
        """Keep this device's versions of refused rows as dead letters, and put the hub's rows in their place.

        `number` is the batch's in the outbox, None where it is not there.
        """
        letters = []
        put_back: dict[tuple[int, bytes], RowChange] = {}
        for refusal in entry.refused:
            synced = self._catalogue.by_name(refusal.table)
            key = tuple(decode_row(refusal.key))
            cells = mine.get((fold(refusal.table), refusal.op, json.dumps(refusal.key)), {})
            if refusal.reason == "row_absent" and synced is not None and self._seeds.may_be_lost(synced, key):
                # It is here: it will be offered as a seed, unless another device offers it before.
                if refusal.op == "set" and entry.was is None:
                    self._rows.send_again(synced, key, cells)
                elif refusal.op == "set" and entry.was is not None:
                    self._once_more.keep_set(entry.was, refusal, cells)
                continue
            version = cells if number is not None else self._here(synced, key)
            if not says_nothing_new(refusal.op, version, held_row(refusal), again=entry.was is not None):
                letters.append(refused_letter(refusal, entry.seq, entry.batch, cells))
            if synced is None or (number is not None and synced.attached.first_batch > number):
                continue  # attached anew since: its rows are offered again
            if refusal.reason not in ("unknown_table", "wrong_key"):
                change = hub_row(synced, refusal, key, entry.seq)
                if number is None and change.op == "delete" and self._is_offered(synced, key):
                    continue  # a copy of this database was refused it; the hub judges the offer when it comes to that
                put_back[synced.attached.id, synced.table.key_bytes(key)] = change
        self._dead_letters.add(letters)
        self._rows.overlaid = True
        ordered = sorted(put_back.values(), key=lambda change: change.op != "delete")
        self._rows.apply(ordered)

    def _here(self, synced: Synced | None, key: tuple[Value, ...]) -> dict[str, WireValue]:
        """The row as it is here: what a copy of this database was refused, this one has not written."""
        row = None if synced is None else rows_of.fetch(self._connection, synced.table, key)
        if synced is None or row is None:
            return {}
        return {name: encode(value) for name, value in zip(synced.table.column_names, row, strict=True)}

    def _is_offered(self, synced: Synced, key: tuple[Value, ...]) -> bool:
        """Whether a row is offered as a seed, or will be."""
        offered = self._pending.of(synced.attached.id, synced.table.key_bytes(key)).offered
        return offered or self._seeds.is_original(synced, key)


def _first_of(entries: Sequence[Entry], rows_max: int) -> tuple[list[Entry], int]:
    """Entries from the first on, whole, with about so many rows; how many rows they have."""
    piece: list[Entry] = []
    count = 0
    for entry in entries:
        rows = sum(len(run.rows) for run in entry.changes)
        if piece and count + rows > rows_max:
            break
        piece.append(entry)
        count += rows
    return piece, count
