"""The fast path does what the full resolution does: to the log, the rows, who wrote them, and the conflicts."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from random import Random
from typing import Any

import pytest

from support.random_batches import KEYS, SHAPES, RandomBatch, random_batches
from support.stream_kit import LOG_ID, HandDevice, entry_of, open_stream, picture, send
from tidewire_hub.catalogue import Catalogue, KnownShape, Table
from tidewire_hub.log.memory import MemoryLog
from tidewire_hub.state.plain import plain_runs
from tidewire_hub.state.store import Folded, Limits, State
from tidewire_hub.stream import Stream
from tidewire_schemas.operations import Op
from tidewire_schemas.positions import START, Position, Seq

FOLDED = ("head", "rows", "digests", "conflicts")
ROW_WRITERS = """
    SELECT table_id, key, cells, born_seq, born.name, seq, writer.name, cells_by
    FROM row JOIN device AS born ON born.id = born_by LEFT JOIN device AS writer ON writer.id = by
    ORDER BY table_id, key
"""


def _take(state: Path, sent: list[RandomBatch], *, slowly: bool) -> tuple[dict[str, Any], list[Any]]:
    """All that a stream's state and log say after these batches."""
    log = MemoryLog(LOG_ID)
    stream = open_stream(log, state)
    stream.declare("d0", SHAPES)
    devices = [HandDevice("d0"), HandDevice("d1")]
    positions = [START]
    for number, behind, runs in sent:
        device = devices[number]
        device.base = positions[max(0, len(positions) - 1 - behind)]
        made = [device.run(op, table, " ".join(columns), *rows, key=KEYS[table]) for op, table, columns, rows in runs]
        if slowly:  # a delete of an absent row does nothing, but has to be judged
            made.append(device.delete("spare", "id", ["nobody"]))
        send(stream, device.seal(*made))
        positions.append(stream.head)
    said = picture(stream)
    said["devices"] = [(chain.device, chain.accepted.batch, chain.accepted.seq) for chain in stream.devices()]
    entries = [entry_of(stored) for stored in log.read(Seq(0), bytes_max=10**9, entries_max=10**6)]
    told = [(entry.position, entry.refused, entry.changes) for entry in entries]
    stream.close()
    with sqlite3.connect(state) as connection:
        said["writers"] = connection.execute(ROW_WRITERS).fetchall()
        said["unique"] = connection.execute("SELECT * FROM unique_value ORDER BY 1, 2, 3, 4").fetchall()
    connection.close()
    again = picture(Stream.open(log, None))
    assert [again[name] for name in FOLDED] == [said[name] for name in FOLDED]
    return said, told


@pytest.mark.parametrize("seed", range(12))
def test_the_fast_path_does_what_the_full_resolution_does(seed: int, tmp_path: Path) -> None:
    """Guarantees 6 and 7."""
    sent = random_batches(Random(seed))
    fast, slow = (_take(tmp_path / f"{slowly}.db", sent, slowly=slowly) for slowly in (False, True))
    assert fast == slow


def folded(seq: int, device: str) -> Folded:
    return Folded(Position(1, seq), device, "0" * 32, seq, "0" * 32, 0)


ALL = "id code n note"


@pytest.mark.parametrize(
    ("device", "op", "columns", "rows", "plain"),
    [
        pytest.param("a", "put", ALL, [[1, "z", None, None], [9, "y", None, None]], True, id="put, new and over"),
        pytest.param("a", "put", ALL, [[1, "b", None, None], [2, "a", None, None]], True, id="a swap of unique values"),
        pytest.param("a", "set", "id n", [[1, None], [3, 7.5]], True, id="set, also to NULL"),
        pytest.param("a", "set", "id code", [[1, "b"], [2, "c"]], True, id="a unique value that another row gives up"),
        pytest.param("a", "delete", "id", [[1], [3]], True, id="delete"),
        pytest.param("b", "put", ALL, [[9, "y", None, None]], True, id="a new row, whatever its writer had seen"),
        pytest.param("a", "set", "id code", [[1, "B"]], False, id="a unique value that is held"),
        pytest.param("a", "put", ALL, [[7, "A", None, None]], False, id="a new row with a unique value that is held"),
        pytest.param("a", "put", ALL, [[7, "q", None, None], [8, "Q", None, None]], False, id="a unique value twice"),
        pytest.param("a", "set", "id n", [[1, 2.5], [1, 3.5]], False, id="a key twice"),
        pytest.param("a", "set", "id n", [[9, 2.5]], False, id="set where no row is"),
        pytest.param("a", "delete", "id", [[9]], False, id="delete where no row is"),
        pytest.param("a", "seed", ALL, [[1, "a", 1.5, None]], False, id="a seed of a row that is there"),
        pytest.param("b", "put", ALL, [[1, "a", 1.5, None]], False, id="put on a row that its writer had not seen"),
        pytest.param("b", "set", "id n", [[1, 2.5]], False, id="set on a row that its writer had not seen"),
        pytest.param("b", "delete", "id", [[1]], False, id="delete of a row that its writer had not seen"),
    ],
)
def test_many_rows_at_a_time_are_taken_exactly_when_nothing_has_to_be_judged(
    device: str, op: Op, columns: str, rows: list[list[Any]], plain: bool
) -> None:
    catalogue = Catalogue(tuple(Table(number, KnownShape(**dict(each))) for number, each in enumerate(SHAPES, 1)))
    state = State.open(None, LOG_ID, Limits(2**20, 100, 100))
    assert state is not None
    state.align(catalogue)
    state.begin()
    a = HandDevice("a")
    there = plain_runs([a.put("item", ALL, [1, "a", 1.5, None], [2, "b", None, 1], [3, None, 2.5, "x"])], catalogue)
    assert there is not None
    assert state.take_plain(there, folded(1, "a"))
    runs = plain_runs([HandDevice(device).run(op, "item", columns, *rows)], catalogue)
    assert runs is not None
    assert state.take_plain(runs, folded(2, device)) is plain
    assert state.position.seq == (2 if plain else 1)
    state.close()
