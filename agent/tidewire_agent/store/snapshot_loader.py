"""Loading a snapshot into the live tables, in pieces, while the app goes on reading and writing.

    begin     the manifest: which tables take which chunks; what is parked for them is obsolete
    load      the rows of a chunk, each as a `put` under the pending overlay
    sweep     rows that the snapshot does not hold are deleted, as the log would have done
    end       one transaction: the checkpoint moves, own batches that the snapshot includes are released, those of their
              rows that the hub refused become dead letters

Each piece is a transaction of its own that also says how far the load is, so it goes on from there after a crash. A
snapshot is either of all tables, and takes the place of all entries up to its position; or of tables that were attached
late or fell behind, which then follow the log from there, while the others go on.

Own batches that the snapshot includes are judged: their rows are as the snapshot says. What is pending, offered as a
seed, or was here before the table was attached, stays on top, exactly as when entries are applied.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, Final, NamedTuple

from tidewire_agent.store import rows as rows_of
from tidewire_agent.store.apply import Applier
from tidewire_agent.store.arrivals import OVERTAKEN, Arrivals, Kept
from tidewire_agent.store.attempt import RowNeedsCare, attempt
from tidewire_agent.store.catalogue import Catalogue, Synced, Transaction
from tidewire_agent.store.history import move_on
from tidewire_agent.store.load_refusals import LoadRefusals
from tidewire_agent.store.loads import Loads, Stage, TableLoad
from tidewire_agent.store.meta import Meta, mark_base
from tidewire_agent.store.outbox import ChainParted, Outbox
from tidewire_agent.store.parked import Parked
from tidewire_agent.store.pending import Pending
from tidewire_agent.store.piece_size import PieceSize
from tidewire_agent.store.reading import fetch_all
from tidewire_agent.store.row_change import RowChange, put_changes
from tidewire_agent.store.row_writer import RowWriter
from tidewire_agent.store.seeds import Seeds
from tidewire_agent.store.sql import names, quote
from tidewire_schemas.names import fold
from tidewire_schemas.positions import Position
from tidewire_schemas.snapshots import Snapshot, SnapshotChunk
from tidewire_schemas.values import RawText, Value

logger = logging.getLogger(__name__)

_SWEPT_AT_ONCE: Final = 2000
"""Keys looked at, outside any lock, before those that are to go are deleted."""


class LoadStep(NamedTuple):
    """What one piece of a load did."""

    done: bool
    """Whether there is nothing more to do: of this chunk, or of the load."""
    lock_s: float
    """Seconds for which it held the app's write lock."""


class Timed:
    """How long a transaction held the app's write lock, once it is over."""

    seconds = 0.0


class SnapshotLoader:
    """Loads snapshots into one database.

    Args:
        applier: whose transactions are covered against what the app writes meanwhile.
        silently: gives a part of a transaction in which no trigger runs.
        lock_ms_max: how long a piece may hold the app's write lock, about.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        meta: Meta,
        catalogue: Catalogue,
        transaction: Transaction,
        silently: Transaction,
        applier: Applier,
        outbox: Outbox,
        rows: RowWriter,
        arrivals: Arrivals,
        pending: Pending,
        parked: Parked,
        seeds: Seeds,
        loads: Loads,
        refusals: LoadRefusals,
        *,
        lock_ms_max: float,
    ) -> None:
        self._connection = connection
        self._meta = meta
        self._catalogue = catalogue
        self._transaction = transaction
        self._silently = silently
        self._applier = applier
        self._outbox = outbox
        self._rows = rows
        self._arrivals = arrivals
        self._pending = pending
        self._parked = parked
        self._seeds = seeds
        self._loads = loads
        self._refusals = refusals
        self._piece = PieceSize(lock_ms_max)
        self._sweep_piece = PieceSize(lock_ms_max)

    # ── begin ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def late_tables(self) -> list[Synced]:
        """Tables that stand before the checkpoint and are not under way."""
        return [
            synced
            for synced in self._catalogue
            if synced.attached.cursor is not None
            and synced.attached.state != "behind"
            and not self._loads.is_under_way(synced.attached.id)
        ]

    def wait(self) -> None:
        """Tables that stand before the checkpoint take a snapshot instead of the log up to it."""
        with self._transaction():
            self._loads.wait(dict.fromkeys((synced.attached.id for synced in self.late_tables()), 0))

    def begin(self, manifest: Snapshot, *, whole: bool) -> None:
        """Load this snapshot: all tables, or those that wait for one.

        Does nothing where only a handshake can tell how to go on: one that lies behind the checkpoint, or behind what
        the tables that wait for one have applied, is of no use; and while another copy of this database has written
        batches in our name, nobody can say which of ours it holds.
        """
        if whole and manifest.position.seq < self._meta.checkpoint.seq:
            return
        try:
            included = self._included(manifest) if whole else self._outbox.released
        except ChainParted:
            return
        wanted = [
            synced
            for synced in self._catalogue
            if synced.attached.state != "behind" and (whole or self._loads.is_under_way(synced.attached.id))
        ]
        later = {} if whole else self._loads.waiting_for_more(manifest.position)
        wanted = [synced for synced in wanted if synced.attached.id not in later]
        if not whole and not wanted:  # all wait for a later one, or are detached by now
            return
        parts = {fold(part.table): part for part in manifest.tables}
        with self._transaction():
            self._loads.begin(manifest.snapshot, manifest.position, whole=whole, included=included)
            if whole:
                self._refusals.remember(manifest, included)
            self._loads.wait_on(later)
            for synced in wanted:
                self._parked.drop_table(synced.attached.id)
                # Also should this load come to no end: batches that it includes say nothing of the rows here any more.
                first_batch = max(synced.attached.first_batch, included + 1)
                self._catalogue.registry.update(synced.attached.id, first_batch=first_batch)
                part = parts.get(fold(synced.table.name))
                if part is None:  # the hub had not heard of it: nothing here can be obsolete
                    self._loads.add(synced.attached.id, 0, 0, stage="loaded")
                else:
                    stage: Stage = "loading" if part.chunks else "sweeping"
                    self._loads.add(synced.attached.id, part.first, part.chunks, stage=stage)
            self._loads.reload()
        self._pending.forget()

    def _included(self, manifest: Snapshot) -> int:
        """The newest batch here that the snapshot includes, where it is ours indeed."""
        points = manifest.included
        found = (self._outbox.included_by(point.incarnation, point.batch, point.digest) for point in points)
        return max((number for number in found if number is not None), default=self._outbox.released)

    # ── load ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def load(self, chunk: SnapshotChunk) -> LoadStep:
        """Load some more rows of a chunk. One that is not due is done already."""
        load = self._loads.of_chunk(chunk.chunk) if chunk.snapshot == self._loads.snapshot else None
        if load is None:
            return LoadStep(done=True, lock_s=0.0)
        synced = self._catalogue.by_id(load.table_id)
        if synced is None or synced.attached.state == "behind" or not _has_key_of(synced, chunk):
            return self._give_up(load, synced, chunk)
        rows = chunk.rows[load.row : load.row + self._piece.rows]
        changes = [
            change._replace(unknown={}) for change in put_changes(synced, chunk.columns, rows, load.position.seq)
        ]
        keys = [synced.table.key_bytes(change.key) for change in changes]
        after = load.row + len(rows) if load.row + len(rows) < len(chunk.rows) else None
        undo = self._pending.anything()  # see `Applier.apply`
        began = time.perf_counter()
        try:
            lock_s = self._load_piece(synced, load, changes, keys, after, undo=undo)
        except RowNeedsCare:
            self._load_piece(synced, load, changes, keys, after, undo=True)
            lock_s = time.perf_counter() - began
        self._piece.took(len(rows), lock_s)
        return LoadStep(done=after is None, lock_s=lock_s)

    def _load_piece(
        self,
        synced: Synced,
        load: TableLoad,
        changes: list[RowChange],
        keys: list[bytes],
        after: int | None,
        *,
        undo: bool,
    ) -> float:
        """Load rows in one transaction; `after` is the next one's place in the chunk. Seconds that it held the lock.

        Raises:
            RowNeedsCare: without `undo`: a row needs care; nothing was done.
        """
        with self._writing([change.key[0] for change in changes]) as timed:
            changes, kept = self._arrivals.judge(synced, changes)
            self._write(synced, load, changes, keys, kept, undo=undo)
            self._loads.mark(load, keys)
            self._arrivals.keep(synced, kept)
            if after is not None:
                self._loads.update(load, row=after)
            elif load.next + 1 < load.end:
                self._loads.update(load, next_chunk=load.next + 1)
            else:
                self._loads.update(load, next_chunk=load.end, stage="sweeping")
        return timed.seconds

    def _write(
        self,
        synced: Synced,
        load: TableLoad,
        changes: list[RowChange],
        keys: list[bytes],
        kept: Sequence[Kept],
        *,
        undo: bool,
    ) -> None:
        judged = set(keys).difference(synced.table.key_bytes(row.key) for row in kept)
        stays = self._unsent(synced)
        if stays:  # of which a change was too large to be sent
            places = [place for place, key in enumerate(keys) if key not in stays]
            changes, keys = [changes[place] for place in places], [keys[place] for place in places]
        if not kept and self._is_plain(synced, changes, keys):
            try:
                with attempt(self._connection, undo=undo):
                    rows = (change.values for change in changes)
                    if changes:
                        rows_of.put_many(self._connection, synced.table, changes[0].columns, rows)
            except RowNeedsCare:
                if not undo:
                    raise
            else:
                return
        self._rows.load(changes, lambda change: self._make_way(load, change, judged))

    def _is_plain(self, synced: Synced, changes: Sequence[RowChange], keys: Sequence[bytes]) -> bool:
        """Whether rows can be written without looking at each."""
        if synced.attached.has_originals or self._parked.count:
            return False
        if any(type(value) is RawText for value in chain.from_iterable(change.values for change in changes)):
            return False
        table_id = synced.attached.id
        return not self._rows.overlaid or all(self._pending.of(table_id, key).is_empty for key in keys)

    def _make_way(self, load: TableLoad, change: RowChange, judged: Collection[bytes]) -> bool:
        """Remove rows that hold a unique value of this one and that the snapshot will overwrite or sweep anyway.

        Of those that were `judged` letters tell already.
        """
        synced = change.synced
        table = synced.table
        own = table.key_bytes(change.key)
        cells = {fold(name): value for name, value in change.named.items()}
        removed = False
        for unique in table.unique:
            values = [cells.get(fold(column)) for column in unique.columns]
            if None in values:
                continue
            where, bound = rows_of.same_values(unique, values)
            found = fetch_all(
                self._connection, f"SELECT {names(table.key)} FROM {quote(table.name)} WHERE {where}", bound
            )
            for key in found:
                name = table.key_bytes(key)
                if name != own and self._is_obsolete(synced, load, key):
                    if name not in judged:
                        detail = "a row of the hub has its unique value; that was found when the column came here"
                        self._arrivals.bury([_delete(synced, load, key)], OVERTAKEN, detail)
                    rows_of.delete(self._connection, table, key)
                    removed = True
        return removed

    def _is_obsolete(self, synced: Synced, load: TableLoad, key: tuple[Value, ...]) -> bool:
        """Whether a row is neither of this snapshot nor only this device's."""
        if None in key:
            return False
        name = synced.table.key_bytes(key)
        overlay = self._pending.of(synced.attached.id, name)
        return (
            overlay.is_empty
            and not overlay.offered
            and not self._loads.is_loaded(load, name)
            and not self._seeds.is_original(synced, key)
            and name not in self._unsent(synced)
            and not self._pending.may_be_unsealed(synced, key)  # only rows of the chunk are sure to be in the overlay
        )

    def _unsent(self, synced: Synced) -> frozenset[bytes]:
        rows = self._connection.execute("SELECT key FROM tidewire_unsent WHERE t = ?", (synced.attached.id,))
        return frozenset(key for (key,) in rows)

    def _give_up(self, load: TableLoad, synced: Synced | None, chunk: SnapshotChunk) -> LoadStep:
        """A table that is gone or behind, or whose key is another here, takes no part in this load any more."""
        with self._transaction():
            self._loads.drop(load.table_id)
            if synced is not None and not _has_key_of(synced, chunk):
                name, key = synced.table.name, ", ".join(chunk.columns[: chunk.key])
                problem = f"table {name!r} is behind: its key at the hub is ({key}); give it that key here as well"
                self._catalogue.registry.update(load.table_id, state="behind", problem=problem)
        return LoadStep(done=True, lock_s=0.0)

    # ── sweep ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def finish(self) -> LoadStep:
        """Do some more of what is left once all chunks are loaded."""
        loads = self._loads.under_way
        load = next((load for load in loads if load.stage == "sweeping"), None)
        if load is not None:
            return LoadStep(done=False, lock_s=self._sweep(load))
        if self._loads.snapshot is None or any(load.stage == "loading" for load in loads):
            return LoadStep(done=True, lock_s=0.0)
        return LoadStep(done=True, lock_s=self._end())

    def _sweep(self, load: TableLoad) -> float:
        synced = self._catalogue.by_id(load.table_id)
        if synced is None:
            with self._transaction():
                self._loads.drop(load.table_id)
            return 0.0
        keys = self._next_keys(synced, load)
        gone = [key for key in keys if not self._loads.is_loaded(load, synced.table.key_bytes(key))]
        fitting = gone[: self._sweep_piece.rows]
        all_fit = len(fitting) == len(gone)
        at_end = all_fit and len(keys) < _SWEPT_AT_ONCE
        swept = None if not keys else keys[-1] if all_fit else fitting[-1]
        with self._writing([key[0] for key in fitting]) as timed:
            obsolete = [key for key in fitting if self._may_be_swept(synced, key)]
            deletes = [_delete(synced, load, key) for key in obsolete]
            self._arrivals.bury(deletes, "row_absent", "another device deleted the row")
            self._rows.apply(deletes)
            self._arrivals.keep(synced, self._arrivals.left(synced, fitting))
            self._loads.update(load, swept=swept, next_chunk=load.end, stage="loaded" if at_end else None)
        self._sweep_piece.took(len(fitting), timed.seconds)
        return timed.seconds

    def _next_keys(self, synced: Synced, load: TableLoad) -> list[tuple[Any, ...]]:
        table = synced.table
        conditions = [f"{quote(column)} IS NOT NULL" for column in table.key]
        bound: list[Any] = []
        if load.swept is not None:
            after, bound = rows_of.key_after(table.key, load.swept)
            conditions.append(after)
        return fetch_all(
            self._connection,
            f"""
            SELECT {names(table.key)} FROM {quote(table.name)} WHERE {" AND ".join(conditions)}
            ORDER BY {names(table.key)} LIMIT ?
            """,
            [*bound, _SWEPT_AT_ONCE],
        )

    def _may_be_swept(self, synced: Synced, key: tuple[Value, ...]) -> bool:
        """Whether the log has deleted a row: not where it has never heard of it."""
        name = synced.table.key_bytes(key)
        return (
            not self._pending.of(synced.attached.id, name).offered
            and not self._seeds.is_original(synced, key)
            and name not in self._unsent(synced)
        )

    # ── end ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _end(self) -> float:
        whole, position, included = self._loads.whole, self._loads.position, self._loads.included
        loaded = {load.table_id for load in self._loads.under_way if load.stage == "loaded"}
        refused = self._refusals.read() if whole else []
        with self._writing(chain(self._applier.keys_to_retry(), (row.key[0] for row in refused if row.key))) as timed:
            self._refusals.settle(refused)
            before = self._meta.checkpoint
            mark_base(self._connection, self._meta)
            self._loads.end()
            for synced in list(self._catalogue):
                attached = synced.attached
                if attached.id in loaded:
                    self._catalogue.elsewhere.settle(attached.id)
                    self._stand(synced, None if whole or position == before else position)
                elif whole and attached.state != "behind":  # it was attached or rebuilt meanwhile
                    self._stand(synced, attached.cursor or before)
            if whole:
                move_on(self._meta, before, position)
                self._meta.checkpoint = position
                self._outbox.release(max(included, self._outbox.released))
                self._outbox.prune()
            self._rows.retry_parked()
            self._seeds.advance(self._applier.replay_from)
        self._pending.forget()
        logger.info("the snapshot at entry %d is loaded", position.seq)
        return timed.seconds

    def _stand(self, synced: Synced, cursor: Position | None) -> None:
        self._catalogue.registry.update(
            synced.attached.id,
            cursor_epoch=None if cursor is None else cursor.epoch,
            cursor_seq=None if cursor is None else cursor.seq,
        )

    def tidy(self) -> bool:
        """Remove some of what ended loads have left; whether there may be more."""
        if not self._loads.has_litter():
            return False
        with self._transaction():
            self._loads.tidy()
        return True

    # ── common ────────────────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def _writing(self, first_values: Iterable[Value]) -> Iterator[Timed]:
        """A transaction of a piece, that writes rows whose keys begin with these values."""
        timed = Timed()
        try:
            with self._applier.covered(first_values), self._silently():
                started = time.perf_counter()
                self._rows.look_at_pending()
                yield timed
                timed.seconds = time.perf_counter() - started
        except BaseException:
            self._pending.forget()
            raise


def _has_key_of(synced: Synced, chunk: SnapshotChunk) -> bool:
    """Whether a chunk names its rows by the key that the table has on this device."""
    return [fold(name) for name in chunk.columns[: chunk.key]] == [fold(name) for name in synced.table.key]


def _delete(synced: Synced, load: TableLoad, key: tuple[Value, ...]) -> RowChange:
    """What takes a row away that the snapshot does not hold."""
    return RowChange(synced, "delete", synced.table.key, key, {}, load.position.seq)
