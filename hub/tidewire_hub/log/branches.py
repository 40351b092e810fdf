"""Where another branch of a log parts from it, and whether what is said of a batch is what the log says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pydantic import TypeAdapter

from tidewire_hub.database import LogDamaged
from tidewire_hub.log.port import EntriesTrimmed, HubLog
from tidewire_schemas.messages import ChainPoint, Entry
from tidewire_schemas.positions import START, Position, Seq

_ENTRY: Final = TypeAdapter(Entry)


def common(log: HubLog, head: Position, history: Sequence[Position]) -> Position:
    """The newest entry that a log has in common with another branch of it.

    Args:
        head: the newest entry of the log.
        history: the last entry of each epoch on that branch, newest first.

    An epoch is one leadership's alone, so two branches that both have entries of an epoch are equal up to where the
    shorter one's entries of it end.
    """
    for epoch, seq in history:
        end = _last_of(log, head, epoch)
        if end is not None and end.epoch == epoch:
            return Position(epoch, min(seq, end.seq))
    return START


def _last_of(log: HubLog, head: Position, epoch: int) -> Position | None:
    """The last entry of the log whose epoch is not later: epochs only grow along the log."""
    low, high = 0, head.seq
    while low < high:
        middle = (low + high + 1) // 2
        position = log.position_at(Seq(middle))
        if position is not None and position.epoch <= epoch:
            low = middle
        else:
            high = middle - 1
    return log.position_at(Seq(low))


def is_in_log(log: HubLog, device: str, incarnation: str, point: ChainPoint) -> bool:
    """Whether a log says the same of a batch as the state does, or cannot say, as it lacks the entry."""
    try:
        found = log.read(Seq(point.seq - 1), bytes_max=1, entries_max=1)
    except (EntriesTrimmed, LogDamaged):
        return True
    if not found:
        return False
    entry = _ENTRY.validate_json(found[0].data)
    said = (device, incarnation, point.batch, point.digest, point.seq)
    return (entry.device, entry.incarnation, entry.batch, entry.digest, entry.seq) == said
