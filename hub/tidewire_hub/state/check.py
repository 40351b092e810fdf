"""Whether the state is as it was written: SQLite does not notice a byte that the disk has changed inside a value."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Final

from tidewire_hub.database import StorageDamaged
from tidewire_hub.state.cells import Total, digest_sum

_ROWS_AT_ONCE: Final = 500
"""Rows looked at before the other threads of the hub get as long a time: a few milliseconds."""

_TOTALS: Final = "SELECT table_id, rows, digest FROM total"
_CELLS: Final = "SELECT cells FROM row WHERE table_id = ? AND cells IS NOT NULL"


class StateDamaged(StorageDamaged):
    """The state is not what the hub made of the log."""

    code = "state_damaged"
    hint = "check the disk; the hub makes the state anew from the log, or from a snapshot and the log"


def check_state(connection: sqlite3.Connection, rest: Callable[[float], None]) -> None:
    """Compare the file's pages and indexes with each other, and the rows of each table with their digest.

    Args:
        rest: does nothing for so many seconds, or raises to end the check.

    Raises:
        StateDamaged: something differs.
    """
    (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise StateDamaged(f"the state is not sound: {verdict}")
    for table_id, rows, digest in connection.execute(_TOTALS).fetchall():
        found = Total()
        stored = connection.execute(_CELLS, (table_id,))
        began = time.monotonic()
        while some := stored.fetchmany(_ROWS_AT_ONCE):
            try:
                found.add(len(some), digest_sum([cells for (cells,) in some]))
            except TypeError:  # a byte was changed that says of which type a value is
                raise StateDamaged(f"the rows of table {table_id} in the state are not as they were written") from None
            rest(time.monotonic() - began)
            began = time.monotonic()
        if (found.rows, found.hex) != (rows, digest):
            raise StateDamaged(f"the rows of table {table_id} in the state are not as they were written")
