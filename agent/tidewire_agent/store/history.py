"""Which leaderships' entries this database has applied: where its log and the hub's part is found by that."""

from __future__ import annotations

import json

from tidewire_agent.store.meta import Meta
from tidewire_schemas.messages import HISTORY_MAX
from tidewire_schemas.positions import START, Position


def history(meta: Meta) -> list[Position]:
    """The last entry applied of each epoch before the checkpoint's, newest first."""
    return [Position(*position) for position in json.loads(meta.text("history") or "[]")]


def move_on(meta: Meta, before: Position, to: Position) -> None:
    """In the caller's transaction: the checkpoint goes from one position to a later one."""
    if before not in (START, to) and before.epoch != to.epoch:
        kept = [before, *history(meta)][:HISTORY_MAX]
        meta.set(history=json.dumps(kept))


def go_back(meta: Meta, to: Position) -> None:
    """In the caller's transaction: what was applied after this position counts no more."""
    meta.set(history=json.dumps([position for position in history(meta) if position.seq < to.seq]))
