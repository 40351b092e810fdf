"""`python -m bench`: run the measurements and print what they gave."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from bench.workloads import WORKLOADS


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1)
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(min=1), help="Runs of each.")
def main(names: tuple[str, ...], repeats: int) -> None:
    """Measure the workloads NAMES, all of them by default."""
    for name in names or WORKLOADS:
        for _ in range(repeats):
            with tempfile.TemporaryDirectory(prefix="tidewire-bench-") as folder:
                result = WORKLOADS[name](Path(folder))
            print(name, {key: round(value, 2) for key, value in result.figures.items()})
            for process, usage in result.used.items():
                print("   ", process, *(f"{key}={value:.2f}" for key, value in usage._asdict().items()))


if __name__ == "__main__":
    main()
