"""Changes as the state takes them: without columns that were forgotten. Pure.

A device may have sealed batches before it gave a column up, so forgotten names in a batch are no fault. When the log is
folded anew it speaks of columns that were forgotten since, or that came back with other values: neither counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tidewire_hub.catalogue import Catalogue, Table
from tidewire_schemas.messages import Run
from tidewire_schemas.names import fold


def without_forgotten(runs: Sequence[Run], catalogue: Catalogue) -> Sequence[Run]:
    """The runs of a batch less columns that the hub once knew; the same object where they name none."""
    return _projected(runs, catalogue, lambda table, name: name not in table.shape.forgotten)


def as_of(runs: Sequence[Run], catalogue: Catalogue, seq: int) -> Sequence[Run]:
    """The changes of an entry less what does not count any more; the same object where all does."""
    return _projected(runs, catalogue, lambda table, name: table.counts(name, seq))


def _projected(runs: Sequence[Run], catalogue: Catalogue, counts: Callable[[Table, str], bool]) -> Sequence[Run]:
    projected: list[Run] = []
    changed = False
    for run in runs:
        table = catalogue.find(run.table)
        if table is None:
            projected.append(run)
            continue
        places = [place for place, name in enumerate(run.columns) if place < run.key or counts(table, fold(name))]
        if len(places) == len(run.columns):
            projected.append(run)
            continue
        changed = True
        if run.op != "set" or len(places) > run.key:
            rows = [[row[place] for place in places] for row in run.rows]
            columns = tuple(run.columns[place] for place in places)
            projected.append(run.model_copy(update={"columns": columns, "rows": rows}))
    return projected if changed else runs
