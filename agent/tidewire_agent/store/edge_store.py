"""EdgeStore: everything Tidewire does with the app's database file. Synchronous, for one thread.

The work is done by the store's parts (`parts.py`). This is their common face: it says sqlite3's errors as Tidewire's,
looks whether the schema has changed before the parts rely on it, and checkpoints the -wal when they have written.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Self

from tidewire_agent.errors import OtherStream, TablesUntold, check_is_file
from tidewire_agent.errors import sqlite_errors as _sqlite_errors
from tidewire_agent.load_standing import LoadStanding
from tidewire_agent.store import backlog
from tidewire_agent.store.apply import Applied
from tidewire_agent.store.backlog import Backlog
from tidewire_agent.store.catalogue import AttachReport
from tidewire_agent.store.dead_letters import DeadLetter
from tidewire_agent.store.history import history
from tidewire_agent.store.opening import connect, prepare
from tidewire_agent.store.outbox import KeptBatch, SealedBatch
from tidewire_agent.store.parts import StoreParts
from tidewire_agent.store.reading import snapshot
from tidewire_agent.store.seal import SealOutcome
from tidewire_agent.store.settings import StoreSettings
from tidewire_agent.store.silence import trigger_switch
from tidewire_agent.store.snapshot_loader import LoadStep
from tidewire_agent.store.taking_apart import TakeApart
from tidewire_agent.store.verify import TableDigest
from tidewire_schemas.messages import ChainPoint, ColumnsElsewhere, LastSealed, Page
from tidewire_schemas.names import check_topic_name
from tidewire_schemas.positions import Position
from tidewire_schemas.snapshots import Snapshot, SnapshotChunk


class EdgeStore:
    """One app's database, as the agent sees it. Open with `EdgeStore.open`."""

    def __init__(self, parts: StoreParts) -> None:
        self._parts = parts
        self._connection = parts.connection
        self._meta = parts.meta
        self._closed = False
        self._data_version = 0
        self.batches = parts.outbox
        """The outbox, to look at."""
        self.tables = parts.tables
        """The tables that are synced."""
        self.verifier = parts.verifier
        """Compares and repairs rows."""
        self.fresh = parts.fresh
        """Questions of programs that want to know how far the hub is."""
        self.questions = parts.questions
        """Questions of programs that want rows compared."""

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
        check_is_file(path)
        path = path.resolve()  # SQLite keeps the -wal beside the file itself, not beside a link to it
        with _sqlite_errors(path):
            connection = connect(path, busy_timeout_s=settings.busy_timeout_s)
            try:
                switch = trigger_switch()
                if switch is not None:
                    switch(connection, False)
                prepare(connection, device)
                parts = StoreParts(connection, path, settings, switch)
                parts.tables.follow_schema()
            except BaseException:
                connection.close()
                raise
        return cls(parts)

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection, for who runs this store on a thread (`database.py`)."""
        return self._connection

    def close(self) -> None:
        """Close the connection; again does nothing."""
        if not self._closed:
            self._closed = True
            self._parts.files.leave()
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
                raise OtherStream(self._parts.path, known, stream)
            with self._parts.transactions.write():
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
        return self._parts.applier.replay_from

    @property
    def last_sealed(self) -> LastSealed | None:
        """The newest batch of this incarnation."""
        return self.batches.last

    @property
    def history(self) -> list[Position]:
        """The last entry applied of each epoch before the checkpoint's, newest first."""
        return history(self._meta)

    def data_version(self) -> int:
        """A number that changes when another connection has committed.

        Raises:
            DatabaseMissing, DatabaseReplaced, WalReplaced: the files are others than those that were opened.
        """
        self.check_files()
        with _sqlite_errors():
            version = int(self._connection.execute("PRAGMA data_version").fetchone()[0])
            if version != self._data_version:
                self._data_version = version
                self._parts.changes.saw_commit()
            return version

    def check_files(self) -> None:
        """Whether the files are those that were opened: also to be asked before another error's cause is named.

        Raises:
            DatabaseMissing, DatabaseReplaced, WalReplaced: they are others, or gone.
        """
        self._parts.files.check()

    # ── tables ────────────────────────────────────────────────────────────────────────────────────────────────────

    def attach(self, wanted: Sequence[str], *, all_tables: bool = False, ahead: bool = True) -> list[AttachReport]:
        """Sync these tables from now on (`tidewire_kv` is made if it is asked for); what became of each.

        `ahead` tells that those which do not exist are attached once they do.
        """
        with _sqlite_errors():
            return self.tables.attach(wanted, all_tables=all_tables, ahead=ahead)

    def detach_table(self, name: str) -> bool:
        """Stop syncing one table; its rows stay. False where it was not attached."""
        with _sqlite_errors():
            return self.tables.detach(name)

    def detach(self) -> None:
        """Remove every trace from the file: triggers and tables (`tidewire_kv` stays if it has rows)."""
        with _sqlite_errors():
            self.tables.remove_all_traces()

    def refresh(self) -> bool:
        """Follow a change of the schema; whether there is news of tables for the hub."""
        with _sqlite_errors():
            self.tables.refresh()
            return self.tables.news

    @property
    def outbox_full(self) -> str | None:
        """What a person should know while more waits to be sent than should."""
        return self._parts.limit.problem

    def problems(self) -> list[str]:
        """What a person should know about tables that are wanted and not synced, in whole or in part."""
        return self.tables.problems()

    # ── up ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def seal(self, now_ms: int, least: int = 1) -> SealOutcome:
        """Make a batch of what is committed now; call `harden` before anything of it is sent.

        With fewer changes than `least` they are left in the change log.
        """
        self._parts.disk.check()
        with self._fresh_schema():
            outcome = self._parts.sealer.seal(now_ms, least)
            self._parts.limit.look()
            self._parts.wal.wrote(outcome.bytes)
            self._parts.wal.run_if_due()
            return outcome if outcome.more or not self._parts.loader.tidy() else outcome._replace(more=True)

    @property
    def has_to_seal(self) -> bool:
        """Whether `seal` has anything to do, also where the outbox may have room again."""
        with _sqlite_errors():
            return self._parts.sealer.waiting() or self.outbox_full is not None

    def heed(self, batch_bytes_max: int) -> None:
        """Seal no batch above what the hub takes, as its Welcome says."""
        self._parts.changes.heed(batch_bytes_max)

    def harden(self) -> None:
        """Bring all commits to the disk, outside any lock. `outbox` does it too."""
        self.batches.harden()

    def outbox(self, after: int, *, count_max: int, bytes_max: int) -> list[SealedBatch]:
        """Durable batches after this number, in order: at least one if there is one, within the limits."""
        with _sqlite_errors():
            return self.batches.after(after, count_max=count_max, bytes_max=bytes_max)

    # ── down ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def follow(self, log_id: str, epoch: int, head: Position, elsewhere: Sequence[ColumnsElsewhere] = ()) -> None:
        """Remember what a Welcome said: the log, its epoch, how far it goes, and columns that other devices have."""
        with self._fresh_schema(), self._parts.transactions.write():
            self.tables.told(elsewhere, head.seq)
            self._meta.set(log_id=log_id, heard_epoch=max(epoch, self.epoch))
            self._parts.seeds.aim(head.seq)
            self._parts.seeds.advance(self.replay_from)

    def apply(self, page: Page, told: int | None = None) -> Applied:
        """Apply what is new of a page; `told` says for which tables, by their `told_count`, the log goes on with it.

        Raises:
            SequenceGap: it begins after `replay_from`.
            LogDiverged: it says another history than the one applied.
            TablesUntold: the tables are others now.
        """
        with self._writing():
            if told is not None and not self.tables.are_as_told(told):
                raise TablesUntold("the tables have changed since the hub said how to go on")
            return self._parts.applier.apply(page)

    # ── snapshots ─────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def loading(self) -> LoadStanding | None:
        """How far the snapshot is that is being loaded, or the tables that wait for one."""
        return self._parts.loads.standing

    def load_wait(self) -> None:
        """Tables that stand before the checkpoint take a snapshot; the log is not applied to them until then."""
        with self._fresh_schema():
            self._parts.loader.wait()

    def load_begin(self, manifest: Snapshot, *, whole: bool) -> None:
        """Load this snapshot from now on: of all tables, or of those that wait for one."""
        with self._fresh_schema():
            self._parts.loader.begin(manifest, whole=whole)

    def load(self, chunk: SnapshotChunk) -> LoadStep:
        """Load some more rows of the chunk that is due; call it again until it is done."""
        with self._writing():
            return self._parts.loader.load(chunk)

    def load_finish(self) -> LoadStep:
        """Once all chunks are loaded: some more of what is left to do; call it again until it is done."""
        with self._writing():
            return self._parts.loader.finish()

    def load_forget(self) -> None:
        """The snapshot is gone; what it has brought stays until another is loaded."""
        with _sqlite_errors():
            with self._parts.transactions.write():
                self._parts.loads.forget_snapshot()
            self._parts.pending.forget()

    # ── recovery ──────────────────────────────────────────────────────────────────────────────────────────────────

    def renumber(self, after: int | None, digest: str | None, apart: TakeApart | None = None) -> None:
        """Begin a new incarnation, in which what follows a batch is numbered from 1: see `Incarnations.renumber`."""
        with self._fresh_schema():
            self._parts.recovery.renumber(after, digest, apart)

    def heal(self, common: Position, points: Sequence[ChainPoint]) -> None:
        """Go back to the last entry in `common`, and offer again what the hub has lost: see `healing.py`.

        `points` are the batches of this device that it has.
        """
        with self._fresh_schema():
            self._parts.recovery.heal(common, points)
            self.tables.await_columns()

    def adopt(self) -> None:
        """Forget the log: the next hub's log is followed from its start, and all rows here are offered as seeds.

        No row is deleted anywhere. What was not sent yet is offered with its row, too; deletes that were not sent are
        forgotten, as nobody can say what they mean in another log.
        """
        with _sqlite_errors():
            self._parts.recovery.adopt()

    # ── for people ────────────────────────────────────────────────────────────────────────────────────────────────

    def backlog(self) -> Backlog:
        """What waits on this device."""
        with _sqlite_errors(), snapshot(self._connection):
            return backlog.count(self._connection, self._meta)

    def kept_log(self, limit: int) -> list[KeptBatch]:
        """Batches in the outbox, the newest first."""
        with _sqlite_errors():
            return self.batches.newest(limit)

    def digests(self) -> tuple[Position, list[TableDigest]]:
        """Rows and digest of each attached table, and the checkpoint at which they were taken.

        Rows whose key is NULL are left out: no other device can hold them.
        """
        with _sqlite_errors(), snapshot(self._connection):
            return self.checkpoint, self.verifier.digests()

    @property
    def dead_letters(self) -> int:
        """How many dead letters there are."""
        with _sqlite_errors():
            return self._parts.dead_letters.count()

    def dead(self, limit: int) -> list[DeadLetter]:
        """Dead letters, the newest first."""
        with _sqlite_errors():
            return self._parts.dead_letters.newest(limit)

    def dead_retry(self, letter_id: int) -> None:
        """Write this device's version of a row again, as a new write, and drop the letter."""
        with _sqlite_errors(), self._parts.transactions.heard():
            self._parts.dead_letters.write_again(letter_id, self._parts.catalogue)

    def dead_discard(self, letter_id: int) -> None:
        """Drop a dead letter."""
        with _sqlite_errors(), self._parts.transactions.write():
            self._parts.dead_letters.discard(letter_id)

    # ── around the work ───────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def _fresh_schema(self) -> Iterator[None]:
        """Work that relies on the tables being as they are known."""
        with _sqlite_errors():
            self.tables.refresh()
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """The same, of which there is much: the -wal grows by it."""
        self._parts.disk.check()
        with self._fresh_schema():
            yield
            self._parts.wal.wrote()
            self._parts.wal.run_if_due()
