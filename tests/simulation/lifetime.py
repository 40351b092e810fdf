"""The life of a world: everything the product takes from outside is put in place, and taken away at the end."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from simulation.agent import simulated_agents
from simulation.checkers import Guarantee, Violation
from simulation.hub import simulated_hubs
from simulation.virtual_time import Stuck, VirtualLoop, one_seed
from simulation.world import Plan, World


class Outcome(NamedTuple):
    """What became of a world."""

    plan: Plan
    violation: Violation | None
    digest: str
    """Of all that happened: equal for equal seeds."""
    struck: Counter[str]
    """How often each fault struck."""
    counts: Counter[str]
    """What there was to see: steps, events, entries, refusals."""
    history: list[str]
    """How it ended."""


class _Listener(logging.Handler):
    """Errors that the product logs with a traceback are mistakes of its own."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        self._world.logged(record.getMessage(), error=record.levelno >= logging.ERROR and bool(record.exc_info))


@contextmanager
def _listening(world: World, level: int) -> Iterator[None]:
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, [_Listener(world)]
    level, root.level = root.level, level
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)


def simulate(plan: Plan, folder: Path, *, whole_history: bool = False) -> Outcome:
    """Live through one world in an empty folder.

    `whole_history` keeps all of it, with what hub and agents log, and not its end alone.
    """
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    violation: Violation | None = None
    with ExitStack() as stack:
        world = World(plan, folder, loop)
        if whole_history:
            world.history = deque()
        product = random.Random(f"product {plan.seed}")
        stack.enter_context(one_seed(loop, product, world.disk.fsync))
        stack.enter_context(simulated_agents())
        stack.enter_context(simulated_hubs(world.network, product))
        stack.enter_context(_listening(world, logging.INFO if whole_history else logging.ERROR))
        try:
            loop.run_until_complete(world.run())
        except Violation as found:
            violation = found
        except Stuck as stuck:
            violation = Violation(Guarantee.MISTAKE, str(stuck))
        digest = world.digest
        _end(world, loop)
    counts = world.counts
    counts["entries"] = world.log.oracle.head.seq
    counts["seconds"] = int(loop.time())
    return Outcome(plan, violation, digest, world.struck, counts, list(world.history))


def _end(world: World, loop: VirtualLoop) -> None:
    """Unwind all tasks and close all files."""
    loop.set_exception_handler(lambda *_: None)  # calls of dead processes, which end only now
    machines = world.machines()
    for machine in machines:
        machine.kill()
    for _ in range(20):
        waiting = asyncio.all_tasks(loop)
        for task in waiting:
            task.cancel()
        if not waiting:
            break
        loop.run_until_complete(asyncio.wait(waiting, timeout=1))
    for machine in machines:
        machine.close()
    loop.run_until_complete(loop.shutdown_asyncgens())
    asyncio.set_event_loop(None)
    loop.close()
