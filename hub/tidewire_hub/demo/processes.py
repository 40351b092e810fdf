"""The demo's processes: started with a log file each, watched, and always ended."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self, TypeVar

from tidewire_hub.demo.failure import DemoFailed

T = TypeVar("T")

STOP_TIMEOUT_S: Final = 5.0
"""After this a process that was asked to end is killed. Agents and hub need at most 2 s."""

POLL_S: Final = 0.05

TAIL_LINES: Final = 12

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None


class Child(NamedTuple):
    """A process, and what it says."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    command: tuple[str, ...]


class Processes:
    """Ends all that it started when the `with` block is left, however it is left.

    Children are in sessions of their own, so that Ctrl-C reaches the demo alone, which then ends them in order. If the
    demo itself is killed, the kernel ends them (on Linux).
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._children: list[Child] = []

    def start(self, name: str, command: Sequence[str]) -> Child:
        """Start a process; its output goes to `NAME.log`."""
        log = self._directory / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                env=_environment(),
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  # no other thread runs before the last child is started
            )
        child = Child(name, process, log, tuple(command))
        self._children.append(child)
        return child

    def drop(self, child: Child) -> None:
        """Forget a process that ended as expected."""
        self._children.remove(child)

    def check(self) -> None:
        """Raise `DemoFailed` if one has ended."""
        for child in self._children:
            code = child.process.poll()
            if code is not None:
                raise DemoFailed(f"{child.name} has ended (exit code {code})")

    def wait_for(self, condition: Callable[[], T], timeout_s: float, what: str) -> T:
        """The first true value of `condition()`.

        Raises:
            DemoFailed: it did not come true in time, or a process ended meanwhile.
        """
        end = time.monotonic() + timeout_s
        while not (value := condition()):
            self.check()
            if time.monotonic() > end:
                raise DemoFailed(f"not within {timeout_s:g} s: {what}")
            time.sleep(POLL_S)
        return value

    def tails(self) -> list[tuple[str, str]]:
        """The last lines of each log."""
        return [(child.name, _tail(child.log)) for child in self._children]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for child in reversed(self._children):  # agents, hub, broker: each can say goodbye to the next
            if child.process.poll() is None:
                child.process.terminate()
        end = time.monotonic() + STOP_TIMEOUT_S
        for child in reversed(self._children):
            try:
                child.process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()


def _die_with_parent() -> None:
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _environment() -> dict[str, str]:
    """Ours, without settings of Tidewire that were meant for something else."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TIDEWIRE_")}


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-TAIL_LINES:])
