"""Dead letters of a table's taking that turned out to be no news.

While a table takes the log from its start, the first that the log says of a row may be an old version of it. A row that
was here and differs from that is kept as a dead letter at once, so that nothing is lost whatever happens next. Once the
log's part is taken, a row that is just as the letter has it has come back with a later entry: its letter goes.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections import Counter
from typing import Final

from tidewire_agent.store import rows
from tidewire_agent.store.catalogue import Catalogue, Synced, Transaction
from tidewire_agent.store.dead_letters import DeadLetter, DeadLetters
from tidewire_agent.store.reading import snapshot
from tidewire_schemas.values import decode, encode

logger = logging.getLogger(__name__)

LETTERS_AT_ONCE: Final = 500
"""Letters compared in one step, outside of the app's write lock, which is held only while those of them go."""


class TakenOver:
    """Drops letters of one database's tables that are taken, before the rest of their rows is offered."""

    def __init__(
        self, connection: sqlite3.Connection, catalogue: Catalogue, dead_letters: DeadLetters, transaction: Transaction
    ) -> None:
        self._connection = connection
        self._catalogue = catalogue
        self._dead_letters = dead_letters
        self._transaction = transaction
        self._seen: dict[int, int] = {}
        """By table that is being offered: the letters that were compared, as the number of the last of them."""
        self._stay: Counter[int] = Counter()
        """By such a table: how many of them stay."""

    def settle(self) -> bool:
        """Compare some letters; whether there were any."""
        offered = {synced.attached.id: synced for synced in self._catalogue if synced.attached.state == "offering"}
        self._seen = {table_id: self._seen.get(table_id, 0) for table_id in offered}
        self._stay = Counter({table_id: self._stay[table_id] for table_id in offered})
        for table_id, synced in offered.items():
            with snapshot(self._connection):
                letters = self._dead_letters.taken(synced.table.name, self._seen[table_id], LETTERS_AT_ONCE)
                no_news = [letter.id for letter in letters if letter.id is not None and self._is_here(synced, letter)]
            if no_news:
                with self._transaction():
                    self._dead_letters.drop(no_news)
            if letters:
                self._seen[table_id] = letters[-1].id or 0
                self._stay[table_id] += len(letters) - len(no_news)
                return True
            if stay := self._stay.pop(table_id, 0):
                logger.warning(
                    "table %s: rows that were here gave way to the hub's, which were others: %d dead letters hold them",
                    synced.table.name,
                    stay,
                )
        return False

    def _is_here(self, synced: Synced, letter: DeadLetter) -> bool:
        key = [decode(value) for value in letter.key]
        row = rows.fetch(self._connection, synced.table, key)
        if row is None or self._gives_way(synced, synced.table.key_bytes(key)):
            return False
        here = {name: encode(value) for name, value in zip(synced.table.column_names, row, strict=True)}
        return json.dumps(here, sort_keys=True) == json.dumps(letter.cells, sort_keys=True)

    def _gives_way(self, synced: Synced, key: bytes) -> bool:
        """Whether the log's row is parked, and will take the place of the one that is here."""
        parked = "SELECT 1 FROM tidewire_parked WHERE t = ? AND key = ?"
        return self._connection.execute(parked, (synced.attached.id, key)).fetchone() is not None
