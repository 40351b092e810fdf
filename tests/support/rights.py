"""Tests of real faults need what not every machine allows: to mount, to make networks, to filter packets.

A test says so with `@pytest.mark.needs("mount")`. Where the machine does not allow it the test is skipped, and the run
ends with a list of what was NOT RUN that nobody overlooks; with `--require-rights` it fails instead. A right is tried
out, once in each process of the tests: what may be done in a container or as which user cannot be told by looking.

    @right("mount", needs="root, or CAP_SYS_ADMIN")
    def try_mount(folder: Path) -> None: ...    # raises what stands in the way; leaves nothing behind
"""

from __future__ import annotations

import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import pytest

NOT_RUN: Final = "NOT RUN: "
_COMMAND_S: Final = 60.0


class Right(NamedTuple):
    """Something that a machine may refuse."""

    name: str
    needs: str
    """What to give the tests, in words for the person who runs them."""
    attempt: Callable[[Path], None]
    """Does it once, in a folder of its own, and undoes it."""


RIGHTS: Final[dict[str, Right]] = {}
"""By name: all that a test may need."""


def right(name: str, *, needs: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """The function that follows tries a right out."""

    def register(attempt: Callable[[Path], None]) -> Callable[[Path], None]:
        RIGHTS[name] = Right(name, needs, attempt)
        return attempt

    return register


class CommandFailed(Exception):
    """A command of the system did not do what it should: `mount: permission denied`."""


def run(*command: str | Path, deadline_s: float = _COMMAND_S) -> str:
    """Run a command of the system to its end; what it printed.

    Raises:
        CommandFailed: it is not there, failed or took too long.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=deadline_s, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandFailed(f"{words[0]}: {error}") from error
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise CommandFailed(f"{' '.join(words)}: {said}")
    return done.stdout


@cache
def lacking(name: str) -> str | None:
    """Why the tests cannot do this here; None: they can."""
    chosen = RIGHTS[name]
    with tempfile.TemporaryDirectory(prefix="tidewire-right-") as folder:
        try:
            chosen.attempt(Path(folder))
        except (CommandFailed, OSError) as error:
            return f"because {error}; needs {chosen.needs}"
    return None


@right("mount", needs="root, or CAP_SYS_ADMIN in a container")
def _mount(folder: Path) -> None:
    run("mount", "-t", "tmpfs", "-o", "size=64k", "tidewire-right", folder)
    run("umount", "-l", folder)


# ── hooks of pytest ───────────────────────────────────────────────────────────────────────────────────────────────────


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("tidewire").addoption(
        "--require-rights", action="store_true", help="a test that the machine does not allow fails (it is skipped)"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(right): cannot run where the machine refuses it; see support/rights.py")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture does what the machine will refuse."""
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            reason = lacking(name)
            if reason is not None:
                give_up = pytest.fail if item.config.getoption("--require-rights") else pytest.skip
                give_up(NOT_RUN + reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The tests that did not run, by reason, where nobody overlooks them."""
    not_run = defaultdict[str, list[str]](list)
    for report in _reports(terminalreporter):
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        _, found, reason = text.partition(NOT_RUN)
        if found:
            not_run[reason.splitlines()[0]].append(report.nodeid)
    if not not_run:
        return
    count = sum(map(len, not_run.values()))
    terminalreporter.write_sep("=", f"{count} TESTS OF REAL FAULTS NOT RUN", red=True, bold=True)
    for reason, tests in sorted(not_run.items()):
        for test in sorted(tests):
            terminalreporter.write_line(f"{NOT_RUN}{test}", red=True)
        terminalreporter.write_line(f"  {reason}", red=True)


def _reports(terminalreporter: pytest.TerminalReporter) -> Iterable[pytest.TestReport]:
    for outcome in ("skipped", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, ()):
            if isinstance(report, pytest.TestReport):
                yield report
