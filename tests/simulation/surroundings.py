"""What a world is to the machines in it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from simulation.disk import Disk
from simulation.network import Network


class Surroundings(Protocol):
    """What a device needs of its world."""

    chance: random.Random
    disk: Disk
    network: Network

    def guard(self, check: Callable[[], None]) -> None:
        """Run a check; what it finds ends the world."""
        ...

    def note(self, *what: object) -> None:
        """Something happened: it belongs to the history."""
        ...

    def happened(self, fault: str) -> None:
        """A fault has struck."""
        ...

    def ended(self, name: str, error: BaseException | None) -> None:
        """A process ended by itself."""
        ...

    def died(self, name: str) -> None:
        """A process died inside a call."""
        ...
