"""The jobs that are measured. Each takes an empty folder and says how fast it went."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bench.bed import LATENCY_POLL_S, Bed, Usage, begin_app, end_app, wait_arrival

ROWS = 50_000
PER_TRANSACTION = 500
SINGLE_ROWS = 5_000
LATENCY_ROWS = 200
LATENCY_PAUSE_S = 0.05
FANOUT = 10


class Result(NamedTuple):
    """What one run of a workload gave."""

    figures: dict[str, float]
    """Name with its unit → value."""
    used: dict[str, Usage]
    """Process → what it used."""


def throughput(folder: Path, *, rows: int = ROWS, per_transaction: int = PER_TRANSACTION) -> Result:
    """T: rows inserted on A in transactions of 500, until all are committed on B."""
    used: dict[str, Usage] = {}
    with Bed(folder) as bed:
        a, b = bed.add("a"), bed.add("b")
        with bed.using(used):
            app = begin_app(a, rows, per_transaction)
            seen = wait_arrival(b, rows)
            written = end_app(app)
        size_mib = a.db.stat().st_size / 2**20
    cpu_ms = 1000 * sum(usage.cpu_s for usage in used.values())
    return Result(
        {
            "rows/s": rows / (seen[-1] - written.began),
            "app rows/s": rows / (written.committed[-1] - written.began),
            "CPU ms/1k rows": cpu_ms / rows * 1000,
            "A database bytes/row": size_mib * 2**20 / rows,
        },
        used,
    )


def singles(folder: Path) -> Result:
    """S: single-row transactions on A as fast as the app can, until all are on B."""
    return throughput(folder, rows=SINGLE_ROWS, per_transaction=1)


def latency(folder: Path) -> Result:
    """L: one row every 50 ms; from committed on A to committed on B."""
    used: dict[str, Usage] = {}
    with Bed(folder) as bed:
        a, b = bed.add("a"), bed.add("b")
        with bed.using(used):
            app = begin_app(a, LATENCY_ROWS, 1, LATENCY_PAUSE_S)
            seen = wait_arrival(b, LATENCY_ROWS, poll_s=LATENCY_POLL_S)
            written = end_app(app)
    took = sorted(1000 * (there - here) for here, there in zip(written.committed, seen, strict=True))
    return Result({"p50 ms": statistics.median(took), "p99 ms": took[int(len(took) * 0.99)], "max ms": took[-1]}, used)


def replay(folder: Path) -> Result:
    """R: B is away while A writes and the hub has all of it; from the start of B's process until B has all."""
    used: dict[str, Usage] = {}
    with Bed(folder) as bed:
        a, b = bed.add("a"), bed.add("b")
        b.stop()
        end_app(begin_app(a, ROWS, PER_TRANSACTION))
        bed.wait_at_rest(a)
        began = time.monotonic()
        b.start(until=None)
        with bed.using(used):
            seen = wait_arrival(b, ROWS)
    return Result(
        {
            "rows/s": ROWS / (seen[-1] - began),
            "first row s": seen[0] - began,
            "rows/s from the first row": ROWS / (seen[-1] - seen[0]) if seen[-1] > seen[0] else float("inf"),
        },
        used,
    )


def fanout(folder: Path) -> Result:
    """F: T with ten B's, until the slowest has all."""
    used: dict[str, Usage] = {}
    with Bed(folder) as bed:
        a = bed.add("a")
        others = [bed.add(f"b{n}") for n in range(FANOUT)]
        with bed.using(used):
            app = begin_app(a, ROWS, PER_TRANSACTION)
            last = max(wait_arrival(device, ROWS, poll_s=0.01)[-1] for device in others)
            written = end_app(app)
    cpu_ms = 1000 * sum(usage.cpu_s for usage in used.values())
    return Result({"rows/s": ROWS / (last - written.began), "CPU ms/1k rows": cpu_ms / ROWS * 1000}, used)


WORKLOADS: dict[str, Callable[[Path], Result]] = {
    "T": throughput,
    "S": singles,
    "L": latency,
    "R": replay,
    "F": fanout,
}
