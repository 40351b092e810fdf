"""`python -m bench.check`: tells in seconds whether speed has collapsed; `--keep` makes what it finds the baseline.

Each job runs beside its limit, on files in memory where that is possible, as disks differ more than programs do. What
counts is the share of the limit that is reached, the best of some tries: whatever else the machine does only makes a
try worse. Half of the baseline is far from anything that noise does, so below it something is wrong.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from bench.app import Written, begin_app, end_app
from bench.bed import Bed, wait_arrival
from bench.jobs import PER_TRANSACTION, cpu_ms
from bench.limits import new_database
from bench.machine import ROOT
from bench.results import Usage

BASELINE: Final = ROOT / "bench/baseline.json"
MEMORY: Final = Path("/dev/shm")
ROWS: Final = 10_000
SINGLE_ROWS: Final = 1_000
FLOOR: Final = 0.5
"""Of the baseline."""
TRIES: Final = 5


def shares() -> Iterator[dict[str, float]]:
    """Try after try: job → share of its limit that was reached; 1 would be as good as SQLite alone."""
    memory = MEMORY if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="tidewire-bench-", dir=memory) as folder, Bed(Path(folder)) as bed:
        a, b = bed.add("a"), bed.add("b")
        there = 0
        for number in range(TRIES):
            found = {}
            for job, rows, per_transaction in (("T", ROWS, PER_TRANSACTION), ("S", SINGLE_ROWS, 1)):
                alone = bed.folder / f"{job}{number}.db"
                new_database(alone, captured=job == "S")
                limit = end_app(begin_app(alone, rows, per_transaction))
                used: dict[str, Usage] = {}
                with bed.using(used):
                    app = begin_app(a.db, rows, per_transaction, seed=there)
                    last = wait_arrival(b, there + rows)[-1]
                    written = end_app(app)
                there += rows
                found[job] = _took_s(limit) / (last - written.began)
                if job == "T":
                    found["T CPU"] = 1000 * limit.used.cpu_s / cpu_ms(used)
            yield found


def best(floors: dict[str, float]) -> dict[str, float]:
    """The best share of each job, of as many tries as it takes to reach the floors."""
    found: dict[str, float] = {}
    for tried in shares():
        found = {job: max(share, found.get(job, 0.0)) for job, share in tried.items()}
        if all(found[job] >= floor for job, floor in floors.items()):
            break
    return found


def floors() -> dict[str, float]:
    """Below which speed has collapsed."""
    kept: dict[str, float] = json.loads(BASELINE.read_text(encoding="utf-8"))
    return {job: FLOOR * share for job, share in kept.items()}


def _took_s(written: Written) -> float:
    return written.committed[-1] - written.began


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--keep", is_flag=True, help="Take what was found as the baseline.")
def main(keep: bool) -> None:
    """Fail if a job reaches less than half of the share of its limit that it reached in the baseline."""
    wanted = {} if keep else floors()
    # A baseline is what is usual, and not the best that ever was.
    found = next(shares()) if keep else best(wanted)
    for job, share in found.items():
        click.echo(f"{job:6} {share:.3f} of its limit{f', at least {wanted[job]:.3f}' if wanted else ''}")
    if keep:
        text = json.dumps({job: round(share, 3) for job, share in found.items()}, indent=2)
        BASELINE.write_text(text + "\n", encoding="utf-8")
    if slow := [job for job, floor in wanted.items() if found[job] < floor]:
        raise click.ClickException(f"collapsed: {', '.join(slow)}")


if __name__ == "__main__":
    main()
