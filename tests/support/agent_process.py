"""A real agent in its own process, and an app's database beside it."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from support.host import HERE, Host
from support.launching import Launch, Process, launched
from support.waiting import PATIENCE_S, wait_for
from tidewire_agent.lock import read_status
from tidewire_agent.status import AgentStatus

QUICK = ("--reconnect-delay-min-s", "0.05", "--reconnect-delay-max-s", "0.2", "--status-interval-s", "0.1")
"""Settings that make a test short."""

START_S = 120.0
"""Imports alone take seconds on a machine that does other things as well."""


def make_database(path: Path, *statements: str) -> sqlite3.Connection:
    """A database in WAL mode with a table `orders`; the connection is the app's (autocommit, 5 s of patience)."""
    app = sqlite3.connect(path, isolation_level=None, timeout=5)
    app.execute("PRAGMA journal_mode = WAL")
    for statement in statements or ("CREATE TABLE orders (id TEXT PRIMARY KEY, total REAL)",):
        app.execute(statement)
    return app


def tidewire_agent(*arguments: str | Path, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run a command of `tidewire-agent` to its end."""
    command = [sys.executable, "-m", "tidewire_agent", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


class AgentProcess:
    """`tidewire-agent run`, killed when the test ends.

    Args:
        db: the database; its log file lies beside it.
        device, broker: as the settings.
        tables: attached at start.
        options: further flags.
        host: where it runs.
    """

    def __init__(
        self, db: Path, device: str, broker: str, *options: str, tables: Sequence[str] = ("orders",), host: Host = HERE
    ) -> None:
        self.db = db
        self.device = device
        self.broker = broker
        self.options = options
        self.tables = tables
        self.host = host
        self.log_path = db.with_suffix(".log")
        self.settings: Sequence[str] = QUICK
        self.launch_program: Launch = launched
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        assert self._process is not None, "the agent was not started"
        return self._process

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @property
    def status(self) -> AgentStatus:
        """Its status document; fails where there is none."""
        found = read_status(self.db)
        assert found is not None, self.log
        return found

    @property
    def problems(self) -> set[str]:
        """Codes of what it says is wrong."""
        found = read_status(self.db)
        return {problem.code for problem in found.problems} if found else set()

    def start(self, *, until: str | None = "live") -> Self:
        """Start it, and wait until it is in a state (None: not at all)."""
        command = ["tidewire-agent", "run", "--db", str(self.db), "--device", self.device]
        command += ["--broker", self.broker, *self.settings, *self.options]
        for table in self.tables:
            command += ["--table", table]
        self._process = self.launch_program(command, self.log_path, self.host)
        if until is not None:
            self.wait_state(until)
        return self

    def wait_state(self, *states: str, deadline_s: float = START_S) -> None:
        """Until it is in one of these states."""

        def there() -> bool:
            assert self.running, self.log
            found = read_status(self.db)
            return found is not None and found.pid == self.process.pid and found.state in states

        wait_for(there, deadline_s, what=f"{self.device} is {' or '.join(states)}")

    def wait_problem(self, code: str, deadline_s: float = START_S) -> None:
        """Until it says that this is wrong."""
        wait_for(lambda: code in self.problems, deadline_s, what=f"{self.device} says {code}")

    def wait_no_problem(self, deadline_s: float = START_S) -> None:
        """Until nothing is wrong."""
        wait_for(lambda: not self.problems, deadline_s, what=f"{self.device} has no problem")

    def stop(self, number: signal.Signals = signal.SIGTERM, deadline_s: float = PATIENCE_S) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(deadline_s)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.running:
            self.kill()
        if error is not None and self._process is not None:
            error.add_note(f"--- log of {self.device} ---\n{self.log[-3000:]}")


def rows(path: Path, query: str = "SELECT * FROM orders ORDER BY id") -> list[tuple[Any, ...]]:
    """Read as an app does."""
    connection = sqlite3.connect(path, timeout=5)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def wait_rows(
    path: Path, expected: list[tuple[Any, ...]], deadline_s: float = START_S, query: str | None = None
) -> None:
    """Until the table holds exactly these."""

    def found() -> bool:
        return (rows(path) if query is None else rows(path, query)) == expected

    wait_for(found, deadline_s, what=f"{path.name} holds {len(expected)} rows")
