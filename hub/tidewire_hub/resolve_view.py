"""What resolution sees of the state: rows with who wrote them, and who holds a unique value. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, TypeAlias

from tidewire_hub.catalogue import Table, Unique
from tidewire_schemas.keys import key_bytes, unique_bytes
from tidewire_schemas.values import WireValue, decode

Cells: TypeAlias = Mapping[str, WireValue]
"""A row's values by folded column name, as JSON holds them; NULL cells are left out."""

RowId: TypeAlias = tuple[int, bytes]
"""Which row: the table's id and the key's bytes (`keys.key_bytes`)."""


INCARNATION_DIGITS: Final = 8
"""Of an incarnation, for people: enough to tell copies of one database apart."""


def life_of(device: str, incarnation: str) -> str:
    """One life of a device's database, as one text.

    A restored or cloned database goes on under a new incarnation, and has not seen what the other life wrote since they
    parted: from there on they are strangers to each other (`Life`).
    """
    return f"{device}/{incarnation}"


def _never(_seq: int, _base: int) -> bool:
    return False


class Life(NamedTuple):
    """One life of a device's database, and what earlier lives wrote that is its own as well."""

    name: str
    """As `life_of` gives it."""
    known: Mapping[str, int] = {}
    """Lives that it goes on from, each with the last entry before they parted."""
    again: bool = False
    """Its batch was in the log before the hub lost it: what of it counts is settled (`reoffer.py`), nothing unseen."""
    known_before: Callable[[int, int], bool] = _never
    """Whether an entry brings back what the hub had lost, so that a device at `base` may have had it from there."""


class Writer(NamedTuple):
    """An entry and whose it is."""

    seq: int
    life: str
    """As `life_of` gives it."""

    @property
    def device(self) -> str:
        """The device's name."""
        return self.life.partition("/")[0]

    def told_to(self, life: Life) -> str:
        """Whose it is, for people at the device whose life this is: another copy of a database by its incarnation."""
        device, _, incarnation = self.life.partition("/")
        if device != life.name.partition("/")[0]:
            return device
        return f"another copy of {device}'s database (incarnation {incarnation[:INCARNATION_DIGITS]})"

    def concurrent_to(self, life: Life, base: int) -> bool:
        """Whether this is a write that `life`, having applied entries up to `base`, had not seen."""
        return not life.again and self.seq > base and self.life != life.name and self.seq > life.known.get(self.life, 0)


@dataclass(slots=True)
class Row:
    """A row of the state, or its tombstone."""

    cells: Cells | None
    """None for a tombstone."""
    born: Writer
    """The entry that made it."""
    written: Writer
    """Who wrote it last as a whole, or deleted it."""
    cells_by: Mapping[str, Writer] = field(default_factory=dict)
    """Who wrote a column last, where that is not `written`."""

    def writer(self, column: str) -> Writer:
        """Who wrote this column last."""
        return self.cells_by.get(column, self.written)


class View(Protocol):
    """The state as resolution reads it."""

    def prefetch(self, rows: Iterable[RowId]) -> None:
        """These will be asked for."""
        ...

    def row(self, row: RowId) -> Row | None:
        """The row or tombstone under this key; None if there never was one."""
        ...

    def prefetch_holders(self, table: Table, number: int, values: Iterable[bytes]) -> None:
        """These will be asked for."""
        ...

    def holders(self, table: Table, number: int, value: bytes) -> Collection[bytes]:
        """Keys of the rows that hold this value of the table's unique set `number`."""
        ...


def row_id(table: Table, values: Iterable[WireValue]) -> RowId:
    """Which row these key values name."""
    return table.id, key_bytes([decode(value) for value in values], table.key_collations)


def unique_value(cells: Cells | None, unique: Unique) -> bytes | None:
    """The bytes by which a row's unique set compares; None where it can clash with nothing."""
    if cells is None:
        return None
    return unique_bytes([decode(cells.get(name)) for name in unique.columns], unique.collations)


def same(one: WireValue, other: WireValue) -> bool:
    """Whether two cells hold the same value of the same storage class (1 and 1.0 differ)."""
    return type(one) is type(other) and one == other
