"""A lock on a file itself, by whatever name it is reached: a hard link, a mount in another place, another container.

It is one byte far beyond the end of the file, and beyond the bytes that SQLite locks (https://sqlite.org/lockingv3.html:
they begin at one gigabyte), so it meets no lock of any program but another agent's. It is a lock of the *open file
description*, which ends with the process, however it ends, and is not dropped when something else closes the file.

One thing must never happen here: closing our descriptor of a database drops all the POSIX locks that this process
holds on it, and so the ones of SQLite in an app that shares the process. So a descriptor is kept as long as the process
lives, and used again: one for each database on which an agent has run here.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import threading
from pathlib import Path
from typing import Final

_OFFSET: Final = 1 << 62
_REFUSED: Final = (errno.EAGAIN, errno.EACCES)

_Identity = tuple[int, int]

_guard = threading.Lock()
_descriptors: dict[_Identity, int] = {}
_held: set[_Identity] = set()


class InodeLocked(Exception):
    """Another agent holds the lock."""


class InodeLock:
    """The lock of one file, or nothing where the system has no such locks: then only equal names exclude each other."""

    def __init__(self, path: Path) -> None:
        """Take it.

        Raises:
            InodeLocked: another process (or another agent of this one) holds it.
        """
        self._identity: _Identity | None = None
        if sys.platform != "linux":
            return
        with _guard:
            descriptor, identity = _opened(path)
            if descriptor is None or identity is None:
                return
            if identity in _held:
                raise InodeLocked
            try:
                fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _one_byte(fcntl.F_WRLCK))
            except OSError as error:
                if error.errno in _REFUSED:
                    raise InodeLocked from None
                return  # a file system without locks
            _held.add(identity)
            self._identity = identity

    def release(self) -> None:
        """Let it go; may be called twice."""
        with _guard:
            identity, self._identity = self._identity, None
            if identity is not None:
                _held.discard(identity)
                fcntl.fcntl(_descriptors[identity], fcntl.F_OFD_SETLK, _one_byte(fcntl.F_UNLCK))


def _opened(path: Path) -> tuple[int | None, _Identity | None]:
    try:
        found = os.stat(path)
        identity = found.st_dev, found.st_ino
        if identity not in _descriptors:
            _descriptors[identity] = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None, None  # missing or not writable: opening the database says so
    return _descriptors[identity], identity


def _one_byte(kind: int) -> bytes:
    """A `struct flock` of Linux: type, whence, start, length, process (0, as a description has none)."""
    return struct.pack("hhqqi0q", kind, os.SEEK_SET, _OFFSET, 1, 0)
