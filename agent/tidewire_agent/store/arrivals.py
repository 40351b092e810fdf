"""What a table holds in columns that have just come to it, when the hub has values of its own there.

An app that adds or renames a column brings its own values: those that the column had under its old name, or that a
migration computed. Where the hub has nothing, or the row is pending here, they stay and are sent. Elsewhere the hub's
value is taken, as it is from who went before; what was here instead becomes a dead letter. So does what is in rows that
the hub has deleted.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from tidewire_agent.store import rows as rows_of
from tidewire_agent.store.catalogue import Catalogue, Synced
from tidewire_agent.store.dead_letters import DeadLetter, DeadLetters
from tidewire_agent.store.pending import Pending
from tidewire_agent.store.row_change import RowChange, overtaken_letter
from tidewire_agent.store.row_writer import RowWriter
from tidewire_agent.store.seeds import Seeds
from tidewire_schemas.names import fold
from tidewire_schemas.values import Value, encode

OVERTAKEN: Final = "column_known"
"""Reason of the dead letter with values that the hub had otherwise."""


class Kept(NamedTuple):
    """Cells of a row that stay as they are here, and are sent."""

    key: tuple[Value, ...]
    columns: frozenset[str]


class Arrivals:
    """Judges the cells of columns that have come. All methods belong to the caller's transaction."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        catalogue: Catalogue,
        pending: Pending,
        dead_letters: DeadLetters,
        seeds: Seeds,
        rows: RowWriter,
    ) -> None:
        self._connection = connection
        self._catalogue = catalogue
        self._pending = pending
        self._dead_letters = dead_letters
        self._seeds = seeds
        self._rows = rows

    def judge(self, synced: Synced, changes: Sequence[RowChange]) -> tuple[list[RowChange], list[Kept]]:
        """Rows of the hub less the cells that stay as they are here, and what stays so."""
        arrived = self._catalogue.elsewhere.arrived(synced.attached.id)
        if not arrived:
            return list(changes), []
        judged: list[RowChange] = []
        kept: list[Kept] = []
        letters: list[DeadLetter] = []
        for change in changes:
            stays, lost = self._judge_row(synced, change, arrived)
            if lost:
                detail = "the hub had another value when the column came here"
                cells = {name: encode(value) for name, value in lost.items()}
                letters.append(overtaken_letter(change, "set", cells, OVERTAKEN, detail))
            if stays:
                kept.append(Kept(change.key, stays))
                left = {name: value for name, value in change.named.items() if fold(name) not in stays}
                judged.append(change._replace(columns=tuple(left), values=tuple(left.values())))
            else:
                judged.append(change)
        self._dead_letters.add(letters[: self._dead_letters.room])
        return judged, kept

    def keep(self, synced: Synced, kept: Iterable[Kept]) -> None:
        """Have these cells sent."""
        for key, columns in kept:
            self._rows.send_again(synced, key, columns)

    def bury(self, deletes: Sequence[RowChange], reason: str, detail: str) -> None:
        """Before rows go: letters tell what they hold, besides cells of which the hub's answer will tell."""
        letters: list[DeadLetter] = []
        for change in deletes:
            synced = change.synced
            arrived = self._catalogue.elsewhere.arrived(synced.attached.id)
            if not arrived:
                return
            overlay = self._pending.of(synced.attached.id, synced.table.key_bytes(change.key))
            own = {} if overlay.whole else self._own(synced, change.key, arrived - overlay.columns)
            if own:
                cells = {synced.table.by_name[name].name: encode(value) for name, value in own.items()}
                letters.append(overtaken_letter(change, "set", cells, reason, detail))
        self._dead_letters.add(letters[: self._dead_letters.room])

    def left(self, synced: Synced, keys: Iterable[tuple[Value, ...]]) -> list[Kept]:
        """What is to be sent of rows that the hub does not have, where they are still here: they are pending."""
        arrived = self._catalogue.elsewhere.arrived(synced.attached.id)
        if not arrived:
            return []
        others = (key for key in keys if not self._seeds.is_original(synced, key))
        found = ((key, self._own(synced, key, arrived)) for key in others)  # originals are offered whole
        return [Kept(key, frozenset(own)) for key, own in found if own]

    def _judge_row(
        self, synced: Synced, change: RowChange, arrived: frozenset[str]
    ) -> tuple[frozenset[str], dict[str, Value]]:
        """Columns that stay as they are here, and the values that the hub's are put in place of."""
        if self._seeds.is_original(synced, change.key) and not self._seeds.had_all(synced):
            return frozenset(), {}  # the whole row is judged
        own = self._own(synced, change.key, arrived)
        if not own:
            return frozenset(), {}
        overlay = self._pending.of(synced.attached.id, synced.table.key_bytes(change.key))
        hub = {fold(name): value for name, value in change.named.items()}
        stays: set[str] = set()
        lost: dict[str, Value] = {}
        for name, value in own.items():
            theirs = hub.get(name)
            if _same(theirs, value) or name in overlay.columns:
                continue
            if not overlay.is_empty or theirs is None or _same(theirs, synced.table.by_name[name].default):
                stays.add(name)
            else:
                lost[synced.table.by_name[name].name] = value
        return frozenset(stays), lost

    def _own(self, synced: Synced, key: tuple[Value, ...], arrived: frozenset[str]) -> dict[str, Value]:
        """What a row holds in these columns besides their defaults."""
        row = rows_of.fetch(self._connection, synced.table, key)
        if row is None:
            return {}
        by_name = synced.table.by_name
        cells = ((fold(name), value) for name, value in zip(synced.table.column_names, row, strict=True))
        return {
            name: value
            for name, value in cells
            if name in arrived and value is not None and not _same(value, by_name[name].default)
        }


def _same(one: Value, other: Value) -> bool:
    return type(one) is type(other) and one == other
