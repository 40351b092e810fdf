"""What a `verification` asks its shell to do, and what the shell brings back. Plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from tidewire_schemas.positions import Position
from tidewire_schemas.values import WireRow
from tidewire_schemas.verification import VerifyAnswer


class Subject(NamedTuple):
    """A table that can be compared, or not."""

    table: str
    columns: tuple[str, ...]
    """The key's come first."""
    key: int
    """How many columns are the key."""
    problem: str
    """Why it cannot be compared now; empty where it can."""


class Sum(NamedTuple):
    """What rows add up to."""

    rows: int
    digest: str


class ListedRow(NamedTuple):
    """One row of a range."""

    key: WireRow
    digest: str


@dataclass(slots=True)
class Scan:
    """What is here of the ranges that were asked for, all of one moment."""

    position: Position
    sums: dict[str, Sum] = field(default_factory=dict)
    """By prefix; ranges without rows are left out."""
    rows: dict[str, list[ListedRow]] = field(default_factory=dict)
    """By prefix, of the ranges whose rows were to be listed."""
    cut: bool = False
    """There are more rows to be listed than may be."""


class RowHere(NamedTuple):
    """A row that was looked at."""

    name: bytes
    """What all spellings of its key have in common."""
    key: WireRow
    values: WireRow | None
    """None where it is not here."""
    excused: bool
    """What is local about it is not judged yet, so it need not be equal."""
    too_large: bool = False
    """It need not be equal, as what is local about it is too large to be sent, and stays here."""


class RowsHere(NamedTuple):
    """Rows of one moment."""

    position: Position
    rows: tuple[RowHere, ...]


class Repair(NamedTuple):
    """A row that shall be as the hub has it, if it still is as it was looked at."""

    here: RowHere
    hub: WireRow | None


class Repaired(NamedTuple):
    """What became of a repair."""

    done: tuple[bool, ...]
    """For each row. One that changed meanwhile is left as it is."""
    problem: str
    """Why nothing was done, empty where something could be."""


# ── what is asked of the shell ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ListTables:
    """Bring a list of `Subject`s: these tables, or all that are attached."""

    tables: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AskHub:
    """Bring the `VerifyAnswer`, or None where none comes."""

    subject: Subject
    ranges: tuple[str, ...] = ()
    rows: tuple[WireRow, ...] = ()


@dataclass(frozen=True, slots=True)
class ScanTable:
    """Bring a `Scan`, best of a moment when `after` is applied; None where the table is another one by now."""

    subject: Subject
    after: Position
    sums: frozenset[str]
    """Prefixes of which the sums are wanted."""
    listed: frozenset[str]
    """Prefixes of which the rows are wanted."""


@dataclass(frozen=True, slots=True)
class ReadRows:
    """Bring `RowsHere`, or None where the table is another one by now."""

    subject: Subject
    keys: tuple[WireRow, ...]


@dataclass(frozen=True, slots=True)
class RepairRows:
    """Give rows the hub's values of `position`; bring what became of it (`Repaired`)."""

    subject: Subject
    position: Position
    repairs: tuple[Repair, ...]


class NoAnswer(NamedTuple):
    """What comes of `AskHub` where the hub cannot be asked, or does not answer."""

    reason: str


Step: TypeAlias = ListTables | AskHub | ScanTable | ReadRows | RepairRows
Result: TypeAlias = list[Subject] | VerifyAnswer | NoAnswer | Scan | RowsHere | Repaired | None
