"""EdgeStore: everything Tidewire does with the app's database file. Synchronous, for one thread."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self

from tidewire_agent.errors import DatabaseNotUsable, OtherStream, check_is_file, from_sqlite
from tidewire_agent.errors import sqlite_errors as _sqlite_errors
from tidewire_agent.load_standing import LoadStanding
from tidewire_agent.store.apply import Applied, Applier
from tidewire_agent.store.catalogue import AttachReport, Catalogue
from tidewire_agent.store.checkpoint import WalCheckpoint
from tidewire_agent.store.dead_letters import DeadLetter, DeadLetters
from tidewire_agent.store.healing import fall_back, take_another_log
from tidewire_agent.store.history import history
from tidewire_agent.store.loads import Loads
from tidewire_agent.store.meta import Meta
from tidewire_agent.store.open_files import OpenFiles
from tidewire_agent.store.opening import connect, prepare, remove_tables
from tidewire_agent.store.outbox import KeptBatch, Outbox, SealedBatch
from tidewire_agent.store.parked import Parked
from tidewire_agent.store.pending import Pending
from tidewire_agent.store.reading import snapshot
from tidewire_agent.store.row_writer import RowWriter
from tidewire_agent.store.seal import Sealer, SealOutcome
from tidewire_agent.store.seeds import Seeds
from tidewire_agent.store.settings import StoreSettings
from tidewire_agent.store.silence import Switch, dropped_triggers, trigger_switch
from tidewire_agent.store.snapshot_loader import LoadStep, SnapshotLoader
from tidewire_agent.store.taking_apart import TakeApart
from tidewire_agent.store.verify import TableDigest, Verifier
from tidewire_agent.store.verify_questions import VerifyQuestions
from tidewire_schemas.messages import ChainPoint, LastSealed, Page
from tidewire_schemas.names import check_topic_name
from tidewire_schemas.positions import START, Position
from tidewire_schemas.shapes import TableShape
from tidewire_schemas.snapshots import Snapshot, SnapshotChunk

logger = logging.getLogger(__name__)

LOCK_RETRY_S = 0.0005
"""How often a write lock that the app holds is asked for: short against a commit, long against the call itself."""

SQLITE_MIN = (3, 24, 0)
"""The first SQLite with UPSERT, which applying needs. The app may bring an older one."""


class Backlog(NamedTuple):
    """What waits on this device."""

    changes: int
    """Change log rows not sealed yet."""
    batches: int
    """Sealed batches that the applied log does not include yet."""
    batch_bytes: int
    oldest_sealed_at: int | None
    parked: int
    dead_letters: int


class EdgeStore:
    """One app's database, as the agent sees it. Open with `EdgeStore.open`."""

    def __init__(
        self, connection: sqlite3.Connection, path: Path, settings: StoreSettings, switch: Switch | None
    ) -> None:
        self._connection = connection
        self._path = path
        self._settings = settings
        self._switch = switch
        self._closed = False
        self._files = OpenFiles(path, connection)
        self._data_version = 0
        self._wal = WalCheckpoint(connection, settings.wal_bytes_max)
        self._told_tables: dict[int, TableShape] | None = None
        self._meta = Meta(connection)
        self._outbox = Outbox(
            connection,
            self._meta,
            path,
            kept_batches_max=settings.kept_batches_max,
            kept_bytes_max=settings.kept_bytes_max,
        )
        self._catalogue = Catalogue(
            connection, self._meta, self._transaction, allow_unkept_unique=settings.allow_unkept_unique
        )
        self._dead_letters = DeadLetters(
            connection, self._meta, rows_max=settings.dead_letters_max, bytes_max=settings.dead_letter_bytes_max
        )
        self._pending = Pending(connection, self._meta, self._catalogue)
        self._parked = Parked(connection)
        self._seeds = Seeds(connection, self._meta, self._catalogue, chunk_bytes=settings.seed_chunk_bytes)
        self._loads = Loads(connection, self._meta, self._catalogue)
        self._rows = RowWriter(
            connection,
            self._catalogue,
            self._silently,
            self._pending,
            self._parked,
            self._dead_letters,
            self._seeds,
            parked_rows_max=settings.parked_rows_max,
        )
        self._applier = Applier(
            connection,
            self._meta,
            self._catalogue,
            self._transaction,
            self._silently,
            self._outbox,
            self._rows,
            self._pending,
            self._parked,
            self._dead_letters,
            self._seeds,
            self._loads,
            rows_max=settings.apply_rows_max,
        )
        self._sealer = Sealer(
            connection,
            self._meta,
            self._catalogue,
            self._transaction,
            self._outbox,
            self._dead_letters,
            self._seeds,
            self._loads,
            batch_bytes_max=settings.batch_bytes_max,
            changes_soft_max=settings.changes_per_batch_soft_max,
            changes_max=settings.changes_per_batch_max,
            sealed=self._rows.sealed,
        )
        self._loader = SnapshotLoader(
            connection,
            self._meta,
            self._catalogue,
            self._transaction,
            self._silently,
            self._applier,
            self._outbox,
            self._rows,
            self._pending,
            self._parked,
            self._seeds,
            self._loads,
            lock_ms_max=settings.snapshot_lock_ms_max,
        )
        self.verifier = Verifier(
            connection,
            self._meta,
            self._catalogue,
            self._silently,
            self._applier,
            self._rows,
            self._pending,
            self._parked,
            self._dead_letters,
            self._loads,
            dead_letters_max=settings.dead_letters_max,
        )
        """Compares and repairs rows."""
        self.questions = VerifyQuestions(connection, self._transaction)
        """Of programs that want rows compared."""

    @classmethod
    def open(cls, path: Path, *, device: str | None, settings: StoreSettings | None = None) -> Self:
        """Open an app's database and make Tidewire's tables in it where they are missing.

        Args:
            path: the SQLite file; it must exist.
            device: this device's name; None takes the name that the file remembers.

        Raises:
            DatabaseMissing: there is no such file.
            DatabaseNotUsable: it is no database, corrupt, or cannot be written.
            DatabaseBusy: another program kept it locked.
            DeviceNeeded: neither argument nor file names the device.
            OtherDevice: the file belongs to a device of another name.
        """
        settings = settings or StoreSettings()
        if device is not None:
            check_topic_name(device, "device")
        if sqlite3.sqlite_version_info < SQLITE_MIN:
            raise DatabaseNotUsable(
                f"this Python brings SQLite {sqlite3.sqlite_version}", hint="3.24 or newer is needed"
            )
        check_is_file(path)
        path = path.resolve()  # SQLite keeps the -wal beside the file itself, not beside a link to it
        try:
            connection = connect(path, busy_timeout_s=settings.busy_timeout_s)
        except sqlite3.Error as error:
            raise from_sqlite(error, path) from error
        try:
            switch = trigger_switch()
            if switch is not None:
                switch(connection, False)
            prepare(connection, device)
            store = cls(connection, path, settings, switch)
            store._catalogue.refresh()
        except sqlite3.Error as error:
            connection.close()
            raise from_sqlite(error, path) from error
        except BaseException:
            connection.close()
            raise
        return store

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection, for who runs this store on a thread (`database.py`)."""
        return self._connection

    def close(self) -> None:
        """Close the connection; again does nothing."""
        if not self._closed:
            self._closed = True
            self._files.leave()
            self._connection.close()

    # ── who and where ─────────────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def device(self) -> str:
        """The device's name."""
        return self._meta.text("device") or ""

    @property
    def incarnation(self) -> str:
        """Which life of this database: random, made with it, and anew when copies have parted."""
        return self._meta.text("incarnation") or ""

    @property
    def log_id(self) -> str | None:
        """The log that it follows, None before its first handshake."""
        return self._meta.text("log_id")

    def join(self, stream: str) -> None:
        """Belong to this stream: any, until the log of one is followed.

        Raises:
            OtherStream: the log that is followed is another stream's.
        """
        with _sqlite_errors():
            known = self._meta.text("stream")
            if known == stream:
                return
            if known is not None and self.log_id is not None:
                raise OtherStream(self._path, known, stream)
            with self._transaction():
                self._meta.set(stream=stream)

    @property
    def epoch(self) -> int:
        """The highest epoch heard of."""
        return self._meta.number("heard_epoch")

    @property
    def checkpoint(self) -> Position:
        """The last entry applied."""
        return self._meta.checkpoint

    @property
    def replay_from(self) -> Position:
        """The position from which entries are needed: the checkpoint, or before it for newly attached tables."""
        return self._applier.replay_from

    @property
    def last_sealed(self) -> LastSealed | None:
        """The newest batch of this incarnation."""
        return self._outbox.last

    @property
    def oldest_kept(self) -> int:
        """The lowest batch number in the outbox, 0 when it is empty."""
        return self._outbox.oldest

    @property
    def released(self) -> int:
        """The highest own batch that the applied log includes."""
        return self._outbox.released

    @property
    def parent(self) -> str | None:
        """The digest that the first batch of this incarnation follows, None where it follows none."""
        return self._outbox.parent

    @property
    def batches(self) -> Outbox:
        """The outbox, to look at."""
        return self._outbox

    def data_version(self) -> int:
        """A number that changes when another connection has committed.

        Raises:
            DatabaseMissing, DatabaseReplaced, WalReplaced: the files are others than those that were opened.
        """
        self._files.check()
        with _sqlite_errors():
            version = int(self._connection.execute("PRAGMA data_version").fetchone()[0])
            if version != self._data_version:
                self._data_version = version
                self._sealer.saw_commit()
            return version

    # ── tables ────────────────────────────────────────────────────────────────────────────────────────────────────

    def attach(self, wanted: Sequence[str], *, all_tables: bool = False) -> list[AttachReport]:
        """Sync these tables from now on (`tidewire_kv` is made if it is asked for); what became of each."""
        with _sqlite_errors():
            reports = self._catalogue.attach(wanted, all_tables=all_tables)
            self._loads.reload()
            self._pending.forget()
            return reports

    def detach_table(self, name: str) -> bool:
        """Stop syncing one table; its rows stay. False where it was not attached."""
        with _sqlite_errors():
            found = self._catalogue.detach_one(name)
            self._loads.reload()
            return found

    def detach(self) -> None:
        """Remove every trace from the file: triggers and tables (`tidewire_kv` stays if it has rows)."""
        with _sqlite_errors(), self._transaction():
            self._catalogue.remove_triggers()
            remove_tables(self._connection)

    def refresh(self) -> bool:
        """Follow a change of the schema; whether there are `shapes_news`."""
        with _sqlite_errors():
            if self._catalogue.is_stale():
                self._catalogue.refresh()
                self._loads.reload()
                self._pending.forget()
                self._applier.schema_changed()
                self._parked.recount()  # of a table that another process has detached nothing is left
            return self.shapes_news

    def shapes(self) -> tuple[TableShape, ...]:
        """The shapes of the attached tables."""
        return tuple(synced.table.shape for synced in self._catalogue)

    def tell_shapes(self) -> tuple[TableShape, ...]:
        """The shapes for a Hello: what the hub is told, and knows from then on."""
        self._told_tables = self._shapes_by_id()
        return tuple(self._told_tables.values())

    @property
    def shapes_news(self) -> bool:
        """Whether the tables are others than the hub was told, until it is told these (say Hello again).

        By their numbers, too: one that was detached and attached again is to be brought up anew.
        """
        return self._told_tables is not None and self._told_tables != self._shapes_by_id()

    def _shapes_by_id(self) -> dict[int, TableShape]:
        return {synced.attached.id: synced.table.shape for synced in self._catalogue}

    @property
    def behind(self) -> int:
        """How many tables have fallen behind."""
        return sum(attached.state == "behind" for attached in self._catalogue.registry.by_id.values())

    def problems(self) -> list[str]:
        """What a person should know about tables that are wanted and not synced, in whole or in part."""
        return [*self._catalogue.problems(), *self._rows.problems()]

    # ── up ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def seal(self, now_ms: int) -> SealOutcome:
        """Make a batch of what is committed now; call `harden` before anything of it is sent."""
        with _sqlite_errors():
            self.refresh()
            outcome = self._sealer.seal(now_ms)
            self._wal.wrote(outcome.bytes)
            self._wal.run_if_due()
            return outcome if outcome.more or not self._loader.tidy() else outcome._replace(more=True)

    def heed(self, batch_bytes_max: int) -> None:
        """Seal no batch above what the hub takes, as its Welcome says."""
        self._sealer.heed(batch_bytes_max)

    def harden(self) -> None:
        """Bring all commits to the disk, outside any lock. `outbox` does it too."""
        self._outbox.harden()

    def outbox(self, after: int, *, count_max: int, bytes_max: int) -> list[SealedBatch]:
        """Durable batches after this number, in order: at least one if there is one, within the limits."""
        with _sqlite_errors():
            return self._outbox.after(after, count_max=count_max, bytes_max=bytes_max)

    def renumber(self, after: int | None, digest: str | None, apart: TakeApart | None = None) -> None:
        """Begin a new incarnation, in which what follows a batch is numbered from 1: see `Outbox.renumber`."""
        with _sqlite_errors():
            self.refresh()
            with self._transaction():
                included = self._meta.included
                shift, loose = self._outbox.renumber(after, digest, apart)
                self._sealer.keep_back(loose)
                self._loads.renumbered(included - shift)
            self._catalogue.registry.reload()
            self._pending.forget()

    def heal(self, common: Position, points: Sequence[ChainPoint]) -> None:
        """Go back to the last entry in `common`, and offer again what the hub has lost: see `healing.py`.

        `points` are the batches of this device that it has.
        """
        with _sqlite_errors():
            self.refresh()
            while self._connection.execute("SELECT EXISTS (SELECT 1 FROM tidewire_change)").fetchone()[0]:
                if not self._sealer.seal(time.time_ns() // 1_000_000).more:
                    break
            with self._transaction():
                offered = self._outbox.heal(points, common)
                fall_back(self._connection, self._meta, common, offered)
                self._loads.clear()
            self._catalogue.registry.reload()
            self._pending.forget()
            self._parked.recount()

    @property
    def history(self) -> list[Position]:
        """The last entry applied of each epoch before the checkpoint's, newest first."""
        return history(self._meta)

    def adopt(self) -> None:
        """Forget the log: the next hub's log is followed from its start, and all rows here are offered as seeds.

        No row is deleted anywhere. What was not sent yet is offered with its row, too; deletes that were not sent are
        forgotten, as nobody can say what they mean in another log.
        """
        with _sqlite_errors():
            with self._transaction():
                take_another_log(self._connection, self._meta)
                self._loads.clear()
                self._outbox.clear()
                self._meta.checkpoint = START
                self._meta.set(
                    log_id=None, heard_epoch=0, history=None, healing=None, drained=self._meta.number("drained") + 1
                )
            self._catalogue.refresh()
            self._pending.forget()
            self._parked.recount()

    # ── down ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def follow(self, log_id: str, epoch: int, head: Position) -> None:
        """Remember what a Welcome said: the log, its epoch, and how far it goes."""
        with _sqlite_errors():
            self.refresh()
            with self._transaction():
                self._meta.set(log_id=log_id, heard_epoch=max(epoch, self.epoch))
                self._seeds.aim(head.seq)
                self._seeds.advance(self.replay_from)

    def apply(self, page: Page) -> Applied:
        """Apply what is new of a page.

        Raises:
            SequenceGap: it begins after `replay_from`.
            LogDiverged: it says another history than the one applied.
        """
        with _sqlite_errors():
            self.refresh()
            applied = self._applier.apply(page)
            self._wal.wrote()
            self._wal.run_if_due()
            return applied

    # ── snapshots ─────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def loading(self) -> LoadStanding | None:
        """How far the snapshot is that is being loaded, or the tables that wait for one."""
        return self._loads.standing

    def load_wait(self) -> None:
        """Tables that stand before the checkpoint take a snapshot; the log is not applied to them until then."""
        with _sqlite_errors():
            self.refresh()
            self._loader.wait()

    def load_begin(self, manifest: Snapshot, *, whole: bool) -> None:
        """Load this snapshot from now on: of all tables, or of those that wait for one."""
        with _sqlite_errors():
            self.refresh()
            self._loader.begin(manifest, whole=whole)

    def load(self, chunk: SnapshotChunk) -> LoadStep:
        """Load some more rows of the chunk that is due; call it again until it is done."""
        with _sqlite_errors():
            self.refresh()
            step = self._loader.load(chunk)
            self._wal.wrote()
            self._wal.run_if_due()
            return step

    def load_finish(self) -> LoadStep:
        """Once all chunks are loaded: some more of what is left to do; call it again until it is done."""
        with _sqlite_errors():
            self.refresh()
            step = self._loader.finish()
            self._wal.wrote()
            self._wal.run_if_due()
            return step

    def load_forget(self) -> None:
        """The snapshot is gone; what it has brought stays until another is loaded."""
        with _sqlite_errors():
            with self._transaction():
                self._loads.forget_snapshot()
            self._pending.forget()

    # ── for people and programs ───────────────────────────────────────────────────────────────────────────────────

    def backlog(self) -> Backlog:
        """What waits on this device."""
        with _sqlite_errors(), snapshot(self._connection):
            (changes,) = self._connection.execute("SELECT count(*) FROM tidewire_change").fetchone()
            batches, size, oldest = self._connection.execute(
                "SELECT count(*), coalesce(sum(bytes), 0), min(sealed_at) FROM tidewire_batch WHERE batch > ?",
                (self.released,),
            ).fetchone()
            (parked,) = self._connection.execute("SELECT count(*) FROM tidewire_parked").fetchone()
            return Backlog(changes, batches, size, oldest, parked, self._dead_letters.count())

    def kept_log(self, limit: int) -> list[KeptBatch]:
        """Batches in the outbox, the newest first."""
        with _sqlite_errors():
            return self._outbox.newest(limit)

    def digests(self) -> tuple[Position, list[TableDigest]]:
        """Rows and digest of each attached table, and the checkpoint at which they were taken.

        Rows whose key is NULL are left out: no other device can hold them.
        """
        with _sqlite_errors(), snapshot(self._connection):
            return self.checkpoint, self.verifier.digests()

    def dead(self, limit: int) -> list[DeadLetter]:
        """Dead letters, the newest first."""
        with _sqlite_errors():
            return self._dead_letters.newest(limit)

    def dead_retry(self, letter_id: int) -> None:
        """Write this device's version of a row again, as a new write, and drop the letter."""
        with _sqlite_errors(), self._heard_transaction():
            self._dead_letters.write_again(letter_id, self._catalogue)

    def dead_discard(self, letter_id: int) -> None:
        """Drop a dead letter."""
        with _sqlite_errors(), self._transaction():
            self._dead_letters.discard(letter_id)

    def fresh_asked(self) -> list[str]:
        """Nonces of programs that wait to hear how far the hub is."""
        with _sqlite_errors():
            rows = self._connection.execute("SELECT nonce FROM tidewire_fresh WHERE seq IS NULL").fetchall()
            return [nonce for (nonce,) in rows]

    def fresh_answered(self, nonce: str, head: Position) -> None:
        """Tell the program that asked. The first answer stays: who asks waits for no more than there was then."""
        with _sqlite_errors(), self._transaction():
            self._connection.execute(
                "UPDATE tidewire_fresh SET epoch = ?, seq = ? WHERE nonce = ? AND seq IS NULL",
                (head.epoch, head.seq, nonce),
            )

    # ── transactions ──────────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """A write transaction; triggers of the file stay silent where they can be switched off."""
        self._begin()
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.rollback()
            # What memory holds of the tables may be ahead of what they say again now.
            self._catalogue.registry.reload()
            self._loads.reload()
            self._parked.recount()
            raise

    def _begin(self) -> None:
        """Take the write lock. SQLite's own busy handler backs off to 100 ms: an app without pauses would starve it."""
        deadline = time.monotonic() + self._settings.busy_timeout_s
        self._connection.execute("PRAGMA busy_timeout = 0")
        try:
            while True:
                try:
                    self._connection.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError as error:
                    if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                        raise
                    time.sleep(LOCK_RETRY_S)
                else:
                    return
        finally:
            self._connection.execute(f"PRAGMA busy_timeout = {int(self._settings.busy_timeout_s * 1000)}")

    @contextmanager
    def _silently(self) -> Iterator[None]:
        """Part of a transaction in which no trigger runs: always so where they can be switched off."""
        if self._switch is not None:
            yield
        else:
            with dropped_triggers(self._connection):
                yield

    @contextmanager
    def _heard_transaction(self) -> Iterator[None]:
        """A write transaction in which triggers run, as in one of the app's."""
        if self._switch is not None:
            self._switch(self._connection, True)
        try:
            with self._transaction():
                yield
        finally:
            if self._switch is not None:
                self._switch(self._connection, False)
