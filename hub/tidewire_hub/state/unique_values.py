"""Who holds which unique value: one table for the unique sets of all tables."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Final, TypeAlias

from tidewire_hub.state.chunks import select_in

_ADD: Final = "INSERT INTO unique_value (table_id, number, value, key) VALUES (?, ?, ?, ?)"
_REMOVE: Final = "DELETE FROM unique_value WHERE table_id = ? AND number = ? AND value = ? AND key = ?"
_HOLDERS: Final = "SELECT value, key FROM unique_value WHERE table_id = ? AND number = ? AND value IN ({})"

HeldValue: TypeAlias = tuple[int, int, bytes, bytes]
"""A row of the table: the table's id, the number of its unique set, the value, the key of the row that holds it."""


class UniqueValues:
    """Unique values and their holders."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection: Final = connection

    def free(self, added: Collection[HeldValue], removed: Collection[HeldValue] = ()) -> bool:
        """Whether every value has one holder when `removed` are gone and `added` are there."""
        if not added:
            return True
        given_up = set(removed)
        claimed: dict[tuple[int, int], list[bytes]] = defaultdict(list)
        for table_id, number, value, _ in added:
            claimed[table_id, number].append(value)
        return all(
            len(set(wanted)) == len(wanted)
            and all(
                (*claim, value, key) in given_up for value, key in select_in(self._connection, _HOLDERS, claim, wanted)
            )
            for claim, wanted in claimed.items()
        )

    def replace(self, removed: Collection[HeldValue], added: Iterable[HeldValue]) -> None:
        """Take `removed` away, then put `added` in."""
        self._connection.executemany(_REMOVE, removed)
        self._connection.executemany(_ADD, added)
