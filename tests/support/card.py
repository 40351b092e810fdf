"""A disk of a test's own that loses its power: ext4 on a loop device. Needs the right "power cut".

with Card(tmp_path) as card:
    ...                   # processes keep files in card.path
    card.cut_power()      # from now on nothing reaches the disk, and what had not reached it is lost
    ...                   # kill those processes
    card.restore()        # mounted again, as after a restart
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import struct
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from support.mounts import is_alive
from support.rights import CommandFailed, right, run
from support.waiting import wait_for

_SIZE: Final = 48 * 1024 * 1024
_SHUTDOWN: Final = 0x8004587D
"""EXT4_IOC_SHUTDOWN."""
_WITHOUT_FLUSH: Final = 2
"""Not even the file system's own journal is written."""


class Card:
    """A mounted file system in an image file; unmounted at the end, however that comes."""

    def __init__(self, folder: Path) -> None:
        self.path: Final = folder / "card"
        self._image: Final = folder / f"card-{os.getpid()}.img"

    def __enter__(self) -> Self:
        remove_what_dead_processes_left()
        self.path.mkdir()
        with self._image.open("wb") as image:
            image.truncate(_SIZE)
        run("mkfs.ext4", "-q", "-F", self._image)
        self._mount()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.path.ismount(self.path):
            run("umount", "-l", self.path)
        self._image.unlink()

    def cut_power(self, *pids: int) -> None:
        """From now on every read and write fails, and what was not synced is lost.

        These processes stop in the same moment: an fsync that is under way then would be told that it succeeded. They
        are to be killed.
        """
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: all(map(_is_stopped, pids)), what="all who use the card stand still")
        folder = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, _SHUTDOWN, struct.pack("I", _WITHOUT_FLUSH))
        finally:
            os.close(folder)

    def restore(self) -> None:
        """Mount it again; those who used it must be gone."""
        wait_for(self._unmounted, what="nobody uses the card")
        self._mount()

    def _unmounted(self) -> bool:
        with suppress(CommandFailed):  # the kernel may not have closed yet what a killed process had open
            run("umount", self.path)
        return not os.path.ismount(self.path)

    def _mount(self) -> None:
        # What nobody syncs is lost, also where it is seconds old.
        run("mount", "-o", "loop,commit=300", self._image, self.path)


def _is_stopped(pid: int) -> bool:
    """Whether all threads of a process stand still."""
    states = [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return set(states) == {"T"}


@cache
def remove_what_dead_processes_left() -> None:
    """Unmount what tests that were killed could not."""
    for line in run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE").splitlines():
        device, _, image = line.partition(" ")
        owner = re.search(r"/card-(\d+)\.img", image)
        if owner and not is_alive(int(owner[1])):
            with suppress(CommandFailed):  # a neighbour removes it as well
                run("umount", "-l", device)


@right("power cut", needs="root, loop devices, and ext4 in the kernel")
def _cut_power(folder: Path) -> None:
    with Card(folder) as card:
        (card.path / "lost").write_text("not synced")
        card.cut_power()
        card.restore()
        if (card.path / "lost").exists():
            raise OSError("a file system that is shut down loses nothing here")
