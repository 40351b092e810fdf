"""Transactions of the agent on the app's database: short waits for the write lock, and triggers silent or heard."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from tidewire_agent.store.silence import Switch, dropped_triggers
from tidewire_agent.turn import TURN

LOCK_RETRY_S: Final = 0.0005
"""How often a write lock that the app holds is asked for: short against a commit, long against the call itself."""

LOOK_EVERY_S: Final = 0.004
"""How often, while the lock is waited for, what an app at full speed commits is looked at."""


class Transactions:
    """Gives the transactions of one connection.

    Args:
        switch: switches the connection's triggers on and off, and has switched them off; None where there is none.
        busy_timeout_s: how long to wait for the write lock.
    """

    def __init__(self, connection: sqlite3.Connection, switch: Switch | None, *, busy_timeout_s: float) -> None:
        self._connection = connection
        self._switch = switch
        self._busy_timeout_s = busy_timeout_s
        self._reloads: tuple[Callable[[], None], ...] = ()
        self._look: Callable[[], None] = _nothing

    def while_waiting(self, look: Callable[[], None]) -> None:
        """Call this now and then while the lock is waited for."""
        self._look = look

    def after_rollback(self, *reloads: Callable[[], None]) -> None:
        """Call these then: what memory holds of the tables may be ahead of what they say again."""
        self._reloads = reloads

    @contextmanager
    def write(self) -> Iterator[None]:
        """A write transaction; triggers of the file stay silent where they can be switched off."""
        self._begin()
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.rollback()
            for reload in self._reloads:
                reload()
            raise
        finally:
            TURN.release()

    @contextmanager
    def silently(self) -> Iterator[None]:
        """Part of a transaction in which no trigger runs: always so where they can be switched off."""
        if self._switch is not None:
            yield
        else:
            with dropped_triggers(self._connection):
                yield

    @contextmanager
    def heard(self) -> Iterator[None]:
        """A write transaction in which triggers run, as in one of the app's."""
        if self._switch is not None:
            self._switch(self._connection, True)
        try:
            with self.write():
                yield
        finally:
            if self._switch is not None:
                self._switch(self._connection, False)

    def _begin(self) -> None:
        """Take the write lock. SQLite's own busy handler backs off to 100 ms: an app without pauses would starve it."""
        now = time.monotonic()
        deadline, look_at = now + self._busy_timeout_s, now + LOOK_EVERY_S
        self._connection.execute("PRAGMA busy_timeout = 0")
        try:
            while not self._try_to_begin(last=now > deadline):
                time.sleep(LOCK_RETRY_S)
                now = time.monotonic()
                if now > look_at:
                    look_at = now + LOOK_EVERY_S
                    self._look()
        finally:
            self._connection.execute(f"PRAGMA busy_timeout = {int(self._busy_timeout_s * 1000)}")

    def _try_to_begin(self, *, last: bool) -> bool:
        """Whether the transaction has begun, and the turn is held."""
        TURN.acquire()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            TURN.release()
            if last or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            return False
        except BaseException:
            TURN.release()
            raise
        return True


def _nothing() -> None:
    pass
