"""How far a device is in loading a snapshot: what its file says to its conversation with the hub."""

from __future__ import annotations

from typing import NamedTuple

from tidewire_schemas.positions import Position


class LoadStanding(NamedTuple):
    """A load that is under way."""

    snapshot: str | None
    """None while tables wait for a manifest."""
    whole: bool
    """Whether it is of all tables, and moves the checkpoint."""
    position: Position
    """Of the snapshot."""
    tables: tuple[str, ...]
    """The tables that take part."""
    missing: tuple[range, ...]
    """Numbers of the chunks that are needed still, in their order."""
    loaded: int
    """How many chunks of its tables are loaded."""
    chunks: int
    """How many chunks its tables have."""
    least: int = 0
    """While tables wait for a manifest: the entry that the snapshot must hold."""
