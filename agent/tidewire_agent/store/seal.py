"""Sealing: the change log and the rows it names become a batch, whose bytes never change again.

Everything is read in one read snapshot and encoded before the write lock is taken; the write transaction then only
stores the bytes and removes the log rows. It commits without fsync (synchronous=NORMAL); `EdgeStore.harden` brings it
to the disk before anything is sent.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pydantic_core import from_json

from tidewire_agent.store.catalogue import Catalogue, Transaction
from tidewire_agent.store.change_log import ChangeLog
from tidewire_agent.store.dead_letters import DeadLetter, DeadLetters
from tidewire_agent.store.draft import Draft, Drafter, TooManyBytes, encoded_seeds
from tidewire_agent.store.healing import healed
from tidewire_agent.store.meta import Meta
from tidewire_agent.store.once_more import OnceMore
from tidewire_agent.store.outbox import Outbox, SealedBatch
from tidewire_agent.store.reading import snapshot
from tidewire_agent.store.seeds import Seeds
from tidewire_agent.store.taken_over import TakenOver
from tidewire_agent.store.taking_apart import LooseRow
from tidewire_agent.turn import TURN
from tidewire_schemas.codec import BATCH_FRAME_BYTES_MAX
from tidewire_schemas.values import decode_row

logger = logging.getLogger(__name__)

KEY_CHARS_MAX: Final = 200
"""Of a key in the log."""


class SealOutcome(NamedTuple):
    """What a call of `Sealer.seal` did."""

    batch: SealedBatch | None
    """What it stored, if there was anything to send."""
    more: bool
    """Whether there is more to seal now."""
    lock_s: float
    """Seconds for which it held the app's write lock."""
    changes: int = 0
    """About how many changes of the app it took."""
    left: int = 0
    """About how many it left for another batch, most of them made meanwhile."""
    bytes: int = 0
    """Size of the batch."""
    step: int = 0
    """The fewest changes that the app was lately seen to commit at once; 0 where that is not known."""


class Sealer:
    """Makes batches of one database.

    Args:
        connection: the agent's connection, in autocommit mode.
        transaction: gives a write transaction.
        sealed: told, in the storing transaction, of rows whose changes came to nothing.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        meta: Meta,
        catalogue: Catalogue,
        transaction: Transaction,
        outbox: Outbox,
        dead_letters: DeadLetters,
        seeds: Seeds,
        taken_over: TakenOver,
        changes: ChangeLog,
        drafter: Drafter,
        once_more: OnceMore,
        *,
        sealed: Callable[[Sequence[tuple[int, bytes]]], None],
    ) -> None:
        self._connection = connection
        self._meta = meta
        self._catalogue = catalogue
        self._transaction = transaction
        self._outbox = outbox
        self._dead_letters = dead_letters
        self._seeds = seeds
        self._taken_over = taken_over
        self._changes = changes
        self._drafter = drafter
        self._once_more = once_more
        self._sealed = sealed

    def seal(self, now_ms: int, least: int = 1) -> SealOutcome:
        """Seal what is committed now, if it is as many changes as `least`: the change log first, then seeds."""
        if self._seeds.held:
            return SealOutcome(batch=None, more=False, lock_s=0.0)
        if least > 1 and (left := self._changes.left()) < least:
            return SealOutcome(batch=None, more=False, lock_s=0.0, left=left)
        if self._seeds.is_over:
            with self._transaction():
                self._once_more.offer(now_ms)
                healed(self._meta)
            logger.info("all that is here and the hub had lost is offered to it again")
        draft = self._draft(now_ms)
        if draft is None:
            return self._seeds_as_batch(now_ms)
        if len(draft.changes_json) > self._changes.changes_bytes_max:
            batch, lock_s = None, self._set_aside(draft, now_ms)
        else:
            batch, lock_s = self._store(draft, now_ms)
        left = self._changes.left()
        return SealOutcome(
            batch=batch,
            more=left > 0 or self._seeds.waiting(),
            lock_s=lock_s,
            changes=draft.stretch.changes,
            left=left,
            bytes=len(draft.changes_json),
            step=self._changes.step(),
        )

    def keep_back(self, rows: Sequence[LooseRow], bytes_max: int) -> None:
        """In the caller's transaction: these rows were sealed, and turn out to be more than the hub takes."""
        now_ms = time.time_ns() // 1_000_000
        for loose in rows:
            run = loose.run.model_dump()
            self._dead_letters.add([self._letter(run, loose.row, loose.size, bytes_max, now_ms)])
            self._set_unsent(run, loose.row)

    # ── the change log ────────────────────────────────────────────────────────────────────────────────────────────

    def _draft(self, now_ms: int) -> Draft | None:
        """What the next batch holds, if there is a change; above the limit of bytes only where that is one change."""
        while True:
            with TURN, snapshot(self._connection):
                stretch = self._changes.next()
                if stretch is None:
                    return None
                try:
                    draft = self._drafter.read(stretch, now_ms)
                    if len(draft.changes_json) <= stretch.bytes_max:
                        return draft
                except TooManyBytes:
                    draft = None
                if not self._changes.cut_smaller(stretch):
                    return draft

    def waiting(self) -> bool:
        """Whether there is anything to seal now."""
        return self._changes.left() > 0 or self._seeds.waiting()

    def _store(self, draft: Draft, now_ms: int) -> tuple[SealedBatch | None, float]:
        was = self._seeds.healing if draft.offers else None
        batch = None if draft.is_empty else self._outbox.next_batch(draft.changes_json, now_ms, was)
        with self._transaction():
            started = time.perf_counter()
            if batch is not None:
                self._outbox.append(batch)
            if draft.offers:
                self._touch(draft)
                return batch, time.perf_counter() - started
            self._took(draft)
            self._connection.executemany("DELETE FROM tidewire_unsent WHERE t = ? AND key = ?", draft.whole)
            self._mended(draft)
        return batch, time.perf_counter() - started

    def _set_aside(self, draft: Draft, now_ms: int) -> float:
        """One row that alone is above the limit: it cannot travel, and a person is told."""
        runs = from_json(draft.changes_json)
        with self._transaction():
            started = time.perf_counter()
            self._mended(draft)
            for run in runs:
                for row in run["rows"]:
                    self._set_unsent(run, row)
                    self._dead_letters.add(
                        [self._letter(run, row, len(draft.changes_json), self._changes.batch_bytes_max, now_ms)]
                    )
            self._took(draft)
        return time.perf_counter() - started

    def _mended(self, draft: Draft) -> None:
        """Letters of rows that were too large, and are read anew with this draft, are out of date."""
        keys: dict[int, set[bytes]] = {}
        for table_id, key in draft.whole:
            keys.setdefault(table_id, set()).add(key)
        for table_id, names_of_keys in keys.items():
            synced = self._catalogue.by_id(table_id)
            if synced is not None:
                self._dead_letters.mended(synced, names_of_keys)

    def _touch(self, draft: Draft) -> None:
        self._connection.executemany("INSERT OR IGNORE INTO tidewire_touched (t, key) VALUES (?, ?)", draft.touched)

    def _took(self, draft: Draft) -> None:
        self._touch(draft)
        self._dead_letters.add(draft.dead)
        self._changes.remove(draft.stretch.cut)
        self._sealed(draft.nothing)

    # ── rows that were there before ───────────────────────────────────────────────────────────────────────────────

    def _seeds_as_batch(self, now_ms: int) -> SealOutcome:
        if self._taken_over.settle():
            return SealOutcome(batch=None, more=True, lock_s=0.0)
        chunk = self._seeds.next_chunk(now_ms)
        if chunk is None:
            return SealOutcome(batch=None, more=self._changes.left() > 0, lock_s=0.0)
        bytes_max = self._changes.changes_bytes_max
        encoded = encoded_seeds(chunk.synced, self._meta.checkpoint, chunk.rows)
        too_large = None
        if len(encoded) > bytes_max and len(chunk.rows) > 1:
            # A chunk ends with the row that made it large: that one goes, or does not, by itself.
            chunk = chunk.without_last()
            encoded = encoded_seeds(chunk.synced, self._meta.checkpoint, chunk.rows)
        elif len(encoded) > bytes_max:
            (too_large,) = from_json(encoded)
            chunk.dead.append(
                self._letter(too_large, too_large["rows"][0], len(encoded), self._changes.batch_bytes_max, now_ms)
            )
        sends = bool(chunk.rows) and too_large is None
        was = self._seeds.healing if self._seeds.had_all(chunk.synced) else None  # else no log ever had the rows
        batch = self._outbox.next_batch(encoded, now_ms, was) if sends else None
        with self._transaction():
            started = time.perf_counter()
            if batch is not None:
                self._outbox.append(batch)
            if too_large is not None:
                self._set_unsent(too_large, too_large["rows"][0])
            self._dead_letters.add(chunk.dead)
            self._seeds.offered(chunk)
        lock_s = time.perf_counter() - started
        return SealOutcome(batch=batch, more=True, lock_s=lock_s, bytes=len(encoded))

    # ── rows that cannot be sent ──────────────────────────────────────────────────────────────────────────────────

    def _letter(
        self, run: Mapping[str, Any], row: Sequence[Any], changes_bytes: int, bytes_max: int, now_ms: int
    ) -> DeadLetter:
        size = changes_bytes + BATCH_FRAME_BYTES_MAX
        if size > bytes_max:
            why = f"a batch of this row alone may have {size} bytes, above batch_bytes_max={bytes_max}"
        else:
            why = f"the hub takes no batch of this row, of {size} bytes"
        named = json.dumps(row[: run["key"]], ensure_ascii=False)[:KEY_CHARS_MAX]
        logger.warning("table %s, key %s: %s; the row stays on this device, as a dead letter", run["table"], named, why)
        return DeadLetter(
            at=now_ms,
            table=run["table"],
            op=run["op"],
            key=list(row[: run["key"]]),
            cells={} if run["op"] == "delete" else dict(zip(run["columns"], row, strict=True)),
            reason="row_too_large",
            detail=f"{why}; the row stays on this device",
        )

    def _set_unsent(self, run: Mapping[str, Any], row: Sequence[Any]) -> None:
        """The hub does not know this row as it is: remember to send it whole when it changes again."""
        synced = self._catalogue.by_name(run["table"])
        if synced is not None and run["op"] != "delete":
            key = synced.table.key_bytes(tuple(decode_row(row[: run["key"]])))
            self._connection.execute(
                "INSERT OR IGNORE INTO tidewire_unsent (t, key) VALUES (?, ?)", (synced.attached.id, key)
            )
