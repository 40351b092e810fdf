"""Random batches of two devices on a few rows of two tables, so that they clash; and a follower of the log that is as
plain as can be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random
from typing import Any, Final, NamedTuple

from support.stream_kit import HandDevice, send, shape
from tidewire_hub.stream import Stream
from tidewire_schemas.digest import as_hex, column_order, row_digest, table_digest
from tidewire_schemas.keys import key_bytes
from tidewire_schemas.messages import Entry
from tidewire_schemas.names import fold
from tidewire_schemas.operations import Op
from tidewire_schemas.positions import START
from tidewire_schemas.shapes import TableShape
from tidewire_schemas.snapshots import SnapshotChunk
from tidewire_schemas.values import decode

SHAPES: Final = [
    shape("item", "id INTEGER, code TEXT NOCASE, n REAL, note BLOB", rowid=True, unique=["code", "n note"]),
    shape("part", "name TEXT NOCASE, box INTEGER, n NUMERIC", key="name box"),
    shape("spare", "id TEXT"),
]
COLUMNS: Final = {"item": ("id", "code", "n", "note"), "part": ("name", "box", "n")}
OPS: Final[tuple[Op, ...]] = ("put", "put", "set", "set", "delete", "seed")
KEYS: Final = {"item": 1, "part": 2}
VALUES: Final[dict[str, list[Any]]] = {
    "code": ["a", "A", "b", "c", "d", "e", None, None],
    "n": [None, 1.5, -2.25, 3.5],
    "note": [None, 1, "1", {"blob": "AA=="}, "two", "three"],
}


class RandomBatch(NamedTuple):
    """Which device writes, how many entries it is behind, and operation, table, columns and rows of each run."""

    device: int
    behind: int
    runs: list[tuple[Op, str, tuple[str, ...], list[list[Any]]]]


def random_batches(random: Random, count: int = 60) -> list[RandomBatch]:
    return [
        RandomBatch(
            random.randrange(2),
            random.choice([0, 0, 0, 0, 1, 3]),
            [_written(random) for _ in range(random.randint(1, 2))],
        )
        for _ in range(count)
    ]


def send_all(stream: Stream, batches: Iterable[RandomBatch]) -> Iterator[None]:
    """Send one batch per step; the first step declares the tables."""
    stream.declare("d0", SHAPES)
    devices = [HandDevice("d0"), HandDevice("d1")]
    positions = [START]
    for number, behind, runs in batches:
        device = devices[number]
        device.base = positions[max(0, len(positions) - 1 - behind)]
        made = [device.run(op, table, " ".join(columns), *rows, key=KEYS[table]) for op, table, columns, rows in runs]
        assert not send(stream, device.seal(*made)).problems
        positions.append(stream.head)
        yield


def _written(random: Random) -> tuple[Op, str, tuple[str, ...], list[list[Any]]]:
    table = random.choice(["item", "part"])
    op = random.choice(OPS)
    key, others = COLUMNS[table][: KEYS[table]], COLUMNS[table][KEYS[table] :]
    if op == "set":
        others = tuple(random.sample(others, random.randint(1, len(others))))
    columns = key if op == "delete" else (*key, *others)
    keys: list[list[Any]] = [[n] for n in range(4)] if table == "item" else [[n, 1] for n in "xXyz"]
    rows = [[*row, *(random.choice(VALUES[name]) for name in columns[len(row) :])] for row in keys]
    return op, table, columns, random.sample(rows, random.randint(1, 3))


class Follower:
    """Rows in dictionaries, made from a snapshot's chunks and the entries after it, by nothing but what they say."""

    def __init__(self, shapes: Iterable[TableShape]) -> None:
        self._shapes = {fold(shape.name): shape for shape in shapes}
        self._rows: dict[str, dict[bytes, dict[str, Any]]] = {name: {} for name in self._shapes}

    def load(self, chunk: SnapshotChunk) -> None:
        """Take up a chunk; a row that came before is a mistake."""
        rows = self._rows[fold(chunk.table)]
        for values in chunk.rows:
            key = self._key(chunk.table, chunk.columns, values)
            assert key not in rows
            rows[key] = _cells(chunk.columns, values)

    def apply(self, entry: Entry) -> None:
        """Take up an entry: deletes first."""
        for run in sorted(entry.changes, key=lambda run: run.op != "delete"):
            rows = self._rows[fold(run.table)]
            for values in run.rows:
                key = self._key(run.table, run.columns, values)
                if run.op == "delete":
                    rows.pop(key, None)
                elif run.op == "set":
                    rows[key].update(_cells(run.columns[run.key :], values[run.key :]))
                else:
                    rows.setdefault(key, {}).update(_cells(run.columns, values))

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Rows by key, NULLs left out."""
        held = sorted(self._rows[fold(table)].items())
        return [{name: value for name, value in cells.items() if value is not None} for _, cells in held]

    def digest(self, table: str) -> str:
        """As `tidewire-agent verify` computes it."""
        names = [fold(column.name) for column in self._shapes[fold(table)].columns]
        order = [names[place] for place in column_order(names)]
        rows = self._rows[fold(table)].values()
        return as_hex(table_digest(row_digest(order, [decode(row.get(name)) for name in order]) for row in rows))

    def _key(self, table: str, columns: Iterable[str], values: Iterable[Any]) -> bytes:
        shape = self._shapes[fold(table)]
        cells = _cells(columns, values)
        collation = {fold(column.name): column.collation for column in shape.columns}
        names = [fold(name) for name in shape.key]
        return key_bytes([decode(cells[name]) for name in names], [collation[name] for name in names])


def _cells(columns: Iterable[str], values: Iterable[Any]) -> dict[str, Any]:
    return {fold(name): value for name, value in zip(columns, values, strict=True)}
