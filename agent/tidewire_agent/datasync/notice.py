"""Sleeping in a thread until somebody may have committed to the file: `watch.py` for programs without an event loop."""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tidewire_agent.runtime.watch import RECHECKS_S

if TYPE_CHECKING:
    from inotify_simple import INotify

LOOK_EVERY_S: Final = 1.0
"""With inotify: how often to look whatever it says, as a safety net (and as the file may have been made anew)."""

LOOK_EVERY_BLIND_S: Final = 0.025
"""Without inotify: how often to look, so that a change is still noticed within 50 ms."""


class CommitNotice:
    """Says when it is worth asking the database; for one thread, but for `wake`."""

    def __init__(self, database: Path) -> None:
        real = database.resolve()  # SQLite keeps its files beside the real one
        self._wal = real.with_name(real.name + "-wal")
        self._touched_at, self._rechecks = 0.0, len(RECHECKS_S)
        self._woken, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        self._inotify = _inotify()
        self._poll_woken, self._poll = select.poll(), select.poll()
        self._poll_woken.register(self._woken, select.POLLIN)
        self._poll.register(self._woken, select.POLLIN)
        if self._inotify is not None:
            self._poll.register(self._inotify, select.POLLIN)
        self._watch_wal()

    def wait(self, seconds: float) -> None:
        """Sleep until it is worth looking, but not longer; a commit is worth several looks (see `RECHECKS_S`)."""
        now = time.monotonic()
        while self._rechecks < len(RECHECKS_S) and self._touched_at + RECHECKS_S[self._rechecks] <= now:
            self._rechecks += 1
        rechecking = self._rechecks < len(RECHECKS_S)
        if rechecking:
            due = self._touched_at + RECHECKS_S[self._rechecks] - now
        else:
            due = LOOK_EVERY_BLIND_S if self._inotify is None else LOOK_EVERY_S
        touched = self._sleep(min(seconds, due))
        if touched:
            self._touched_at, self._rechecks = time.monotonic(), 0
        elif not rechecking:
            self._watch_wal()

    def rest(self, seconds: float) -> None:
        """Sleep, whatever happens to the file."""
        self._poll_woken.poll(_milliseconds(seconds))

    def wake(self) -> None:
        """End this and all further waits, from any thread."""
        with contextlib.suppress(OSError):  # woken before, or closed
            self._wake.send(b".")

    def close(self) -> None:
        """Give back the descriptors."""
        self._woken.close()
        self._wake.close()
        if self._inotify is not None:
            self._inotify.close()

    def _sleep(self, seconds: float) -> bool:
        """Whether the file was touched meanwhile."""
        ready = self._poll.poll(_milliseconds(seconds))
        if self._inotify is None or all(descriptor == self._woken.fileno() for descriptor, _ in ready):
            return False
        with contextlib.suppress(BlockingIOError):
            os.read(self._inotify.fileno(), 65536)  # what happened does not matter: something did
        return True

    def _watch_wal(self) -> None:
        """Watch the file that has the name now; again is harmless."""
        if self._inotify is not None:
            with contextlib.suppress(OSError):
                self._inotify.add_watch(self._wal, _TOUCHES)


_TOUCHES: Final = 0x002 | 0x004 | 0x400 | 0x800
"""IN_MODIFY, IN_ATTRIB, IN_DELETE_SELF, IN_MOVE_SELF."""


def _inotify() -> INotify | None:
    """None where there is no inotify."""
    if sys.platform != "linux":
        return None
    try:
        from inotify_simple import INotify  # noqa: PLC0415 - not there on other systems

        return INotify(nonblocking=True)
    except (ImportError, OSError):
        return None


def _milliseconds(seconds: float) -> int:
    """As poll takes it, rounded up: to wake early would be for nothing."""
    return math.ceil(max(0.0, seconds) * 1000)
