"""The outbox: sealed batches, whose number, bytes and digest never change. Kept until the log has them, and a while."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tidewire_agent.errors import BatchDamaged, DatabaseNotUsable
from tidewire_agent.store.ancestors import ancestors
from tidewire_agent.store.meta import Meta
from tidewire_schemas.codec import encode_batch
from tidewire_schemas.digest import NO_DIGEST, message_digest
from tidewire_schemas.messages import ChainPoint, Entry, LastSealed
from tidewire_schemas.positions import Position


class SealedBatch(NamedTuple):
    """A batch in the outbox."""

    batch: int
    digest: str
    payload: bytes
    sealed_at: int


class KeptBatch(NamedTuple):
    """A line of `tidewire-agent log`."""

    batch: int
    digest: str
    sealed_at: int
    bytes: int
    released: bool
    """Whether the applied log includes it."""


class ChainParted(Exception):
    """The log has batches of this incarnation that are not the ones here: another copy of the database wrote them."""


class Outbox:
    """The `tidewire_batch` table, and the device's chain of batches.

    Batches are kept under the numbers of the present incarnation, from 1. When one begins, those that it goes on from
    keep their order below it: the batch before its first has number 0, the one before that -1. So a batch that the log
    has and that is not applied yet stays pending across a change of numbers.

    Args:
        path: the database file itself, not a link to it: its -wal lies beside it.
        kept_batches_max, kept_bytes_max: released batches that are kept, for a hub that has lost its tail.
    """

    def __init__(
        self, connection: sqlite3.Connection, meta: Meta, path: Path, *, kept_batches_max: int, kept_bytes_max: int
    ) -> None:
        self._connection = connection
        self._meta = meta
        self._path = path
        self._kept_batches_max = kept_batches_max
        self._kept_bytes_max = kept_bytes_max
        self._volatile = True
        """Whether a batch may be here that a power cut would take: also one that an earlier process sealed."""
        self._named_wal = 0
        """Inode of the -wal file whose name is known to be durable."""

    # ── what is here ──────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def released(self) -> int:
        """The highest own batch that the applied log includes."""
        return self._meta.number("released")

    @property
    def last(self) -> LastSealed | None:
        """The newest batch of this incarnation."""
        number = self._meta.number("next_batch") - 1
        digest = self._meta.text("last_digest")
        return LastSealed(batch=number, digest=digest) if number > 0 and digest else None

    @property
    def oldest(self) -> int:
        """The lowest number of this incarnation here, 0 when there is none."""
        row = self._connection.execute("SELECT min(batch) FROM tidewire_batch WHERE batch > 0").fetchone()
        return int(row[0] or 0)

    @property
    def parent(self) -> str | None:
        """The digest that batch 1 follows, None where it follows none."""
        return self._meta.text("parent_digest")

    def number_of(self, incarnation: str, batch: int) -> int | None:
        """The number here of a batch of this or an earlier incarnation; None if it cannot be here."""
        if incarnation == self._meta.text("incarnation"):
            return batch
        for ancestor in ancestors(self._meta):
            if ancestor.incarnation == incarnation and batch <= ancestor.last:
                return batch - ancestor.shift
        return None

    def included_by(self, incarnation: str, batch: int, digest: str) -> int | None:
        """The number here of the last batch that is up to this one of the log; None where none of ours is.

        Raises:
            ChainParted: this incarnation does not have that batch.
        """
        for ancestor in ancestors(self._meta):
            if ancestor.incarnation == incarnation and batch > ancestor.last:
                return ancestor.last - ancestor.shift  # what a copy wrote after it parted comes after all of ours
        number = self.number_of(incarnation, batch)
        matches = number is not None and self.digest_of(number) in (None, digest)
        if incarnation == self._meta.text("incarnation") and (not matches or batch >= self._meta.number("next_batch")):
            raise ChainParted
        return number if matches else None

    def digests_of(self, points: Sequence[ChainPoint]) -> dict[int, str]:
        """Our digests, as far as known, of the batches with the numbers or the digests of these points, by number."""
        if not points:
            return {}
        digests, numbers = {point.digest for point in points}, {point.batch for point in points}
        rows = self._connection.execute("SELECT batch, digest FROM tidewire_batch").fetchall()
        newest = self._meta.text("last_digest")  # known even when its batch is not kept
        if newest is not None:
            rows.append((self._meta.number("next_batch") - 1, newest))
        return {number: digest for number, digest in rows if number in numbers or digest in digests}

    def digest_of(self, number: int) -> str | None:
        """The digest of a batch that is here."""
        row = self._connection.execute("SELECT digest FROM tidewire_batch WHERE batch = ?", (number,)).fetchone()
        return None if row is None else str(row[0])

    def is_waiting(self, number: int, digest: str) -> bool:
        """Whether a batch of this digest is here and not released."""
        return number > self.released and self.digest_of(number) == digest

    def payload_of(self, number: int) -> bytes:
        """The bytes of a batch that is here."""
        row = self._connection.execute(
            "SELECT digest, payload FROM tidewire_batch WHERE batch = ?", (number,)
        ).fetchone()
        digest: str = row[0]
        payload: bytes = row[1]
        self.check(number, digest, payload)
        return payload

    def above(self, number: int, bytes_max: int) -> bool:
        """Whether a batch after this number has more bytes."""
        row = self._connection.execute(
            "SELECT EXISTS (SELECT 1 FROM tidewire_batch WHERE batch > ? AND bytes > ?)", (number, bytes_max)
        ).fetchone()
        return bool(row[0])

    def newest(self, limit: int) -> list[KeptBatch]:
        """What is here, the newest first."""
        rows = self._connection.execute(
            "SELECT batch, digest, sealed_at, bytes FROM tidewire_batch ORDER BY batch DESC LIMIT ?", (limit,)
        ).fetchall()
        released = self.released
        return [KeptBatch(batch, digest, sealed_at, size, batch <= released) for batch, digest, sealed_at, size in rows]

    # ── in ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def next_batch(self, changes_json: bytes, now_ms: int, was: Position | None = None) -> SealedBatch:
        """The batch that these changes make, finished before the write lock is taken."""
        number = max(1, self._meta.number("next_batch"))
        incarnation, last = self._meta.text("incarnation") or "", self._meta.text("last_digest")
        return self.make(number, incarnation, last, changes_json, now_ms, was)

    def append(self, batch: SealedBatch) -> None:
        """In the caller's transaction: store the batch that `next_batch` gave."""
        self.store(batch)
        self._meta.set(next_batch=batch.batch + 1, last_digest=batch.digest)
        self.changed()

    def changed(self) -> None:
        """What is here, or its numbers, changes in the caller's transaction: `harden` has to bring it to the disk."""
        self._volatile = True

    def make(
        self,
        number: int,
        incarnation: str,
        prev_digest: str | None,
        changes_json: bytes,
        sealed_at: int,
        was: Position | None,
    ) -> SealedBatch:
        """A batch of this number that follows another, with its bytes and its digest."""
        payload = encode_batch(
            incarnation=incarnation,
            batch=number,
            prev_digest=prev_digest or NO_DIGEST,
            sealed_at=sealed_at,
            changes_json=changes_json,
            was=was,
        )
        return SealedBatch(number, message_digest(payload), payload, sealed_at)

    def store(self, batch: SealedBatch) -> None:
        """In the caller's transaction: keep it, under its number."""
        self._connection.execute(
            "INSERT INTO tidewire_batch (batch, digest, sealed_at, bytes, payload) VALUES (?, ?, ?, ?, ?)",
            (batch.batch, batch.digest, batch.sealed_at, len(batch.payload), batch.payload),
        )

    # ── out ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def after(self, number: int, *, count_max: int, bytes_max: int) -> list[SealedBatch]:
        """Durable batches after this number, in order: at least one if there is one, within the limits."""
        self.harden()
        found: list[SealedBatch] = []
        size = 0
        rows = self._connection.execute(
            """
            SELECT batch, digest, payload, sealed_at, bytes FROM tidewire_batch
            WHERE batch > ? ORDER BY batch LIMIT ?
            """,
            (number, count_max),
        )
        for batch, digest, payload, sealed_at, bytes_ in rows:
            size += bytes_
            if found and size > bytes_max:
                break
            self.check(batch, digest, payload)
            found.append(SealedBatch(batch, digest, payload, sealed_at))
        return found

    def check(self, batch: int, digest: str, payload: bytes) -> None:
        """Before a batch is used: SQLite does not notice a byte that the disk has changed inside a value."""
        if message_digest(payload) != digest:
            raise BatchDamaged(self._path, batch)

    def harden(self) -> None:
        """Bring all commits to the disk, outside any lock: SQLite's own fsync would hold up the app.

        `after` does it too, so that nothing can leave that is not durable.
        """
        if not self._volatile:
            return
        wal = self._path.with_name(self._path.name + "-wal")
        try:
            _sync(wal)
            inode = wal.stat().st_ino
            if inode != self._named_wal:  # a new file is durable once its name is
                _sync(self._path.parent)
                self._named_wal = inode
        except FileNotFoundError:
            pass  # checkpointed: SQLite has synced the database file
        except OSError as error:
            raise DatabaseNotUsable(f"fsync of {wal} failed: {error.strerror}") from error
        self._volatile = False

    def release(self, number: int, entry: Entry | None = None) -> None:
        """In the caller's transaction: the applied log includes batches up to this one, the last as this entry."""
        self._meta.set(released=number)
        if entry is not None:
            refused = [[refusal.table, refusal.op, refusal.key] for refusal in entry.refused]
            self._connection.execute(
                "UPDATE tidewire_batch SET epoch = ?, seq = ?, refused = ? WHERE batch = ?",
                (*entry.position, json.dumps(refused) if refused else None, number),
            )

    def prune(self) -> None:
        """In the caller's transaction: forget the oldest released batches above the limits."""
        kept = self._connection.execute(
            "SELECT batch, bytes FROM tidewire_batch WHERE batch <= ? ORDER BY batch DESC", (self.released,)
        ).fetchall()
        size = 0
        for place, (batch, size_of_batch) in enumerate(kept):
            size += size_of_batch
            if place >= self._kept_batches_max or size > self._kept_bytes_max:
                self._connection.execute("DELETE FROM tidewire_batch WHERE batch <= ?", (batch,))
                return


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
