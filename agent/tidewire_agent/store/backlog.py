"""What waits on a device."""

from __future__ import annotations

import sqlite3
from typing import Final, NamedTuple

from tidewire_agent.store.meta import Meta

_TOO_LARGE: Final = """
    SELECT a.name, count(*) FROM tidewire_unsent AS u JOIN tidewire_table AS a ON a.id = u.t GROUP BY a.name ORDER BY 1
"""


class Backlog(NamedTuple):
    """What waits on this device."""

    changes: int
    """Change log rows not sealed yet."""
    batches: int
    """Sealed batches that the applied log does not include yet."""
    batch_bytes: int
    oldest_sealed_at: int | None
    parked: int
    dead_letters: int
    dead_dropped: int
    """Dead letters that went since the database is a device's, as there were more than may be kept."""
    too_large: tuple[tuple[str, int], ...] = ()
    """By table: rows that are not at the hub as they are here, as they are too large to be sent."""


def count(connection: sqlite3.Connection, meta: Meta) -> Backlog:
    """Count it, in the caller's transaction."""
    (changes,) = connection.execute("SELECT count(*) FROM tidewire_change").fetchone()
    batches, size, oldest = connection.execute(
        "SELECT count(*), coalesce(sum(bytes), 0), min(sealed_at) FROM tidewire_batch WHERE batch > ?",
        (meta.number("released"),),
    ).fetchone()
    (parked,) = connection.execute("SELECT count(*) FROM tidewire_parked").fetchone()
    (dead_letters,) = connection.execute("SELECT count(*) FROM tidewire_dead").fetchone()
    too_large = tuple(connection.execute(_TOO_LARGE).fetchall())
    return Backlog(changes, batches, size, oldest, parked, dead_letters, meta.number("dead_dropped"), too_large)
