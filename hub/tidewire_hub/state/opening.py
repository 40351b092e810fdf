"""Opening the state's file, and making it anew where it does not go with the log."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tidewire_hub.database import StorageDamaged, storage_errors
from tidewire_hub.log.port import HubLog
from tidewire_hub.state.store import Limits, State
from tidewire_schemas.positions import Position, Seq

logger = logging.getLogger(__name__)


class StateLost(StorageDamaged):
    """The log was trimmed, and nothing is left from which the state could be brought to its head."""

    code = "state_lost"
    hint = "put the folder `snapshots` back, or restore log.db and state.db from a backup"


class SpareState(NamedTuple):
    """A copy of the state at an older position, from which it can be made anew."""

    position: Position
    path: Path
    digest: str | None = None
    """Of the file."""


def open_state(log: HubLog, path: Path | None, limits: Limits, spares: Sequence[SpareState]) -> State:
    """The state's file if the log can bring it to its head, else a new one: empty, or the first spare that will do.

    Raises:
        StateLost: the log was trimmed, and neither the file nor a spare will do.
    """
    with storage_errors(path or "state in memory"):
        state = State.open(path, log.log_id, limits)
        if state is not None:
            if can_follow(log, state.position):
                return state
            state.close()
        logger.warning("%s is not of this log: it is made anew", path)
        return make_anew(log, path, limits, spares)


def make_anew(log: HubLog, path: Path | None, limits: Limits, spares: Sequence[SpareState]) -> State:
    """A new state in the place of a file that is closed, which the log can bring to its head.

    Raises:
        StateLost: the log was trimmed, and no spare will do; the file is as it was.
    """
    if log.oldest() == 1:
        remove_state(path)
    else:
        _replace_by_spare(log, path, spares)
    state = State.open(path, log.log_id, limits)
    if state is None:
        raise StorageDamaged(f"{path} cannot be made anew")
    return state


def remove_state(path: Path | None) -> None:
    """Delete the state's files: it can be made anew."""
    if path is not None:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def can_follow(log: HubLog, position: Position) -> bool:
    """Whether a state at this position can be brought to the log's head."""
    return log.position_at(Seq(position.seq)) == position and position.seq + 1 >= log.oldest()


def file_digest(path: Path) -> str:
    """Of a whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def is_as_written(path: Path, digest: str | None) -> bool:
    """Whether a file has this digest; one of which none is known passes."""
    return digest is None or file_digest(path) == digest


def _is_whole(spare: SpareState) -> bool:
    whole = is_as_written(spare.path, spare.digest)
    if not whole:
        logger.error("%s is not as it was written: check the disk", spare.path)
    return whole


def _replace_by_spare(log: HubLog, path: Path | None, spares: Sequence[SpareState]) -> None:
    spare = next((spare for spare in spares if can_follow(log, spare.position) and _is_whole(spare)), None)
    if path is None or spare is None:
        raise StateLost(f"{path} does not go with its log, which begins at {log.oldest()}: it cannot be made anew")
    logger.warning("%s is made anew from %s and the log", path, spare.path)
    unfinished = path.with_name(f".{path.name}.new")
    shutil.copyfile(spare.path, unfinished)
    remove_state(path)
    unfinished.replace(path)
