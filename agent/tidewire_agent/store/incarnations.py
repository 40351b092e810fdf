"""The incarnations of a device: how one begins, in which batches that the log does not have get new numbers, from 1."""

from __future__ import annotations

import logging
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Final

from tidewire_agent.store import healing
from tidewire_agent.store.ancestors import Ancestor, ancestors, remember
from tidewire_agent.store.healing import Anew, Kept
from tidewire_agent.store.meta import Meta
from tidewire_agent.store.outbox import Outbox
from tidewire_agent.store.taking_apart import LooseRow, Pieces, TakeApart, take_apart
from tidewire_schemas.codec import BATCH_FRAME_BYTES_MAX, parse_batch
from tidewire_schemas.digest import message_digest
from tidewire_schemas.messages import ChainPoint
from tidewire_schemas.positions import Position

_ASIDE: Final = 2**40
"""Added to the numbers of batches while others are moved: far above any that is given."""

logger = logging.getLogger(__name__)


class Incarnations:
    """Begins a new incarnation, with the batches of the outbox under its numbers."""

    def __init__(self, connection: sqlite3.Connection, meta: Meta, outbox: Outbox) -> None:
        self._connection = connection
        self._meta = meta
        self._outbox = outbox

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
        released = self._outbox.released
        if after is None or after < released:
            after, digest = released, None
        elif after == 0 and digest is None:
            digest = self._outbox.parent
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
        released = self._outbox.released
        seqs = {point.digest: point.seq for point in points}
        held = {number: digest for number, digest in self._outbox.digests_of(points).items() if digest in seqs}
        after = max(held, default=self._lowest() - 1)
        in_rows = [number for number, digest in held.items() if seqs[digest] <= common.seq]
        included = max(in_rows, default=self._lowest() - 1)

        def again(kept: Kept) -> Iterator[Anew]:
            return healing.anew(kept, common, lost=kept.batch <= released)

        self._begin(after, held.get(after), included, again)
        rows = self._connection.execute("SELECT payload FROM tidewire_batch WHERE batch > 0 ORDER BY batch")
        offered = takewhile(lambda row: parse_batch(row[0], bytes_max=len(row[0])).batch.was is not None, rows)
        return sum(1 for _ in offered)

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
            if old <= self._outbox.released and message_digest(kept.payload) != sealed_as:
                logger.error("batch %d is not as it was sealed, so it is not offered again: check the disk", old)
                continue
            self._outbox.check(old, sealed_as, kept.payload)
            for changes_json, was in anew(kept):
                number += 1
                batch = self._outbox.make(number, incarnation, last, changes_json, kept.sealed_at, was)
                self._outbox.store(batch._replace(batch=number + _ASIDE))
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
        self._outbox.changed()

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
        lowered = [
            ancestor._replace(shift=ancestor.shift + after, last=min(ancestor.last, ancestor.shift + after))
            for ancestor in (*ancestors(self._meta), here)
        ]
        kept = [a for a in lowered if a.last and oldest is not None and a.last - a.shift >= oldest]
        remember(self._meta, kept)

    def _move(self, which: str, limit: int, *, by: int) -> None:
        """Add to the numbers of some batches, in an order in which none meets another."""
        order = "ASC" if by < 0 else "DESC"
        numbers = self._connection.execute(
            f"SELECT batch FROM tidewire_batch WHERE {which} ORDER BY batch {order}", (limit,)
        )
        for (number,) in numbers.fetchall():
            self._connection.execute("UPDATE tidewire_batch SET batch = ? WHERE batch = ?", (number + by, number))


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
