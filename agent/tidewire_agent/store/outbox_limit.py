"""A limit for what waits to be sent, and what happens to the app's writes once it is reached.

Where writes are to be refused, triggers that do nothing else are made then, and dropped when there is room again: so
they cost nothing as long as there is. They raise an error, which any SQLite of any language gives to the app.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from tidewire_agent.errors import OUTBOX_FULL_BEGINS
from tidewire_agent.store import capture
from tidewire_agent.store.catalogue import Catalogue, Synced, Transaction
from tidewire_agent.store.meta import Meta
from tidewire_agent.store.sql import literal, quote

_EVENTS: Final = ("INSERT", "UPDATE", "DELETE")


class OutboxLimit:
    """Keeps the outbox of one database below a size, or says that it is above it.

    Args:
        transaction: gives a write transaction.
        bytes_max: of batches that the applied log does not include; 0 for no limit.
        bytes_low: when it has fallen to this there is room again.
        refuse: whether the app's writes are refused meanwhile.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        meta: Meta,
        catalogue: Catalogue,
        transaction: Transaction,
        *,
        bytes_max: int,
        bytes_low: int,
        refuse: bool,
    ) -> None:
        self._connection = connection
        self._meta = meta
        self._catalogue = catalogue
        self._transaction = transaction
        self._bytes_max = bytes_max
        self._bytes_low = bytes_low
        self._refuse = refuse
        self._full: bool | None = None
        self._schema_version = -1
        """For which the triggers are known to be as they should."""

    @property
    def problem(self) -> str | None:
        """What a person should know while it is full."""
        if not self._full:
            return None
        then = "the app's writes are refused" if self._refuse else "it goes on growing"
        return f"what waits to be sent is above outbox_bytes_max={self._bytes_max}: {then}"

    def look(self) -> None:
        """See how much waits, and refuse the app's writes or no longer."""
        full = self._is_full()
        if full != self._full or self._connection_version() != self._schema_version:
            self._set_triggers(refused=full and self._refuse)
            self._full = full
            self._schema_version = self._connection_version()

    def _is_full(self) -> bool:
        if not self._bytes_max:
            return False
        (waiting,) = self._connection.execute(
            "SELECT coalesce(sum(bytes), 0) FROM tidewire_batch WHERE batch > ?", (self._meta.number("released"),)
        ).fetchone()
        was = self._full
        if was is None:  # an agent that ran before may have found it full
            was = any(self._installed(synced) for synced in self._catalogue)
        return int(waiting) > (self._bytes_low if was else self._bytes_max)

    def _set_triggers(self, *, refused: bool) -> None:
        wrong = [synced for synced in self._catalogue if len(self._installed(synced)) != (len(_EVENTS) * refused)]
        if not wrong:
            return
        with self._transaction():
            for synced in wrong:
                for name in self._installed(synced):
                    self._connection.execute(f"DROP TRIGGER {quote(name)}")
                for event in _EVENTS if refused else ():
                    self._connection.execute(self._trigger(synced, event))

    def _installed(self, synced: Synced) -> list[str]:
        names = (name for name, _table in capture.installed(self._connection, synced.attached.id))
        return [name for name in names if name.startswith(f"tidewire_{synced.attached.id}_full_")]

    def _trigger(self, synced: Synced, event: str) -> str:
        text = (
            f"{OUTBOX_FULL_BEGINS}: more than outbox_bytes_max={self._bytes_max} wait to be sent;"
            f" writes are taken again when {self._bytes_low} or less wait"
        )
        return f"""
            CREATE TRIGGER tidewire_{synced.attached.id}_full_{event.lower()}
            BEFORE {event} ON {quote(synced.table.name)} BEGIN
                SELECT RAISE(ABORT, {literal(text)});
            END
        """

    def _connection_version(self) -> int:
        return int(self._connection.execute("PRAGMA schema_version").fetchone()[0])
