"""Small file systems of a test's own, in memory: what fills up, or becomes read-only, is theirs alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from support.rights import CommandFailed, run

_SOURCE = "tidewire-test-{pid}"
"""What `mount` shows as the source: says whose it is."""


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A file system of this size ("2m") at `path`, which is made; gone at the end. Needs the right "mount"."""
    remove_what_dead_processes_left()
    path.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={size}", _SOURCE.format(pid=os.getpid()), path)
    try:
        yield path
    finally:
        run("umount", "-l", path)


def remount(path: Path, options: str) -> None:
    """Change it while it is in use: "ro", "size=16m"."""
    run("mount", "-o", f"remount,{options}", path)


@cache
def remove_what_dead_processes_left() -> None:
    """Unmount what tests that were killed could not."""
    pattern = re.compile(_SOURCE.format(pid=r"(\d+)"))
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        source, target, *_rest = line.split(" ")
        owner = pattern.fullmatch(source)
        if owner and not is_alive(int(owner[1])):
            with suppress(CommandFailed):  # a neighbour removes it as well
                run("umount", "-l", target.encode().decode("unicode_escape"))


def is_alive(pid: int) -> bool:
    """Whether a process is there."""
    return Path(f"/proc/{pid}").exists()
