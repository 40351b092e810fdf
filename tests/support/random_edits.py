"""Random statements as a careless crowd of apps would send them, for any schema: made from what the database says."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random


@dataclass(frozen=True)
class Table:
    """What a statement needs to know of a table."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    references: dict[str, str]
    """Column → the table that it points to."""
    rows: int

    @property
    def others(self) -> list[str]:
        """Columns that are neither key nor reference."""
        return [name for name in self.columns if name not in self.key and name not in self.references]


def tables_of(path: Path) -> list[Table]:
    """All tables of the app."""
    with closing(sqlite3.connect(path, timeout=5)) as app:
        names = app.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB 'tidewire_*' "
            "AND name NOT GLOB 'sqlite_*' ORDER BY name"
        ).fetchall()
        found = []
        for (name,) in names:
            info = app.execute("SELECT name, pk FROM pragma_table_info(?)", (name,)).fetchall()
            references = app.execute('SELECT "from", "table" FROM pragma_foreign_key_list(?)', (name,)).fetchall()
            (rows,) = app.execute(f'SELECT count(*) FROM "{name}"').fetchone()
            key = [column for place, column in sorted((pk, column) for column, pk in info if pk)]
            found.append(Table(name, tuple(column for column, _pk in info), tuple(key), dict(references), rows))
        return found


class RandomEdits:
    """Makes statements; the same seed makes the same ones.

    Args:
        tables: what there is; rows are picked by their place, so statements fit whatever the database holds then.
        seed: of the randomness.
        device: a number that sets the rows that this device adds apart from others', except for those that clash on
            purpose.
    """

    def __init__(self, tables: list[Table], seed: int, device: int) -> None:
        self._tables = tables
        self._random = Random(seed * 1000 + device)
        self._device = device
        self._made = 0

    def statements(self, count: int) -> list[str]:
        """So many statements, transactions counted by what is in them."""
        made: list[str] = []
        while len(made) < count:
            size = min(count - len(made), self._random.randint(2, 8) if self._random.random() < 0.15 else 1)
            piece = [self._statement() for _ in range(size)]
            if size > 1:
                piece[0] = "BEGIN IMMEDIATE;\n" + piece[0]
                piece[-1] += f"\n{'ROLLBACK' if self._random.random() < 0.1 else 'COMMIT'};"
            made += piece
        return made

    def _statement(self) -> str:
        kinds: list[tuple[Callable[[Table], str], int]] = [
            (self._insert, 25),
            (self._update, 30),
            (self._update_many, 4),
            (self._delete, 14),
            (self._change_key, 8),
            (self._replace, 12),
            (self._upsert, 7),
        ]
        (kind,) = self._random.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])
        (table,) = self._random.choices(self._tables, [table.rows**0.5 + 1 for table in self._tables])
        return kind(table) + ";"

    # ── kinds ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _insert(self, table: Table) -> str:
        return f"INSERT INTO {_q(table.name)} ({_names(table.columns)}) {self._like_another(table)}"

    def _update(self, table: Table) -> str:
        chosen = self._random.sample(table.columns, k=min(len(table.columns), self._random.choice([1, 1, 1, 2, 3])))
        columns = [name for name in chosen if name not in table.key]
        if not columns:
            return self._change_key(table)
        assignments = ", ".join(f"{_q(name)} = {self._value(table, name)}" for name in columns)
        return f"UPDATE {self._or()}{_q(table.name)} SET {assignments} WHERE {self._one_row(table)}"

    def _update_many(self, table: Table) -> str:
        if not table.others:
            return self._insert(table)
        name = self._random.choice(table.others)
        first = _q(table.key[0])
        return (
            f"UPDATE {self._or()}{_q(table.name)} SET {_q(name)} = {self._value(table, name)} WHERE {first} IN "
            f"(SELECT {first} FROM {_q(table.name)} ORDER BY {first} LIMIT {self._random.randint(2, 40)} "
            f"OFFSET {self._place(table)})"
        )

    def _delete(self, table: Table) -> str:
        return f"DELETE FROM {_q(table.name)} WHERE {self._one_row(table)}"

    def _change_key(self, table: Table) -> str:
        name = self._random.choice(table.key)
        assignment = f"{_q(name)} = {self._key(table, name)}"
        return f"UPDATE {self._or()}{_q(table.name)} SET {assignment} WHERE {self._one_row(table)}"

    def _replace(self, table: Table) -> str:
        """Over a row that is there, with other values."""
        changed = set(self._random.sample(table.others, k=min(len(table.others), 2)))
        values = [self._value(table, name) if name in changed else _q(name) for name in table.columns]
        return (
            f"REPLACE INTO {_q(table.name)} ({_names(table.columns)}) SELECT {', '.join(values)} "
            f"FROM {_q(table.name)} WHERE {self._one_row(table)}"
        )

    def _upsert(self, table: Table) -> str:
        if not table.others:
            return self._replace(table)
        name = self._random.choice(table.others)
        return (
            f"INSERT INTO {_q(table.name)} ({_names(table.columns)}) SELECT {_names(table.columns)} "
            f"FROM {_q(table.name)} WHERE {self._one_row(table)} ON CONFLICT ({_names(table.key)}) "
            f"DO UPDATE SET {_q(name)} = {self._value(table, name)}"
        )

    # ── pieces ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _or(self) -> str:
        return self._random.choice(["", "", "", "OR REPLACE ", "OR IGNORE "])

    def _place(self, table: Table) -> int:
        # Often among the first few, so that devices meet on the same rows.
        return self._random.randrange(12 if self._random.random() < 0.5 else max(1, table.rows))

    def _one_row(self, table: Table) -> str:
        key = _names(table.key)
        return f"({key}) = (SELECT {key} FROM {_q(table.name)} ORDER BY {key} LIMIT 1 OFFSET {self._place(table)})"

    def _like_another(self, table: Table) -> str:
        values = []
        for name in table.columns:
            if name in table.key and (len(table.key) == 1 or name == table.key[-1]):
                values.append(self._key(table, name))
            elif name in table.references or name in table.key or self._random.random() < 0.5:
                values.append(_q(name))
            else:
                values.append(self._value(table, name))
        return f"SELECT {', '.join(values)} FROM {_q(table.name)} WHERE {self._one_row(table)}"

    def _key(self, table: Table, name: str) -> str:
        """A key of its own most of the time; else the next free one, which another device takes too."""
        if name in table.references:
            return self._value(table, name)
        if self._random.random() < 0.3:
            return (
                f"(SELECT max({_q(name)}) || 'x' FROM {_q(table.name)})"
                if name.endswith("_text")
                else (f"(SELECT coalesce(max({_q(name)}), 0) + 1 FROM {_q(table.name)})")
            )
        self._made += 1
        return (
            f"'{self._device}-{self._made}'" if name.endswith("_text") else str(self._device * 1_000_000 + self._made)
        )

    def _value(self, table: Table, name: str) -> str:
        if name in table.references:
            to = next(other for other in self._tables if other.name == table.references[name])
            return f"(SELECT {_q(to.key[0])} FROM {_q(to.name)} ORDER BY 1 LIMIT 1 OFFSET {self._place(to)})"
        return self._random.choice(
            [
                str(self._random.randint(-5, 2000)),
                str(self._random.randint(-(2**63), 2**63 - 1)),
                repr(self._random.uniform(-1, 1000)),
                f"'text {self._random.randint(0, 30)}'",
                "'quote '' and \"double\" and ü €'",
                f"x'{self._random.randbytes(3).hex()}'",
                f"upper({_q(name)})",
                f"{_q(name)} || ' x'",
                "''",
                "NULL",
            ]
        )


def _q(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _names(columns: tuple[str, ...]) -> str:
    return ", ".join(map(_q, columns))
