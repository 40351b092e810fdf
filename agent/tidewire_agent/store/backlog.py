"""What waits on a device."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from tidewire_agent.store.meta import Meta


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


def count(connection: sqlite3.Connection, meta: Meta) -> Backlog:
    """Count it, in the caller's transaction."""
    (changes,) = connection.execute("SELECT count(*) FROM tidewire_change").fetchone()
    batches, size, oldest = connection.execute(
        "SELECT count(*), coalesce(sum(bytes), 0), min(sealed_at) FROM tidewire_batch WHERE batch > ?",
        (meta.number("released"),),
    ).fetchone()
    (parked,) = connection.execute("SELECT count(*) FROM tidewire_parked").fetchone()
    (dead_letters,) = connection.execute("SELECT count(*) FROM tidewire_dead").fetchone()
    return Backlog(changes, batches, size, oldest, parked, dead_letters, meta.number("dead_dropped"))
