"""The files of an open database, as they were when it was opened.

SQLite goes on happily in files that have lost their names: what it writes there nobody else sees, and the programs
that come later do not see it either. So the names are looked at before each look at the database.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Final

from tidewire_agent.errors import DatabaseMissing, DatabaseReplaced, WalReplaced
from tidewire_agent.store import db_config

_COMPANIONS: Final = ("-wal", "-shm")


class OpenFiles:
    """What the names of one database stood for while it was opened.

    Args:
        path: the file itself, no link to it.
        connection: to that file, in WAL mode, after its first transaction: until it is closed nobody may remove the
            -wal and the -shm, and SQLite does not.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._names = [path, *(path.with_name(path.name + ending) for ending in _COMPANIONS)]
        self._opened = [_identity(name) for name in self._names]

    def check(self) -> None:
        """Three system calls.

        Raises:
            DatabaseMissing, DatabaseReplaced, WalReplaced: a name is gone, or stands for another file.
        """
        found = _identity(self._path)
        if found is None:
            raise DatabaseMissing(f"{self._path} was deleted while the agent ran")
        if found != self._opened[0]:
            raise DatabaseReplaced(f"another file was put in the place of {self._path} while the agent ran")
        for name, opened in zip(self._names[1:], self._opened[1:], strict=True):
            if _identity(name) != opened:
                raise WalReplaced(f"{name} was deleted while the agent ran")

    def leave(self) -> None:
        """Before the connection is closed: what has other names now must stay as it is.

        SQLite, when the last connection closes, copies the -wal that it has open into the database, and deletes the
        -wal that has the name. Once these are two, the one would undo and the other would lose what was committed.
        """
        if [_identity(name) for name in self._names] == self._opened:
            return
        for configure in db_config.ways():
            configure(self._connection, db_config.NO_CHECKPOINT_ON_CLOSE, True)
            return


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
