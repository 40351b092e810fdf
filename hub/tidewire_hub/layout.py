"""Where things are in the hub's data directory, and that only one hub uses it.

DATA/lock                   held while a hub runs, with its process id and boot
DATA/{stream}/log.db        the log: the truth
DATA/{stream}/state.db      the log's fold; when it is missing made anew from the log, or a snapshot and the log
DATA/{stream}/snapshots/    snapshots for devices that were away for long: see `snapshot/shelf.py`
DATA/{stream}/devices.json  what the hub last knew of its devices
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final, NamedTuple

from tidewire_schemas.errors import AlreadyRunning, DatabaseError

LOCK_ATTEMPTS: Final = 3
LOCK_PAUSE_S: Final = 0.05
"""`is_locked` holds the lock for an instant: a hub that starts in just that instant tries again."""

NOT_WRITABLE_HINT: Final = "--data must name a directory that the user who runs the hub may write"


class DataDirectory(NamedTuple):
    """The files of one stream."""

    root: Path
    stream: str

    @property
    def lock(self) -> Path:
        """Held while a hub runs."""
        return self.root / "lock"

    @property
    def log(self) -> Path:
        """The log."""
        return self.root / self.stream / "log.db"

    @property
    def state(self) -> Path:
        """The log's fold."""
        return self.root / self.stream / "state.db"

    @property
    def snapshots(self) -> Path:
        """Snapshots of the state."""
        return self.root / self.stream / "snapshots"

    @property
    def devices(self) -> Path:
        """What the hub last knew of its devices."""
        return self.root / self.stream / "devices.json"

    def make(self) -> None:
        """Make the directories.

        Raises:
            DatabaseError: they cannot be made.
        """
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatabaseError(f"cannot make {self.log.parent}: {error.strerror}", hint=NOT_WRITABLE_HINT) from None


class DataLock:
    """One hub per data directory. The kernel gives the lock back when the process ends, however it ends.

    The file says which process held it last, so that the next one knows that process to be gone, whatever the broker
    still keeps of it. The file's own number stands beside it: in a copied directory the other one may be alive.
    """

    def __init__(self, path: Path, boot: str) -> None:
        """Take the lock for the process with this boot.

        Raises:
            AlreadyRunning: another process has it.
            DatabaseError: the file cannot be made.
        """
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise DatabaseError(f"cannot open {path}: {error.strerror}", hint=NOT_WRITABLE_HINT) from None
        if not self._try_lock():
            pid = self._words()[0]
            os.close(self._file)
            raise AlreadyRunning(what="a hub on", path=path.parent, pid=int(pid) if pid.isdecimal() else None)
        number = str(os.fstat(self._file).st_ino)
        _, last_boot, last_number = self._words()
        self.previous: str | None = last_boot if last_number == number else None
        """Boot of the process that held the lock before this one, where that is known."""
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n{boot}\n{number}\n".encode(), 0)
        except OSError as error:
            os.close(self._file)
            raise DatabaseError(f"cannot write {path}: {error.strerror}", hint=NOT_WRITABLE_HINT) from None

    def release(self) -> None:
        """Give the lock back."""
        os.close(self._file)

    def _words(self) -> tuple[str, str, str]:
        """Process id, boot and file number in the file, empty where they are missing."""
        pid, boot, number, *_ = [*os.pread(self._file, 100, 0).decode("ascii", "replace").split(), "", "", ""]
        return pid, boot, number

    def _try_lock(self) -> bool:
        for attempt in range(LOCK_ATTEMPTS):
            if attempt:
                time.sleep(LOCK_PAUSE_S)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            return True
        return False


def is_locked(path: Path) -> bool:
    """Whether a hub holds the lock."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that whoever reads it finds the old content or the new, never half of it."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(content)
    temporary.replace(path)
