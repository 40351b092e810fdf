"""Lives of devices' databases, and which of them go on from which."""

from __future__ import annotations

import sqlite3
from typing import Final

from tidewire_hub.resolve_view import Life, life_of
from tidewire_hub.state.devices import Devices
from tidewire_schemas.messages import Parent

_READ: Final = """
    SELECT life.name, parent.name, seq
    FROM lineage JOIN device AS life ON life.id = lineage.life JOIN device AS parent ON parent.id = lineage.parent
"""
_ADD: Final = "INSERT INTO lineage (life, parent, seq) VALUES (?, ?, ?)"


class Lives:
    """Which life of a device goes on from which other, and since which entry.

    There are as many as devices were renumbered: few, so all are held in memory.
    """

    def __init__(self, connection: sqlite3.Connection, devices: Devices) -> None:
        self._connection: Final = connection
        self._devices: Final = devices
        self._parents: dict[str, tuple[str, int]] = {}

    def load(self) -> None:
        """Read again what is held in memory, after opening and after a rollback."""
        self._parents = {life: (parent, seq) for life, parent, seq in self._connection.execute(_READ)}

    def of(self, device: str, incarnation: str) -> Life:
        """A life, and up to which entry it knows what those before it wrote."""
        name = life_of(device, incarnation)
        known: dict[str, int] = {}
        life, until = name, 0
        while (parent := self._parents.get(life)) is not None:
            life = parent[0]
            until = min(until, parent[1]) if known else parent[1]
            known[life] = until
        return Life(name, known)

    def begin(self, device: str, incarnation: str, parent: Parent) -> None:
        """A life goes on from another one; known already, nothing is changed."""
        life, before = life_of(device, incarnation), life_of(device, parent.incarnation)
        if life not in self._parents:
            self._connection.execute(_ADD, (self._devices.id_of(life), self._devices.id_of(before), parent.seq))
            self._parents[life] = (before, parent.seq)
