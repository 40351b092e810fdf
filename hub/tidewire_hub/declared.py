"""Which columns each device has, as it declared last. Pure.

A column that nobody has is forgotten, so this is kept beside the log: else a hub that starts anew would forget what a
device has that is away. One that was not heard of for long does not count; when it comes back, it declares again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, TypeAlias

from pydantic import BaseModel, TypeAdapter

from tidewire_hub.clones import Agents
from tidewire_schemas.names import fold
from tidewire_schemas.shapes import TableShape

DEVICES_MAX: Final = 10_000
"""Devices remembered; the one that declared longest ago goes first."""

DAY_MS: Final = 86_400_000

TWICE: Final = " run twice"
"""After the name of a device: what agents have declared that lived under it together. No name has a space."""

Columns: TypeAlias = Mapping[str, tuple[str, ...]]
"""Of each table; names are folded."""


class Group(BaseModel):
    """Devices that have the same columns, each with when it declared them (milliseconds since 1970)."""

    tables: dict[str, tuple[str, ...]]
    devices: dict[str, int]


_GROUPS: Final = TypeAdapter(list[Group])


class Declared:
    """What each device has declared.

    Args:
        keep_ms: for how long a device counts that is not heard of.
    """

    def __init__(self, document: bytes | None, *, keep_ms: int) -> None:
        self._keep_ms: Final = keep_ms
        self._groups: Final[list[Group]] = [] if document is None else _GROUPS.validate_json(document)

    def to_json(self) -> bytes:
        """As it is kept beside the log."""
        return _GROUPS.dump_json(self._groups)

    def says(self, device: str, shapes: Sequence[TableShape], at_ms: int, *, agents: Agents = "one") -> bool:
        """A device declares all that it has; whether that is worth being kept.

        Where another agent perhaps lives under its name, what that has declared counts as well. Of two that do, nobody
        knows what becomes of the other one, so what they had together counts for as long as a device that is away.
        """
        tables = {fold(shape.name): tuple(sorted(fold(c.name) for c in shape.columns)) for shape in shapes}
        if agents != "one":
            tables = _together(tables, self._said_by(device))
        both = _together(tables, self._said_by(device + TWICE))
        is_news = agents == "two" and self._keep(device + TWICE, both, at_ms)
        return self._keep(device, tables, at_ms) or is_news

    def _said_by(self, device: str) -> Columns:
        return next((group.tables for group in self._groups if device in group.devices), {})

    def _keep(self, device: str, tables: dict[str, tuple[str, ...]], at_ms: int) -> bool:
        before = next((group for group in self._groups if device in group.devices), None)
        if before is not None and before.tables == tables and at_ms - before.devices[device] < DAY_MS:
            return False
        if before is not None:
            self._drop(before, device)
        group = next((group for group in self._groups if group.tables == tables), None)
        if group is None:
            group = Group(tables=tables, devices={})
            self._groups.append(group)
        group.devices[device] = at_ms
        self._bound()
        return True

    def held(self, table: str, at_ms: int, connected: Collection[str]) -> set[str]:
        """Columns of a table that some device has. Those in `connected` count however long ago they declared."""
        found: set[str] = set()
        for group in self._groups:
            if table in group.tables and any(
                device in connected or at_ms - said < self._keep_ms for device, said in group.devices.items()
            ):
                found.update(group.tables[table])
        return found

    def _bound(self) -> None:
        while sum(len(group.devices) for group in self._groups) > DEVICES_MAX:
            oldest = min(self._groups, key=lambda group: min(group.devices.values()))
            self._drop(oldest, min(oldest.devices, key=oldest.devices.__getitem__))

    def _drop(self, group: Group, device: str) -> None:
        del group.devices[device]
        if not group.devices:
            self._groups.remove(group)


def _together(one: Columns, other: Columns) -> dict[str, tuple[str, ...]]:
    tables = one.keys() | other.keys()
    return {name: tuple(sorted({*one.get(name, ()), *other.get(name, ())})) for name in sorted(tables)}
