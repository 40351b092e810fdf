"""The checkers: each stands for one guarantee, watches all the time, and says by its name what was broken.

They see what an outsider sees: the log's entries, messages at the broker, the devices' files. They share no code with
what they check but the parsing of messages.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from enum import Enum
from typing import Any, Final

from pydantic import TypeAdapter

from simulation.apps import MARK, TABLES
from simulation.oracle import Oracle, contents, rows_of, torn
from tidewire_schemas.messages import Ack, Entry
from tidewire_schemas.positions import START, Position

_ENTRY: Final = TypeAdapter(Entry)


class Guarantee(Enum):
    """What is watched. The numbers are those of docs/explanation/guarantees.md."""

    LOST = "lost"
    """1, 2: what was acked is in the log, and stays there; what an app committed arrives or is listed as dead."""
    TWICE = "twice"
    """2: no batch and no transaction is in the log twice."""
    OUT_OF_ORDER = "out of order"
    """5: the batches of a device keep their order, without gaps."""
    SKIPPED = "skipped"
    """3: an edge at position k has applied every entry up to k."""
    BACK = "checkpoint going back"
    """3: a device's checkpoint never goes back while its file survives."""
    TORN = "torn transaction"
    """4: a transaction is in one entry, and on every edge whole or not at all."""
    DIVERGED = "diverged"
    """7: with nothing pending, an edge at position k holds what the log up to k says."""
    STALE = "stale epoch"
    """8: what an edge applied is the log's, under the epoch of the leader who numbered it."""
    OVER = "queue over its limit"
    """12: no queue or buffer grows above its setting."""
    REST = "no rest"
    """All together: once faults stop, all devices get level with the log, with nothing left to send."""
    MISTAKE = "mistake"
    """10: no part ends, or logs an error of its own making."""


class Violation(AssertionError):
    """A guarantee is broken."""

    def __init__(self, guarantee: Guarantee, text: str) -> None:
        super().__init__(guarantee, text)
        self.guarantee = guarantee
        self.text = text

    def __str__(self) -> str:
        return f"{self.guarantee.value}: {self.text}"


class LogChecker:
    """Watches the log as it grows: the truth that all else is held against."""

    def __init__(self) -> None:
        self.oracle = Oracle()
        self.marks: set[str] = set()
        """Marks of values that the log has."""
        self.refused: set[str] = set()
        """Marks of values that the log's resolution refused."""
        self.copied: set[str] = set()
        """Apps and devices of which two copies may offer the same writes: there `twice` means nothing."""
        self.lost_ends = 0
        """How often the hub lost the end of its log. From then on writes may come again, in pieces and in any order."""
        self._digests: list[tuple[str, str, int, str]] = [("", "", 0, "")]
        self._lost: set[tuple[str, str, int, str]] = set()
        self._newest: dict[tuple[str, str], int] = {}
        self._numbers: dict[str, int] = {}
        self._ledger: set[str] = set()

    def look(self, file: sqlite3.Connection) -> None:
        """Take what is new in the hub's file; what was there must be there still."""
        known = self.oracle.head
        if not file.execute("SELECT 1 FROM sqlite_master WHERE name = 'entry'").fetchone():
            return
        rows = file.execute("SELECT seq, epoch, data, lost FROM entry WHERE seq >= ? ORDER BY seq", (known.seq,))
        found = rows.fetchall()
        if known != START:
            here = Position(found[0][1], found[0][0]) if found else None
            if here != known:
                raise Violation(Guarantee.LOST, f"the log had {known}, it has {here} there now")
            del found[0]
        for _seq, _epoch, data, lost in found:
            self._take(_ENTRY.validate_json(data), data, lost or b"")

    def lose_end(self, file: sqlite3.Connection) -> None:
        """The hub goes on from an older copy of its log: all that this has is in the log as it was."""
        row = file.execute("SELECT epoch, seq FROM entry ORDER BY seq DESC LIMIT 1").fetchone()
        head = START if row is None else Position(*row)
        if not self.oracle.has(head):
            raise Violation(Guarantee.MISTAKE, f"a copy of the log ends at {head}, which never was in it")
        self._forget_after(head.seq)

    def begin_anew(self) -> None:
        """The hub has another log, with nothing in it."""
        self._forget_after(0)

    def _forget_after(self, seq: int) -> None:
        self.lost_ends += 1
        self._lost.update(self._digests[seq + 1 :])
        self._digests = self._digests[: seq + 1]
        self._newest.clear()
        self._ledger.clear()
        for entry in self.oracle.lose_end(seq):
            self._newest[entry.device, entry.incarnation] = entry.batch
            self._ledger.update(str(name) for name, _, _ in _values(entry, "ledger"))

    def acked(self, ack: Ack, device: str) -> None:
        """An ack reached the broker: its batch must be in the log, or have been there when the ack was sent."""
        if (device, ack.incarnation, ack.batch, ack.digest) in self._lost:
            return
        if ack.seq >= len(self._digests):
            raise Violation(Guarantee.LOST, f"batch {ack.batch} of {device} was acked as {ack.seq}, which is not there")
        found = self._digests[ack.seq]
        if found != (device, ack.incarnation, ack.batch, ack.digest):
            raise Violation(Guarantee.LOST, f"{device} got an ack for batch {ack.batch}, entry {ack.seq} is {found}")

    def _take(self, entry: Entry, data: bytes, lost: bytes) -> None:
        text = f"entry {entry.seq} (batch {entry.batch} of {entry.device})"
        if entry.epoch < self.oracle.head.epoch:
            raise Violation(Guarantee.STALE, f"{text} has epoch {entry.epoch}, before it is {self.oracle.head.epoch}")
        chain = (entry.device, entry.incarnation)
        newest = self._newest.get(chain, 0)
        if entry.batch <= newest:
            raise Violation(Guarantee.TWICE, f"{text} comes after batch {newest} of {entry.incarnation}")
        if entry.batch != newest + 1:
            raise Violation(Guarantee.OUT_OF_ORDER, f"{text} comes after batch {newest} of {entry.incarnation}")
        self._newest[chain] = entry.batch
        self._look_at_ledger(entry, text)
        self._digests.append((entry.device, entry.incarnation, entry.batch, entry.digest))
        self.marks.update(MARK.findall(data.decode()))
        self.refused.update(MARK.findall(lost.decode()))
        self.oracle.take(entry)

    def _look_at_ledger(self, entry: Entry, text: str) -> None:
        here = {str(name): (str(app), int(number)) for name, app, number in _values(entry, "ledger")}
        if self.lost_ends:
            self._ledger.update(here)
            return
        if set(here) != {name for (name,) in _values(entry, "ledger_twin")}:
            raise Violation(Guarantee.TORN, f"{text} holds half of a transaction")
        for name, (app, number) in sorted(here.items(), key=lambda item: item[1][1]):
            if name in self._ledger and app not in self.copied:
                raise Violation(Guarantee.TWICE, f"{text} brings transaction {name} again")
            if number < self._numbers.get(app, 0) and app not in self.copied:
                raise Violation(Guarantee.OUT_OF_ORDER, f"{text} brings transaction {name} after a later one")
            self._numbers[app] = max(number, self._numbers.get(app, 0))
            self._ledger.add(name)

    def has(self, transaction: str) -> bool:
        """Whether the log has a transaction."""
        return transaction in self._ledger


class EdgeChecker:
    """Watches one device's file.

    Args:
        name: of the device in the log.
        label: of the machine, for messages.
        oracle: what the log says.
    """

    def __init__(self, name: str, label: str, oracle: Oracle) -> None:
        self._name = name
        self._label = label
        self._oracle = oracle
        self._checkpoint = START
        self.broken_off: frozenset[bytes] = frozenset()
        """Transactions of which it held one half when the log that it took them from was no more: they came row by row,
        and nobody has the rest for it but the device that wrote them."""

    def adopt(self, file: sqlite3.Connection) -> None:
        """It follows another log from now on, with the rows that it has."""
        self.broken_off |= torn(file)
        self.begin_anew()

    def begin_anew(self) -> None:
        """The file is another one now: its checkpoint may be an older one."""
        self._checkpoint = START

    def look(self, file: sqlite3.Connection, apps: set[str]) -> None:
        """Whether the file holds what its checkpoint says; `apps` are those that write it."""
        checkpoint = checkpoint_of(file)
        if checkpoint == self._checkpoint:
            return
        oracle = self._oracle
        before, self._checkpoint = self._checkpoint, checkpoint
        if checkpoint.seq < before.seq and oracle.has(before):
            self._broken(Guarantee.BACK, f"from {before} to {checkpoint}")
        if checkpoint in oracle.lost:
            return  # it is ahead of a hub that has lost the end of its log, and has yet to hear of it
        if not oracle.has(checkpoint):
            known = oracle.positions[checkpoint.seq] if checkpoint.seq <= oracle.head.seq else "nothing"
            self._broken(Guarantee.STALE, f"has applied {checkpoint}, the log has {known} there")
        if is_loading(file):
            return  # the one exception of guarantee 4, which says when it is over
        if is_healing(file):  # it holds rows of a lost part of the log, until it has offered them
            if before == START or checkpoint.seq < before.seq:
                self.broken_off |= torn(file)  # of a snapshot that it was still loading
            return
        self._look_at_transactions(file, apps)
        if self._holds_the_log_alone(file):
            self._compare(file)

    def _holds_the_log_alone(self, file: sqlite3.Connection) -> bool:
        """Whether no row is the device's own alone: also not of an earlier incarnation, in entries that are to come."""
        return is_quiet(file) and self._oracle.newest.get(self._name, 0) <= self._checkpoint.seq

    def _look_at_transactions(self, file: sqlite3.Connection, apps: set[str]) -> None:
        known = self.broken_off | self._oracle.torn[self._checkpoint.seq] | self._oracle.torn_and_lost
        halves = torn(file) - known
        if halves:
            self._broken(Guarantee.TORN, f"holds half of {sorted(name.decode() for name in halves)}")
        here = {app.decode(): count for app, count in file.execute("SELECT app, count(*) FROM ledger GROUP BY app")}
        for app, count in self._oracle.ledgers[self._checkpoint.seq].items():
            if here.get(app, 0) < count:
                text = f"holds {here.get(app, 0)} transactions of {app} at {self._checkpoint.seq}, the log has {count}"
                self._broken(Guarantee.SKIPPED, text)
        if self._oracle.lost and not self._holds_the_log_alone(file):
            return  # it may offer again what others wrote
        for app, count in here.items():
            if app not in apps and count > self._oracle.ledgers[self._checkpoint.seq][app]:
                self._broken(Guarantee.DIVERGED, f"holds more of {app} at {self._checkpoint.seq} than the log")

    def _compare(self, file: sqlite3.Connection) -> None:
        wanted = self._oracle.contents[self._checkpoint.seq]
        found = contents(file, TABLES)
        for table in TABLES:
            if found[table] != wanted[table]:
                here = set(rows_of(file, table))
                log = set(self._oracle.rows(table, self._checkpoint.seq))
                text = f"table {table} at {self._checkpoint.seq}: only here {here - log}, only in the log {log - here}"
                self._broken(Guarantee.DIVERGED, text)

    def _broken(self, guarantee: Guarantee, text: str) -> None:
        raise Violation(guarantee, f"{self._label} {text}")


def check_limits(name: str, held: Iterable[tuple[str, int, int]]) -> None:
    """Whether queues are within their limits: (which, how much it holds, its limit)."""
    for which, size, limit in held:
        if size > limit:
            raise Violation(Guarantee.OVER, f"{which} of {name} holds {size}, its limit is {limit}")


def checkpoint_of(file: sqlite3.Connection) -> Position:
    """How far a file's device has applied the log; START where that is not one number for all tables."""
    found = dict(file.execute("SELECT name, value FROM tidewire_meta WHERE name IN ('epoch', 'seq')").fetchall())
    return Position(found.get(b"epoch", 0), found.get(b"seq", 0))


def is_loading(file: sqlite3.Connection) -> bool:
    """Whether a snapshot is on its way into the tables."""
    row = file.execute("SELECT value FROM tidewire_meta WHERE name = 'load_snapshot'").fetchone()
    return row is not None and row[0] is not None


def is_healing(file: sqlite3.Connection) -> bool:
    """Whether a device offers rows again that a hub has lost."""
    row = file.execute("SELECT value FROM tidewire_meta WHERE name = 'healing'").fetchone()
    return row is not None and row[0] is not None


def is_quiet(file: sqlite3.Connection) -> bool:
    """Whether nothing of a device waits for its place in the log, so that its rows are the log's alone."""
    return bool(file.execute(_QUIET).fetchone()[0])


_QUIET: Final = """
    SELECT NOT EXISTS (SELECT 1 FROM tidewire_change)
       AND NOT EXISTS (
           SELECT 1 FROM tidewire_batch
           WHERE batch > coalesce((SELECT value FROM tidewire_meta WHERE name = 'released'), 0)
       )
       AND NOT EXISTS (SELECT 1 FROM tidewire_table WHERE state <> 'synced' OR cursor_seq IS NOT NULL)
       AND NOT EXISTS (SELECT 1 FROM tidewire_loading WHERE stage <> 'ended')
"""


def _values(entry: Entry, table: str) -> list[list[Any]]:
    return [row for run in entry.changes if run.table == table for row in run.rows]
