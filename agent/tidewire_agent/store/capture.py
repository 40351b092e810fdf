"""Capture: triggers that name what changed, in the app's own transaction and the app's own SQLite.

A trigger writes the table, the key and which columns changed into `tidewire_change`, and no values: sealing reads them
once, from the committed row. The SQL is plain, so that the oldest SQLite an app may bring runs it, and holds no ON
CONFLICT clause, as the one of the app's statement would override it (https://sqlite.org/lang_createtrigger.html).

The agent's own connection has triggers switched off (`silence.py`), so no trigger asks who is writing.

INSERT OR REPLACE fires no delete trigger for the rows it removes. So triggers BEFORE an insert or update note the rows
that it may remove (`CANDIDATE`): those with its key and those that clash on a UNIQUE set. Sealing finds out which of
them are really gone; for OR IGNORE and UPSERT none is.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Final

from tidewire_agent.store.sql import names, quote
from tidewire_agent.store.tables import Table
from tidewire_schemas.names import fold
from tidewire_schemas.shapes import UniqueSet

INSERTED: Final = 1
UPDATED: Final = 2
DELETED: Final = 3
CANDIDATE: Final = 4
MOVED_FROM: Final = 5
"""The old key of an update that changed the key; the next id holds its `MOVED_TO`."""
MOVED_TO: Final = 6
WHOLE: Final = 7
"""The agent itself asks to send the whole row (after a table was rebuilt)."""

LEAVES_A_ROW: Final = frozenset({INSERTED, UPDATED, MOVED_TO, WHOLE})
"""After these there is a row under the key that they name."""

MASK_BITS: Final = 62
"""Columns per integer of a mask: bits of a signed 64-bit integer that stay clear of its sign."""

_TRIGGER_PREFIX: Final = "tidewire_"

_BIT: Final = re.compile(
    r'\(CASE WHEN typeof\(OLD\.("(?:[^"]|"")*"|\w+)\)(?:(?!CASE).)*? THEN 0 ELSE (\d+) END\)', re.DOTALL
)
"""A bit of a mask, in the text of a trigger: the column that it stands for, and its value."""


def trigger_statements(table_id: int, table: Table, columns: Sequence[str]) -> Iterator[str]:
    """CREATE TRIGGER statements for one table; `columns` gives the bits of the masks."""
    target = quote(table.name)
    key = table.key
    insert = f"INSERT INTO tidewire_change (t, op, {_key_columns(key)})"

    clashes = [_clash_key(table), *(_clash(u) for u in table.unique)]
    candidates = ";\n    ".join(
        f"{insert}\n    SELECT {table_id}, {CANDIDATE}, {names(key)} FROM {target} WHERE {clash}" for clash in clashes
    )
    yield _trigger(table_id, "before_insert", f"BEFORE INSERT ON {target}", candidates)
    yield _trigger(
        table_id,
        "insert",
        f"AFTER INSERT ON {target}",
        f"INSERT INTO tidewire_change (t, op, row_id, {_key_columns(key)})\n"
        f"    VALUES ({table_id}, {INSERTED}, {f'NEW.{table.rowid}' if table.rowid else 'NULL'}, {names(key, 'NEW')})",
    )

    guarded = sorted({fold(c): c for c in (*key, *(c for u in table.unique for c in u.columns))}.values())
    other_row = f"NOT ({' AND '.join(f'{quote(k)} IS OLD.{quote(k)}' for k in key)})"
    moved_candidates = ";\n    ".join(
        f"{insert}\n    SELECT {table_id}, {CANDIDATE}, {names(key)} FROM {target} WHERE {clash} AND {other_row}"
        for clash in clashes
    )
    yield _trigger(
        table_id, "before_update", f"BEFORE UPDATE ON {target} WHEN NOT ({_same_bytes(guarded)})", moved_candidates
    )

    masks = list(_masks(columns, table))
    mask = " || ',' || ".join(f"m{i}" for i in range(len(masks))) if len(masks) > 1 else "m0"
    some = " OR ".join(f"m{i} <> 0" for i in range(len(masks)))
    computed = ", ".join(f"{expression} AS m{i}" for i, expression in enumerate(masks))
    yield _trigger(
        table_id,
        "update",
        f"AFTER UPDATE ON {target} WHEN {_same_bytes(key)}",
        f"INSERT INTO tidewire_change (t, op, cols, {_key_columns(key)})\n"
        f"    SELECT {table_id}, {UPDATED}, {mask}, {names(key, 'NEW')} FROM (SELECT {computed}) WHERE {some}",
    )
    yield _trigger(
        table_id,
        "move",
        f"AFTER UPDATE ON {target} WHEN NOT ({_same_bytes(key)})",
        f"{insert}\n    VALUES ({table_id}, {MOVED_FROM}, {names(key, 'OLD')});\n"
        f"    {insert}\n    VALUES ({table_id}, {MOVED_TO}, {names(key, 'NEW')})",
    )
    yield _trigger(
        table_id,
        "delete",
        f"AFTER DELETE ON {target}",
        f"{insert}\n    VALUES ({table_id}, {DELETED}, {names(key, 'OLD')})",
    )


def install(connection: sqlite3.Connection, table_id: int, table: Table, columns: Sequence[str]) -> None:
    """Make the triggers of one table anew, in the caller's transaction."""
    remove(connection, table_id)
    for statement in trigger_statements(table_id, table, columns):
        connection.execute(statement)


def remove(connection: sqlite3.Connection, table_id: int) -> None:
    """Drop the triggers of one table, wherever a rename has put them."""
    for name, _target in installed(connection, table_id):
        connection.execute(f"DROP TRIGGER {quote(name)}")


def installed(connection: sqlite3.Connection, table_id: int) -> list[tuple[str, str]]:
    """(trigger, table it is on) of the triggers made for this id."""
    return connection.execute(
        "SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger' AND name GLOB ?",
        (f"{_TRIGGER_PREFIX}{table_id}_*",),
    ).fetchall()


def columns_now(connection: sqlite3.Connection, table_id: int) -> dict[int, str]:
    """Place in the masks → the name that the column has now, as SQLite renames columns inside of triggers, too."""
    found = connection.execute(
        "SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name = ?", (f"{_TRIGGER_PREFIX}{table_id}_update",)
    ).fetchone()
    places: dict[int, str] = {}
    start = 0
    for word, end in enumerate(re.finditer(r" AS m\d+", found[0] if found else "")):
        for column, value in _BIT.findall(found[0], start, end.start()):
            name = column[1:-1].replace('""', '"') if column.startswith('"') else column
            places[word * MASK_BITS + int(value).bit_length() - 1] = name
        start = end.end()
    return places


def mask_columns(cols: int | str | None, columns: Sequence[str]) -> frozenset[str]:
    """The folded names that a change's mask stands for."""
    words = [cols] if isinstance(cols, int) else [int(word) for word in (cols or "").split(",") if word]
    return frozenset(
        fold(columns[place])
        for index, word in enumerate(words)
        for bit in range(MASK_BITS)
        if word >> bit & 1 and (place := index * MASK_BITS + bit) < len(columns)
    )


def full_mask(places: Sequence[int], count: int) -> int | str:
    """The mask with these places set, as the triggers of a table of `count` columns would write it."""
    words = [0] * max(1, -(-count // MASK_BITS))
    for place in places:
        words[place // MASK_BITS] |= 1 << place % MASK_BITS
    return words[0] if len(words) == 1 else ",".join(map(str, words))


def _trigger(table_id: int, name: str, event: str, body: str) -> str:
    return f"CREATE TRIGGER {_TRIGGER_PREFIX}{table_id}_{name} {event} BEGIN\n    {body};\nEND"


def _key_columns(key: Sequence[str]) -> str:
    return ", ".join(f"k{i}" for i in range(len(key)))


def _clash_key(table: Table) -> str:
    return " AND ".join(f"{quote(k)} = NEW.{quote(k)}" for k in table.key)


def _clash(unique: UniqueSet) -> str:
    return " AND ".join(
        f"{quote(column)} = NEW.{quote(column)} COLLATE {collation}"
        for column, collation in zip(unique.columns, unique.collations, strict=True)
    )


def _same_bytes(columns: Sequence[str]) -> str:
    """True where OLD and NEW hold the same storage class and bytes: `bob` and `BOB`, `1` and `1.0` differ."""
    return " AND ".join(
        f"typeof(OLD.{quote(c)}) = typeof(NEW.{quote(c)}) AND OLD.{quote(c)} IS NEW.{quote(c)} COLLATE BINARY"
        for c in columns
    )


def _masks(columns: Sequence[str], table: Table) -> Iterator[str]:
    """One SQL expression per word of the mask."""
    key = {fold(name) for name in table.key}
    for start in range(0, len(columns), MASK_BITS):
        word = columns[start : start + MASK_BITS]
        bits = [
            f"(CASE WHEN {_same_bytes([name])} THEN 0 ELSE {1 << bit} END)"
            for bit, name in enumerate(word)
            if fold(name) not in key and fold(name) in table.by_name
        ]
        yield " + ".join(bits) or "0"
