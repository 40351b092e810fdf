"""A disk that says it has written, and has not: when the power goes, files are as they were a while ago."""

from __future__ import annotations

import shutil
from pathlib import Path

_PARTS = ("-wal", "")
"""In this order a checkpoint between the two copies does no harm. The -shm is memory that processes share."""


class LyingDisk:
    """What is really written of some databases, of which the processes believe that all is.

    Make it while nobody writes. After a while kill the processes, and let `lose` what they wrote since.
    """

    def __init__(self, folder: Path, *databases: Path) -> None:
        self._kept: dict[Path, Path | None] = {}
        folder.mkdir()
        for number, database in enumerate(databases):
            for part in (*_PARTS, "-shm"):
                path = database.with_name(database.name + part)
                copy = folder / f"{number}{part}"
                is_kept = part in _PARTS and path.exists()
                self._kept[path] = Path(shutil.copy(path, copy)) if is_kept else None

    def lose(self) -> None:
        """The power is gone: nobody has these files open."""
        for path, copy in self._kept.items():
            path.unlink(missing_ok=True)
            if copy is not None:
                shutil.copy(copy, path)
