"""Batches by hand: devices that write what a test says, and a stream to send it to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pydantic_core import from_json

from tidewire_hub.log.memory import MemoryLog
from tidewire_hub.log.port import HubLog, StoredEntry
from tidewire_hub.stream import Commit, Incoming, Stream, StreamSettings
from tidewire_schemas.codec import encode_batch, encode_runs
from tidewire_schemas.digest import NO_DIGEST, message_digest
from tidewire_schemas.keys import Affinity, Collation
from tidewire_schemas.messages import Entry, Run
from tidewire_schemas.operations import Op
from tidewire_schemas.positions import START, Position
from tidewire_schemas.shapes import ColumnShape, ForeignKey, TableShape, UniqueSet

LOG_ID: Final = "10" * 16
NOW_MS: Final = 1_795_390_000_000


class HandDevice:
    """A device of a test: numbers and chains its batches, and knows how far it has applied."""

    def __init__(self, name: str, incarnation: str | None = None) -> None:
        self.name: Final = name
        self.incarnation = incarnation or name.encode().hex().ljust(32, "0")[:32]
        self.base: Position = START
        self.batch = 0
        self.digest = NO_DIGEST

    def seal(self, *runs: Run, was: Position | None = None) -> Incoming:
        """The next batch; `was` is the place that it had in a part of the log that was lost."""
        self.batch += 1
        payload = encode_batch(
            incarnation=self.incarnation,
            batch=self.batch,
            prev_digest=self.digest,
            sealed_at=NOW_MS,
            changes_json=encode_runs(runs),
            was=was,
        )
        self.digest = message_digest(payload)
        return Incoming(self.name, payload)

    def put(self, table: str, columns: str, *rows: Sequence[Any], **more: Any) -> Run:
        """Whole rows; `columns` separated by blanks, the first is the key unless `key` says how many."""
        return self.run("put", table, columns, *rows, **more)

    def set(self, table: str, columns: str, *rows: Sequence[Any], **more: Any) -> Run:
        """Some columns of rows."""
        return self.run("set", table, columns, *rows, **more)

    def seed(self, table: str, columns: str, *rows: Sequence[Any], **more: Any) -> Run:
        """Rows that were there before."""
        return self.run("seed", table, columns, *rows, **more)

    def delete(self, table: str, columns: str, *rows: Sequence[Any], **more: Any) -> Run:
        """Rows that are gone; all `columns` are the key."""
        return self.run("delete", table, columns, *rows, key=len(columns.split()), **more)

    def run(
        self,
        op: Op,
        table: str,
        columns: str,
        *rows: Sequence[Any],
        key: int = 1,
        ties: tuple[int, ...] | None = None,
        base: Position | None = None,
    ) -> Run:
        """A run with this device's base, unless another is given."""
        return Run(
            op=op,
            table=table,
            base=self.base if base is None else base,
            key=key,
            columns=tuple(columns.split()),
            rows=[list(row) for row in rows],
            ties=ties,
        )


def columns_of(text: str) -> tuple[ColumnShape, ...]:
    """Columns from `id INTEGER, name TEXT NOCASE, n REAL =5`: name, affinity, then collation and JSON default."""
    columns = []
    for part in text.split(","):
        name, affinity, *rest = part.split()
        collation: Collation = "BINARY"
        default = None
        for word in rest:
            if word.startswith("="):
                default = from_json(word[1:])
            else:
                collation = _collation(word)
        columns.append(ColumnShape(name=name, affinity=_affinity(affinity), collation=collation, default=default))
    return tuple(columns)


def shape(
    name: str,
    columns: str,
    *,
    key: str = "id",
    rowid: bool = False,
    unique: Sequence[str] = (),
    foreign_keys: Sequence[ForeignKey] = (),
) -> TableShape:
    """A table's shape; each of `unique` names columns, separated by blanks, with their own collations."""
    described = columns_of(columns)
    collation = {column.name: column.collation for column in described}
    sets = [tuple(names.split()) for names in unique]
    return TableShape(
        name=name,
        columns=described,
        key=tuple(key.split()),
        key_is_rowid=rowid,
        unique=tuple(UniqueSet(columns=each, collations=tuple(collation[c] for c in each)) for each in sets),
        foreign_keys=tuple(foreign_keys),
    )


def open_stream(
    log: HubLog | None = None, state: Path | None = None, *, settings: StreamSettings | None = None
) -> Stream:
    """A stream that leads, on a log in memory unless one is given."""
    stream = Stream.open(log or MemoryLog(LOG_ID), state, settings=settings)
    stream.lead(NOW_MS, 7)
    return stream


def send(stream: Stream, *incoming: Incoming, at_ms: int = NOW_MS) -> Commit:
    """One group commit."""
    return stream.sequence(incoming, at_ms)


def entry_of(stored: StoredEntry) -> Entry:
    """An entry as devices read it."""
    return Entry.model_validate_json(stored.data)


def only_entry(commit: Commit) -> Entry:
    """The entry of a commit that made one."""
    assert not commit.problems
    (stored,) = commit.entries
    return entry_of(stored)


def reasons(entry: Entry) -> list[str]:
    """Why rows of the entry are refused."""
    return [refusal.reason for refusal in entry.refused]


def rows_of(stream: Stream, table: str) -> list[dict[str, Any]]:
    """All rows of a table."""
    return list(stream.rows(table))


def picture(stream: Stream) -> dict[str, Any]:
    """All that a stream's state says: equal for two states exactly if they are equal."""
    return {
        "head": stream.head,
        "rows": {table.name: rows_of(stream, table.name) for table in stream.tables()},
        "digests": stream.digests(),
        "conflicts": stream.conflicts(limit=100_000),
        "devices": stream.devices(),
    }


def _collation(word: str) -> Collation:
    found: dict[str, Collation] = {"BINARY": "BINARY", "NOCASE": "NOCASE", "RTRIM": "RTRIM"}
    return found[word]


def _affinity(word: str) -> Affinity:
    found: dict[str, Affinity] = {
        "INTEGER": "INTEGER",
        "REAL": "REAL",
        "TEXT": "TEXT",
        "BLOB": "BLOB",
        "NUMERIC": "NUMERIC",
    }
    return found[word]
