"""Dead letters: what could not be synced, kept with its reason until a person retries or discards it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidewire_agent.store import rows
from tidewire_agent.store.catalogue import Catalogue
from tidewire_agent.store.meta import Meta
from tidewire_agent.store.tables import Table
from tidewire_schemas.errors import DatabaseError
from tidewire_schemas.values import Value, WireValue, decode, encode


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


class NoSuchDeadLetter(DatabaseError):
    """There is no dead letter of this number."""

    code = "dead_letter_unknown"
    hint = "`tidewire-agent dead list` shows them"


class CannotRetry(DatabaseError):
    """A dead letter cannot be written again as it is."""

    code = "dead_letter_retry"


class DeadLetters:
    """The `tidewire_dead` table. Above `rows_max` the oldest go, and a counter tells how many."""

    def __init__(self, connection: sqlite3.Connection, meta: Meta, *, rows_max: int) -> None:
        self._connection = connection
        self._meta = meta
        self._rows_max = rows_max

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
                for number, d in enumerate(letters, first)
            ],
        )
        self._meta.set(next_dead=first + len(letters))
        excess = self.count() - self._rows_max
        if excess > 0:
            self._connection.execute(
                "DELETE FROM tidewire_dead WHERE id IN (SELECT id FROM tidewire_dead ORDER BY id LIMIT ?)", (excess,)
            )
            self._meta.set(dead_dropped=self._meta.number("dead_dropped") + excess)

    def count(self) -> int:
        """How many there are."""
        return int(self._connection.execute("SELECT count(*) FROM tidewire_dead").fetchone()[0])

    def newest(self, limit: int) -> list[DeadLetter]:
        """Up to `limit` of them, the newest first."""
        rows = self._connection.execute(f"{_SELECT} ORDER BY id DESC LIMIT ?", (limit,)).fetchall()
        return [_letter(row) for row in rows]

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
        if letter.op != "delete" and not cells:
            raise CannotRetry("its values were not kept", hint="write the row again in the app, then discard this")
        try:
            if letter.op == "delete":
                rows.delete(self._connection, table, key)
            else:
                columns = (*table.key, *(name for name in cells if name not in table.key))
                values = (*key, *(cells[name] for name in columns[len(key) :]))
                there = rows.fetch(self._connection, table, key) is not None
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
