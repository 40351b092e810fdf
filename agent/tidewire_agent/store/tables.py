"""What a table of the app looks like, read from SQLite itself, and whether it can be synced.

Sources: https://sqlite.org/pragma.html (table_xinfo, index_list, index_xinfo, foreign_key_list),
https://sqlite.org/datatype3.html section 3.1 (affinity of a declared type), https://sqlite.org/rowidtable.html.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, cast

from tidewire_agent.errors import TableNotSyncable
from tidewire_agent.store.sql import literal, quote
from tidewire_schemas.errors import ValueNotStorable
from tidewire_schemas.keys import Affinity, Collation, apply_affinity, key_bytes
from tidewire_schemas.names import IDENTIFIER_CHARS_MAX, fold
from tidewire_schemas.shapes import ColumnShape, ForeignKey, TableShape, UniqueSet
from tidewire_schemas.values import Value, encode

KEY_COLUMNS_MAX: Final = 8
"""The change log keeps keys in this many typed columns; wider keys are very rare and would cost every row."""

KV_TABLE: Final = "tidewire_kv"

_ROWID_NAMES: Final = ("rowid", "oid", "_rowid_")
_COLLATIONS: Final = ("BINARY", "NOCASE", "RTRIM")
_CONSTANT: Final = re.compile(
    r"\s*(?:[+-]?\s*(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?\s*0[xX][0-9a-fA-F]+"
    r"|'(?:[^']|'')*'|[xX]'[0-9a-fA-F]*'|NULL|TRUE|FALSE)\s*",
    re.IGNORECASE | re.DOTALL,
)
_STRICT_SINCE: Final = (3, 37, 0)


@dataclass(frozen=True)
class Column:
    """A stored column as declared."""

    name: str
    declared_type: str
    affinity: Affinity
    not_null: bool
    default_sql: str | None
    default: Value
    """Its constant default; None where it has none or a computed one."""


@dataclass(frozen=True)
class Table:
    """A table that can be synced."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    key_collations: tuple[Collation, ...]
    key_is_rowid: bool
    rowid: str | None
    """How the rowid is written in SQL, where there is one beside the key."""
    unique: tuple[UniqueSet, ...]
    foreign_keys: tuple[ForeignKey, ...]

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        """All stored columns, the key's first, in the order that batches use."""
        rest = (column.name for column in self.columns if fold(column.name) not in self._folded_key)
        return (*self.key, *rest)

    @cached_property
    def by_name(self) -> dict[str, Column]:
        """Columns by folded name."""
        return {fold(column.name): column for column in self.columns}

    @cached_property
    def shape(self) -> TableShape:
        """The same as the hub is told."""
        collations = dict(zip((fold(name) for name in self.key), self.key_collations, strict=True))
        return TableShape(
            name=self.name,
            columns=tuple(
                ColumnShape(
                    name=column.name,
                    affinity=column.affinity,
                    collation=collations.get(fold(column.name), "BINARY"),
                    not_null=column.not_null,
                    default=encode(column.default),
                )
                for column in self.columns
            ),
            key=self.key,
            key_is_rowid=self.key_is_rowid,
            unique=self.unique,
            foreign_keys=self.foreign_keys,
        )

    def key_bytes(self, key: tuple[Value, ...] | list[Value]) -> bytes:
        """What all spellings of one key have in common."""
        return key_bytes(key, self.key_collations)

    @cached_property
    def _folded_key(self) -> frozenset[str]:
        return frozenset(fold(name) for name in self.key)


def user_tables(connection: sqlite3.Connection) -> list[str]:
    """Names of the app's ordinary tables (and the key-value table), as declared."""
    rows = connection.execute(
        """
        SELECT name FROM sqlite_master
        WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
          AND (name NOT LIKE 'tidewire\\_%' ESCAPE '\\' OR name = ?)
        ORDER BY name
        """,
        (KV_TABLE,),
    )
    shadows = _shadow_tables(connection)
    return [name for (name,) in rows if name not in shadows]


def _shadow_tables(connection: sqlite3.Connection) -> frozenset[str]:
    """Tables in which virtual tables keep what they hold: theirs alone (https://sqlite.org/vtab.html, 1.3).

    They are named after the virtual table and an underscore. SQLite from 3.37 tells which they are; a table of the app
    that is named so in the older ones is left alone as well.
    """
    if sqlite3.sqlite_version_info >= _STRICT_SINCE:
        found = connection.execute("PRAGMA main.table_list").fetchall()
        return frozenset(row[1] for row in found if row[0] == "main" and row[2] == "shadow")
    rows = connection.execute(
        """
        SELECT t.name FROM sqlite_master AS t JOIN sqlite_master AS v
        ON t.type = 'table' AND v.sql LIKE 'CREATE VIRTUAL%' AND substr(t.name, 1, length(v.name) + 1) = v.name || '_'
        """
    )
    return frozenset(name for (name,) in rows)


def read_table(connection: sqlite3.Connection, name: str, *, allow_unkept_unique: bool = False) -> Table:
    """The table of this name.

    Raises:
        TableNotSyncable: it is missing, or it is of a kind that cannot be kept equal, with the reason.
    """
    row = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE", (name,)
    ).fetchone()
    if row is None:
        raise _not_a_table(connection, name)
    name, create_sql = row
    if fold(name).startswith(("sqlite_", "tidewire_")) and name != KV_TABLE:
        raise TableNotSyncable(name, "it belongs to SQLite or Tidewire")
    if create_sql.lstrip()[:14].upper().startswith("CREATE VIRTUAL"):
        raise TableNotSyncable(name, "it is a virtual table", hint="sync the table that it is made from, if any")
    if name in _shadow_tables(connection):
        raise TableNotSyncable(name, "a virtual table keeps its own data in it")
    info = connection.execute(f"PRAGMA table_xinfo({literal(name)})").fetchall()
    if not all(map(_can_be_told, (name, *(column[1] for column in info)))):
        raise TableNotSyncable(
            name[:80], f"it or a column has a name of 0 or more than {IDENTIFIER_CHARS_MAX} characters"
        )
    strict = _is_strict(connection, name)
    generated = {fold(column[1]) for column in info if column[6] in (2, 3)}
    columns = tuple(_column(connection, column, strict=strict) for column in info if column[6] == 0)
    key = tuple(column[1] for column in sorted((c for c in info if c[5] > 0), key=lambda c: int(c[5])))
    if not key:
        raise TableNotSyncable(name, "it has no PRIMARY KEY", hint="a row can only be found elsewhere by its key")
    if len(key) > KEY_COLUMNS_MAX:
        raise TableNotSyncable(name, f"its PRIMARY KEY has more than {KEY_COLUMNS_MAX} columns")
    key_index, unique = _unique_sets(connection, name, generated, allow_unkept=allow_unkept_unique)
    key_type = next(column.declared_type for column in columns if column.name == key[0])
    binary: tuple[Collation, ...] = tuple("BINARY" for _ in key)
    key_is_rowid = key_index is None and len(key) == 1 and key_type.upper() == "INTEGER"
    return Table(
        name=name,
        columns=columns,
        key=key,
        key_collations=key_index.collations if key_index else binary,
        key_is_rowid=key_is_rowid,
        rowid=None if key_is_rowid else _rowid(connection, name, {fold(column[1]) for column in info}),
        unique=unique,
        foreign_keys=_foreign_keys(connection, name, generated),
    )


def _rowid(connection: sqlite3.Connection, table: str, columns: Collection[str]) -> str | None:
    """The first of the rowid's names that no column has taken; None in a table WITHOUT ROWID."""
    free = next((name for name in _ROWID_NAMES if name not in columns), None)
    if free is None:
        return None
    try:
        connection.execute(f"SELECT {free} FROM {quote(table)} LIMIT 0")
    except sqlite3.OperationalError:
        return None
    return free


def _not_a_table(connection: sqlite3.Connection, name: str) -> TableNotSyncable:
    view = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'view' AND name = ? COLLATE NOCASE", (name,)
    ).fetchone()
    if view is None:
        return TableNotSyncable(name, "there is no such table", hint="create it, or correct the name")
    read = _tables_of_view(connection, view[0])
    hint = f"sync what it shows: {', '.join(read)}" if read else "sync the tables that it reads, if any"
    return TableNotSyncable(view[0], "it is a view, which holds no rows of its own", hint=hint)


def _tables_of_view(connection: sqlite3.Connection, view: str) -> list[str]:
    """The app's tables that a view reads, also by other views; none where it cannot be read as it is.

    SQLite names them to an authorizer while it prepares a statement (https://sqlite.org/c3ref/set_authorizer.html); a
    connection of our own has none.
    """
    read: set[str] = set()

    def note(action: int, table: str | None, _column: str | None, _database: str | None, _inner: str | None) -> int:
        if action == sqlite3.SQLITE_READ and table:
            read.add(fold(table))
        return sqlite3.SQLITE_OK

    connection.set_authorizer(note)
    try:
        connection.execute(f"EXPLAIN SELECT * FROM {quote(view)}")
    except sqlite3.Error:
        return []
    finally:
        connection.set_authorizer(None)
    return [name for name in user_tables(connection) if fold(name) in read]


def affinity_of(declared_type: str, *, strict: bool = False) -> Affinity:
    """The affinity of a declared type (datatype3.html, 3.1)."""
    text = declared_type.upper()
    if strict and text == "ANY":
        return "BLOB"
    if "INT" in text:
        return "INTEGER"
    if any(part in text for part in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if "BLOB" in text or not text:
        return "BLOB"
    if any(part in text for part in ("REAL", "FLOA", "DOUB")):
        return "REAL"
    return "NUMERIC"


def _column(connection: sqlite3.Connection, info: tuple[Any, ...], *, strict: bool) -> Column:
    _cid, name, declared_type, not_null, default_sql, _pk, _hidden = info
    affinity = affinity_of(declared_type, strict=strict)
    return Column(
        name=name,
        declared_type=declared_type,
        affinity=affinity,
        not_null=bool(not_null),
        default_sql=default_sql,
        default=_constant(connection, default_sql, affinity),
    )


def _constant(connection: sqlite3.Connection, default_sql: str | None, affinity: Affinity) -> Value:
    if default_sql is None:
        return None
    inner = default_sql.strip()
    while inner.startswith("(") and inner.endswith(")"):
        inner = inner[1:-1].strip()
    if not _CONSTANT.fullmatch(inner):
        return None
    (value,) = connection.execute(f"SELECT {inner}").fetchone()
    try:
        return apply_affinity(value, affinity)
    except ValueNotStorable:
        return None


def _is_strict(connection: sqlite3.Connection, name: str) -> bool:
    if sqlite3.sqlite_version_info < _STRICT_SINCE:
        return False
    rows = connection.execute(f"PRAGMA main.table_list({literal(name)})").fetchall()
    return any(row[5] for row in rows if row[0] == "main")


def _unique_sets(
    connection: sqlite3.Connection, table: str, generated: set[str], *, allow_unkept: bool
) -> tuple[UniqueSet | None, tuple[UniqueSet, ...]]:
    """The index of the PRIMARY KEY (None where the key is the rowid) and the other UNIQUE sets."""
    key_index: UniqueSet | None = None
    unique: list[UniqueSet] = []
    for _seq, index, is_unique, origin, partial in connection.execute(
        f"PRAGMA index_list({literal(table)})"
    ).fetchall():
        if not is_unique:
            continue
        parts = [row for row in connection.execute(f"PRAGMA index_xinfo({literal(index)})").fetchall() if row[5]]
        problem = _why_unkept(index, parts, generated, partial=bool(partial))
        if problem and (origin == "pk" or not allow_unkept):
            raise TableNotSyncable(
                table,
                problem,
                hint="the hub cannot keep it unique; set allow_unkept_unique to sync the table all the same",
            )
        if problem:
            continue
        found = UniqueSet(
            columns=tuple(row[2] for row in parts), collations=tuple(cast("Collation", row[4].upper()) for row in parts)
        )
        if origin == "pk":
            key_index = found
        else:
            unique.append(found)
    return key_index, tuple(sorted(unique, key=lambda u: u.columns))


def _why_unkept(index: str, parts: list[Any], generated: set[str], *, partial: bool) -> str | None:
    if partial:
        return f"its unique index {quote(index)} has a WHERE clause"
    for _seqno, cid, column, _desc, collation, _key in parts:
        if cid == -2:
            return f"its unique index {quote(index)} is over an expression"
        if fold(column) in generated:
            return f"its unique index {quote(index)} is over a generated column"
        if collation.upper() not in _COLLATIONS:
            return f"its unique index {quote(index)} uses the collation {collation}"
    return None


def _can_be_told(name: str) -> bool:
    """Whether the protocol takes this name of a table or column."""
    return 1 <= len(name) <= IDENTIFIER_CHARS_MAX


def _foreign_keys(connection: sqlite3.Connection, table: str, generated: set[str]) -> tuple[ForeignKey, ...]:
    found: dict[int, list[Any]] = {}
    for row in connection.execute(f"PRAGMA foreign_key_list({literal(table)})").fetchall():
        found.setdefault(row[0], []).append(row)
    result = []
    for rows in found.values():
        rows.sort(key=lambda row: int(row[1]))
        columns = tuple(row[3] for row in rows)
        parent = rows[0][2]
        references = tuple(row[4] for row in rows)
        if None in references:  # it means the parent's PRIMARY KEY
            info = connection.execute(f"PRAGMA table_xinfo({literal(parent)})").fetchall()
            references = tuple(c[1] for c in sorted((c for c in info if c[5] > 0), key=lambda c: int(c[5])))
        if (
            len(references) == len(columns)
            and all(map(_can_be_told, (parent, *references)))
            and not generated.intersection(map(fold, columns))
        ):
            result.append(ForeignKey(columns=columns, table=parent, references=references))
    return tuple(sorted(result, key=lambda f: (f.columns, f.table)))
