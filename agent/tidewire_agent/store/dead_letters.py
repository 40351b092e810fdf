"""Dead letters: what could not be synced, kept with its reason until a person retries or discards it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from tidewire_agent.store import capture, rows
from tidewire_agent.store.catalogue import Catalogue, Synced
from tidewire_agent.store.meta import Meta
from tidewire_agent.store.reading import fetch_all
from tidewire_agent.store.sql import names, quote
from tidewire_agent.store.tables import Table
from tidewire_schemas.errors import DatabaseError
from tidewire_schemas.values import RawText, Value, WireValue, decode, encode


@dataclass(frozen=True)
class DeadLetter:
    """This device's version of a row that did not make it into the log.

    `key` are wire values in the order of the table's key, `cells` wire values by column (empty for a delete).
    """

    at: int
    table: str
    op: str
    key: Sequence[WireValue]
    cells: dict[str, WireValue]
    reason: str
    detail: str = ""
    batch: int | None = None
    seq: int | None = None
    id: int | None = None


def null_key(table: Table, key: Sequence[Value], row: Mapping[str, Value], now_ms: int) -> DeadLetter:
    """The letter for a row whose key is NULL, in whole or in part."""
    return DeadLetter(
        at=now_ms,
        table=table.name,
        op="put",
        key=[encode(value) for value in key],
        cells={name: encode(value) for name, value in row.items()},
        reason="null_key",
        detail="a row whose key is NULL cannot be found on another device; give it a key",
    )


def null_key_letters(
    connection: sqlite3.Connection, table: Table, key: Sequence[Value], now_ms: int, *, rows_max: int
) -> list[DeadLetter]:
    """The letters for up to so many rows with this key, which is NULL in whole or in part: the newest there are."""
    places = ["CAST(? AS TEXT)" if isinstance(value, RawText) else "?" for value in key]
    bound = [value.data if isinstance(value, RawText) else value for value in key]
    is_key = " AND ".join(f"{quote(column)} IS {place}" for column, place in zip(table.key, places, strict=True))
    found = fetch_all(
        connection,
        f"SELECT {names(table.column_names)} FROM {quote(table.name)} WHERE {is_key} ORDER BY rowid DESC LIMIT ?",
        [*bound, rows_max],
    )
    width = len(table.key)
    return [
        null_key(table, row[:width], dict(zip(table.column_names, row, strict=True)), now_ms) for row in reversed(found)
    ]


TAKEN: Final = "the hub's row was taken when the table was attached"
"""The detail of a letter: a row that was there before the log had another."""

STAYS_HERE: Final = frozenset({"null_key", "row_too_large"})
"""Reasons for which a row is not sent, and stays as it is: a letter's values are a copy of the table's."""


class NoSuchDeadLetter(DatabaseError):
    """There is no dead letter of this number."""

    code = "dead_letter_unknown"
    hint = "`tidewire-agent dead list` shows them"


class CannotRetry(DatabaseError):
    """A dead letter cannot be written again as it is."""

    code = "dead_letter_retry"


class DeadLetters:
    """The `tidewire_dead` table.

    Args:
        rows_max: above this the oldest go, and a counter tells how many.
        bytes_max: of values kept of a row that stays here; above it the largest are left out, and the letter says so.
    """

    def __init__(self, connection: sqlite3.Connection, meta: Meta, *, rows_max: int, bytes_max: int) -> None:
        self._connection = connection
        self._meta = meta
        self._rows_max = rows_max
        self._bytes_max = bytes_max

    def add(self, letters: Sequence[DeadLetter]) -> None:
        """Keep these, in the caller's transaction."""
        if not letters:
            return
        first = max(1, self._meta.number("next_dead"))
        self._connection.executemany(
            """
            INSERT INTO tidewire_dead (id, at, "table", op, key, cells, reason, detail, batch, seq)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            """,
            [
                (number, d.at, d.table, d.op, _json(list(d.key)), _json(d.cells), d.reason, d.detail, d.batch, d.seq)
                for number, d in enumerate(map(self._shortened, letters), first)
            ],
        )
        self._meta.set(next_dead=first + len(letters))
        excess = self.count() - self._rows_max
        if excess > 0:
            self._connection.execute(
                "DELETE FROM tidewire_dead WHERE id IN (SELECT id FROM tidewire_dead ORDER BY id LIMIT ?)", (excess,)
            )
            self._meta.set(dead_dropped=self._meta.number("dead_dropped") + excess)

    def _shortened(self, letter: DeadLetter) -> DeadLetter:
        if letter.reason not in STAYS_HERE:
            return letter
        sizes = {name: len(_json(value)) for name, value in letter.cells.items()}
        left_out = []
        while sum(sizes.values()) > self._bytes_max:
            largest = max(sizes, key=lambda name: sizes[name])
            left_out.append(f"{largest} ({sizes.pop(largest)} bytes)")
        if not left_out:
            return letter
        return replace(
            letter,
            cells={name: letter.cells[name] for name in sizes},
            detail=f"{letter.detail}; not kept, above dead_letter_bytes_max={self._bytes_max}: {', '.join(left_out)}",
        )

    @property
    def room(self) -> int:
        """How many fit without pushing one out."""
        return max(0, self._rows_max - self.count())

    def count(self) -> int:
        """How many there are."""
        return int(self._connection.execute("SELECT count(*) FROM tidewire_dead").fetchone()[0])

    def newest(self, limit: int) -> list[DeadLetter]:
        """Up to `limit` of them, the newest first."""
        rows = self._connection.execute(f"{_SELECT} ORDER BY id DESC LIMIT ?", (limit,)).fetchall()
        return [_letter(row) for row in rows]

    def taken(self, table: str, after: int, limit: int) -> list[DeadLetter]:
        """Up to `limit` letters above the number `after` of rows that gave way when their table was attached."""
        where = 'WHERE id > ? AND "table" = ? AND detail = ? ORDER BY id LIMIT ?'
        found = self._connection.execute(f"{_SELECT} {where}", (after, table, TAKEN, limit)).fetchall()
        return [_letter(row) for row in found]

    def mended(self, synced: Synced, names_of_keys: Collection[bytes]) -> None:
        """In the caller's transaction: rows with these keys, that were too large, are sent, or have a new letter."""
        found = self._connection.execute(
            """SELECT id, key FROM tidewire_dead WHERE "table" = ? AND reason = 'row_too_large'""", (synced.table.name,)
        ).fetchall()
        keys = ((number, [decode(value) for value in json.loads(key)]) for number, key in found)
        self.drop([number for number, key in keys if synced.table.key_bytes(key) in names_of_keys])

    def drop(self, letter_ids: Sequence[int]) -> None:
        """Forget these, in the caller's transaction."""
        self._connection.executemany("DELETE FROM tidewire_dead WHERE id = ?", ((number,) for number in letter_ids))

    def get(self, letter_id: int) -> DeadLetter:
        """One of them.

        Raises:
            NoSuchDeadLetter: there is none of this number.
        """
        row = self._connection.execute(f"{_SELECT} WHERE id = ?", (letter_id,)).fetchone()
        if row is None:
            raise NoSuchDeadLetter(f"there is no dead letter {letter_id}")
        return _letter(row)

    def discard(self, letter_id: int) -> None:
        """Forget one, in the caller's transaction; raises as `get`."""
        self.get(letter_id)
        self._connection.execute("DELETE FROM tidewire_dead WHERE id = ?", (letter_id,))

    def write_again(self, letter_id: int, catalogue: Catalogue) -> None:
        """Write this device's version into the app's table as a new write, in the caller's transaction.

        Triggers must be on, so that it is captured. Raises as `get`, and:

        Raises:
            CannotRetry: the table is not attached, or the row breaks one of its constraints.
        """
        letter = self.get(letter_id)
        synced = catalogue.by_name(letter.table)
        if synced is None:
            raise CannotRetry(f"table {letter.table!r} is not attached", hint="attach it, then retry")
        table = synced.table
        key = [decode(value) for value in letter.key]
        cells = {name: decode(value) for name, value in letter.cells.items()}
        if letter.reason == "wrong_key":
            raise CannotRetry("its key is not the table's", hint="write the row again in the app, then discard this")
        if letter.reason == "null_key":
            raise CannotRetry("its key is NULL", hint="give the row a key in the app, then discard this")
        there = rows.fetch(self._connection, table, key) is not None
        if letter.reason == "row_too_large" and letter.op != "delete" and there:
            self._send_whole(synced, key)
            self._connection.execute("DELETE FROM tidewire_dead WHERE id = ?", (letter_id,))
            return
        some_are_missing = letter.reason == "row_too_large" and len(cells) < len(table.column_names)
        if letter.op != "delete" and (not cells or some_are_missing):
            raise CannotRetry("its values were not kept", hint="write the row again in the app, then discard this")
        try:
            if letter.op == "delete":
                rows.delete(self._connection, table, key)
            else:
                columns = (*table.key, *(name for name in cells if name not in table.key))
                values = (*key, *(cells[name] for name in columns[len(key) :]))
                if letter.op == "set" and not there:
                    raise CannotRetry(
                        "the row is gone and only its changed columns were kept",
                        hint="write the whole row again in the app, then discard this",
                    )
                if there and len(columns) > len(key):
                    rows.set_cells(self._connection, table, columns, values)
                else:
                    rows.put(self._connection, table, columns, values)
        except sqlite3.IntegrityError as error:
            raise CannotRetry(
                f"the table refuses it: {error}", hint="mend the row it clashes with first, or discard this one"
            ) from error
        self._connection.execute("DELETE FROM tidewire_dead WHERE id = ?", (letter_id,))

    def _send_whole(self, synced: Synced, key: Sequence[Value]) -> None:
        """The row is as it was, or newer: it is sent once more as it is."""
        where, values = rows.key_is(synced.table.key, key)
        key_columns = ", ".join(f"k{place}" for place in range(len(key)))
        self._connection.execute(
            f"""
            INSERT INTO tidewire_change (t, op, cols, {key_columns})
            SELECT ?, ?, NULL, {names(synced.table.key)} FROM {quote(synced.table.name)} WHERE {where}
            """,
            [synced.attached.id, capture.WHOLE, *values],
        )


_SELECT = 'SELECT id, at, "table", op, key, cells, reason, detail, batch, seq FROM tidewire_dead'


def _letter(row: tuple[Any, ...]) -> DeadLetter:
    letter_id, at, table, op, key, cells, reason, detail, batch, seq = row
    return DeadLetter(
        id=letter_id,
        at=at,
        table=table,
        op=op,
        key=json.loads(key),
        cells=json.loads(cells),
        reason=reason,
        detail=detail,
        batch=batch,
        seq=seq,
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
