"""Earlier incarnations of a device, of which batches are still here, and the numbers they had in them."""

from __future__ import annotations

import json
from typing import NamedTuple

from tidewire_agent.store.meta import Meta


class Ancestor(NamedTuple):
    """An earlier incarnation, of which batches are still here."""

    incarnation: str
    shift: int
    """The number that it gave to a batch, less the one that the batch has here."""
    last: int
    """Its last batch, by its own numbers, before this incarnation went on from it."""


def ancestors(meta: Meta) -> list[Ancestor]:
    """All that are known, the earliest first."""
    return [Ancestor(*values) for values in json.loads(meta.text("ancestors") or "[]")]


def remember(meta: Meta, known: list[Ancestor]) -> None:
    """In the caller's transaction: these are all."""
    meta.set(ancestors=json.dumps(known))
