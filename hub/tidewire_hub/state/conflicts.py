"""The conflict log: writes that lost, newest `conflicts_max` of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pydantic_core import from_json, to_json

from tidewire_hub.effects import Overwritten
from tidewire_schemas.messages import Refusal
from tidewire_schemas.positions import Seq
from tidewire_schemas.snapshots import RefusedRow

OVERWRITTEN: Final = "overwritten"
"""Kind of a record whose values were written over by a concurrent write that came later in the log."""

_ADD: Final = """
    INSERT INTO conflict
        (id, seq, at, device, incarnation, batch, table_name, key, op, kind, detail, loser, lost)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_FORGET: Final = "DELETE FROM conflict WHERE id <= ?"
_READ: Final = """
    SELECT id, seq, at, device, table_name, key, kind, loser, lost FROM conflict WHERE id > ? ORDER BY id LIMIT ?
"""
_REFUSED: Final = """
    SELECT device, seq, incarnation, batch, table_name, key, op, kind, detail FROM conflict
    WHERE op <> '' ORDER BY id DESC
"""


class Conflict(NamedTuple):
    """A write that lost: refused, or overwritten by a concurrent one."""

    id: int
    """Increasing in log order; pass the last one to `Stream.conflicts` to go on from there."""
    seq: Seq
    """The entry that decided it."""
    at: int
    """Milliseconds since 1970 by the hub's clock: for people only."""
    device: str
    """Whose entry that is."""
    table: str
    key: list[Any]
    """Wire values of the key columns."""
    kind: str
    """`overwritten`, or the reason of the refusal."""
    loser: str
    """Whose values lost."""
    lost: dict[str, Any]
    """The values that lost, by column; empty when it was a refused delete."""


class Origin(NamedTuple):
    """The entry that a record comes from."""

    seq: int
    at: int
    device: str
    incarnation: str
    batch: int


class Conflicts:
    """The newest `conflicts_max` writes that lost."""

    def __init__(self, connection: sqlite3.Connection, conflicts_max: int) -> None:
        self._connection: Final = connection
        self._conflicts_max: Final = conflicts_max
        self._last_id = 0

    def load(self) -> None:
        """Read again what is held in memory, after opening and after a rollback."""
        self._last_id = self._connection.execute("SELECT coalesce(max(id), 0) FROM conflict").fetchone()[0]

    def add(
        self,
        entry: Origin,
        overwritten: Iterable[Overwritten],
        refused: Sequence[Refusal],
        lost: Sequence[Mapping[str, Any]],
    ) -> int:
        """Record what an entry overwrote and refused; how many records that made. `lost` goes with `refused`."""
        records: list[tuple[Any, ...]] = []
        for table, key, loser, values in overwritten:
            shown = {table.shown(name): value for name, value in values.items()}
            records.append((*entry, table.shape.name, to_json(key), "", OVERWRITTEN, "", loser, to_json(shown)))
        for number, refusal in enumerate(refused):
            what = (refusal.table, to_json(refusal.key), refusal.op, refusal.reason, refusal.detail)
            records.append((*entry, *what, entry.device, to_json(lost[number])))
        if records:
            first = self._last_id + 1
            self._last_id += len(records)
            self._connection.executemany(_ADD, [(first + i, *record) for i, record in enumerate(records)])
            if self._last_id > self._conflicts_max:
                self._connection.execute(_FORGET, (self._last_id - self._conflicts_max,))
        return len(records)

    @property
    def complete_after(self) -> int | None:
        """All records of entries after this one are here; None where there is no telling of any."""
        if self._conflicts_max == 0:
            return None
        row = self._connection.execute("SELECT id, seq FROM conflict ORDER BY id LIMIT 1").fetchone()
        return 0 if row is None or row[0] == 1 else int(row[1])

    def refused(self) -> Iterator[tuple[str, RefusedRow]]:
        """Rows that were refused, each with its device, the newest first."""
        for device, seq, incarnation, batch, table, key, op, reason, detail in self._connection.execute(_REFUSED):
            yield (
                device,
                RefusedRow(
                    seq=seq,
                    incarnation=incarnation,
                    batch=batch,
                    table=table,
                    key=from_json(key),
                    op=op,
                    reason=reason,
                    detail=detail,
                ),
            )

    def read(self, after_id: int, limit: int) -> list[Conflict]:
        """Records after `after_id`, oldest first."""
        return [
            Conflict(number, seq, at, device, table, from_json(key), kind, loser, from_json(lost))
            for number, seq, at, device, table, key, kind, loser, lost in self._connection.execute(
                _READ, (after_id, limit)
            )
        ]
