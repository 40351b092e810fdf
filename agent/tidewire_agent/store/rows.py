"""Statements that write rows of the app's tables as the log says.

They say OR ABORT, as a column's own ON CONFLICT clause could swallow a row, and find rows by the key alone. A value
that is TEXT without being valid UTF-8 is bound as a blob and cast, which keeps its bytes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from tidewire_agent.store.reading import fetch_all
from tidewire_agent.store.sql import names, quote
from tidewire_agent.store.tables import Table
from tidewire_schemas.names import fold
from tidewire_schemas.shapes import UniqueSet
from tidewire_schemas.values import RawText, Value

STATEMENTS_CACHED_MAX = 1000


def put_many(
    connection: sqlite3.Connection, table: Table, columns: tuple[str, ...], rows: Iterable[Sequence[Value]]
) -> None:
    """Insert or overwrite rows whose values hold no `RawText`; the first columns are the key."""
    connection.executemany(_put(table.name, len(table.key), columns, table.key_is_rowid, ()), rows)


def set_many(
    connection: sqlite3.Connection, table: Table, columns: tuple[str, ...], rows: Sequence[Sequence[Value]]
) -> int:
    """Update cells of rows whose values hold no `RawText`; how many rows were there."""
    width = len(table.key)
    turned = [(*row[width:], *row[:width]) for row in rows]
    return connection.executemany(_set(table.name, width, columns, ()), turned).rowcount


def delete_many(
    connection: sqlite3.Connection, table: Table, columns: tuple[str, ...], rows: Iterable[Sequence[Value]]
) -> None:
    """Delete rows by keys that hold no `RawText`."""
    connection.executemany(_delete(table.name, columns, ()), rows)


def put(connection: sqlite3.Connection, table: Table, columns: tuple[str, ...], row: Sequence[Value]) -> None:
    """Insert or overwrite one row."""
    raw = _raw_places(row)
    connection.execute(_put(table.name, len(table.key), columns, table.key_is_rowid, raw), _bound(row))


def set_cells(connection: sqlite3.Connection, table: Table, columns: tuple[str, ...], row: Sequence[Value]) -> bool:
    """Update cells of one row; whether it was there."""
    width = len(table.key)
    turned = (*row[width:], *row[:width])
    statement = _set(table.name, width, columns, _raw_places(turned))
    return connection.execute(statement, _bound(turned)).rowcount > 0


def respell(connection: sqlite3.Connection, table: Table, key: Sequence[Value]) -> None:
    """Write a key as it is spelled elsewhere: `1` and `1.0`, or 'bob' and 'BOB' under NOCASE, are one key."""
    turned = (*key, *key)
    statement = _set(table.name, len(key), (*table.key, *table.key), _raw_places(turned))
    connection.execute(statement, _bound(turned))


def delete(connection: sqlite3.Connection, table: Table, key: Sequence[Value]) -> None:
    """Delete one row."""
    connection.execute(_delete(table.name, table.key, _raw_places(key)), _bound(key))


def fetch(connection: sqlite3.Connection, table: Table, key: Sequence[Value]) -> tuple[Value, ...] | None:
    """One row's stored columns in `table.column_names` order, or None."""
    where, bound = key_is(table.key, key)
    found = fetch_all(connection, f"SELECT {names(table.column_names)} FROM {quote(table.name)} WHERE {where}", bound)
    return found[0] if found else None


def key_is(columns: Sequence[str], key: Sequence[Value]) -> tuple[str, list[Any]]:
    """A condition that finds the row of a key, and what to bind in it."""
    return _where(columns, _raw_places(key), 0), list(_bound(key))


def same_values(unique: UniqueSet, values: Sequence[Value]) -> tuple[str, list[Any]]:
    """A condition that finds the rows which hold these values in a UNIQUE set, and what to bind in it."""
    raw = _raw_places(values)
    where = " AND ".join(
        f"{quote(column)} = {'CAST(? AS TEXT)' if place in raw else '?'} COLLATE {collation}"
        for place, (column, collation) in enumerate(zip(unique.columns, unique.collations, strict=True))
    )
    return where, list(_bound(values))


def key_after(columns: Sequence[str], key: Sequence[Value]) -> tuple[str, list[Any]]:
    """A condition that finds the rows whose keys come after this one, and what to bind in it."""
    raw = _raw_places(key)
    places = ", ".join("CAST(? AS TEXT)" if place in raw else "?" for place in range(len(key)))
    return f"({names(columns)}) > ({places})", list(_bound(key))


def local_columns(table: Table, columns: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The columns of a run that this table has, in its spelling, and the places of those it has not."""
    known = []
    unknown = []
    for place, name in enumerate(columns):
        column = table.by_name.get(fold(name))
        if column is None:
            unknown.append(place)
        else:
            known.append(column.name)
    return tuple(known), tuple(unknown)


@lru_cache(maxsize=STATEMENTS_CACHED_MAX)
def _put(table: str, width: int, columns: tuple[str, ...], key_is_rowid: bool, raw: tuple[int, ...]) -> str:
    values = ", ".join("CAST(? AS TEXT)" if place in raw else "?" for place in range(len(columns)))
    # The key is written too: 'bob' may become 'BOB' where its collation holds both equal.
    written = columns[width:] if key_is_rowid else columns
    action = ", ".join(f"{quote(name)} = excluded.{quote(name)}" for name in written)
    return f"""
        INSERT OR ABORT INTO {quote(table)} ({names(columns)}) VALUES ({values})
        ON CONFLICT ({names(columns[:width])}) DO {f"UPDATE SET {action}" if action else "NOTHING"}
    """


@lru_cache(maxsize=STATEMENTS_CACHED_MAX)
def _set(table: str, width: int, columns: tuple[str, ...], raw: tuple[int, ...]) -> str:
    cells = columns[width:]
    assignments = ", ".join(
        f"{quote(name)} = {'CAST(? AS TEXT)' if place in raw else '?'}" for place, name in enumerate(cells)
    )
    where = _where(columns[:width], raw, len(cells))
    return f"UPDATE OR ABORT {quote(table)} SET {assignments} WHERE {where}"


@lru_cache(maxsize=STATEMENTS_CACHED_MAX)
def _delete(table: str, key: tuple[str, ...], raw: tuple[int, ...]) -> str:
    return f"DELETE FROM {quote(table)} WHERE {_where(key, raw, 0)}"


def _where(key: Sequence[str], raw: tuple[int, ...], first: int) -> str:
    return " AND ".join(
        f"{quote(name)} = {'CAST(? AS TEXT)' if first + place in raw else '?'}" for place, name in enumerate(key)
    )


def _raw_places(values: Sequence[Value]) -> tuple[int, ...]:
    return tuple(place for place, value in enumerate(values) if type(value) is RawText)


def _bound(values: Sequence[Value]) -> Sequence[Any]:
    return [value.data if type(value) is RawText else value for value in values]
