"""What of a file survives: all of it when a process is killed, its synced part when the power goes.

SQLite in WAL mode appends to the `-wal` file; what was not synced may be lost in a power cut, from the end. Which part
was synced is known of two events: an fsync of the `-wal` (the agent's `harden`), and a checkpoint, before which SQLite
syncs all that it copies into the database file. https://sqlite.org/walformat.html describes the offsets used here.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

WAL_HEADER_BYTES: Final = 32
FRAME_HEADER_BYTES: Final = 24
BACKFILLED_AT: Final = 96
"""Offset in the `-shm` file of the number of frames that are in the database file already."""


class Files(NamedTuple):
    """A database's bytes: what a copy of the card holds."""

    database: bytes
    wal: bytes


class _Synced(NamedTuple):
    """How much of a `-wal` file is durable; the salt tells whether it is still the same log."""

    salt: bytes
    length: int


class Disk:
    """All disks of a world."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._synced: dict[Path, _Synced] = {}

    def fsync(self, descriptor: int) -> None:
        """A process has synced a file."""
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.name.endswith("-wal"):
            header = os.pread(descriptor, WAL_HEADER_BYTES, 0)
            self._synced[path] = _Synced(header[16:24], os.fstat(descriptor).st_size)

    def kill(self, paths: Sequence[Path], close: Callable[[], None]) -> None:
        """Close the last connections to these databases as a killed process does: without SQLite's last checkpoint."""
        files = {path: self.read(path) for path in paths if path.exists()}
        floors = {path: self._durable(path, content.wal) for path, content in files.items()}
        close()
        for path, content in files.items():
            self.write(path, content, durable=floors[path])

    def cut_power(self, path: Path, close: Callable[[], None]) -> bool:
        """The same for one of them with the power gone; whether anything was lost."""
        if not path.exists():
            close()
            return False
        files = self.read(path)
        floor = self._durable(path, files.wal)
        close()
        keep = floor if self._chance.random() < 0.5 else self._chance.randint(floor, len(files.wal))
        self.write(path, Files(files.database, files.wal[:keep]))
        return keep < len(files.wal)

    def read(self, path: Path) -> Files:
        """The database as it is on the disk now."""
        wal = _beside(path, "-wal")
        return Files(path.read_bytes(), wal.read_bytes() if wal.exists() else b"")

    def write(self, path: Path, files: Files, *, durable: int | None = None) -> None:
        """Put a copy in a database's place; nobody may have it open.

        `durable` says how much of its `-wal` a power cut leaves, None for all: what was copied from there into the
        database stays there, also where SQLite, which begins to count anew, does not know of it any more.
        """
        path.write_bytes(files.database)
        _beside(path, "-shm").unlink(missing_ok=True)
        wal = _beside(path, "-wal")
        wal.unlink(missing_ok=True)
        if files.wal:
            wal.write_bytes(files.wal)
            self._synced[wal] = _Synced(files.wal[16:24], len(files.wal) if durable is None else durable)

    def remove(self, path: Path) -> None:
        """Delete a database."""
        for suffix in ("", "-wal", "-shm"):
            _beside(path, suffix).unlink(missing_ok=True)

    def _durable(self, path: Path, wal: bytes) -> int:
        """The length of the `-wal` that a power cut leaves at least."""
        if len(wal) < WAL_HEADER_BYTES:
            return len(wal)
        (page_bytes,) = struct.unpack(">I", wal[8:12])
        shm = _beside(path, "-shm")
        backfilled = 0  # nobody has opened it since it was written
        if shm.exists():
            (backfilled,) = struct.unpack("=I", shm.read_bytes()[BACKFILLED_AT : BACKFILLED_AT + 4])
        floor: int = WAL_HEADER_BYTES + backfilled * (FRAME_HEADER_BYTES + page_bytes)
        synced = self._synced.get(_beside(path, "-wal"))
        if synced is not None and synced.salt == wal[16:24]:
            floor = max(floor, synced.length)
        return min(floor, len(wal))


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
