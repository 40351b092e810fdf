"""What the measurements ran on, as figures say little without it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sqlite3
import subprocess
from pathlib import Path

from pydantic import BaseModel, ConfigDict

ROOT = Path(__file__).resolve().parents[1]


class Machine(BaseModel):
    """What speed depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpus: int
    model: str
    memory_mib: int
    kernel: str
    python: str
    sqlite: str
    mosquitto: str

    @classmethod
    def here(cls) -> Machine:
        """This one."""
        return cls(
            cpus=len(os.sched_getaffinity(0)),
            model=_first(r"^model name\s*:\s*(.+)$", "/proc/cpuinfo") or platform.machine(),
            memory_mib=int(_first(r"^MemTotal:\s*(\d+)", "/proc/meminfo") or 0) // 1024,
            kernel=platform.release(),
            python=platform.python_version(),
            sqlite=sqlite3.sqlite_version,
            mosquitto=_mosquitto(),
        )

    def __str__(self) -> str:
        return (
            f"{self.cpus} CPUs ({self.model}), {self.memory_mib / 1024:.0f} GiB, Linux {self.kernel}, "
            f"Python {self.python}, SQLite {self.sqlite}, Mosquitto {self.mosquitto}"
        )


def commit() -> str:
    """What is measured: the checkout's commit, with a + if something in it was changed since."""
    name = _output("git", "-C", str(ROOT), "rev-parse", "--short=10", "HEAD").strip()
    changed = _output("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    return f"{name or 'unknown'}{'+' if changed else ''}"


def _mosquitto() -> str:
    found = re.search(r"version (\S+)", _output(shutil.which("mosquitto") or "/usr/sbin/mosquitto", "-h"))
    return found[1] if found else "unknown"


def _output(*command: str) -> str:
    try:
        # Mosquitto ends with 3 after its help.
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""


def _first(pattern: str, path: str) -> str | None:
    found = re.search(pattern, Path(path).read_text(errors="replace"), re.MULTILINE)
    return found[1].strip() if found else None
