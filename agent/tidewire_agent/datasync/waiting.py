"""`flush` and `fresh`, answered from the file alone, whichever process runs the agent.

A write of ours is sequenced once its rows of the change log are sealed (they are gone) and the applied log includes the
batch that took them (`released`). The file is fresh once its checkpoint reaches the position that the agent wrote
beside our question in `tidewire_fresh`.

Each wait is an object whose `done(connection)` is one look; who calls it, and how it sleeps in between, is the shell's.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from tidewire_agent.datasync.errors import SyncTimeout
from tidewire_agent.errors import OtherDevice
from tidewire_agent.lock import read_status
from tidewire_schemas.names import fold

# One statement, so that all numbers are of one snapshot.
_SENDING: Final = """
    SELECT
        (SELECT value FROM tidewire_meta WHERE name = 'incarnation'),
        (SELECT value FROM tidewire_meta WHERE name = 'drained'),
        (SELECT value FROM tidewire_meta WHERE name = 'next_batch'),
        (SELECT value FROM tidewire_meta WHERE name = 'released'),
        (SELECT min(id) FROM tidewire_change),
        (SELECT max(id) FROM tidewire_change)
"""

_AGENT_WAS_HERE: Final = """
    SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'tidewire_table'
"""

_STATES: Final = """
    SELECT
        max(name = 'tidewire_kv'),
        max(state = 'taking' OR cursor_seq IS NOT NULL),
        max(state IN ('taking', 'offering'))
    FROM tidewire_table WHERE state <> 'missing'
"""

_ASKED_FOR: Final = """
    SELECT
        (SELECT value FROM tidewire_meta WHERE name = 'device'),
        (SELECT value FROM tidewire_meta WHERE name = 'wanted')
"""

_ASK: Final = """
    INSERT INTO tidewire_fresh (nonce, asked_at) VALUES (?, ?)
"""

# What a killed program left behind. Clocks of devices jump; who still waits asks again.
_SWEEP: Final = """
    DELETE FROM tidewire_fresh WHERE abs(asked_at - ?) > ?
"""

_ANSWER: Final = """
    SELECT seq, coalesce((SELECT value FROM tidewire_meta WHERE name = 'seq'), 0)
    FROM tidewire_fresh WHERE nonce = ?
"""

_FORGET: Final = """
    DELETE FROM tidewire_fresh WHERE nonce = ?
"""


ABANDONED_AFTER_MS: Final = 24 * 3600 * 1000
"""Age of a question that nobody waits for any more; few wait for a day."""


class Wait(Protocol):
    """Something the agent will bring about."""

    def done(self, connection: sqlite3.Connection) -> bool:
        """Look once."""

    def forget(self, connection: sqlite3.Connection) -> None:
        """Remove what the wait left in the file."""


class TableStates(NamedTuple):
    """What the agent does with the tables."""

    attached: bool
    """`tidewire_kv` is captured: writes from now on are on their way."""
    behind: bool
    """Some table, attached of late, does not yet hold the hub's rows up to the checkpoint."""
    offering: bool
    """Some table's rows from before it was attached are not all sealed yet."""


class _Sending(NamedTuple):
    """Where the way of local writes to the hub stands."""

    incarnation: str
    drained: int
    next_batch: int
    released: int
    first_change: int | None
    last_change: int | None


class AttachWait:
    """Until an agent of this device captures what is written here.

    Args:
        device: its name, None for the one that the file remembers.
        wanted: what it was asked to sync. What of it cannot be synced does not keep us waiting: see its status.
    """

    def __init__(self, device: str | None, wanted: Iterable[str]) -> None:
        self._device = device
        self._wanted = {fold(name) for name in wanted}

    def done(self, connection: sqlite3.Connection) -> bool:
        """Look once.

        Raises:
            OtherDevice: the file belongs to a device of another name.
        """
        if not table_states(connection).attached:
            return False
        device, wanted = connection.execute(_ASKED_FOR).fetchone()
        if self._device not in (None, device):
            raise OtherDevice(f"this database belongs to device {device!r}, not {self._device!r}")
        return self._wanted <= {fold(name) for name in json.loads(wanted or "[]")}

    def forget(self, connection: sqlite3.Connection) -> None:
        """Nothing was written."""


class FlushWait:
    """Until the hub has sequenced all that was committed here before the first look."""

    def __init__(self) -> None:
        self._mark: _Sending | None = None
        self._goal: tuple[str, int] | None = None

    def done(self, connection: sqlite3.Connection) -> bool:
        """Look once."""
        tables = table_states(connection)
        if not tables.attached:
            return False
        now = _sending(connection)
        if self._mark is None:
            self._mark = now
        # Rows that were there before their table was attached are sealed while it is offering them.
        if self._goal is None and not tables.offering and _sealed(self._mark, now):
            self._goal = (now.incarnation, now.next_batch - 1)
        if self._goal is None:
            return False
        if self._goal[0] != now.incarnation:
            # What was not sequenced yet got new numbers: all of it is among what is numbered now.
            self._goal = (now.incarnation, now.next_batch - 1)
        return now.released >= self._goal[1]

    def forget(self, connection: sqlite3.Connection) -> None:
        """Nothing was written."""


class FreshWait:
    """Until the file holds all that the hub had when the agent, connected, heard the question."""

    def __init__(self) -> None:
        self._nonce = secrets.token_hex(16)
        self._asked = False

    def done(self, connection: sqlite3.Connection) -> bool:
        """Look once; the first look asks."""
        tables = table_states(connection)
        if not tables.attached:
            return False
        if not self._asked:
            now_ms = time.time_ns() // 1_000_000
            with connection:
                connection.execute(_SWEEP, (now_ms, ABANDONED_AFTER_MS))
                connection.execute(_ASK, (self._nonce, now_ms))
            self._asked = True
        row = connection.execute(_ANSWER, (self._nonce,)).fetchone()
        if row is None:  # swept: somebody's clock has jumped
            self._asked = False
            return False
        answer, applied = row
        # The rows of a table just attached come after the checkpoint has passed them.
        return answer is not None and applied >= answer and not tables.behind

    def forget(self, connection: sqlite3.Connection) -> None:
        """Take the question back."""
        if self._asked:
            with connection:
                connection.execute(_FORGET, (self._nonce,))


def table_states(connection: sqlite3.Connection) -> TableStates:
    """How far the tables of this file are on their way into the sync."""
    if connection.execute(_AGENT_WAS_HERE).fetchone() is None:
        return TableStates(attached=False, behind=False, offering=False)
    return TableStates(*map(bool, connection.execute(_STATES).fetchone()))


def _sending(connection: sqlite3.Connection) -> _Sending:
    incarnation, drained, next_batch, released, first, last = connection.execute(_SENDING).fetchone()
    return _Sending(incarnation or "", drained or 0, next_batch or 1, released or 0, first, last)


def _sealed(mark: _Sending, now: _Sending) -> bool:
    """Whether all changes that stood in the log at `mark` have left it."""
    if mark.last_change is None or now.drained > mark.drained:
        return True
    return now.first_change is None or now.first_change > mark.last_change


def timed_out(
    kind: type[SyncTimeout], what: str, timeout: float | None, path: Path, problem: Exception | None
) -> SyncTimeout:
    """The error of a wait that ended, with what the agent on this file says about itself."""
    return kind(f"{what} after {timeout} s", hint=str(problem) if problem is not None else agent_says(path))


def agent_says(path: Path) -> str:
    """One line for people about the agent on this file."""
    status = read_status(path)
    if status is None or status.state in ("stopped", "not_running"):
        return f"no agent runs on this file: start `tidewire-agent run --db {path}`, or give a broker"
    said = "; ".join(f"{problem.message} ({problem.hint})" for problem in status.problems)
    return f"the agent is {status.state}: {said}" if said else f"the agent is {status.state}"
