"""One agent per database: a lock on a file beside it, which also holds the running agent's status document.

The lock is `flock`: it ends with the process, however it ends. The file `<database>-tidewire` stays, so that the last
status can be read; whoever removes it (`detach`) holds the lock meanwhile. A database that is reached by another name
has another such file: so the database itself is locked as well (`inode_lock.py`).
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final, Self

from tidewire_agent.errors import DatabaseNotUsable
from tidewire_agent.inode_lock import InodeLock, InodeLocked
from tidewire_agent.status import AgentStatus, parse_status
from tidewire_schemas.errors import AlreadyRunning


def lock_path(database: Path) -> Path:
    """The file beside the database; the same by whatever link the database is reached."""
    real = database.resolve()
    return real.with_name(real.name + "-tidewire")


OTHER_NAME_HINT: Final = (
    "it is the same file by another name (a hard link, or a mount in another place): stop that agent first. Give a"
    " database one name only: SQLite keeps its -wal beside the name, and two of them damage the file"
)


class AgentLock:
    """The lock of one database, held."""

    def __init__(self, database: Path, path: Path, descriptor: int) -> None:
        self._database = database
        self._path = path
        self._descriptor = descriptor
        self._inode: InodeLock | None = None

    @classmethod
    def acquire(cls, database: Path) -> Self:
        """Take the lock.

        Raises:
            AlreadyRunning: another process (or another agent of this one) holds it.
            DatabaseNotUsable: the file beside the database cannot be made.
        """
        path = lock_path(database)
        while True:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                hint = "the agent needs to write beside the database: check the directory's owner, mode and mount"
                raise DatabaseNotUsable(f"cannot open {path}: {error.strerror}", hint=hint) from None
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                running = _read(descriptor)
                os.close(descriptor)
                pid = running.pid if running else None
                raise AlreadyRunning(what="an agent on", path=database, pid=pid) from None
            if _is_still(path, descriptor):
                lock = cls(database, path, descriptor)
                try:
                    lock.follow()
                except BaseException:
                    lock.release()
                    raise
                return lock
            os.close(descriptor)  # removed by a `detach` between our open and our lock

    def follow(self) -> None:
        """Lock the database that has the name now, which may be another file than it was.

        Raises:
            AlreadyRunning: an agent runs on it under another name.
        """
        if self._inode is not None:
            self._inode.release()
        try:
            self._inode = InodeLock(self._database)
        except InodeLocked:
            raise AlreadyRunning(what="an agent on", path=self._database, hint=OTHER_NAME_HINT) from None

    def told(self) -> AgentStatus | None:
        """What the last agent said, while nobody else can run."""
        return _read(self._descriptor)

    def write(self, status: AgentStatus) -> None:
        """Replace the status document. A disk without space costs the document, not the agent."""
        data = status.model_dump_json(indent=1).encode() + b"\n"
        try:
            os.pwrite(self._descriptor, data, 0)
            os.ftruncate(self._descriptor, len(data))
        except OSError:
            return

    def remove(self) -> None:
        """Delete the file, while the lock is held."""
        self._path.unlink(missing_ok=True)

    def release(self) -> None:
        """Let the lock go; may be called twice."""
        if self._inode is not None:
            self._inode.release()
        if self._descriptor >= 0:
            # Said outright: a forked child may hold a copy of the descriptor, which would keep the lock.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def read_status(database: Path) -> AgentStatus | None:
    """What the agent on this database last said; None if none ever ran, or it was stopped half-way through a write.

    An agent that ended without a word (killed, power cut) left its last status behind: it is told as `not_running`.
    """
    try:
        descriptor = os.open(lock_path(database), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = _read(descriptor)
        if status is None or status.state == "stopped":
            return status
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return status
        return status.model_copy(update={"state": "not_running"})
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> AgentStatus | None:
    for _ in range(5):  # a reader may meet a writer half-way
        status = parse_status(os.pread(descriptor, 1 << 20, 0))
        if status is not None:
            return status
    return None


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
