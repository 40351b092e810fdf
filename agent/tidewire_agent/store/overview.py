"""The tables of a database and what waits of each, for people: read from the file alone, whoever works on it."""

from __future__ import annotations

import json
import sqlite3
from typing import Any, Final, Literal, NamedTuple

from tidewire_agent.errors import TableNotSyncable
from tidewire_agent.store.catalogue import ALL_TABLES
from tidewire_agent.store.meta import Meta
from tidewire_agent.store.tables import read_table
from tidewire_schemas.names import fold

_ATTACHED: Final = """
    SELECT
        name,
        CASE
            WHEN state IN ('taking', 'offering', 'synced')
                AND NOT EXISTS (SELECT 1 FROM tidewire_meta WHERE name = 'log_id' AND value IS NOT NULL)
            THEN 'not_connected'
            WHEN state = 'synced' AND (
                cursor_seq IS NOT NULL
                OR EXISTS (SELECT 1 FROM tidewire_elsewhere AS e WHERE e.t = a.id AND e.arrived IS NOT NULL)
            ) THEN 'taking'
            ELSE state
        END,
        (SELECT count(*) FROM tidewire_change AS c WHERE c.t = a.id),
        (SELECT count(*) FROM tidewire_parked AS p WHERE p.t = a.id),
        problem
    FROM tidewire_table AS a ORDER BY name
"""

_ELSEWHERE: Final = """
    SELECT a.name, e.name FROM tidewire_table AS a JOIN tidewire_elsewhere AS e ON e.t = a.id
    WHERE e.arrived IS NULL ORDER BY e.name
"""

_WANTED: Final = "SELECT value FROM tidewire_meta WHERE name = 'wanted'"


class TableOverview(NamedTuple):
    """One table that is synced, or that somebody asked to be."""

    table: str
    state: Literal["not_connected", "taking", "offering", "synced", "behind", "missing", "not_synced"]
    """`not_connected`: it has met no hub yet; `taking`: the hub's rows come first; `offering`: then the rows that were
    there before are sent; `synced`; `behind`: too many changes of other devices do not fit; `missing`: dropped or
    renamed; `not_synced`: asked for, and not possible."""
    waiting: int
    """Changes made here that are not in a batch yet."""
    parked: int
    """Changes of other devices that do not fit yet."""
    problem: str | None
    """Why it is not synced, with what to do."""
    columns_elsewhere: tuple[str, ...] = ()
    """Columns that other devices have and this one has not: their values are not here."""


_WAITING: Final = """
    SELECT
        (SELECT count(*) FROM tidewire_change),
        count(*), coalesce(sum(bytes), 0), min(sealed_at),
        (SELECT count(*) FROM tidewire_parked),
        (SELECT count(*) FROM tidewire_dead)
    FROM tidewire_batch
    WHERE batch > coalesce((SELECT value FROM tidewire_meta WHERE name = 'released'), 0)
"""


def database_of(connection: sqlite3.Connection) -> dict[str, Any]:
    """Who the database is, how far it has come, and what waits; writes nothing."""
    meta = Meta(connection)
    changes, batches, size, oldest, parked, dead = connection.execute(_WAITING).fetchone()
    return {
        "device": meta.text("device"),
        "incarnation": meta.text("incarnation"),
        "log": meta.text("log_id"),
        "position": list(meta.checkpoint),
        "changes": changes,
        "batches": batches,
        "batch_bytes": size,
        "oldest_sealed_at": oldest,
        "parked": parked,
        "dead_letters": dead,
        "dead_letters_dropped": meta.number("dead_dropped"),
    }


def tables_of(connection: sqlite3.Connection, *, allow_unkept_unique: bool) -> list[TableOverview]:
    """All of them; writes nothing."""
    elsewhere: dict[str, list[str]] = {}
    for name, column in connection.execute(_ELSEWHERE):
        elsewhere.setdefault(name, []).append(column)
    found = [
        TableOverview(*row)._replace(columns_elsewhere=tuple(elsewhere.get(row[0], ())))
        for row in connection.execute(_ATTACHED)
    ]
    there = {fold(table.table) for table in found}
    wanted = connection.execute(_WANTED).fetchone()
    missing = [name for name in json.loads(wanted[0] if wanted else "[]") if fold(name) not in {*there, ALL_TABLES}]
    for name in missing:
        try:
            read_table(connection, name, allow_unkept_unique=allow_unkept_unique)
            problem = None  # it can be synced by now, and will when the agent looks
        except TableNotSyncable as error:
            problem = str(error)
        found.append(TableOverview(name, "not_synced", 0, 0, problem))
    return found
