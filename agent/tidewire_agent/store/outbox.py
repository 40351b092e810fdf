"""The outbox: sealed batches, whose number, bytes and digest never change. Kept until the log has them, and a while."""

from __future__ import annotations

import json
import logging
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Final, NamedTuple

from tidewire_agent.errors import BatchDamaged, DatabaseNotUsable
from tidewire_agent.store import healing
from tidewire_agent.store.healing import Anew, Kept
from tidewire_agent.store.meta import Meta
from tidewire_agent.store.taking_apart import LooseRow, Pieces, TakeApart, take_apart
from tidewire_schemas.codec import BATCH_FRAME_BYTES_MAX, encode_batch, parse_batch
from tidewire_schemas.digest import NO_DIGEST, message_digest
from tidewire_schemas.messages import ChainPoint, Entry, LastSealed
from tidewire_schemas.positions import Position

_ASIDE: Final = 2**40
"""Added to the numbers of batches while others are moved: far above any that is given."""


logger = logging.getLogger(__name__)


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


class Ancestor(NamedTuple):
    """An earlier incarnation, of which batches are still here."""

    incarnation: str
    shift: int
    """The number that it gave to a batch, less the one that the batch has here."""
    last: int
    """Its last batch, by its own numbers, before this incarnation went on from it."""


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
        for ancestor in self._ancestors():
            if ancestor.incarnation == incarnation and batch <= ancestor.last:
                return batch - ancestor.shift
        return None

    def included_by(self, incarnation: str, batch: int, digest: str) -> int | None:
        """The number here of the last batch that is up to this one of the log; None where none of ours is.

        Raises:
            ChainParted: this incarnation does not have that batch.
        """
        for ancestor in self._ancestors():
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
        self._check(number, digest, payload)
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
        return self._batch(number, incarnation, last, changes_json, now_ms, was)

    def append(self, batch: SealedBatch) -> None:
        """In the caller's transaction: store the batch that `next_batch` gave."""
        self._store(batch)
        self._meta.set(next_batch=batch.batch + 1, last_digest=batch.digest)
        self._volatile = True

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
            self._check(batch, digest, payload)
            found.append(SealedBatch(batch, digest, payload, sealed_at))
        return found

    def _check(self, batch: int, digest: str, payload: bytes) -> None:
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

    # ── another life ──────────────────────────────────────────────────────────────────────────────────────────────

    def renumber(
        self, after: int | None, digest: str | None, apart: TakeApart | None = None
    ) -> tuple[int, list[LooseRow]]:
        """In the caller's transaction: begin a new incarnation, in which what follows a batch is numbered from 1.

        Args:
            after: the newest batch that the log has, None for none; those that the applied log includes count as well.
            digest: its digest. None after 0: what this incarnation follows is followed; None else: nothing is.
            apart: which of the batches are to become smaller ones.

        Returns:
            By how much all numbers became smaller, and the rows that no batch holds any more, as they cannot be sent.
        """
        released = self.released
        if after is None or after < released:
            after, digest = released, None
        elif after == 0 and digest is None:
            digest = self.parent
        loose: list[LooseRow] = []

        def pieces_of(kept: Kept) -> Iterator[Anew]:
            pieces = _pieces(kept.payload, kept.batch, apart)
            loose.extend(pieces.loose)
            was = parse_batch(kept.payload, bytes_max=len(kept.payload)).batch.was
            return (Anew(changes_json, was) for changes_json in pieces.changes_json)

        self._begin(after, digest, released, pieces_of)
        return after, loose

    def heal(self, points: Sequence[ChainPoint], common: Position) -> int:
        """In the caller's transaction: begin a new incarnation after the last batch that the hub still has.

        Batches that the hub has lost are offered again with their old places; those that it never had follow.

        Args:
            points: batches of this device that the hub has, of any incarnation.
            common: the newest entry that device and hub have in common.

        Returns:
            How many are offered again: batches 1 to this.
        """
        released = self.released
        seqs = {point.digest: point.seq for point in points}
        held = {number: digest for number, digest in self.digests_of(points).items() if digest in seqs}
        after = max(held, default=self._lowest() - 1)
        in_rows = [number for number, digest in held.items() if seqs[digest] <= common.seq]
        included = max(in_rows, default=self._lowest() - 1)

        def again(kept: Kept) -> Iterator[Anew]:
            return healing.anew(kept, common, lost=kept.batch <= released)

        self._begin(after, held.get(after), included, again)
        rows = self._connection.execute("SELECT payload FROM tidewire_batch WHERE batch > 0 ORDER BY batch")
        offered = takewhile(lambda row: parse_batch(row[0], bytes_max=len(row[0])).batch.was is not None, rows)
        return sum(1 for _ in offered)

    def _lowest(self) -> int:
        lowest = self._connection.execute("SELECT min(batch) FROM tidewire_batch").fetchone()[0]
        return self._meta.number("next_batch") if lowest is None else int(lowest)

    def _begin(self, after: int, digest: str | None, released: int, anew: Callable[[Kept], Iterator[Anew]]) -> None:
        """A new incarnation follows batch `after`; each batch after that becomes what `anew` makes of it."""
        incarnation = secrets.token_hex(16)
        waiting = self._connection.execute(
            "SELECT batch FROM tidewire_batch WHERE batch > ? ORDER BY batch", (after,)
        ).fetchall()
        last = digest
        number = 0
        begins: list[tuple[int, int]] = []
        for (old,) in waiting:
            begins.append((old, number + 1))
            sealed_as, *row = self._connection.execute(
                "SELECT digest, batch, sealed_at, payload, epoch, seq, refused FROM tidewire_batch WHERE batch = ?",
                (old,),
            ).fetchone()
            self._connection.execute("DELETE FROM tidewire_batch WHERE batch = ?", (old,))
            kept = Kept(*row)
            if old <= self.released and message_digest(kept.payload) != sealed_as:
                logger.error("batch %d is not as it was sealed, so it is not offered again: check the disk", old)
                continue
            self._check(old, sealed_as, kept.payload)
            for changes_json, was in anew(kept):
                number += 1
                batch = self._batch(number, incarnation, last, changes_json, kept.sealed_at, was)
                self._store(batch._replace(batch=number + _ASIDE))
                last = batch.digest
        self._lower(after)
        self._move("batch > ?", _ASIDE, by=-_ASIDE)
        self._move_first_batches(after, begins, number + 1)
        self._meta.set(
            incarnation=incarnation,
            next_batch=number + 1,
            released=released - after,
            last_digest=last,
            parent_digest=digest,
        )
        self._volatile = True

    def _move_first_batches(self, after: int, begins: Sequence[tuple[int, int]], end: int) -> None:
        """What tables know of numbers: a batch may have become none, or several."""
        for table, first in self._connection.execute("SELECT id, first_batch FROM tidewire_table").fetchall():
            new = next((begin for old, begin in begins if old >= first), end) if first > after else first - after
            self._connection.execute("UPDATE tidewire_table SET first_batch = ? WHERE id = ?", (new, table))

    def _lower(self, after: int) -> None:
        """Batches up to `after` become those of an ancestor, the newest under number 0."""
        here = Ancestor(self._meta.text("incarnation") or "", 0, max(0, after))
        self._move("batch <= ?", after, by=-after)
        oldest = self._connection.execute("SELECT min(batch) FROM tidewire_batch").fetchone()[0]
        ancestors = [
            ancestor._replace(shift=ancestor.shift + after, last=min(ancestor.last, ancestor.shift + after))
            for ancestor in (*self._ancestors(), here)
        ]
        kept = [a for a in ancestors if a.last and oldest is not None and a.last - a.shift >= oldest]
        self._meta.set(ancestors=json.dumps(kept))

    def _move(self, which: str, limit: int, *, by: int) -> None:
        """Add to the numbers of some batches, in an order in which none meets another."""
        order = "ASC" if by < 0 else "DESC"
        numbers = self._connection.execute(
            f"SELECT batch FROM tidewire_batch WHERE {which} ORDER BY batch {order}", (limit,)
        )
        for (number,) in numbers.fetchall():
            self._connection.execute("UPDATE tidewire_batch SET batch = ? WHERE batch = ?", (number + by, number))

    def _ancestors(self) -> list[Ancestor]:
        return [Ancestor(*values) for values in json.loads(self._meta.text("ancestors") or "[]")]

    def clear(self) -> None:
        """In the caller's transaction: forget all batches, and begin a new incarnation."""
        self._connection.execute("DELETE FROM tidewire_batch")
        self._meta.set(
            incarnation=secrets.token_hex(16),
            next_batch=1,
            released=0,
            last_digest=None,
            parent_digest=None,
            ancestors=None,
        )

    def _batch(
        self,
        number: int,
        incarnation: str,
        prev_digest: str | None,
        changes_json: bytes,
        sealed_at: int,
        was: Position | None,
    ) -> SealedBatch:
        payload = encode_batch(
            incarnation=incarnation,
            batch=number,
            prev_digest=prev_digest or NO_DIGEST,
            sealed_at=sealed_at,
            changes_json=changes_json,
            was=was,
        )
        return SealedBatch(number, message_digest(payload), payload, sealed_at)

    def _store(self, batch: SealedBatch) -> None:
        self._connection.execute(
            "INSERT INTO tidewire_batch (batch, digest, sealed_at, bytes, payload) VALUES (?, ?, ?, ?, ?)",
            (batch.batch, batch.digest, batch.sealed_at, len(batch.payload), batch.payload),
        )


def _pieces(payload: bytes, number: int, apart: TakeApart | None) -> Pieces:
    parsed = parse_batch(payload, bytes_max=len(payload))
    halve = apart is not None and apart.halve == number
    if apart is None or (len(payload) <= apart.bytes_max and not halve):
        return Pieces([parsed.changes_json], [])
    limit = apart.bytes_max - BATCH_FRAME_BYTES_MAX
    pieces = take_apart(parsed.batch.changes, limit, halve=halve)
    logger.warning(
        "batch %d of %d bytes, which the hub cannot take, becomes %d smaller ones; rows that cannot be sent: %d",
        number,
        len(payload),
        len(pieces.changes_json),
        len(pieces.loose),
    )
    return pieces


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
