"""Seeds: rows that were in a table before it was attached.

The hub's rows come first (`taking`). Then the rows that the log has not touched are offered in key order (`offering`),
as seeds: the hub accepts one only where it holds neither a row nor a tombstone, so an old copy never reverts a fleet.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from tidewire_agent.store import healing
from tidewire_agent.store.catalogue import Catalogue, Synced
from tidewire_agent.store.dead_letters import DeadLetter, null_key
from tidewire_agent.store.meta import Meta
from tidewire_agent.store.reading import fetch_all, snapshot
from tidewire_agent.store.rows import key_after, key_is
from tidewire_agent.store.sql import names, quote
from tidewire_schemas.positions import Position
from tidewire_schemas.values import RawText, Value, decode, decode_row, encode, encode_row

BYTES_PER_CELL: Final = 40
"""A guess that turns the byte limit of a chunk into a number of rows; larger rows make the chunk end early."""

NULL_KEYS_LISTED_MAX: Final = 1000
"""Rows without a key that are listed as dead letters when a table is offered."""


class Chunk(NamedTuple):
    """Some rows to be offered, or none when the table is through."""

    synced: Synced
    rows: list[Sequence[Any]]
    last_key: Sequence[Value] | None
    """The key up to which the table is offered with this chunk; None at its end."""
    dead: list[DeadLetter]

    def without_last(self) -> Chunk:
        """The same less its last row, which is offered next."""
        width = len(self.synced.table.key)
        return self._replace(rows=self.rows[:-1], last_key=tuple(decode_row(self.rows[-2][:width])))


class Seeds:
    """Offers the original rows of attached tables.

    Args:
        chunk_bytes: about how many bytes of rows go into one batch.
    """

    def __init__(self, connection: sqlite3.Connection, meta: Meta, catalogue: Catalogue, *, chunk_bytes: int) -> None:
        self._connection = connection
        self._meta = meta
        self._catalogue = catalogue
        self._chunk_bytes = chunk_bytes

    def aim(self, head: int) -> None:
        """In the caller's transaction: tables attached since the last handshake take the log up to `head` first.

        So do those that were to take it further, where the log has lost its end since.
        """
        self._connection.execute(
            "UPDATE tidewire_table SET target = ?1 WHERE state = 'taking' AND (target IS NULL OR target > ?1)", (head,)
        )
        self._catalogue.registry.reload()

    def advance(self, replayed: Position) -> None:
        """In the caller's transaction: tables whose part of the log is taken may be offered now.

        After the hub has lost rows, only once it has judged what was offered again: that may have brought them.
        """
        if self.healing is not None and self._meta.number("next_batch") - 1 > self._meta.number("released"):
            return
        for synced in self._catalogue:
            attached = synced.attached
            if (
                attached.state == "taking"
                and attached.target is not None
                and attached.cursor is None
                and replayed.seq >= attached.target
            ):
                self._catalogue.registry.update(attached.id, state="offering")

    @property
    def healing(self) -> Position | None:
        """While rows that the hub may have lost are offered: how far this device had applied the lost log."""
        return healing.healing(self._meta)

    def had_all(self, synced: Synced) -> bool:
        """Whether a table is taken anew, and the log that was lost had every row of it."""
        return self.healing is not None and synced.attached.id in healing.healing_tables(self._meta)

    @property
    def held(self) -> bool:
        """Whether nothing may be sealed, as it is not known yet which rows the hub has."""
        return self.healing is not None and any(synced.attached.state == "taking" for synced in self._catalogue)

    @property
    def is_over(self) -> bool:
        """Whether healing has come to its end: there is nothing more to offer."""
        return self.healing is not None and not any(synced.attached.has_originals for synced in self._catalogue)

    def waiting(self) -> bool:
        """Whether there is anything to offer now."""
        return any(synced.attached.state == "offering" for synced in self._catalogue)

    def is_original(self, synced: Synced, key: Sequence[Value]) -> bool:
        """Whether this key's row, where there is one, was there before and is not offered yet."""
        attached, table = synced
        if not attached.has_originals:
            return False
        touched = self._connection.execute(
            "SELECT 1 FROM tidewire_touched WHERE t = ? AND key = ?", (attached.id, table.key_bytes(list(key)))
        ).fetchone()
        if touched is not None:
            return False
        if attached.offered is None:
            return True
        # SQLite itself compares with the last key offered, as the scan did.
        where, bound = key_is(table.key, key)
        after, after_bound = _after(synced)
        row = self._connection.execute(
            f"SELECT 1 FROM {quote(table.name)} WHERE {where} {after}", [*bound, *after_bound]
        ).fetchone()
        return row is not None

    def may_be_lost(self, synced: Synced, key: Sequence[Value]) -> bool:
        """Whether the hub has lost this row, as far as is known."""
        return self.healing is not None and self.is_original(synced, key)

    def next_chunk(self, now_ms: int) -> Chunk | None:
        """The next rows to offer, None when there is nothing to offer, or changes of the app must be sealed before.

        A row that the app has just written would be offered, and be sealed as its change again.
        """
        for synced in self._catalogue:
            if synced.attached.state == "offering":
                with snapshot(self._connection):
                    return None if self._changes_wait() else self._read(synced, now_ms)
        return None

    def offered(self, chunk: Chunk) -> None:
        """In the caller's transaction: this chunk is in a batch."""
        table_id = chunk.synced.attached.id
        registry = self._catalogue.registry
        if chunk.last_key is None:
            self._connection.execute("DELETE FROM tidewire_touched WHERE t = ?", (table_id,))
            registry.update(table_id, state="synced", offered=None, target=None)
        else:
            registry.update(table_id, offered=json.dumps([encode(value) for value in chunk.last_key]))

    def _changes_wait(self) -> bool:
        return bool(self._connection.execute("SELECT EXISTS (SELECT 1 FROM tidewire_change)").fetchone()[0])

    def _read(self, synced: Synced, now_ms: int) -> Chunk:
        attached, table = synced
        width = len(table.key)
        limit = max(1, self._chunk_bytes // (BYTES_PER_CELL * len(table.column_names)))
        no_null = " AND ".join(f"{quote(column)} IS NOT NULL" for column in table.key)
        dead = self._rows_without_key(synced, no_null, now_ms) if attached.offered is None else []
        after, parameters = _after(synced)
        found = fetch_all(
            self._connection,
            f"""
            SELECT {names(table.column_names)} FROM {quote(table.name)}
            WHERE {no_null} {after} ORDER BY {names(table.key)} LIMIT ?
            """,
            [*parameters, limit],
        )
        rows: list[Sequence[Any]] = []
        size = 0
        for row in found:
            if self._is_touched(synced, row[:width]):
                continue
            rows.append(encode_row(row))
            size += _size(row)
            if size > self._chunk_bytes:
                return Chunk(synced, rows, row[:width], dead)
        return Chunk(synced, rows, found[-1][:width] if len(found) == limit else None, dead)

    def _rows_without_key(self, synced: Synced, no_null: str, now_ms: int) -> list[DeadLetter]:
        table = synced.table
        rows = fetch_all(
            self._connection,
            f"SELECT {names(table.column_names)} FROM {quote(table.name)} WHERE NOT ({no_null}) LIMIT ?",
            (NULL_KEYS_LISTED_MAX,),
        )
        return [
            null_key(table, row[: len(table.key)], dict(zip(table.column_names, row, strict=True)), now_ms)
            for row in rows
        ]

    def _is_touched(self, synced: Synced, key: Sequence[Value]) -> bool:
        row = self._connection.execute(
            "SELECT 1 FROM tidewire_touched WHERE t = ? AND key = ?",
            (synced.attached.id, synced.table.key_bytes(list(key))),
        ).fetchone()
        return row is not None


def _after(synced: Synced) -> tuple[str, list[Any]]:
    """A condition for keys after the last one offered, and what to bind in it."""
    attached, table = synced
    if attached.offered is None:
        return "", []
    condition, bound = key_after(table.key, [decode(value) for value in attached.offered])
    return f"AND {condition}", bound


def _size(row: Sequence[Value]) -> int:
    return sum(len(value) if isinstance(value, str | bytes) else 8 for value in row if not isinstance(value, RawText))
