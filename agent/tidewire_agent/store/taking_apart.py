"""A batch that the hub cannot take becomes smaller ones. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

from tidewire_schemas.codec import encode_runs
from tidewire_schemas.messages import Run
from tidewire_schemas.values import WireRow

_Place: TypeAlias = tuple[int, int]
"""A row: which run, and which of its rows."""


class TakeApart(NamedTuple):
    """Which of the batches that are numbered anew are too much for the hub."""

    bytes_max: int
    """Batches above this become several."""
    halve: int | None
    """The batch of this number becomes two, however small: the hub has said that it cannot take it."""


class LooseRow(NamedTuple):
    """A row that cannot be sent, even alone."""

    run: Run
    row: WireRow
    size: int


class Pieces(NamedTuple):
    """What became of a batch's changes."""

    changes_json: list[bytes]
    loose: list[LooseRow]


def take_apart(runs: Sequence[Run], bytes_max: int, *, halve: bool) -> Pieces:
    """The changes of a batch in pieces of up to `bytes_max` bytes, in their order; at least two where `halve` is set.

    What belongs together stays together unless that alone is too much.
    """
    pieces = Pieces([], [])
    _split(runs, _units(runs), bytes_max, pieces, whole_is_too_much=halve)
    return pieces


def _split(
    runs: Sequence[Run], units: Sequence[list[_Place]], bytes_max: int, pieces: Pieces, *, whole_is_too_much: bool
) -> None:
    part = list(_runs_of(runs, [place for unit in units for place in unit]))
    encoded = encode_runs(part)
    if len(encoded) <= bytes_max and not whole_is_too_much:
        pieces.changes_json.append(encoded)
        return
    if len(units) == 1:
        units = [[place] for place in units[0]]
    if len(units) == 1:
        ((run, row),) = units[0]
        pieces.loose.append(LooseRow(runs[run], runs[run].rows[row], len(encoded)))
        return
    half = len(units) // 2
    for some in (units[:half], units[half:]):
        _split(runs, some, bytes_max, pieces, whole_is_too_much=False)


def _units(runs: Sequence[Run]) -> list[list[_Place]]:
    """Rows that belong together, in the order of the first of them."""
    tied: dict[int, list[_Place]] = {}
    units: list[list[_Place]] = []
    for number, run in enumerate(runs):
        for row, tie in enumerate(run.ties or (0,) * len(run.rows)):
            unit = tied.get(tie) if tie else None
            if unit is None:
                unit = []
                units.append(unit)
                if tie:
                    tied[tie] = unit
            unit.append((number, row))
    return units


def _runs_of(runs: Sequence[Run], places: Sequence[_Place]) -> Iterator[Run]:
    """Some rows of the runs, in the order of the batch."""
    chosen: dict[int, list[int]] = {}
    for number, row in sorted(places):
        chosen.setdefault(number, []).append(row)
    for number, rows in chosen.items():
        run = runs[number]
        ties = None if run.ties is None else tuple(run.ties[row] for row in rows)
        yield run.model_copy(update={"rows": [run.rows[row] for row in rows], "ties": ties})
