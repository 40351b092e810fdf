"""How the kit starts a program: as a user does, or otherwise where a test says so."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from support.host import Host


class Process(Protocol):
    """A process that was started: what tests use of `subprocess.Popen`."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, number: int) -> None: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


Launch = Callable[[Sequence[str], Path, Host], Process]
"""Starts a program (`tidewire-hub` or `tidewire-agent`, and its arguments); what it says goes to the end of a file."""


def launched(command: Sequence[str], log: Path, host: Host) -> Process:
    """A program with an interpreter of its own."""
    words = [sys.executable, "-m", command[0].replace("-", "_"), *command[1:]]
    with log.open("ab") as file:
        return subprocess.Popen(host.command(words), stdout=file, stderr=file)
