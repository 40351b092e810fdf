"""Rows of own batches that the hub refused, where a snapshot takes the place of the entries that say so.

The snapshot's manifest names them. This device's versions, which its outbox still has, become dead letters in the
transaction that ends the load, where the row that the snapshot has brought in their place is another.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Sequence
from typing import Final, NamedTuple

from pydantic import TypeAdapter

from tidewire_agent.store import rows as rows_of
from tidewire_agent.store.catalogue import Catalogue, Synced
from tidewire_agent.store.dead_letters import DeadLetter, DeadLetters
from tidewire_agent.store.meta import Meta
from tidewire_agent.store.outbox import Outbox
from tidewire_agent.store.row_change import batch_cells, refused_letter, says_nothing_new
from tidewire_agent.store.row_writer import RowWriter
from tidewire_agent.store.seeds import Seeds
from tidewire_schemas.codec import parse_batch
from tidewire_schemas.names import fold
from tidewire_schemas.snapshots import RefusedRow, Snapshot
from tidewire_schemas.values import Value, WireValue, decode_row, encode_row

logger = logging.getLogger(__name__)


class Remembered(RefusedRow):
    """A refused row as the manifest names it, and what it was here when the load began."""

    here: dict[str, WireValue] | None = None
    """The whole row, where another copy of this database wrote what was refused."""


_ROWS: Final = TypeAdapter(tuple[Remembered, ...])

_Versions = dict[tuple[str, str, str], dict[str, WireValue]]
"""The rows of a batch, as `batch_cells` gives them."""


class Judged(NamedTuple):
    """A refused row, and what it was here."""

    row: Remembered
    cells: dict[str, WireValue]
    """This device's version besides the key; empty where its batch is not here any more."""
    again: bool
    """Whether it was offered again, as the hub had lost it."""
    version: dict[str, WireValue]
    """What it is compared with: these cells, or the whole row where a copy of this database wrote it."""

    @property
    def key(self) -> tuple[Value, ...]:
        """The row's."""
        return tuple(decode_row(self.row.key))


class LoadRefusals:
    """Keeps what a manifest says of refused rows until its snapshot is loaded."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        meta: Meta,
        catalogue: Catalogue,
        outbox: Outbox,
        rows: RowWriter,
        seeds: Seeds,
        dead_letters: DeadLetters,
    ) -> None:
        self._connection = connection
        self._meta = meta
        self._catalogue = catalogue
        self._outbox = outbox
        self._rows = rows
        self._seeds = seeds
        self._dead_letters = dead_letters

    def remember(self, manifest: Snapshot, included: int) -> None:
        """In the transaction that begins the load of a snapshot, with own batches up to `included` in it."""
        checkpoint, released = self._meta.checkpoint, self._outbox.released
        new = (row for row in manifest.refused if row.seq > checkpoint.seq)
        rows = tuple(Remembered(**row.model_dump(), here=self._others_row(row)) for row in new)
        self._meta.set(load_refused=_ROWS.dump_json(rows).decode() if rows else None)
        if included > released and manifest.refused_since > checkpoint.seq:
            logger.warning(
                "the hub does not know any more which rows it refused in entries up to %d: of batches %d to %d,"
                " such rows may have gone without a dead letter",
                manifest.refused_since,
                released + 1,
                included,
            )

    def read(self) -> list[Judged]:
        """The refused rows with what they were here. Takes no lock."""
        stored = self._meta.text("load_refused")
        if stored is None:
            return []
        batches: dict[int, tuple[_Versions, bool]] = {}
        judged = []
        for row in _ROWS.validate_json(stored):
            number = self._number_of(row)
            if number is not None and number not in batches:
                batches[number] = self._batch(number)
            versions, again = ({}, False) if number is None else batches[number]
            cells = versions.get((fold(row.table), row.op, json.dumps(row.key)), {})
            judged.append(Judged(row, cells, again, cells if row.here is None else row.here))
        return judged

    def settle(self, judged: Sequence[Judged]) -> None:
        """In the transaction that ends the load, before its marks go."""
        letters: list[DeadLetter] = []
        for refused in judged:
            row, cells, again, _version = refused
            synced = self._catalogue.by_name(row.table)
            key = refused.key
            if row.reason == "row_absent" and synced is not None and self._seeds.may_be_lost(synced, key):
                # It is here: it will be offered as a seed, as when an entry says so.
                if row.op == "set" and not again:
                    self._rows.send_again(synced, key, cells)
                continue
            if self._is_lost(synced, refused):
                letters.append(refused_letter(row, row.seq, row.batch, cells))
        self._dead_letters.add(letters)

    def _is_lost(self, synced: Synced | None, refused: Judged) -> bool:
        """Whether the hub holds anything else in its place, or may, where the row here is not the hub's."""
        key = refused.key
        if synced is None or len(key) != len(synced.table.key):
            return True
        hub = self._row(synced, key) if self._rows.is_as_logged(synced, synced.table.key_bytes(key)) else None
        return not says_nothing_new(refused.row.op, refused.version, hub, again=refused.again)

    def _number_of(self, row: RefusedRow) -> int | None:
        """The number here of its batch; None where that is not here, or what has its number is another one."""
        number = self._outbox.number_of(row.incarnation, row.batch)
        is_here = number is not None and number <= self._meta.included and self._outbox.digest_of(number) is not None
        return number if is_here else None

    def _batch(self, number: int) -> tuple[_Versions, bool]:
        payload = self._outbox.payload_of(number)
        return batch_cells(payload), parse_batch(payload, bytes_max=len(payload)).batch.was is not None

    def _others_row(self, row: RefusedRow) -> dict[str, WireValue] | None:
        """The row as it is here now, where this database has not written what was refused: a copy of it has."""
        if self._number_of(row) is not None:
            return None
        return self._row(self._catalogue.by_name(row.table), decode_row(row.key))

    def _row(self, synced: Synced | None, key: Sequence[Value]) -> dict[str, WireValue] | None:
        if synced is None or len(key) != len(synced.table.key):
            return None
        row = rows_of.fetch(self._connection, synced.table, key)
        if row is None:
            return None
        return dict(zip(synced.table.column_names, encode_row(row), strict=True))
