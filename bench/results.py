"""What measurements gave: their form in a file, and what is computed from it.

A file holds one run per workload, each with the machine and the commit it was made with, so that a long workload may
be measured at another time than the others. `add` puts new runs in the place of older ones of the same workload.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from bench.machine import Machine


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Usage(_Stored):
    """What one process used while a workload ran."""

    cpu_s: float
    rss_mib: float
    """The most it ever had."""
    written_mib: float = 0.0
    """Given to the kernel for files."""


class Sample(_Stored):
    """What one repeat of a workload gave."""

    figures: dict[str, float] = {}
    """Name with its unit → value."""
    rows: int = 0
    """How many rows the processes had work with, if their use is to be related to that."""
    used: dict[str, Usage] = {}
    """Process → what it used."""
    series: dict[str, list[tuple[float, float]]] = {}
    """Name with its unit → points, for figures that depend on one number."""


class Run(_Stored):
    """All repeats of a workload in one call of the command."""

    at: datetime
    commit: str
    """With a `+` if the checkout held changes."""
    machine: Machine
    shared: bool = False
    """Whether other programs had work on the machine, so that times say little."""
    samples: list[Sample] = Field(min_length=1)

    def spread(self, figure: str) -> Spread:
        """A figure over the repeats."""
        return Spread.of([sample.figures[figure] for sample in self.samples])

    def used(self) -> dict[str, Usage]:
        """Process → medians of what it used, and the greatest memory; processes of one kind count as repeats of it."""
        kinds: dict[str, list[Usage]] = {}
        for sample in self.samples:
            for name, usage in sample.used.items():
                kinds.setdefault(_kind(name, sample.used), []).append(usage)
        return {
            kind: Usage(
                cpu_s=statistics.median(usage.cpu_s for usage in all_used),
                rss_mib=max(usage.rss_mib for usage in all_used),
                written_mib=statistics.median(usage.written_mib for usage in all_used),
            )
            for kind, all_used in kinds.items()
        }

    def series(self) -> dict[str, list[tuple[float, Spread]]]:
        """Name → for each x the values over the repeats."""
        return {
            name: [
                (x, Spread.of([sample.series[name][n][1] for sample in self.samples]))
                for n, (x, _) in enumerate(points)
            ]
            for name, points in self.samples[0].series.items()
        }


class Spread(NamedTuple):
    """A figure over the repeats."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


class Results(_Stored):
    """A file of results."""

    v: Literal[1] = 1
    runs: dict[str, Run] = {}
    """Workload → its newest run."""

    @classmethod
    def load(cls, path: Path) -> Results:
        """What is in a file; nothing where there is none."""
        return cls.model_validate_json(path.read_bytes()) if path.exists() else cls()

    def save(self, path: Path) -> None:
        """Write it, readable for people."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    def with_runs(self, runs: Mapping[str, Run]) -> Results:
        """These and, of the workloads that are not among them, those that were there."""
        return Results(runs={**self.runs, **runs})


def new_run(samples: list[Sample], machine: Machine, commit: str, *, shared: bool) -> Run:
    """A run that ended now; figures keep four digits, as no measurement has more."""
    now = datetime.now(UTC).replace(microsecond=0)
    return Run(at=now, commit=commit, machine=machine, shared=shared, samples=[_rounded(sample) for sample in samples])


def _kind(name: str, names: Iterable[str]) -> str:
    """`agent b7` beside b0 to b9 is `each agent b0–b9`."""
    stem = name.rstrip("0123456789")
    like = [other for other in names if other.rstrip("0123456789") == stem]
    return name if len(like) == 1 else f"each {like[0]}–{like[-1].split()[-1]}"


def _rounded(sample: Sample) -> Sample:
    return Sample(
        figures={name: _digits(value) for name, value in sample.figures.items()},
        rows=sample.rows,
        used={
            name: Usage(
                cpu_s=round(usage.cpu_s, 3), rss_mib=round(usage.rss_mib, 1), written_mib=round(usage.written_mib, 3)
            )
            for name, usage in sample.used.items()
        },
        series={name: [(x, _digits(y)) for x, y in points] for name, points in sample.series.items()},
    )


def _digits(value: float) -> float:
    return float(f"{value:.4g}") if abs(value) < 10_000 else round(value)
