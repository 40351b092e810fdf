"""All that is measured, by name, and how the figures relate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bench import flash, footprint, jobs, limits, long_log, sweeps, thousand
from bench.results import Results, Run, Sample, Spread


class Workload(NamedTuple):
    """One thing to measure."""

    name: str
    title: str
    run: Callable[[Path], Sample]
    """In an empty folder."""
    repeats: int | None = None
    """How often, where once is enough."""
    long: bool = False
    """Takes minutes: only measured when it is named."""


_ALL = (
    Workload("sqlite", "SQLite alone", limits.sqlite),
    Workload("T", "Throughput: 50,000 rows in transactions of 500, from A to B", jobs.throughput),
    Workload("mqtt", "MQTT alone", limits.mqtt),
    Workload("bare", "The bare way: the same parts, and no protocol", limits.bare),
    Workload("S", "Singles: 5,000 transactions of one row, from A to B", jobs.singles),
    Workload("L", "Latency: one row every 50 ms, from committed on A to committed on B", jobs.latency),
    Workload("R", "Replay: B starts when the hub has 50,000 rows", jobs.replay),
    Workload("F", "Fan-out: T to ten B, until the slowest has all", jobs.fanout),
    Workload("start", "Start of an agent until it is live", footprint.start),
    Workload("idle", "Nobody writes, for ten seconds", footprint.idle, repeats=1),
    Workload("wire", "Bytes on the wire", footprint.wire, repeats=1),
    Workload("growth", "Bytes in files", footprint.growth, repeats=1),
    Workload("delay", "Latency against the delay of the links", sweeps.link_delay, repeats=1),
    Workload("devices", "Latency against the number of devices", sweeps.device_count, repeats=1),
    Workload("flash", "Bytes written on the device", flash.flash, repeats=1),
    Workload("log", "Against the length of the log", long_log.long_log, repeats=1, long=True),
    Workload("thousand", "A hub with 1,000 devices", thousand.thousand, repeats=1, long=True),
)

WORKLOADS = {workload.name: workload for workload in _ALL}
"""In the order in which they are measured: what is compared stands side by side."""


class Ratio(NamedTuple):
    """A figure against what its parts could do at best in the same run."""

    workload: str
    figure: str
    limit: str
    """Workload of the limit."""
    limit_figure: str
    target: float | None = None
    most: bool = False
    """Whether the target is the most it should be, and not the least."""

    @property
    def wanted(self) -> str:
        """The target, as people write it."""
        return "" if self.target is None else f"{'≤' if self.most else '≥'} {self.target:g}"

    def of(self, results: Results) -> Spread | None:
        """Its value in each repeat; None where one of the two was not measured."""
        ours, best = results.runs.get(self.workload), results.runs.get(self.limit)
        if ours is None or best is None:
            return None
        return self.of_runs(ours, best)

    def of_runs(self, ours: Run, best: Run) -> Spread:
        """The same of two runs."""
        pairs = zip(ours.samples, best.samples, strict=False)
        return Spread.of([a.figures[self.figure] / b.figures[self.limit_figure] for a, b in pairs])

    def reached(self, value: float) -> bool | None:
        """Whether it is as good as it should be; None where nothing is wanted."""
        if self.target is None:
            return None
        return value <= self.target if self.most else value >= self.target


RATIOS = (
    Ratio("T", "rows/s", "sqlite", "batches rows/s", 0.55),
    Ratio("S", "rows/s", "sqlite", "singles with trigger rows/s", 0.5),
    Ratio("L", "p50 ms", "mqtt", "p50 ms", 2.5, most=True),
    Ratio("R", "rows/s", "sqlite", "batches rows/s", 0.9),
    Ratio("F", "rows/s", "mqtt", "rows/s to ten"),
)
