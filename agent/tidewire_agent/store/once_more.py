"""Changes that met no row at a hub which had lost the end of its log: they are offered once more, when all else is.

Devices come back in any order. A change may reach the hub before the row that another device will offer again; by
itself it would be refused, and that row come back as if nobody had changed it. So it is kept here until this device has
offered all its rows, and offered then, in its old place: the hub takes of it what nobody later has written over. A
delete is offered so, too: it leaves a tombstone, on which the row comes to nothing.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence

from tidewire_agent.store.catalogue import Catalogue
from tidewire_agent.store.outbox import Outbox
from tidewire_agent.store.seeds import Seeds
from tidewire_schemas.codec import parse_batch
from tidewire_schemas.messages import Entry, Refusal, Run
from tidewire_schemas.names import fold
from tidewire_schemas.positions import START, Position
from tidewire_schemas.values import WireRow, WireValue


class OnceMore:
    """The `tidewire_again` table. All methods belong to the caller's transaction."""

    def __init__(self, connection: sqlite3.Connection, catalogue: Catalogue, outbox: Outbox, seeds: Seeds) -> None:
        self._connection = connection
        self._catalogue = catalogue
        self._outbox = outbox
        self._seeds = seeds

    def keep_set(self, was: Position, refusal: Refusal, cells: dict[str, WireValue]) -> None:
        """A change of a row, in this place of the lost log, that the hub could not take yet."""
        if cells:
            row = [*refusal.key, *cells.values()]
            self._keep(was, "set", refusal.table, len(refusal.key), (*refusal.columns, *cells), [row])

    def keep_deletes(self, entry: Entry, payload: bytes) -> None:
        """Deletes of a batch that never had left before, where the hub had no row: it may get that yet."""
        healing = self._seeds.healing
        if healing is None or entry.was is not None:
            return
        was = Position(healing.epoch, healing.seq + 1)  # after all that this device had applied
        done = {_name(run, row) for run in entry.changes if run.op == "delete" for row in run.rows}
        done.update((fold(refusal.table), json.dumps(refusal.key)) for refusal in entry.refused)
        for run in parse_batch(payload, bytes_max=len(payload)).batch.changes:
            if run.op == "delete":
                rows = [row for row in run.rows if _name(run, row) not in done]
                if rows:
                    self._keep(was, "delete", run.table, run.key, run.columns, rows)

    def offer(self, now_ms: int) -> None:
        """Seal what is kept, each in its place."""
        kept = self._connection.execute("SELECT epoch, seq, changes FROM tidewire_again ORDER BY epoch, seq").fetchall()
        for epoch, seq, changes in kept:
            (run,) = json.loads(changes)
            if self._catalogue.by_name(run["table"]) is not None:
                self._outbox.append(self._outbox.next_batch(changes.encode(), now_ms, Position(epoch, seq)))
        self._connection.execute("DELETE FROM tidewire_again")

    def _keep(
        self, was: Position, op: str, table: str, key: int, columns: Iterable[str], rows: Sequence[WireRow]
    ) -> None:
        run = {"op": op, "table": table, "base": START, "key": key, "columns": list(columns), "rows": rows}
        self._connection.execute("INSERT OR IGNORE INTO tidewire_again VALUES (?, ?, ?)", (*was, json.dumps([run])))


def _name(run: Run, row: Sequence[WireValue]) -> tuple[str, str]:
    return fold(run.table), json.dumps(row[: run.key])
