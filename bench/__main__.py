"""`python -m bench`: measure, print what came out and keep it in a file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console

from bench.machine import ROOT, Machine, commit
from bench.results import Results, Run, Sample, new_run
from bench.tables import print_results
from bench.workloads import WORKLOADS

RESULTS = ROOT / "bench/results/latest.json"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, metavar="[WORKLOAD]...")
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(min=1), help="Repeats of each.")
@click.option("--shared", is_flag=True, help="Other programs have work on this machine; say so in the results.")
@click.option(
    "--results", default=RESULTS, type=click.Path(dir_okay=False, path_type=Path), help="File to put them into."
)
@click.option("--list", "lists", is_flag=True, help="Say which workloads there are.")
def main(names: tuple[str, ...], repeats: int, shared: bool, results: Path, lists: bool) -> None:
    """Measure workloads: all that do not take minutes, unless some are named."""
    console = Console()
    if lists:
        for workload in WORKLOADS.values():
            console.print(f"{workload.name:9} {workload.title}{' (long)' if workload.long else ''}", highlight=False)
        return
    if unknown := set(names) - WORKLOADS.keys():
        raise click.UsageError(f"no workload {', '.join(sorted(unknown))}; --list says which there are")
    chosen = [name for name, workload in WORKLOADS.items() if name in names or not (names or workload.long)]
    before = Results.load(results)
    runs: dict[str, Run] = {}
    for runs in measure(chosen, repeats, console, shared=shared):  # the last holds all
        before.with_runs(runs).save(results)
    print_results(Results(runs=runs), console)
    console.print(f"kept in {results}", style="dim", highlight=False)


def measure(names: list[str], repeats: int, console: Console, *, shared: bool = False) -> Iterator[dict[str, Run]]:
    """Run each workload so often; in turn, so that what the machine does meanwhile meets all of them.

    Yields what there is, each time that there is more: the last has all.
    """
    machine, version = Machine.here(), commit()
    samples: dict[str, list[Sample]] = {}
    for repeat in range(repeats):
        for name in names:
            workload = WORKLOADS[name]
            if repeat >= (workload.repeats or repeats):
                continue
            with (
                console.status(f"{name}, {repeat + 1} of {workload.repeats or repeats}"),
                tempfile.TemporaryDirectory(prefix="tidewire-bench-") as folder,
            ):
                samples.setdefault(name, []).append(workload.run(Path(folder)))
            yield {name: new_run(found, machine, version, shared=shared) for name, found in samples.items()}


if __name__ == "__main__":
    main()
