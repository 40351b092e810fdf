"""Results on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from bench.results import Results, Run, Spread
from bench.workloads import RATIOS, WORKLOADS


def print_results(results: Results, console: Console) -> None:
    """All of them: figures, ratios to the limits, what processes used."""
    for machine in dict.fromkeys(str(run.machine) for run in results.runs.values()):
        console.print(machine, style="dim", highlight=False)
    console.print(_figures(results))
    if (ratios := _ratios(results)).row_count:
        console.print(ratios)
    if (usage := _usage(results)).row_count:
        console.print(usage)


def number(value: float) -> str:
    """With three digits that count, as people read it."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def spread(value: Spread) -> str:
    """The median, and how far the repeats lie apart."""
    if value.least == value.most:
        return number(value.median)
    return f"{number(value.median)} ({number(value.least)}–{number(value.most)})"


def per_1k_rows_ms(run: Run, cpu_s: float) -> float | None:
    """CPU time of a process per 1,000 rows, where the workload says how many there were."""
    rows = run.samples[0].rows
    return cpu_s * 1e6 / rows if rows else None


def _figures(results: Results) -> Table:
    table = Table(title="Figures: median of the repeats (least–most)", title_justify="left")
    for column in ("workload", "figure"):
        table.add_column(column)
    table.add_column("value", justify="right")
    for name, run in results.runs.items():
        title = WORKLOADS[name].title if name in WORKLOADS else ""
        for n, figure in enumerate(run.samples[0].figures):
            table.add_row(f"{name}  {title}" if n == 0 else "", figure, spread(run.spread(figure)))
        for series, points in run.series().items():
            for n, (x, value) in enumerate(points):
                table.add_row(
                    "", f"{series} at {number(x)}" if n else f"{name}: {series} at {number(x)}", spread(value)
                )
        table.add_section()
    return table


def _ratios(results: Results) -> Table:
    table = Table(title="Against the limits measured in the same run", title_justify="left")
    for column in ("figure", "limit"):
        table.add_column(column)
    for column in ("ratio", "to reach"):
        table.add_column(column, justify="right")
    for ratio in RATIOS:
        if (value := ratio.of(results)) is not None:
            colour = {True: "green", False: "red", None: "default"}[ratio.reached(value.median)]
            table.add_row(
                f"{ratio.workload} {ratio.figure}",
                f"{ratio.limit} {ratio.limit_figure}",
                f"[{colour}]{spread(value)}",
                ratio.wanted,
            )
    return table


def _usage(results: Results) -> Table:
    table = Table(title="What each process used", title_justify="left")
    for column in ("workload", "process"):
        table.add_column(column)
    for column in ("CPU s", "CPU ms/1k rows", "most memory MiB", "written MiB"):
        table.add_column(column, justify="right")
    for name, run in results.runs.items():
        for n, (process, usage) in enumerate(run.used().items()):
            per_1k = per_1k_rows_ms(run, usage.cpu_s)
            table.add_row(
                name if n == 0 else "",
                process,
                f"{usage.cpu_s:.2f}",
                "" if per_1k is None else number(per_1k),
                f"{usage.rss_mib:.1f}",
                number(usage.written_mib),
            )
        if run.samples[0].used:
            table.add_section()
    return table
