"""The snapshots of a stream on disk: found again after a restart, read chunk by chunk, removed.

DATA/{stream}/snapshots/{id}/manifest.json   written last: without it a snapshot is not there
DATA/{stream}/snapshots/{id}/chunks          all chunks, one after another
DATA/{stream}/snapshots/{id}/state.db        copy of the state at its position; beside the newest snapshot alone

A snapshot is made under a name of its own and renamed when everything in it is on the disk, so it is there whole or not
at all, and is never changed.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tidewire_hub.database import StorageDamaged, StorageFailed, StorageFull
from tidewire_hub.snapshot.build import SnapshotPlan, build
from tidewire_hub.snapshot.manifest import KeptSnapshot, manifest_text, newest_first, read_manifest
from tidewire_hub.state.opening import is_as_written
from tidewire_schemas.digest import message_digest
from tidewire_schemas.positions import Position

logger = logging.getLogger(__name__)

_MANIFEST: Final = "manifest.json"
_CHUNKS: Final = "chunks"
_STATE: Final = "state.db"
_UNFINISHED: Final = ".unfinished-"


class Shelf:
    """The folder of a stream's snapshots. Its methods may run on different threads at once."""

    def __init__(self, folder: Path, log: str) -> None:
        self._folder: Final = folder
        self._log: Final = log

    def load(self, known: Callable[[Position], bool]) -> list[KeptSnapshot]:
        """The snapshots of this log, newest first; what is unfinished, damaged or not of this log is removed.

        `known` says whether a position is on the log.
        """
        kept = []
        for path in self._paths():
            snapshot = _read(path)
            if snapshot is not None and snapshot.log == self._log and known(snapshot.position):
                kept.append(snapshot)
            else:
                logger.warning("%s is no whole snapshot of this log: removed", path)
                shutil.rmtree(path, ignore_errors=True)
        return newest_first(kept)

    def make(
        self,
        snapshot: str,
        state: Path,
        *,
        payload_bytes_max: int,
        at_ms: int,
        conflicts_max: int,
        refused_bytes_max: int,
        stopping: Callable[[], bool],
    ) -> KeptSnapshot:
        """Make a snapshot of what the state's file holds now.

        Raises:
            DatabaseError: it cannot be made; nothing of it is left.
            Stopped: `stopping` said so; nothing of it is left.
        """
        unfinished = self._folder / f"{_UNFINISHED}{snapshot}"
        with _storage_faults(unfinished):
            unfinished.mkdir(parents=True)
            try:
                plan = SnapshotPlan(
                    snapshot=snapshot,
                    log=self._log,
                    state=state,
                    copy=unfinished / _STATE,
                    chunks=unfinished / _CHUNKS,
                    payload_bytes_max=payload_bytes_max,
                    at_ms=at_ms,
                    conflicts_max=conflicts_max,
                    refused_bytes_max=refused_bytes_max,
                )
                kept = build(plan, stopping=stopping)
                (unfinished / _MANIFEST).write_bytes(manifest_text(kept))
                for path in (*unfinished.iterdir(), unfinished):
                    _make_durable(path)
                unfinished.rename(self._folder / snapshot)
                _make_durable(self._folder)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
        self._drop_older_copies(snapshot)
        return kept

    def read(self, snapshot: KeptSnapshot, chunk: int) -> bytes:
        """The body of a chunk, as it was written.

        Raises:
            StorageDamaged: the file does not hold what was written, or is gone.
            StorageFailed: it cannot be read now.
        """
        path = self._folder / snapshot.snapshot / _CHUNKS
        offset, size = snapshot.span(chunk)
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(offset)
                body = file.read(size)
        except FileNotFoundError:
            raise StorageDamaged(f"{path} is gone") from None
        except OSError as error:
            raise StorageFailed(f"{path}: {error.strerror}") from error
        if message_digest(body) != snapshot.digests[chunk]:
            raise StorageDamaged(f"{path}: chunk {chunk} is not as it was written", hint="check the disk")
        return body

    def remove(self, snapshot: str) -> None:
        """Remove a snapshot. One that cannot be removed now is tried again at the next start."""
        path = self._folder / snapshot
        with suppress(OSError):
            (path / _MANIFEST).unlink()
        shutil.rmtree(path, ignore_errors=True)

    def state_copies(self) -> list[tuple[KeptSnapshot, Path]]:
        """Snapshots of this log that have a copy of the state, newest first, without looking at the log."""
        found = [(kept, path) for path in self._paths() if (kept := _read(path)) is not None and kept.log == self._log]
        with_copy = [(kept, path / _STATE) for kept, path in found if (path / _STATE).exists()]
        return sorted(with_copy, key=lambda pair: pair[0].position.seq, reverse=True)

    def drop_damaged_copies(self) -> int:
        """Remove copies of the state that are not as they were written; how many."""
        dropped = 0
        for kept, path in self.state_copies():
            with suppress(FileNotFoundError):  # it has become an older one meanwhile
                if not is_as_written(path, kept.state_digest):
                    path.unlink()
                    dropped += 1
        return dropped

    def _paths(self) -> list[Path]:
        return sorted(path for path in self._folder.iterdir() if path.is_dir()) if self._folder.is_dir() else []

    def _drop_older_copies(self, newest: str) -> None:
        """One copy of the state is enough to make it anew."""
        for path in self._paths():
            if path.name != newest:
                for file in path.glob(f"{_STATE}*"):
                    file.unlink(missing_ok=True)


def _read(path: Path) -> KeptSnapshot | None:
    """The snapshot in a folder if it is whole."""
    try:
        snapshot = read_manifest((path / _MANIFEST).read_bytes())
        size = (path / _CHUNKS).stat().st_size
    except OSError:
        return None
    whole = snapshot is not None and snapshot.snapshot == path.name and snapshot.bytes == size
    return snapshot if whole else None


@contextmanager
def _storage_faults(what: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = StorageFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageFailed
        raise kind(f"{what}: {error.strerror}") from error


def _make_durable(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
