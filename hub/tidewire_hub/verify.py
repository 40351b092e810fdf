"""What the hub holds, for a device that compares: of a whole table, of ranges of keys, of single rows.

An answer is made from one read of the state, and says at which position. The whole table costs nothing, as its total is
kept up to date, unless the device has fewer columns; single rows are found by their keys; ranges take a scan of the
table, which is why only one is made at a time, beside the stream and not on its thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic_core import to_json

from tidewire_hub.backup import open_read_only
from tidewire_hub.catalogue import Table
from tidewire_hub.database import storage_errors
from tidewire_hub.layout import DataDirectory
from tidewire_hub.resolve_view import Cells, Row
from tidewire_hub.settings import HubSettings
from tidewire_hub.state.cells import Total, cells_digest, cells_json
from tidewire_hub.state.check import StateDamaged
from tidewire_hub.state.store import Limits, State
from tidewire_schemas.digest import as_hex, key_hash
from tidewire_schemas.keys import key_bytes
from tidewire_schemas.names import fold
from tidewire_schemas.values import WireRow, decode_row
from tidewire_schemas.verification import (
    RANGE_DIGITS,
    RANGE_LISTED_MAX,
    VerifyAnswer,
    VerifyKey,
    VerifyRange,
    VerifyRequest,
    VerifyRow,
)

HASH_DIGITS: Final = 32
"""Of a key's hash: no range is smaller."""

_RANGE_BYTES: Final = 80
"""About what a range without a list takes in an answer."""

_SLICE_ROWS: Final = 500
"""Rows looked at before the other threads of the hub get as long a time: a few milliseconds."""


Rest = Callable[[float], None]
"""Does nothing for so many seconds, or raises to end a scan."""


def answer_from_file(data: DataDirectory, settings: HubSettings, request: VerifyRequest, rest: Rest) -> VerifyAnswer:
    """The same of the state as it was committed last, beside the stream that writes it.

    Raises:
        StateDamaged: the disk has changed it.
        DatabaseError: it cannot be read.
    """
    with closing(open_read_only(data.state)) as connection, storage_errors(data.state):
        connection.execute("BEGIN")  # one snapshot for all
        limits = Limits(settings.state_cache_bytes, settings.chain_points_max, settings.conflicts_max)
        return answer(State(connection, limits), request, bytes_max=settings.verify_answer_bytes_max, rest=rest)


def answer(state: State, request: VerifyRequest, *, bytes_max: int, rest: Rest) -> VerifyAnswer:
    """What the state holds of what was asked for, as much as goes into about `bytes_max`."""
    told = VerifyAnswer(
        incarnation=request.incarnation, boot=request.boot, nonce=request.nonce, position=state.position
    )
    table = state.catalogue.find(request.table)
    if table is None or table.key != tuple(map(fold, request.columns[: request.key])):
        return told.model_copy(update={"known": False})
    seen = _Seen(table, request, rest)
    if request.rows:
        return told.model_copy(update={"rows": tuple(_rows(state, seen, request.rows, bytes_max))})
    if request.ranges:
        return told.model_copy(update={"ranges": tuple(_ranges(state, seen, request.ranges, bytes_max))})
    total = state.rows.total(table) if seen.whole else _total(state, seen)
    return told.model_copy(update={"ranges": (VerifyRange(prefix="", rows=total.rows, digest=total.hex),)})


class _Seen:
    """A table as a device sees it: in the columns that it has."""

    def __init__(self, table: Table, request: VerifyRequest, rest: Rest) -> None:
        self.table: Final = table
        self.rest: Final = rest
        self.columns: Final = tuple(map(fold, request.columns))
        self._named: Final = frozenset(self.columns)
        self.whole: Final = self._named >= table.columns.keys()

    def digest(self, cells: Cells) -> int:
        """Of a row."""
        return cells_digest(cells_json(cells if self.whole else {n: v for n, v in cells.items() if n in self._named}))

    def key(self, cells: Cells) -> list[Any]:
        """Of a row, as wire values."""
        return [cells.get(name) for name in self.table.key]


@dataclass(slots=True)
class _Found:
    """What a scan has found of one range."""

    total: Total = field(default_factory=Total)
    parts: dict[str, Total] = field(default_factory=dict)
    keys: list[VerifyKey] = field(default_factory=list)


def _scan(state: State, seen: _Seen) -> Iterator[tuple[str, Cells, int]]:
    """Hash of the key, cells and digest of every row; leaves other threads their time."""
    began = time.monotonic()
    for number, (key, cells) in enumerate(state.rows.scan(seen.table), 1):
        yield key_hash(key), cells, seen.digest(cells)
        if number % _SLICE_ROWS == 0:
            seen.rest(time.monotonic() - began)
            began = time.monotonic()


def _total(state: State, seen: _Seen) -> Total:
    total = Total()
    for _hash, _cells, digest in _scan(state, seen):
        total.add(1, digest)
    return total


def _ranges(state: State, seen: _Seen, prefixes: Sequence[str], bytes_max: int) -> Iterator[VerifyRange]:
    found = {prefix: _Found() for prefix in prefixes}
    lengths = sorted({len(prefix) for prefix in prefixes})
    held, whole = state.rows.total(seen.table), Total()
    for hashed, cells, digest in _scan(state, seen):
        whole.add(1, digest)
        for length in lengths:
            into = found.get(hashed[:length])
            if into is None:
                continue
            into.total.add(1, digest)
            into.parts.setdefault(hashed[: length + RANGE_DIGITS], Total()).add(1, digest)
            if len(into.keys) <= RANGE_LISTED_MAX:
                into.keys.append(VerifyKey(key=seen.key(cells), digest=as_hex(digest)))
    if seen.whole and (whole.rows, whole.digest) != (held.rows, held.digest):
        raise StateDamaged(f"the rows of table {seen.table.shape.name} in the state are not as they were written")
    size = 0
    for number, (prefix, of_range) in enumerate(found.items()):
        if of_range.total.rows <= RANGE_LISTED_MAX or len(prefix) == HASH_DIGITS:
            keys = tuple(of_range.keys)
            total = of_range.total
            ranges = [VerifyRange(prefix=prefix, rows=total.rows, digest=total.hex, keys=keys)]
        else:
            ranges = [VerifyRange(prefix=part, rows=t.rows, digest=t.hex) for part, t in of_range.parts.items()]
        size += sum(_RANGE_BYTES + len(to_json(one.keys or ())) for one in ranges)
        if number and size > bytes_max:
            return
        yield from ranges


def _rows(state: State, seen: _Seen, keys: Sequence[WireRow], bytes_max: int) -> Iterator[VerifyRow]:
    collations = seen.table.key_collations
    names = [(seen.table.id, key_bytes(decode_row(key), collations)) for key in keys]
    view = state.view()
    view.prefetch(names)
    size = 0
    for number, (key, name) in enumerate(zip(keys, names, strict=True)):
        row = view.row(name)
        values = None if row is None or row.cells is None else [row.cells.get(column) for column in seen.columns]
        size += len(to_json(values)) + _RANGE_BYTES
        if number and size > bytes_max:
            return
        yield VerifyRow(key=key, changed=0 if row is None else _changed(row), values=values)


def _changed(row: Row) -> int:
    """The newest entry that had to do with a row."""
    return max(row.born.seq, row.written.seq, *(writer.seq for writer in row.cells_by.values()))
