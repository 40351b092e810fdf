"""What processes use, as the kernel counts it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from bench.results import Usage


def usage_of(process: psutil.Process) -> Usage:
    """What it has used since it began; its memory of now."""
    times = process.cpu_times()
    return Usage(
        cpu_s=times.user + times.system,
        rss_mib=process.memory_info().rss / 2**20,
        written_mib=process.io_counters().write_bytes / 2**20,
    )


@contextmanager
def using(processes: Mapping[str, psutil.Process], used: dict[str, Usage]) -> Iterator[None]:
    """Note in `used` what the processes use meanwhile; the peak of memory is that of their lives."""
    before = {name: usage_of(process) for name, process in processes.items()}
    yield
    for name, process in processes.items():
        now = usage_of(process)
        used[name] = Usage(
            cpu_s=now.cpu_s - before[name].cpu_s,
            rss_mib=peak_mib(process.pid),
            written_mib=now.written_mib - before[name].written_mib,
        )


def peak_mib(pid: int) -> float:
    """The most memory that a process ever had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this kernel does not say how much memory a process had at most")
