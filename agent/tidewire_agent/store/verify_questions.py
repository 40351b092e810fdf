"""Questions of programs that use the file alone: "are my rows as the hub's?" The table `tidewire_verify`."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from typing import Final, NamedTuple

from tidewire_agent.errors import sqlite_errors
from tidewire_agent.store.catalogue import Transaction
from tidewire_agent.verify_report import VerifyReport

QUESTIONS_KEPT_MAX: Final = 16
"""Questions in the file, with their answers: who was killed while waiting does not fetch his."""


class VerifyQuestion(NamedTuple):
    """A wish for a verification."""

    nonce: str
    tables: tuple[str, ...]
    """All that are attached, if empty."""
    repair: bool


def ask(connection: sqlite3.Connection, tables: tuple[str, ...], *, repair: bool) -> str:
    """Leave a question for the agent; its nonce. Older ones go where there are many."""
    nonce = secrets.token_hex(16)
    connection.execute(
        "INSERT INTO tidewire_verify (nonce, asked_at, tables, repair) VALUES (?, ?, ?, ?)",
        (nonce, int(time.time() * 1000), json.dumps(tables), int(repair)),
    )
    connection.execute(
        "DELETE FROM tidewire_verify WHERE id NOT IN (SELECT id FROM tidewire_verify ORDER BY id DESC LIMIT ?)",
        (QUESTIONS_KEPT_MAX,),
    )
    return nonce


def answer_of(connection: sqlite3.Connection, nonce: str) -> VerifyReport | None:
    """What the agent has found, once it has."""
    row = connection.execute("SELECT report FROM tidewire_verify WHERE nonce = ?", (nonce,)).fetchone()
    return None if row is None or row[0] is None else VerifyReport.model_validate_json(row[0])


def forget(connection: sqlite3.Connection, nonce: str) -> None:
    """A question is over."""
    connection.execute("DELETE FROM tidewire_verify WHERE nonce = ?", (nonce,))


class VerifyQuestions:
    """The questions of one database, as its agent sees them."""

    def __init__(self, connection: sqlite3.Connection, transaction: Transaction) -> None:
        self._connection = connection
        self._transaction = transaction

    def open(self) -> list[VerifyQuestion]:
        """Those that wait, the oldest first."""
        with sqlite_errors():
            rows = self._connection.execute(
                "SELECT nonce, tables, repair FROM tidewire_verify WHERE report IS NULL ORDER BY id"
            ).fetchall()
            return [VerifyQuestion(nonce, tuple(json.loads(tables)), bool(repair)) for nonce, tables, repair in rows]

    def answer(self, nonce: str, report: VerifyReport) -> None:
        """Tell the program that asked."""
        with sqlite_errors(), self._transaction():
            self._connection.execute(
                "UPDATE tidewire_verify SET report = ? WHERE nonce = ?", (report.model_dump_json(), nonce)
            )
