"""What the database remembers about itself: identity, checkpoint, batch chain, attached tables."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from importlib import resources
from typing import Final, Literal

from tidewire_schemas.names import fold
from tidewire_schemas.positions import Position

SCHEMA_SQL: Final = resources.files(__package__).joinpath("schema.sql").read_text(encoding="utf-8")

TableState = Literal["taking", "offering", "synced", "behind", "missing"]


class Meta:
    """The `tidewire_meta` table as a mapping of known names. Writes go with the caller's transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def text(self, name: str) -> str | None:
        """A remembered text, or None."""
        value = self._get(name)
        return None if value is None else str(value)

    def number(self, name: str) -> int:
        """A remembered number; 0 where there is none."""
        value = self._get(name)
        return int(value) if isinstance(value, int) else 0

    def set(self, **values: str | int | None) -> None:
        """Remember these."""
        self._connection.executemany(
            """
            INSERT INTO tidewire_meta (name, value) VALUES (?, ?)
            ON CONFLICT (name) DO UPDATE SET value = excluded.value
            """,
            list(values.items()),
        )

    @property
    def checkpoint(self) -> Position:
        """The last entry applied."""
        rows = self._connection.execute("SELECT name, value FROM tidewire_meta WHERE name IN ('epoch', 'seq')")
        found = dict(rows.fetchall())
        return Position(found.get("epoch") or 0, found.get("seq") or 0)

    @checkpoint.setter
    def checkpoint(self, position: Position) -> None:
        self.set(epoch=position.epoch, seq=position.seq)

    @property
    def included(self) -> int:
        """The highest own batch that the log or a snapshot under way has brought: its rows are judged."""
        released, loading = self.number("released"), self._get("load_included")
        return max(released, loading) if isinstance(loading, int) else released

    def _get(self, name: str) -> str | int | None:
        row = self._connection.execute("SELECT value FROM tidewire_meta WHERE name = ?", (name,)).fetchone()
        value: str | int | None = row[0] if row else None
        return value


def mark_base(connection: sqlite3.Connection, meta: Meta) -> None:
    """In the caller's transaction: unsealed changes were made at the checkpoint that is about to move."""
    newest = connection.execute("SELECT max(id) FROM tidewire_change").fetchone()[0]
    if newest is not None:
        checkpoint = meta.checkpoint
        connection.execute(
            "INSERT OR IGNORE INTO tidewire_mark (id, epoch, seq) VALUES (?, ?, ?)",
            (newest, checkpoint.epoch, checkpoint.seq),
        )


def trim_marks(connection: sqlite3.Connection, meta: Meta) -> None:
    """In the caller's transaction, after changes were removed: new ids begin after the highest that is left.

    A mark above it would give its position to changes that are made later.
    """
    meta.set(trimmed=meta.number("trimmed") + 1)
    newest = connection.execute("SELECT max(id) FROM tidewire_change").fetchone()[0]
    if newest is None:
        connection.execute("DELETE FROM tidewire_mark")
        meta.set(drained=meta.number("drained") + 1)
        return
    above = connection.execute(
        "SELECT epoch, seq FROM tidewire_mark WHERE id >= ? ORDER BY id LIMIT 1", (newest,)
    ).fetchone()
    if above is not None:
        connection.execute("DELETE FROM tidewire_mark WHERE id >= ?", (newest,))
        connection.execute("INSERT INTO tidewire_mark (id, epoch, seq) VALUES (?, ?, ?)", (newest, *above))


@dataclass(frozen=True)
class Attached:
    """One row of `tidewire_table`."""

    id: int
    name: str
    columns: tuple[str, ...]
    state: TableState
    first_batch: int
    target: int | None
    offered: tuple[object, ...] | None
    """Wire values of the last key offered as a seed."""
    cursor: Position | None
    problem: str | None

    @property
    def has_originals(self) -> bool:
        """Whether rows may be there that neither the log nor a captured change has brought."""
        return self.state in ("taking", "offering")


class Registry:
    """The attached tables, by folded name and by id."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.by_name: dict[str, Attached] = {}
        self.by_id: dict[int, Attached] = {}
        self.reload()

    def reload(self) -> None:
        """Read them again, as another process may have attached or detached a table."""
        rows = self._connection.execute(
            """
            SELECT id, name, columns, state, first_batch, target, offered, cursor_epoch, cursor_seq, problem
            FROM tidewire_table
            """
        ).fetchall()
        found = [
            Attached(
                id=row[0],
                name=row[1],
                columns=tuple(json.loads(row[2])),
                state=row[3],
                first_batch=row[4],
                target=row[5],
                offered=None if row[6] is None else tuple(json.loads(row[6])),
                cursor=None if row[8] is None else Position(row[7], row[8]),
                problem=row[9],
            )
            for row in rows
        ]
        self.by_name = {fold(attached.name): attached for attached in found}
        self.by_id = {attached.id: attached for attached in found}

    def update(self, attached_id: int, **values: str | int | None) -> None:
        """Set columns of one row (names are this module's own, values are bound)."""
        assignments = ", ".join(f"{name} = ?" for name in values)
        self._connection.execute(
            f"UPDATE tidewire_table SET {assignments} WHERE id = ?", (*values.values(), attached_id)
        )
        self.reload()
