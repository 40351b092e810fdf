"""Batches that are too much become smaller ones, and lose nothing on the way."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tidewire_agent.store.taking_apart import Pieces, take_apart
from tidewire_schemas.messages import Run
from tidewire_schemas.operations import Op
from tidewire_schemas.positions import START


def run(op: Op, *keys: int, ties: tuple[int, ...] | None = None, width: int = 10) -> Run:
    columns = ("id",) if op == "delete" else ("id", "text")
    rows: list[Any] = [[key] if op == "delete" else [key, "x" * width] for key in keys]
    return Run(op=op, table="t", base=START, key=1, columns=columns, rows=rows, ties=ties)


def rows_of(pieces: Pieces) -> list[list[tuple[str, int]]]:
    decoded = [json.loads(piece) for piece in pieces.changes_json]
    return [[(run["op"], row[0]) for run in runs for row in run["rows"]] for runs in decoded]


@pytest.mark.parametrize("bytes_max", [120, 200, 400, 10_000])
def test_all_rows_are_in_one_piece_each_in_their_order(bytes_max: int) -> None:
    runs = [run("delete", 1, 2), run("put", *range(3, 20))]
    pieces = take_apart(runs, bytes_max, halve=False)
    assert all(len(piece) <= bytes_max for piece in pieces.changes_json)
    found = [row for piece in rows_of(pieces) for row in piece]
    assert found == [("delete", 1), ("delete", 2), *(("put", key) for key in range(3, 20))]
    assert pieces.loose == []


def test_what_fits_is_halved_when_it_is_asked_for() -> None:
    assert rows_of(take_apart([run("put", 1, 2, 3)], 10_000, halve=True)) == [[("put", 1)], [("put", 2), ("put", 3)]]


def test_rows_that_belong_together_stay_together() -> None:
    runs = [run("delete", 1, 2, ties=(1, 2)), run("put", 1, 2, ties=(1, 2))]
    pieces = take_apart(runs, 10_000, halve=True)
    assert rows_of(pieces) == [[("delete", 1), ("put", 1)], [("delete", 2), ("put", 2)]]
    assert json.loads(pieces.changes_json[1])[0]["ties"] == [2]


def test_a_row_that_is_too_much_by_itself_is_left_out_and_the_others_go() -> None:
    pieces = take_apart([run("put", 1), run("put", 2, width=5000), run("put", 3)], 1000, halve=False)
    assert rows_of(pieces) == [[("put", 1)], [("put", 3)]]
    assert [loose.row[0] for loose in pieces.loose] == [2]


def test_one_row_that_the_hub_cannot_take_is_left_out() -> None:
    pieces = take_apart([run("put", 1)], 10_000, halve=True)
    assert (pieces.changes_json, [loose.row[0] for loose in pieces.loose]) == ([], [1])
