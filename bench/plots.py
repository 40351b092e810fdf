"""The plots of the report: SVG that is the same for the same results."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.results import Results
from bench.workloads import RATIOS

INK: Final = "#1f2933"
FAINT: Final = "#9aa5b1"
COLOURS: Final = ("#0b7285", "#e8590c", "#5f3dc4", "#2b8a3e", "#868e96", "#c2255c")

mpl.use("svg")
mpl.rcParams.update(
    {
        "svg.fonttype": "none",  # text stays text: small files that can be searched
        "svg.hashsalt": "tidewire",
        "font.family": "sans-serif",
        "font.size": 10,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": FAINT,
        "xtick.color": INK,
        "ytick.color": INK,
    }
)


def draw(name: str, title: str, results: Results, fingerprint: str, path: Path) -> None:
    """Draw one of the plots that `report.plot_names` names."""
    figure = Figure(figsize=(7.2, 3.4), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, loc="left", fontsize=11)
    {
        "performance-ratios": _ratios,
        "performance-cpu": _cpu,
        "performance-delay": _delay,
        "performance-devices": _devices,
        "performance-log": _log,
    }[name](axes, results)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None, "Description": fingerprint})
    # One line end per line and none at the file's end but one, as in every other text file here.
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")


def _ratios(axes: Axes, results: Results) -> None:
    """How much of its target each job reaches; a latency is turned round, so that further right is always better."""
    labels = []
    wanted = [ratio for ratio in RATIOS if ratio.target is not None]
    for row, ratio in enumerate(wanted):
        value = ratio.of(results)
        assert value is not None
        assert ratio.target is not None
        share = [ratio.target / one if ratio.most else one / ratio.target for one in value]
        axes.barh(row, share[0], color=COLOURS[0], height=0.6)
        axes.plot(sorted(share[1:]), [row, row], color=INK, linewidth=1.2)
        labels.append(f"{ratio.workload} {ratio.figure}: {value.median:.2f} of {ratio.limit}")
    axes.axvline(1, color=COLOURS[1], linewidth=1.2)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("share of the ratio to reach (line: reached)")


def _cpu(axes: Axes, results: Results) -> None:
    """CPU time of each process, stacked, for each job that moves many rows."""
    names = [name for name in ("T", "S", "R") if name in results.runs]
    processes = list(dict.fromkeys(process for name in names for process in results.runs[name].used()))
    for row, name in enumerate(names):
        run, left = results.runs[name], 0.0
        used = run.used()
        for process, colour in zip(processes, COLOURS, strict=False):
            if process in used:
                width = used[process].cpu_s * 1e6 / run.samples[0].rows
                axes.barh(row, width, left=left, color=colour, height=0.6, label=process if row == 0 else None)
                left += width
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("CPU ms per 1,000 rows")
    axes.legend(frameon=False, ncols=len(processes), loc="upper center", bbox_to_anchor=(0.5, -0.18))


def _delay(axes: Axes, results: Results) -> None:
    _series(axes, results, "delay")
    axes.set_xlabel("delay of both links in each direction, ms")


def _devices(axes: Axes, results: Results) -> None:
    _series(axes, results, "devices")
    axes.set_xlabel("devices that receive")


def _log(axes: Axes, results: Results) -> None:
    """Everything as a share of what it was with the shortest log, so that one scale does for all."""
    for (title, points), colour in zip(results.runs["log"].series().items(), COLOURS, strict=False):
        shortest = points[0][1].median
        axes.plot(
            [x for x, _ in points],
            [value.median / shortest for _, value in points],
            color=colour,
            marker="o",
            markersize=4,
            label=title,
        )
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("entries in the log")
    axes.set_ylabel("with the shortest log: 1")
    axes.legend(frameon=False, fontsize=8)


def _series(axes: Axes, results: Results, name: str) -> None:
    for (title, points), colour in zip(results.runs[name].series().items(), COLOURS, strict=False):
        xs = [x for x, _ in points]
        axes.plot(xs, [value.median for _, value in points], color=colour, marker="o", markersize=4, label=title)
        axes.fill_between(
            xs, [value.least for _, value in points], [value.most for _, value in points], color=colour, alpha=0.15
        )
    axes.set_ylim(bottom=0)
    axes.set_ylabel("from commit to commit, ms")
    axes.legend(frameon=False)
