"""`make sim`: simulate many worlds, on all cores.

    make sim                                          200 seeds of 100 steps
    make sim ARGS='--seeds 0:10000 --steps 500'       a night's work
    make sim ARGS='--seed 17 --steps 100 --history'   one world again, and all that happened in it
    make sim ARGS='--faults hub_killed,duplicates'    these faults alone (--list shows all)
    make sim ARGS='--also a_fault'                    those that are on, and one that is not

A failure prints the command that repeats it. A fault that is on and never struck fails the run, too.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from simulation.faults import FAULTS
from simulation.lifetime import Outcome, simulate
from simulation.world import Plan

MEMORY_DISK: Final = Path("/dev/shm")
"""Nothing here is worth a real disk's time: fsync is simulated."""

FAILURES_SHOWN_MAX: Final = 10


FOLDER_PREFIX: Final = "tidewire-sim-"

INTERRUPTED: Final = 130
"""The exit code of a program that Ctrl-C ended."""


@contextmanager
def empty_folder() -> Iterator[Path]:
    """Where worlds are, in memory if possible; nothing is left of it."""
    disk = MEMORY_DISK if MEMORY_DISK.is_dir() else None
    with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX, dir=disk, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def simulated(plan: Plan, folder: Path, *, whole_history: bool = False) -> Outcome:
    """One world, in a folder of its own below this one."""
    place = folder / str(plan.seed)
    place.mkdir()
    try:
        return simulate(plan, place, whole_history=whole_history)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def begin_work(folder: Path) -> None:
    """In a worker: end when the process that started it does, however that ends, and leave nothing behind.

    A signal to all of them is for that process to heed: it ends its workers.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    gc.freeze()  # what all worlds share need not be looked through again and again
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def command(plan: Plan) -> str:
    """What repeats a world."""
    faults = "" if plan.faults is None else f" --faults {','.join(plan.faults) or 'none'}"
    return f"make sim ARGS='--seed {plan.seed} --steps {plan.steps} --devices {plan.devices}{faults} --history'"


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate; 0 if all guarantees held and all faults struck."""
    options = _options(arguments)
    if options.list:
        for fault in FAULTS.values():
            print(f"{fault.name:34} {'' if fault.on else '(off) '}{fault.text}")  # noqa: T201  # a command's output
        return 0
    plans = list(_plans(options))
    began = time.perf_counter()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with empty_folder() as folder:
            if len(plans) == 1:
                outcomes = [simulated(plans[0], folder, whole_history=options.history)]
            else:
                outcomes = list(_all(plans, options.jobs, folder))
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    return _report(outcomes, time.perf_counter() - began, history=options.history)


def _all(plans: Sequence[Plan], jobs: int, folder: Path) -> Iterator[Outcome]:
    with ProcessPoolExecutor(jobs, initializer=begin_work, initargs=(folder,)) as pool:
        try:
            for number, outcome in enumerate(pool.map(partial(simulated, folder=folder), plans, chunksize=4), 1):
                if outcome.violation is not None:
                    _say(f"seed {outcome.plan.seed}: {outcome.violation}")
                if number % 500 == 0:
                    _say(f"{number} of {len(plans)} seeds")
                yield outcome._replace(history=[])
        except KeyboardInterrupt:
            for worker in multiprocessing.active_children():
                worker.kill()
            raise


def _report(outcomes: Sequence[Outcome], seconds: float, *, history: bool) -> int:
    failed = [outcome for outcome in outcomes if outcome.violation is not None]
    struck: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for outcome in outcomes:
        struck.update(outcome.struck)
        counts.update(outcome.counts)
        if history:
            _say("\n".join(outcome.history))
    if len(outcomes) == 1:
        _say(f"history {outcomes[0].digest}")
    for outcome in islice(failed, FAILURES_SHOWN_MAX):
        _say(f"\nseed {outcome.plan.seed} failed: {outcome.violation}\n  {command(outcome.plan)}")
    never = [fault.name for fault in outcomes[0].plan.chosen() if not struck[fault.name]] if len(outcomes) > 1 else []
    _say(f"\n{'fault':34} struck")
    for name, count in sorted(struck.items(), key=lambda item: -item[1]):
        _say(f"{name:34} {count}")
    if never:
        _say(f"never struck: {', '.join(never)}")
    steps, seeds = counts["steps"], len(outcomes)
    _say(
        f"\n{seeds} seeds, {steps} steps, {counts['events']} events, {counts['entries']} entries,"
        f" {counts['seconds']} simulated seconds in {seconds:.1f} s ({steps / seconds:.0f} steps/s):"
        f" {len(failed)} failed"
    )
    return 1 if failed or never else 0


def _plans(options: argparse.Namespace) -> Iterator[Plan]:
    faults: tuple[str, ...] | None = None
    if options.faults is not None:
        faults = tuple(name for name in options.faults.split(",") if name != "none")
    if options.also is not None:
        faults = (*(fault.name for fault in Plan(0, faults=faults).chosen()), *options.also.split(","))
    if options.seed is not None:
        seeds = range(options.seed, options.seed + 1)
    else:
        first, _, end = options.seeds.rpartition(":")
        seeds = range(int(first or 0), int(end))
    for seed in seeds:
        yield Plan(seed, options.steps, options.devices, faults)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("make sim", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", default="0:200", help="FIRST:END, or how many from 0 on (default: 0:200)")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--steps", type=int, default=100, help="writes and strikes in each world (default: 100)")
    parser.add_argument("--devices", type=int, default=3, help="devices at the beginning (default: 3)")
    parser.add_argument("--faults", help="names, by commas; `none` for none (default: all that are on)")
    parser.add_argument("--also", help="names of faults that are off, by commas")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="worlds at a time (default: all cores)")
    parser.add_argument("--history", action="store_true", help="show all that happened (with --seed)")
    parser.add_argument("--list", action="store_true", help="show the faults")
    return parser.parse_args(arguments)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201  # a command's output


if __name__ == "__main__":
    sys.exit(main())
