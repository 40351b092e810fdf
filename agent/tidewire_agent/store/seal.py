"""Sealing: the change log and the rows it names become a batch, whose bytes never change again.

Everything is read in one read snapshot and encoded before the write lock is taken; the write transaction then only
stores the bytes and removes the log rows. It commits without fsync (synchronous=NORMAL); `EdgeStore.harden` brings it
to the disk before anything is sent.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count
from typing import Any, Final, NamedTuple

from pydantic_core import to_json

from tidewire_agent.store import capture
from tidewire_agent.store.catalogue import Catalogue, Synced, Transaction
from tidewire_agent.store.dead_letters import DeadLetter, DeadLetters, null_key_letters
from tidewire_agent.store.healing import healed
from tidewire_agent.store.loads import Loads
from tidewire_agent.store.meta import Meta
from tidewire_agent.store.netchange import Change, LogRow, NetChange
from tidewire_agent.store.outbox import Outbox
from tidewire_agent.store.reading import fetch_all, snapshot
from tidewire_agent.store.seeds import Seeds
from tidewire_agent.store.sql import names, quote
from tidewire_agent.store.taking_apart import LooseRow
from tidewire_schemas.names import fold
from tidewire_schemas.positions import START, Position
from tidewire_schemas.values import decode_row, encode_row

logger = logging.getLogger(__name__)

TRANSACTION_ENDS_MAX: Final = 4096
"""Ends of transactions that are remembered: of more, the oldest are forgotten, and batches get larger."""

_MAX_ID: Final = 2**63 - 1

_PLAIN: Final = frozenset({int, str, float, type(None)})

WireRun = dict[str, Any]


class SealOutcome(NamedTuple):
    """What a call of `Sealer.seal` did."""

    batches: int
    """How many batches it stored (0 or 1)."""
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


class Draft(NamedTuple):
    """A batch that is read and encoded, and not yet stored."""

    runs: list[WireRun]
    changes_json: bytes
    first: int
    """Lowest change id that it covers."""
    cut: int
    """Highest change id that it covers."""
    dead: list[DeadLetter]
    touched: list[tuple[int, bytes]]
    """Keys, by table id and key bytes, of rows that are no longer only this device's own originals."""
    nothing: list[tuple[int, bytes]]
    """Keys of rows that were written and have no net change."""
    whole: list[tuple[int, bytes]]
    """Keys of rows whose earlier change was too large, and which are sent whole with this batch."""
    too_large: Sequence[tuple[WireRun, Sequence[Any]]] = ()
    """Rows that cannot be sent."""


class Sealer:
    """Makes batches of one database.

    Args:
        connection: the agent's connection, in autocommit mode.
        transaction: gives a write transaction.
        batch_bytes_max: a larger batch is split, and the log says so.
        changes_soft_max: a batch ends at the first known end of a transaction before or after so many change log rows.
        changes_max: change log rows taken into one batch, wherever transactions end.
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
        loads: Loads,
        *,
        batch_bytes_max: int,
        changes_soft_max: int,
        changes_max: int,
        sealed: Callable[[Sequence[tuple[int, bytes]]], None],
    ) -> None:
        self._connection = connection
        self._meta = meta
        self._catalogue = catalogue
        self._transaction = transaction
        self._outbox = outbox
        self._dead_letters = dead_letters
        self._seeds = seeds
        self._loads = loads
        self._own_batch_bytes_max = self._batch_bytes_max = batch_bytes_max
        self._changes_soft_max = changes_soft_max
        self._changes_max = changes_max
        self._ends: deque[int] = deque(maxlen=TRANSACTION_ENDS_MAX)
        """Change ids at which a transaction is known to end, ascending."""
        self._ends_of = (-1, -1)
        """The numbers `drained` and `trimmed` for which they hold: ids that were given then may be given again."""
        self._sealed = sealed
        connection.execute("CREATE TEMP TABLE tidewire_stays AS SELECT * FROM main.tidewire_change WHERE 0")

    def saw_commit(self) -> None:
        """Another connection has committed: what is in the change log now ends with a whole transaction."""
        ids_of = self._ids_of()
        (newest,) = self._connection.execute("SELECT max(id) FROM tidewire_change").fetchone()
        if ids_of != self._ends_of:
            self._ends.clear()
            self._ends_of = ids_of
        if newest is not None and (not self._ends or newest > self._ends[-1]):
            self._ends.append(newest)

    def seal(self, now_ms: int) -> SealOutcome:
        """Seal what is committed now: the change log first, seeds when it is empty."""
        if self._seeds.held:
            return SealOutcome(batches=0, more=False, lock_s=0.0)
        if self._seeds.is_over:
            with self._transaction():
                healed(self._meta)
            logger.info("all that is here and the hub had lost is offered to it again")
        limit = self._changes_max
        while True:
            draft = self._read(limit, now_ms)
            if draft is None:
                return self._seeds_as_batch(now_ms)
            if len(draft.changes_json) <= self._batch_bytes_max:
                break
            covered = self._covered(draft.cut)
            if covered == 1:
                draft = self._too_large(draft, now_ms)
                break
            limit = max(1, covered // 2)
            logger.warning(
                "a transaction of more than batch_bytes_max=%d bytes is split into several batches",
                self._batch_bytes_max,
            )
        changes = draft.cut - draft.first + 1
        if changes >= self._changes_max:
            logger.warning(
                "more than changes_per_batch_max=%d changes wait: they are sent as several batches, which may part a"
                " transaction",
                self._changes_max,
            )
        lock_s = self._store(draft, now_ms)
        left = self._left()
        return SealOutcome(
            batches=1 if draft.runs else 0,
            more=left > 0 or self._seeds.waiting(),
            lock_s=lock_s,
            changes=changes,
            left=left,
            bytes=len(draft.changes_json),
        )

    def heed(self, batch_bytes_max: int) -> None:
        """The hub takes no batch above this."""
        self._batch_bytes_max = min(self._own_batch_bytes_max, batch_bytes_max)

    def keep_back(self, rows: Sequence[LooseRow]) -> None:
        """In the caller's transaction: these rows were sealed, and turn out to be more than the hub takes."""
        now_ms = time.time_ns() // 1_000_000
        for loose in rows:
            run = loose.run.model_dump()
            self._dead_letters.add([self._letter(run, loose.row, loose.size, now_ms)])
            self._set_unsent(run, loose.row)

    # ── read ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _read(self, limit: int, now_ms: int) -> Draft | None:
        with snapshot(self._connection):
            (first,) = self._connection.execute("SELECT min(id) FROM tidewire_change").fetchone()
            if first is None:
                return None
            (cut,) = self._connection.execute(
                "SELECT max(id) FROM (SELECT id FROM tidewire_change WHERE id <= ? ORDER BY id LIMIT ?)",
                (self._end_of_transaction(first), limit),
            ).fetchone()
            base_of = self._bases(cut)
            ties = count(1)
            runs: list[WireRun] = []
            dead: list[DeadLetter] = []
            touched: list[tuple[int, bytes]] = []
            nothing: list[tuple[int, bytes]] = []
            whole: list[tuple[int, bytes]] = []
            unsent = set(self._connection.execute("SELECT t, key FROM tidewire_unsent"))
            tables = self._connection.execute(
                "SELECT DISTINCT t FROM tidewire_change WHERE id <= ? ORDER BY t", (cut,)
            ).fetchall()
            for (table_id,) in tables:
                synced = self._catalogue.by_id(table_id)
                if synced is None:
                    logger.warning("changes of a table that is not attached any more were set aside")
                    continue
                rows = self._joined(synced, cut)
                seen = self._loads.seen(synced)
                plain = seen is None and not synced.attached.has_originals
                fast = _all_inserted(synced, rows, base_of) if plain else None
                if fast is not None:
                    runs.append(fast)
                    continue
                row_base = _base_of_rows(synced, base_of, seen)
                changes = self._net_changes(synced, rows, row_base, lambda: next(ties), dead, nothing, now_ms)
                if seen is None:
                    changes = _taken_over(synced, changes)
                runs.extend(self._runs(synced, changes, touched, nothing, unsent, whole))
            runs.sort(key=lambda run: run["op"] != "delete")
            return Draft(runs, _encoded(runs), first, cut, dead, touched, nothing, whole)

    def _end_of_transaction(self, first: int) -> int:
        """Where the batch that begins with this change should end, so that receivers apply it in a short time.

        Rows are read as they are now. So a batch may end before the newest change only if no later one is about a row
        of it, which is certain where there are only inserts: no key comes twice among them.
        """
        if self._ends_of != self._ids_of() or not self._ends or self._ends[-1] < first + self._changes_soft_max:
            return _MAX_ID
        others = self._connection.execute(
            "SELECT EXISTS (SELECT 1 FROM tidewire_change WHERE op <> ?)", (capture.INSERTED,)
        ).fetchone()[0]
        if others:
            return _MAX_ID
        while self._ends and self._ends[0] < first:
            self._ends.popleft()
        target = first + self._changes_soft_max
        return next(end for end in self._ends if end >= target)

    def _ids_of(self) -> tuple[int, int]:
        return self._meta.number("drained"), self._meta.number("trimmed")

    def _joined(self, synced: Synced, cut: int) -> list[tuple[Any, ...]]:
        """(id, op, cols, key…, is there, columns…) for each change of the table."""
        table = synced.table
        width = len(table.key)
        on = " AND ".join(f"r.{quote(column)} = c.k{i}" for i, column in enumerate(table.key))
        statement = f"""
            SELECT c.id, c.op, c.cols, {", ".join(f"c.k{i}" for i in range(width))},
                   r.{quote(table.key[0])} IS NOT NULL, {names(table.column_names, "r")}
            FROM tidewire_change AS c LEFT JOIN {quote(table.name)} AS r ON {on}
            WHERE c.t = ? AND c.id <= ?
            ORDER BY c.id
        """
        return fetch_all(self._connection, statement, (synced.attached.id, cut))

    def _bases(self, cut: int) -> Callable[[int], Position]:
        marks = self._connection.execute("SELECT id, epoch, seq FROM tidewire_mark ORDER BY id").fetchall()
        checkpoint = self._meta.checkpoint
        if not marks:
            return lambda _id: checkpoint

        def base_of(change_id: int) -> Position:
            for mark_id, epoch, seq in marks:
                if change_id <= mark_id:
                    return Position(epoch, seq)
            return checkpoint

        return base_of

    def _net_changes(
        self,
        synced: Synced,
        rows: Sequence[tuple[Any, ...]],
        base_of: Callable[[Sequence[Any], int], Position],
        next_tie: Callable[[], int],
        dead: list[DeadLetter],
        nothing: list[tuple[int, bytes]],
        now_ms: int,
    ) -> list[Change]:
        table = synced.table
        width = len(table.key)
        net = NetChange(table.key_bytes, next_tie)
        without_key: Counter[tuple[Any, ...]] = Counter()

        def log_rows() -> Iterator[LogRow]:
            for row in rows:
                key = row[3 : 3 + width]
                if None in key:
                    without_key[key] += row[1] in capture.LEAVES_A_ROW
                    continue
                yield LogRow(
                    id=row[0],
                    op=row[1],
                    changed=capture.mask_columns(row[2], synced.attached.columns),
                    key=key,
                    row=row[4 + width :] if row[3 + width] else None,
                    base=base_of(key, row[0]),
                )

        net.feed(log_rows())
        for key, written in without_key.items():
            dead.extend(null_key_letters(self._connection, table, key, now_ms, rows_max=written))
        changes = net.changes()
        nothing.extend((synced.attached.id, key) for key in net.nothing)
        return changes

    def _runs(
        self,
        synced: Synced,
        changes: Sequence[Change],
        touched: list[tuple[int, bytes]],
        nothing: list[tuple[int, bytes]],
        unsent: set[tuple[int, bytes]],
        whole: list[tuple[int, bytes]],
    ) -> list[WireRun]:
        """Changes grouped into runs of one operation, base and set of columns."""
        table = synced.table
        width = len(table.key)
        order = table.column_names
        grouped: dict[tuple[str, Position, tuple[int, ...]], WireRun] = {}
        for change in changes:
            op = change.op
            if synced.attached.has_originals:
                key = (synced.attached.id, table.key_bytes(change.key))
                if op != "put" and self._seeds.is_original(synced, change.key):
                    if change.row is None:  # it was here before and the hub never heard of it
                        nothing.append(key)
                        continue
                    op = "seed"
                touched.append(key)
            if unsent and (key := (synced.attached.id, table.key_bytes(change.key))) in unsent:
                op = "put" if op == "set" else op
                whole.append(key)
            base = change.base
            if op == "set":
                places = tuple(i for i, name in enumerate(order) if i < width or fold(name) in change.changed)
            elif op == "delete":
                places = tuple(range(width))
            else:
                places = tuple(range(len(order)))
            if op == "set" and len(places) == width:
                continue  # the changed columns are gone
            run = grouped.get((op, base, places))
            if run is None:
                run = grouped[op, base, places] = _run(op, synced, base, [order[i] for i in places])
                run["ties"] = []
            row = change.key if change.row is None else change.row
            run["rows"].append(encode_row(row if len(places) == len(row) else [row[i] for i in places]))
            run["ties"].append(change.tie)
        for run in grouped.values():
            if not any(run["ties"]):
                del run["ties"]
        return list(grouped.values())

    # ── store ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _store(self, draft: Draft, now_ms: int) -> float:
        batch = self._outbox.next_batch(draft.changes_json, now_ms) if draft.runs else None
        with self._transaction():
            started = time.perf_counter()
            if batch is not None:
                self._outbox.append(batch)
            if draft.touched:
                self._connection.executemany(
                    "INSERT OR IGNORE INTO tidewire_touched (t, key) VALUES (?, ?)", draft.touched
                )
            for run, row in draft.too_large:
                self._set_unsent(run, row)
            self._connection.executemany("DELETE FROM tidewire_unsent WHERE t = ? AND key = ?", draft.whole)
            self._dead_letters.add(draft.dead)
            self._remove_changes(draft.cut)
            self._sealed(draft.nothing)
        return time.perf_counter() - started

    def _remove_changes(self, cut: int) -> None:
        """Without WHERE a table is emptied page by page, not row by row: so what is to stay is set aside, if little."""
        # Two queries: SQLite finds one extreme at an end of the table, but reads all of it for both at once.
        (oldest,) = self._connection.execute("SELECT min(id) FROM tidewire_change").fetchone()
        (newest,) = self._connection.execute("SELECT max(id) FROM tidewire_change").fetchone()
        if newest == cut:
            self._connection.execute("DELETE FROM tidewire_change")
            self._connection.execute("DELETE FROM tidewire_mark")
            self._meta.set(drained=self._meta.number("drained") + 1)  # ids begin anew
            return
        if newest - cut < (cut - oldest) // 4:
            self._connection.execute(
                "INSERT INTO temp.tidewire_stays SELECT * FROM main.tidewire_change WHERE id > ?", (cut,)
            )
            self._connection.execute("DELETE FROM main.tidewire_change")
            self._connection.execute("INSERT INTO main.tidewire_change SELECT * FROM temp.tidewire_stays")
            self._connection.execute("DELETE FROM temp.tidewire_stays")
        else:
            self._connection.execute("DELETE FROM tidewire_change WHERE id <= ?", (cut,))
        self._connection.execute("DELETE FROM tidewire_mark WHERE id <= ?", (cut,))

    def _left(self) -> int:
        (oldest,) = self._connection.execute("SELECT min(id) FROM tidewire_change").fetchone()
        (newest,) = self._connection.execute("SELECT max(id) FROM tidewire_change").fetchone()
        return 0 if oldest is None else int(newest) - int(oldest) + 1

    def _covered(self, cut: int) -> int:
        return int(self._connection.execute("SELECT count(*) FROM tidewire_change WHERE id <= ?", (cut,)).fetchone()[0])

    def _too_large(self, draft: Draft, now_ms: int) -> Draft:
        """One row that alone is above the limit: it cannot travel, and a person is told."""
        rows = [(run, row) for run in draft.runs for row in run["rows"]]
        dead = [self._letter(run, row, len(draft.changes_json), now_ms) for run, row in rows]
        return draft._replace(runs=[], changes_json=b"[]", dead=[*draft.dead, *dead], whole=[], too_large=rows)

    def _letter(self, run: WireRun, row: Sequence[Any], size: int, now_ms: int) -> DeadLetter:
        return DeadLetter(
            at=now_ms,
            table=run["table"],
            op=run["op"],
            key=list(row[: run["key"]]),
            cells={} if run["op"] == "delete" else dict(zip(run["columns"], row, strict=True)),
            reason="row_too_large",
            detail=f"{size} bytes are above batch_bytes_max={self._batch_bytes_max}; the row stays on this device",
        )

    def _set_unsent(self, run: WireRun, row: Sequence[Any]) -> None:
        """The hub does not know this row as it is: remember to send it whole when it changes again."""
        synced = self._catalogue.by_name(run["table"])
        if synced is not None and run["op"] != "delete":
            key = synced.table.key_bytes(tuple(decode_row(row[: run["key"]])))
            self._connection.execute(
                "INSERT OR IGNORE INTO tidewire_unsent (t, key) VALUES (?, ?)", (synced.attached.id, key)
            )

    def _seeds_as_batch(self, now_ms: int) -> SealOutcome:
        chunk = self._seeds.next_chunk(now_ms)
        if chunk is None:
            return SealOutcome(batches=0, more=False, lock_s=0.0)
        run = _run("seed", chunk.synced, self._meta.checkpoint, list(chunk.synced.table.column_names))
        run["rows"] = chunk.rows
        encoded = to_json([run])
        too_large: Sequence[Any] | None = None
        if len(encoded) > self._batch_bytes_max and len(chunk.rows) > 1:
            # A chunk ends with the row that made it large: that one goes, or does not, by itself.
            chunk = chunk.without_last()
            run["rows"] = chunk.rows
            encoded = to_json([run])
        elif len(encoded) > self._batch_bytes_max:
            (too_large,) = chunk.rows
            chunk.dead.append(self._letter(run, too_large, len(encoded), now_ms))
        sends = bool(chunk.rows) and too_large is None
        batch = self._outbox.next_batch(encoded, now_ms, self._seeds.healing) if sends else None
        with self._transaction():
            started = time.perf_counter()
            if batch is not None:
                self._outbox.append(batch)
            if too_large is not None:
                self._set_unsent(run, too_large)
            self._dead_letters.add(chunk.dead)
            self._seeds.offered(chunk)
        lock_s = time.perf_counter() - started
        return SealOutcome(batches=1 if sends else 0, more=True, lock_s=lock_s, bytes=len(encoded))


def _base_of_rows(
    synced: Synced,
    base_of: Callable[[int], Position],
    seen: Callable[[Sequence[Any], int], Position | None] | None,
) -> Callable[[Sequence[Any], int], Position]:
    """(key, change id) → what the device had applied of the row when the app changed it."""
    if seen is None:
        return lambda _key, change_id: base_of(change_id)
    is_new = synced.attached.cursor is not None and synced.attached.has_originals
    # Where the snapshot has not brought the row yet, the app knows what it knew before; of a new table that is nothing.
    return lambda key, change_id: seen(key, change_id) or (START if is_new else base_of(change_id))


def _taken_over(synced: Synced, changes: list[Change]) -> list[Change]:
    """While a table is being taken over from the log, the device has applied less of it than the checkpoint says."""
    cursor = synced.attached.cursor
    if cursor is None or not synced.attached.has_originals:
        return changes
    # A row that the app makes meanwhile was made in ignorance of all that is still to come.
    return [change._replace(base=START if change.op == "put" else min(change.base, cursor)) for change in changes]


def _run(op: str, synced: Synced, base: Position, columns: list[str]) -> WireRun:
    return {
        "op": op,
        "table": synced.table.name,
        "base": base,
        "key": len(synced.table.key),
        "columns": columns,
        "rows": [],
    }


def _all_inserted(synced: Synced, rows: list[tuple[Any, ...]], base_of: Callable[[int], Position]) -> WireRun | None:
    """The common case without looking at rows one by one: fresh inserts only, all still there, one base."""
    width = len(synced.table.key)
    base = base_of(rows[0][0])
    if (
        base_of(rows[-1][0]) != base
        or any(row[1] != capture.INSERTED or not row[3 + width] for row in rows)
        or len({row[3 : 3 + width] for row in rows}) != len(rows)
    ):
        return None
    run = _run("put", synced, base, list(synced.table.column_names))
    values = [row[4 + width :] for row in rows]
    if not _PLAIN.issuperset(map(type, chain.from_iterable(values))):
        values = [tuple(encode_row(row)) for row in values]
    run["rows"] = values
    return run


def _encoded(runs: list[WireRun]) -> bytes:
    encoded = to_json(runs)
    if b"Infinity" in encoded:  # a row taken as plain holds ±inf (or a text says so)
        for run in runs:
            run["rows"] = [encode_row(row) for row in run["rows"]]
        encoded = to_json(runs)
    return encoded
