"""`python -m bench.report [RESULTS]`: write what was measured into docs/explanation/performance.md, with its plots.

With a file of results they are first taken over into docs/explanation/performance.json; of workloads that the file
does not hold, what is there stays. Page and plots are made of that file alone, so a test can say when they are stale.
The text around the figures is written by people: only what stands between the two marks is made here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click

from bench.machine import ROOT
from bench.results import Results
from bench.tables import number, per_1k_rows_ms, spread
from bench.workloads import RATIOS, WORKLOADS

FOLDER: Final = ROOT / "docs/explanation"
DATA: Final = FOLDER / "performance.json"
PAGE: Final = FOLDER / "performance.md"
BEGIN: Final = "<!-- Figures: made by `make bench-report` from performance.json. Do not edit. -->"
END: Final = "<!-- End of the figures. -->"

JOBS: Final = ("T", "S", "L", "R", "F")


def report(results: Results) -> str:
    """What stands between the marks."""
    return "\n".join(_lines(results)) + "\n"


def page(text: str, results: Results) -> str:
    """The page with the report in its place.

    Raises:
        ValueError: the page has no place for it.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError("the page lacks the marks between which the figures stand")
    return f"{before}{BEGIN}\n\n{report(results)}\n{END}{after}"


def fingerprint(results: Results) -> str:
    """Which results a plot was made of; it stands in the plot."""
    return hashlib.sha256(results.model_dump_json().encode()).hexdigest()[:16]


def stale() -> list[str]:
    """Names of the files that are not what the results make them."""
    results = Results.load(DATA)
    text = PAGE.read_text(encoding="utf-8")
    found = [] if page(text, results) == text else [PAGE.name]
    wanted = fingerprint(results)
    plots = [FOLDER / f"{name}.svg" for name in plot_names(results)]
    return found + [plot.name for plot in plots if not plot.exists() or wanted not in plot.read_text(encoding="utf-8")]


def plot_names(results: Results) -> dict[str, str]:
    """Plots for which there are results, by file name without its ending, and what each shows."""
    wanted: dict[str, tuple[str, Callable[[], bool]]] = {
        "performance-ratios": (
            "Jobs against the limits of the same run",
            lambda: all(ratio.of(results) is not None for ratio in RATIOS),
        ),
        "performance-cpu": ("CPU time per 1,000 rows", lambda: "T" in results.runs),
        "performance-delay": ("Latency against the delay of the links", lambda: "delay" in results.runs),
        "performance-log": ("The hub against the length of its log", lambda: "log" in results.runs),
        "performance-devices": ("Latency against the number of devices", lambda: "devices" in results.runs),
    }
    return {name: title for name, (title, there) in wanted.items() if there()}


def _lines(results: Results) -> Iterator[str]:
    plots = plot_names(results)
    yield from _conditions(results)
    if any(name in results.runs for name in JOBS):
        yield "### The jobs"
        yield ""
        yield from _jobs(results)
        yield from _plot("performance-ratios", plots)
        yield "What each process used:"
        yield ""
        yield from _usage(results)
        yield from _plot("performance-cpu", plots)
    for name, workload in WORKLOADS.items():
        if name in results.runs and name not in JOBS:
            yield f"### {workload.title}"
            yield ""
            yield from _workload(results, name)
            yield from _plot(f"performance-{name}", plots)


def _conditions(results: Results) -> Iterator[str]:
    by_machine: dict[str, list[str]] = {}
    for name, run in results.runs.items():
        by_machine.setdefault(str(run.machine), []).append(name)
    for machine, names in by_machine.items():
        which = "" if len(by_machine) == 1 else f" ({', '.join(names)})"
        yield f"Measured on {machine}{which}. Each figure is the median of the repeats, with the least and the most."
    yield ""
    if shared := [name for name, run in results.runs.items() if run.shared]:
        listed = ", ".join(f"`{name}`" for name in shared)
        yield f"While {listed} ran, the machine had other work as well: times there are longer than they would be."
        yield ""


def _jobs(results: Results) -> Iterator[str]:
    yield "| job | figure | value | limit | value | ratio | to reach |"
    yield "|---|---|---|---|---|---|---|"
    for ratio in RATIOS:
        run, limit = results.runs.get(ratio.workload), results.runs.get(ratio.limit)
        if run is None:
            continue
        for figure in run.samples[0].figures:
            row = ["", figure, spread(run.spread(figure)), "", "", "", ""]
            if figure == ratio.figure:
                row[0] = f"**{ratio.workload}**"
                value = ratio.of(results)
                if limit is not None and value is not None:
                    best = spread(limit.spread(ratio.limit_figure))
                    row[3:] = [f"{ratio.limit}: {ratio.limit_figure}", best, spread(value), ratio.wanted]
            yield f"| {' | '.join(row)} |"
    yield ""


def _usage(results: Results) -> Iterator[str]:
    yield "| job | process | CPU ms per 1,000 rows | most memory, MiB | written, MiB |"
    yield "|---|---|---|---|---|"
    for name in JOBS:
        run = results.runs.get(name)
        for process, usage in (run.used() if run else {}).items():
            per_1k = per_1k_rows_ms(run, usage.cpu_s) if run else None
            values = ["" if per_1k is None else number(per_1k), f"{usage.rss_mib:.1f}", number(usage.written_mib)]
            yield f"| {' | '.join([name, process, *values])} |"
    yield ""


def _workload(results: Results, name: str) -> Iterator[str]:
    run = results.runs[name]
    if run.samples[0].figures:
        yield "| figure | value |"
        yield "|---|---|"
        for figure in run.samples[0].figures:
            yield f"| {figure} | {spread(run.spread(figure))} |"
        yield ""
    if series := run.series():
        xs = [number(x) for x, _ in next(iter(series.values()))]
        yield f"| | {' | '.join(xs)} |"
        yield f"|---|{'---|' * len(xs)}"
        for title, points in series.items():
            yield f"| {title} | {' | '.join(spread(value) for _, value in points)} |"
        yield ""


def _plot(name: str, plots: dict[str, str]) -> Iterator[str]:
    if name in plots:
        yield f"![{plots[name]}]({name}.svg)"
        yield ""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("results", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(results: Path | None) -> None:
    """Write page and plots, from RESULTS and what was kept before."""
    from bench.plots import draw  # noqa: PLC0415  # only here is matplotlib needed

    kept = Results.load(DATA)
    if results is not None:
        kept = kept.with_runs(Results.load(results).runs)
        kept.save(DATA)
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), kept), encoding="utf-8")
    for name, title in plot_names(kept).items():
        draw(name, title, kept, fingerprint(kept), FOLDER / f"{name}.svg")
    click.echo(f"wrote {PAGE.relative_to(ROOT)} and {len(plot_names(kept))} plots")


if __name__ == "__main__":
    main()
