"""What reaches the disk of a device, which wears flash: bytes that app and agent give to the kernel, per row."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from bench.app import begin_app, end_app
from bench.bed import Bed
from bench.jobs import PER_TRANSACTION, ROWS, SINGLE_ROWS
from bench.limits import new_database
from bench.results import Sample, Usage

SEAL_PAUSES_S = (0, 1, 10)
PACED_ROWS = 400
PACED_PAUSE_S = 0.05
"""Twenty sensors that report each second."""


class Pattern(NamedTuple):
    """How an app writes."""

    name: str
    rows: int
    per_transaction: int
    pause_s: float = 0.0


PATTERNS = (
    Pattern("batches", ROWS, PER_TRANSACTION),
    Pattern("singles", SINGLE_ROWS, 1),
    Pattern("20 rows/s", PACED_ROWS, 1, PACED_PAUSE_S),
)


def flash(folder: Path) -> Sample:
    """Each pattern without Tidewire and with it; the last one also with changes that gather for a time."""
    figures = {}
    for pattern in PATTERNS:
        alone = folder / f"{pattern.name.replace('/', '-')}.db"
        new_database(alone, captured=False)
        written = end_app(begin_app(alone, pattern.rows, pattern.per_transaction, pattern.pause_s))
        figures[f"{pattern.name}: app alone, bytes/row"] = _per_row(written.used, pattern)
        for pause_s in SEAL_PAUSES_S if pattern.pause_s else (0,):
            name = f"{pattern.name}, seal_pause_s {pause_s}" if pattern.pause_s else pattern.name
            app, agent = _synced(folder / f"{pattern.rows}-{pause_s}", pattern, pause_s)
            figures[f"{name}: app, bytes/row"] = _per_row(app, pattern)
            figures[f"{name}: agent, bytes/row"] = _per_row(agent, pattern)
    return Sample(figures=figures)


def _synced(folder: Path, pattern: Pattern, seal_pause_s: float) -> tuple[Usage, Usage]:
    """What app and agent used until all is in the log."""
    used: dict[str, Usage] = {}
    with Bed(folder) as bed:
        a = bed.add("a", "--seal-pause-s", str(seal_pause_s))
        with bed.using(used):
            written = end_app(begin_app(a.db, pattern.rows, pattern.per_transaction, pattern.pause_s))
            time.sleep(seal_pause_s)
            bed.wait_at_rest(a)
    return written.used, used["agent a"]


def _per_row(used: Usage, pattern: Pattern) -> float:
    return used.written_mib * 2**20 / pattern.rows
