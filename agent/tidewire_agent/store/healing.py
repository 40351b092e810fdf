"""A hub that has lost the end of its log: what this device does to its batches and tables.

The device goes back to the last entry that both have, and takes its tables anew from the hub: rows that the hub has
come first, then those that it has not are offered as seeds, as for a table that is attached late. So nothing is deleted
here because the log lacks it. Before that the device offers its own batches that were lost, each with its old place.
Until the tables are taken nothing is sealed: only then it is known which rows the hub has.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import Final, NamedTuple

from tidewire_agent.store.history import go_back
from tidewire_agent.store.meta import Meta
from tidewire_schemas.codec import encode_runs, parse_batch
from tidewire_schemas.messages import Run
from tidewire_schemas.names import fold
from tidewire_schemas.positions import START, Position

_TAKE_ANEW: Final = """
    UPDATE tidewire_table
    SET state = 'taking', first_batch = max(first_batch, ?), target = NULL, offered = NULL,
        cursor_epoch = ?, cursor_seq = ?
    WHERE state NOT IN ('missing', 'behind')
"""
_TAKE_ALL: Final = """
    UPDATE tidewire_table
    SET state = 'taking', first_batch = 1, target = NULL, offered = NULL, cursor_epoch = NULL, cursor_seq = NULL
    WHERE state <> 'missing'
"""
_WITHOUT_ORIGINALS: Final = "SELECT id FROM tidewire_table WHERE state = 'synced'"
_SEEN_NO_MORE: Final = "UPDATE tidewire_mark SET epoch = ?, seq = ? WHERE seq > ?"


class Kept(NamedTuple):
    """A batch in the outbox."""

    batch: int
    sealed_at: int
    payload: bytes
    epoch: int | None
    """Its place in the applied log."""
    seq: int | None
    refused: str | None
    """JSON of its rows that the hub refused, by table, op and key."""


class Anew(NamedTuple):
    """A batch to be."""

    changes_json: bytes
    was: Position | None


def healing(meta: Meta) -> Position | None:
    """While tables are taken anew: the place in the lost log up to which this device had applied it."""
    stored = meta.text("healing")
    return None if stored is None else Position(*json.loads(stored))


def healed(meta: Meta) -> None:
    """In the caller's transaction: all is taken and offered."""
    meta.set(healing=None, healing_tables=None)


def healing_tables(meta: Meta) -> frozenset[int]:
    """While tables are taken anew: those of which the lost log had every row, by id."""
    return frozenset(json.loads(meta.text("healing_tables") or "[]"))


def forget_table(meta: Meta, table_id: int) -> None:
    """In the caller's transaction: this table is detached, and another may get its number."""
    known = healing_tables(meta)
    if table_id in known:
        meta.set(healing_tables=json.dumps(sorted(known - {table_id})))


def fall_back(connection: sqlite3.Connection, meta: Meta, common: Position, offered: int) -> None:
    """In the caller's transaction: stand at the last common entry, and take all tables anew.

    `offered` own batches are offered again: they say nothing of the rows here, as these are taken from the log.
    """
    known = {table_id for (table_id,) in connection.execute(_WITHOUT_ORIGINALS)} | healing_tables(meta)
    meta.set(healing=json.dumps(max(meta.checkpoint, healing(meta) or START)), healing_tables=json.dumps(sorted(known)))
    go_back(meta, common)
    meta.checkpoint = common
    connection.execute(_SEEN_NO_MORE, (*common, common.seq))
    connection.execute("DELETE FROM tidewire_touched")
    connection.execute("DELETE FROM tidewire_parked")
    connection.execute("UPDATE tidewire_elsewhere SET arrived = 0 WHERE arrived IS NOT NULL")
    meta.set(elsewhere_at=0)
    from_start: tuple[int | None, int | None] = START if common != START else (None, None)
    connection.execute(_TAKE_ANEW, (offered + 1, *from_start))


def take_another_log(connection: sqlite3.Connection, meta: Meta) -> None:
    """In the caller's transaction: stand before the start of whatever log comes, with rows that it may not have."""
    for table in ("change", "mark", "touched", "parked", "elsewhere", "again"):
        connection.execute(f"DELETE FROM tidewire_{table}")
    connection.execute(_TAKE_ALL)
    meta.checkpoint = START
    meta.set(log_id=None, heard_epoch=0, history=None, healing=None, healing_tables=None, elsewhere_at=0)
    meta.set(drained=meta.number("drained") + 1)


def anew(kept: Kept, common: Position, *, lost: bool) -> Iterator[Anew]:
    """A batch as it is offered again where the hub has `lost` it, or is sent after all.

    It knows of the log what is left of it.
    """
    batch = parse_batch(kept.payload, bytes_max=len(kept.payload)).batch
    was = batch.was
    if lost and was is None:
        if kept.epoch is None or kept.seq is None or kept.seq <= common.seq:
            return  # the hub has it, or nobody knows its place: its rows are offered as seeds where they are missing
        was = Position(kept.epoch, kept.seq)
    refused = {(fold(table), op, json.dumps(key)) for table, op, key in json.loads(kept.refused or "[]")}
    runs = [_left_of(run, common, refused) for run in batch.changes]
    changes = [run for run in runs if run.rows]
    if changes:
        yield Anew(encode_runs(changes), was)


def _left_of(run: Run, common: Position, refused: set[tuple[str, str, str]]) -> Run:
    base = common if run.base.seq > common.seq else run.base
    places = [
        place
        for place, row in enumerate(run.rows)
        if (fold(run.table), run.op, json.dumps(row[: run.key])) not in refused
    ]
    rows = [run.rows[place] for place in places]
    ties = None if run.ties is None else tuple(run.ties[place] for place in places)
    return run.model_copy(update={"base": base, "rows": rows, "ties": ties})
