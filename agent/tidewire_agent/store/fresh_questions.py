"""Questions of programs that use the file alone: "how far is the hub?" The table `tidewire_fresh`."""

from __future__ import annotations

import sqlite3

from tidewire_agent.errors import sqlite_errors
from tidewire_agent.store.catalogue import Transaction
from tidewire_schemas.positions import Position


class FreshQuestions:
    """The questions of one database, as its agent sees them."""

    def __init__(self, connection: sqlite3.Connection, transaction: Transaction) -> None:
        self._connection = connection
        self._transaction = transaction

    def open(self) -> list[str]:
        """Nonces of those that wait."""
        with sqlite_errors():
            rows = self._connection.execute("SELECT nonce FROM tidewire_fresh WHERE seq IS NULL").fetchall()
            return [nonce for (nonce,) in rows]

    def answer(self, nonce: str, head: Position) -> None:
        """Tell the program that asked. The first answer stays: who asks waits for no more than there was then."""
        with sqlite_errors(), self._transaction():
            self._connection.execute(
                "UPDATE tidewire_fresh SET epoch = ?, seq = ? WHERE nonce = ? AND seq IS NULL",
                (head.epoch, head.seq, nonce),
            )
