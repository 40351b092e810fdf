"""Where a device stands when a session begins. Pure."""

from __future__ import annotations

from typing import NamedTuple

from tidewire_agent.load_standing import LoadStanding
from tidewire_schemas.positions import Position


class Standing(NamedTuple):
    """Where the device stands, as its file says."""

    incarnation: str
    log: str | None
    epoch: int
    position: Position
    """After which entry the next page must go on."""
    sealed: int
    """The newest batch that is sealed and durable; 0 for none."""
    checkpoint: Position | None = None
    """The checkpoint, where `position` lies before it for some tables."""
    loading: LoadStanding | None = None
    """The snapshot that is being loaded."""
    told: int = 0
    """How many times the hub was told tables, each time other ones; 0 before the first `Hello`."""
