"""From a table's change log rows to its net change: one operation per key, whatever happened in between. Pure.

    what the log says, first to last            the row now     net change
    ─────────────────────────────────────────   ─────────────   ─────────────────────────────────────────────
    inserted                                    there           put
    inserted … deleted                          gone            nothing
    was there; updated                          there           set of the columns that changed
    was there; replaced (INSERT OR REPLACE)     there           put
    was there; deleted, then inserted           there           delete and put, tied: the row was made anew
    was there; deleted, or replaced away        gone            delete
    was there; updated                          gone            nothing: another device's delete came in between
    only noted as a candidate                   there           nothing

Rows that belong together (both keys of a key change; a row and those it replaced away) get the same tie number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from tidewire_agent.store import capture
from tidewire_schemas.operations import Op
from tidewire_schemas.positions import Position
from tidewire_schemas.values import Value

Key = tuple[Value, ...]


class LogRow(NamedTuple):
    """A row of the change log, joined with the app's row as it is now."""

    id: int
    op: int
    changed: frozenset[str]
    """Folded names of the columns that an update changed."""
    key: Key
    row: tuple[Value, ...] | None
    """All stored columns in the table's batch order, None where the row is gone."""
    base: Position


class Change(NamedTuple):
    """The net change of one row; `row` is None for a delete."""

    op: Op
    key: Key
    row: tuple[Value, ...] | None
    changed: frozenset[str]
    base: Position
    tie: int


@dataclass(slots=True)
class _Net:
    existed: bool
    base: Position
    key: Key
    row: tuple[Value, ...] | None
    changed: frozenset[str] = frozenset()
    inserted: bool = False
    deleted: bool = False
    reborn: bool = False
    whole: bool = False
    candidate: bool = False
    tie: int = 0


class NetChange:
    """Folds the change log rows of one table.

    Args:
        key_bytes: what all spellings of one key have in common.
        next_tie: gives the next free tie number of the batch.
    """

    def __init__(self, key_bytes: Callable[[Key], bytes], next_tie: Callable[[], int]) -> None:
        self._key_bytes = key_bytes
        self._next_tie = next_tie
        self._nets: dict[bytes, _Net] = {}
        self._links: list[tuple[bytes, bytes]] = []
        self._candidates: list[bytes] = []
        self._moved_from: bytes | None = None
        self.nothing: list[bytes] = []
        """After `changes`: key bytes of rows that were written and have no net change."""

    def feed(self, rows: Iterable[LogRow]) -> None:
        """Take rows in the order of their ids."""
        for row in rows:
            self._feed_one(row)

    def changes(self) -> list[Change]:
        """The net change: deletes first."""
        self._tie_links()
        found: list[Change] = []
        for key, net in self._nets.items():
            changes = list(self._net_of(net))
            found.extend(changes)
            if not changes:
                self.nothing.append(key)
        found.sort(key=lambda change: change.op != "delete")
        return found

    def _feed_one(self, row: LogRow) -> None:
        key = self._key_bytes(row.key)
        net = self._nets.get(key)
        if net is None:
            existed = row.op not in (capture.INSERTED, capture.MOVED_TO)
            net = self._nets[key] = _Net(existed=existed, base=row.base, key=row.key, row=row.row)
        net.base = min(net.base, row.base)
        net.key = row.key
        match row.op:
            case capture.CANDIDATE:
                net.candidate = True
                self._candidates.append(key)
                return
            case capture.INSERTED:
                self._insert(net)
            case capture.UPDATED:
                net.changed = (net.changed | row.changed) if net.changed else row.changed  # few sets, shared by many
            case capture.DELETED:
                self._delete(net)
            case capture.MOVED_FROM:
                self._delete(net)
                self._moved_from = key
            case capture.MOVED_TO:
                self._move_to(net, key)
            case _:  # capture.WHOLE
                net.whole = True
        self._links.extend((candidate, key) for candidate in self._candidates if candidate != key)
        self._candidates.clear()

    def _insert(self, net: _Net) -> None:
        net.reborn = net.reborn or (net.deleted and net.existed)
        net.inserted = True
        net.deleted = False

    def _delete(self, net: _Net) -> None:
        net.deleted = True
        net.inserted = False
        net.changed = frozenset()

    def _move_to(self, net: _Net, key: bytes) -> None:
        if self._moved_from == key:  # another spelling of the same key: the row is the same one
            net.deleted = False
            net.whole = True
        else:
            self._insert(net)
            if self._moved_from is not None:
                self._links.append((self._moved_from, key))
        self._moved_from = None

    def _tie_links(self) -> None:
        """Rows that belong together share a number; a candidate that is still there was not replaced."""
        for left, right in self._links:
            a, b = self._nets[left], self._nets[right]
            if a.row is not None and not (a.reborn or a.deleted):
                continue
            tie = a.tie or b.tie or self._next_tie()
            if a.tie and b.tie and a.tie != b.tie:
                old = b.tie
                for net in self._nets.values():
                    if net.tie == old:
                        net.tie = tie
            a.tie = b.tie = tie

    def _net_of(self, net: _Net) -> Iterable[Change]:
        if net.row is None:
            if net.existed and (net.deleted or net.candidate):
                yield Change("delete", net.key, None, frozenset(), net.base, net.tie)
            return
        if net.reborn:
            tie = net.tie or self._next_tie()
            yield Change("delete", net.key, None, frozenset(), net.base, tie)
            yield Change("put", net.key, net.row, frozenset(), net.base, tie)
        elif net.inserted or net.whole:
            yield Change("put", net.key, net.row, frozenset(), net.base, net.tie)
        elif net.changed:
            yield Change("set", net.key, net.row, net.changed, net.base, net.tie)
