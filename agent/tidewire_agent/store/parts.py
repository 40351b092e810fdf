"""The parts of a store: one object for each thing that is done with the app's file, and what each needs of others."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from tidewire_agent.store.apply import Applier
from tidewire_agent.store.arrivals import Arrivals
from tidewire_agent.store.catalogue import Catalogue
from tidewire_agent.store.change_log import ChangeLog
from tidewire_agent.store.checkpoint import WalCheckpoint
from tidewire_agent.store.dead_letters import DeadLetters
from tidewire_agent.store.disk_reserve import DiskReserve
from tidewire_agent.store.draft import Drafter
from tidewire_agent.store.fresh_questions import FreshQuestions
from tidewire_agent.store.incarnations import Incarnations
from tidewire_agent.store.load_refusals import LoadRefusals
from tidewire_agent.store.loads import Loads
from tidewire_agent.store.meta import Meta
from tidewire_agent.store.once_more import OnceMore
from tidewire_agent.store.open_files import OpenFiles
from tidewire_agent.store.outbox import Outbox
from tidewire_agent.store.outbox_limit import OutboxLimit
from tidewire_agent.store.parked import Parked
from tidewire_agent.store.pending import Pending
from tidewire_agent.store.recovery import Recovery
from tidewire_agent.store.row_writer import RowWriter
from tidewire_agent.store.seal import Sealer
from tidewire_agent.store.seeds import Seeds
from tidewire_agent.store.settings import StoreSettings
from tidewire_agent.store.silence import Switch
from tidewire_agent.store.snapshot_loader import SnapshotLoader
from tidewire_agent.store.synced_tables import SyncedTables
from tidewire_agent.store.taken_over import TakenOver
from tidewire_agent.store.transactions import Transactions
from tidewire_agent.store.verify import Verifier
from tidewire_agent.store.verify_questions import VerifyQuestions


class StoreParts:
    """The parts of one database's store, on one connection: first what keeps something, then what works with it.

    Args:
        path: the file itself, no link to it.
        switch: see `Transactions`.
    """

    def __init__(
        self, connection: sqlite3.Connection, path: Path, settings: StoreSettings, switch: Switch | None
    ) -> None:
        self.connection = connection
        self.path = path
        self._settings = settings
        self.transactions = Transactions(connection, switch, busy_timeout_s=settings.busy_timeout_s)
        self._write, self._silently = self.transactions.write, self.transactions.silently
        self._keep(path)
        self.transactions.after_rollback(
            self.catalogue.registry.reload, self.catalogue.elsewhere.reload, self.loads.reload, self.parked.recount
        )
        self.rows = RowWriter(
            connection,
            self.catalogue,
            self._silently,
            self.pending,
            self.parked,
            self.dead_letters,
            self.seeds,
            parked_rows_max=settings.parked_rows_max,
        )
        self.arrivals = Arrivals(connection, self.catalogue, self.pending, self.dead_letters, self.seeds, self.rows)
        self.applier = self._make_applier()
        self.sealer = self._make_sealer()
        self.transactions.while_waiting(self.changes.saw_commit)
        self.limit = OutboxLimit(
            connection,
            self.meta,
            self.catalogue,
            self._write,
            bytes_max=settings.outbox_bytes_max,
            bytes_low=settings.outbox_low_bytes or settings.outbox_bytes_max * 9 // 10,
            refuse=settings.outbox_full == "refuse",
        )
        self.loader = self._make_loader()
        self.verifier = self._make_verifier()
        self.tables = SyncedTables(
            connection,
            self.transactions,
            self.catalogue,
            self.pending,
            self.parked,
            self.loads,
            self.rows,
        )
        self.recovery = Recovery(
            connection,
            self.meta,
            self.transactions,
            self.catalogue,
            Incarnations(connection, self.meta, self.outbox),
            self.sealer,
            self.pending,
            self.parked,
            self.loads,
        )

    def _keep(self, path: Path) -> None:
        """What stands for a table of Tidewire's, or for the files."""
        connection, settings = self.connection, self._settings
        self.files = OpenFiles(path, connection)
        self.disk = DiskReserve(path, settings.disk_reserve_bytes)
        self.wal = WalCheckpoint(connection, settings.wal_bytes_max)
        self.meta = Meta(connection)
        self.outbox = Outbox(
            connection,
            self.meta,
            path,
            kept_batches_max=settings.kept_batches_max,
            kept_bytes_max=settings.kept_bytes_max,
        )
        self.catalogue = Catalogue(connection, self.meta, self._write, allow_unkept_unique=settings.allow_unkept_unique)
        self.dead_letters = DeadLetters(
            connection, self.meta, rows_max=settings.dead_letters_max, bytes_max=settings.dead_letter_bytes_max
        )
        self.pending = Pending(connection, self.meta, self.catalogue)
        self.parked = Parked(connection)
        self.seeds = Seeds(connection, self.meta, self.catalogue, chunk_bytes=settings.seed_chunk_bytes)
        self.loads = Loads(connection, self.meta, self.catalogue)
        self.once_more = OnceMore(connection, self.catalogue, self.outbox, self.seeds)
        self.changes = ChangeLog(
            connection,
            self.meta,
            batch_bytes_max=settings.batch_bytes_max,
            changes_soft_max=settings.changes_per_batch_soft_max,
            changes_max=settings.changes_per_batch_max,
            piece_changes_max=settings.piece_changes_max,
            piece_bytes_max=settings.piece_bytes_max,
        )
        self.fresh = FreshQuestions(connection, self._write)
        self.questions = VerifyQuestions(connection, self._write)

    def _make_applier(self) -> Applier:
        return Applier(
            self.connection,
            self.meta,
            self.catalogue,
            self._write,
            self._silently,
            self.outbox,
            self.rows,
            self.pending,
            self.parked,
            self.dead_letters,
            self.seeds,
            self.loads,
            self.once_more,
            lock_ms_max=self._settings.lock_hold_ms_max,
        )

    def _make_sealer(self) -> Sealer:
        return Sealer(
            self.connection,
            self.meta,
            self.catalogue,
            self._write,
            self.outbox,
            self.dead_letters,
            self.seeds,
            TakenOver(self.connection, self.catalogue, self.dead_letters, self._write),
            self.changes,
            Drafter(self.connection, self.catalogue, self.changes, self.seeds, self.loads),
            self.once_more,
            sealed=self.rows.sealed,
        )

    def _make_loader(self) -> SnapshotLoader:
        return SnapshotLoader(
            self.connection,
            self.meta,
            self.catalogue,
            self._write,
            self._silently,
            self.applier,
            self.outbox,
            self.rows,
            self.arrivals,
            self.pending,
            self.parked,
            self.seeds,
            self.loads,
            LoadRefusals(
                self.connection, self.meta, self.catalogue, self.outbox, self.rows, self.seeds, self.dead_letters
            ),
            lock_ms_max=self._settings.lock_hold_ms_max,
        )

    def _make_verifier(self) -> Verifier:
        return Verifier(
            self.connection,
            self.meta,
            self.catalogue,
            self._silently,
            self.applier,
            self.rows,
            self.pending,
            self.parked,
            self.dead_letters,
            self.loads,
            dead_letters_max=self._settings.dead_letters_max,
        )
