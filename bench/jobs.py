"""The jobs that people have Tidewire for. Each takes an empty folder and says how fast it went."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from bench.app import Written, begin_app, end_app
from bench.bed import LATENCY_POLL_S, Bed, wait_arrival, wait_arrivals
from bench.results import Sample, Usage

ROWS = 50_000
PER_TRANSACTION = 500
SINGLE_ROWS = 5_000
LATENCY_ROWS = 200
LATENCY_PAUSE_S = 0.05
FANOUT = 10


def throughput(folder: Path, *, rows: int = ROWS, per_transaction: int = PER_TRANSACTION, receivers: int = 1) -> Sample:
    """T: rows inserted on A in transactions of 500, until all are committed on B."""
    used: dict[str, Usage] = {}
    with Bed(folder) as bed:
        a, *others = [bed.add("a"), *(bed.add(f"b{n}" if receivers > 1 else "b") for n in range(receivers))]
        with bed.using(used):
            app = begin_app(a.db, rows, per_transaction)
            seen = wait_arrivals(others, rows)
            written = end_app(app)
    used["app"] = written.used
    return Sample(
        figures={
            "rows/s": rows / (max(times[-1] for times in seen) - written.began),
            "app rows/s": rows / (written.committed[-1] - written.began),
            "CPU ms/1k rows": cpu_ms(used) / rows * 1000,
        },
        rows=rows,
        used=used,
    )


def singles(folder: Path) -> Sample:
    """S: single-row transactions on A as fast as the app can, until all are on B."""
    return throughput(folder, rows=SINGLE_ROWS, per_transaction=1)


def fanout(folder: Path) -> Sample:
    """F: T with ten B's, until the slowest has all."""
    return throughput(folder, receivers=FANOUT)


def latency(folder: Path) -> Sample:
    """L: one row every 50 ms; from committed on A to committed on B."""
    used: dict[str, Usage] = {}
    with Bed(folder) as bed:
        a, b = bed.add("a"), bed.add("b")
        with bed.using(used):
            app = begin_app(a.db, LATENCY_ROWS, 1, LATENCY_PAUSE_S)
            seen = wait_arrival(b, LATENCY_ROWS, poll_s=LATENCY_POLL_S)
            written = end_app(app)
    used["app"] = written.used
    return Sample(figures=quantiles_ms(delays(written, seen)), rows=LATENCY_ROWS, used=used)


def replay(folder: Path) -> Sample:
    """R: B is away while A writes and the hub has all of it; from the start of B's process until B has all."""
    used: dict[str, Usage] = {}
    with Bed(folder) as bed:
        a, b = bed.add("a"), bed.add("b")
        b.stop()
        end_app(begin_app(a.db, ROWS, PER_TRANSACTION))
        bed.wait_at_rest(a)
        began = time.monotonic()
        b.start(until=None)
        with bed.using(used):
            seen = wait_arrival(b, ROWS)
    return Sample(
        figures={
            "rows/s": ROWS / (seen[-1] - began),
            "first row s": seen[0] - began,
            "CPU ms/1k rows": cpu_ms(used) / ROWS * 1000,
        },
        rows=ROWS,
        used=used,
    )


def delays(written: Written, seen: Sequence[float]) -> list[float]:
    """How long each row took, in seconds."""
    return [there - here for here, there in zip(written.committed, seen, strict=True)]


def quantiles_ms(took_s: Sequence[float]) -> dict[str, float]:
    """What is said of delays."""
    took = sorted(1000 * one for one in took_s)
    return {"p50 ms": statistics.median(took), "p99 ms": took[int(len(took) * 0.99)], "max ms": took[-1]}


def cpu_ms(used: dict[str, Usage]) -> float:
    """Of all processes together, but the app that would have written its rows anyway."""
    return 1000 * sum(usage.cpu_s for name, usage in used.items() if name != "app")
