"""Two live copies of one device's database, found out by their boots. Pure.

A start of an agent has a boot of its own, and the start before it never speaks again. So where two boots of one device
name speak in turn, two agents run under that name: a copied card or disk, or one name given twice. What they write is
kept apart (a copy gets an incarnation of its own), but a person must hear of it, and give one of them another name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

BOOTS_MAX: Final = 4
"""Boots remembered of one device: of more than two copies, some are enough to name."""

RETURNS_MIN: Final = 3
"""So many times a boot must follow another one though it was heard before: a last message of an agent that was killed,
overtaken by the Hello of the next one, makes two of them."""


CLONED_HINT: Final = (
    "two live copies of one database: stop one, make a copy of its database without the device's name"
    " (`tidewire-agent backup`), and start that under another --device"
)


Agents = Literal["one", "perhaps two", "two"]
"""How many live under the name of a device."""


@dataclass(slots=True)
class _Heard:
    incarnation: str
    at_s: float


@dataclass(slots=True)
class CloneWatch:
    """The boots of one device that are alive, as far as they were heard."""

    _alive: dict[str, _Heard] = field(default_factory=dict)
    """By boot, the one heard last at the end."""
    _returns: int = 0

    def heard(self, boot: str, incarnation: str, now_s: float, *, memory_s: float) -> None:
        """A living agent said something. Its last will, and what the broker kept, do not count.

        A boot that is silent for `memory_s` is no longer thought alive.
        """
        returns = boot in self._alive and next(reversed(self._alive)) != boot
        self._alive.pop(boot, None)
        self._alive[boot] = _Heard(incarnation, now_s)
        self._forget(now_s, memory_s)
        if returns:
            self._returns += 1

    def ended(self, boot: str) -> None:
        """An agent said goodbye, or its last will did."""
        self._alive.pop(boot, None)
        self._forget_returns()

    def is_alive(self, boot: str) -> bool:
        """Whether this agent is thought alive. What it sent may become an entry after its goodbye."""
        return boot in self._alive

    def others_live(self, boot: str) -> bool:
        """Whether an agent other than this one is thought alive."""
        return any(other != boot for other in self._alive)

    def agents(self, boot: str) -> Agents:
        """How many there are besides and with this one."""
        if not self.others_live(boot):
            return "one"
        return "perhaps two" if self._returns < RETURNS_MIN else "two"

    def clones(self, device: str) -> str | None:
        """Who runs under this name, None if it is one agent alone."""
        if self._returns < RETURNS_MIN:
            return None
        boots = " and ".join(sorted(boot[:8] for boot in self._alive))
        incarnations = " and ".join(sorted({heard.incarnation[:8] for heard in self._alive.values()}))
        times = "twice" if len(self._alive) == 2 else f"{len(self._alive)} times"
        return (
            f"device {device} is run {times}: boots {boots}, of incarnation {incarnations};"
            " give one of them another name"
        )

    def _forget(self, now_s: float, memory_s: float) -> None:
        silent = [boot for boot, heard in self._alive.items() if now_s - heard.at_s > memory_s]
        for boot in [*silent, *list(self._alive)[:-BOOTS_MAX]]:
            self._alive.pop(boot, None)
        self._forget_returns()

    def _forget_returns(self) -> None:
        if len(self._alive) < 2:
            self._returns = 0
