"""Messages by which a device compares its rows with the hub's: whole tables, ranges of keys, single rows.

A range is all keys whose hash (`digest.key_hash`) begins with some hexadecimal digits: that works for keys of any type,
and spreads neighbours evenly. The device asks first for the whole table, then, where that differs, for ranges and for
ranges within them, and at last for the rows.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import FailFast, Field, model_validator

from tidewire_schemas.base import Component, Message
from tidewire_schemas.names import Id, Identifier
from tidewire_schemas.positions import Count, Millis, Position
from tidewire_schemas.shapes import COLUMNS_MAX
from tidewire_schemas.values import WireRow, check_rows

RANGES_ASKED_MAX: Final = 16
"""Ranges that a device may ask for at once: each is answered by up to 256 smaller ones."""

ROWS_ASKED_MAX: Final = 64
"""Rows that a device may ask for at once."""

RANGE_LISTED_MAX: Final = 64
"""A range of up to so many rows is answered by the list of them, a larger one by smaller ranges."""

TABLES_ASKED_MAX: Final = 1_000
"""Tables that `VerifyNow` may name."""

RANGE_DIGITS: Final = 2
"""By so many digits of the hash a smaller range is longer than the one that it is part of."""

Prefix = Annotated[str, Field(pattern=r"^([0-9a-f]{2}){0,16}$")]
"""First digits of the hashes of a range's keys; empty for all keys."""


class VerifyRequest(Message):
    """A device asks what the hub holds: of a whole table if neither ranges nor rows are named."""

    type: Literal["verify_request"] = "verify_request"
    incarnation: Id
    boot: Id
    nonce: Id
    table: Identifier
    columns: Annotated[tuple[Identifier, ...], FailFast()] = Field(min_length=1, max_length=COLUMNS_MAX)
    """The columns that the device has: only these are compared. The key's come first."""
    key: int = Field(ge=1, le=COLUMNS_MAX)
    """How many of the columns, from the first, are the key."""
    ranges: Annotated[tuple[Prefix, ...], FailFast()] = Field(default=(), max_length=RANGES_ASKED_MAX)
    rows: Annotated[list[WireRow], FailFast()] = Field(default=[], max_length=ROWS_ASKED_MAX)
    """Keys of rows."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.key > len(self.columns):
            raise ValueError(f"a request names {len(self.columns)} columns and {self.key} of them as key")
        if self.ranges and self.rows:
            raise ValueError("a request names ranges and rows")
        check_rows(self.rows, self.key)
        return self


class VerifyKey(Component):
    """One row of a range."""

    key: WireRow
    digest: Id
    """Of the row in the columns that were named."""


class VerifyRange(Component):
    """What the rows of a range add up to."""

    prefix: Prefix
    rows: Count
    digest: Id
    keys: tuple[VerifyKey, ...] | None = None
    """Its rows, where it was asked for and has few."""


class VerifyRow(Component):
    """One row that was asked for."""

    key: WireRow
    changed: Count
    """The newest entry that wrote, made or deleted it; 0 where the hub knows of none."""
    values: WireRow | None
    """In the columns that were named, None where the hub holds no such row."""


class VerifyAnswer(Message):
    """What the hub held at one position."""

    type: Literal["verify_answer"] = "verify_answer"
    incarnation: Id
    boot: Id
    nonce: Id
    position: Position
    known: bool = True
    """Whether the hub knows the table, by this key."""
    ranges: Annotated[tuple[VerifyRange, ...], FailFast()] = ()
    """The whole table; or of the ranges that were asked for, the first ones for which there was room: each by its list
    of rows, or by its parts that have rows."""
    rows: Annotated[tuple[VerifyRow, ...], FailFast()] = ()
    """Of the rows that were asked for, the first ones for which there was room."""


class VerifyNow(Message):
    """A person at the hub wants a device to compare its rows now: whoever runs under its name answers."""

    type: Literal["verify_now"] = "verify_now"
    nonce: Id
    tables: Annotated[tuple[Identifier, ...], FailFast()] = Field(default=(), max_length=TABLES_ASKED_MAX)
    """All that are attached there, if empty."""


class DifferingRow(Component):
    """A row that is not on the device as the log says. Values are wire values by column; long ones are shortened."""

    key: list[Any]
    here: dict[str, Any] | None
    """On the device; None where it has no such row."""
    hub: dict[str, Any] | None
    """None where the hub has no such row."""


class ComparedTable(Component):
    """What a device found of one of its tables."""

    table: Identifier
    rows: Count
    differing: Count
    """Rows that are not as the log says."""
    listed: Annotated[tuple[DifferingRow, ...], FailFast()] = ()
    """The first of them."""
    pending: Count = 0
    """Rows that were not compared, as a change of them is on its way."""
    too_large: Count = 0
    """Rows that are otherwise there than at the hub, or only there, as they are too large to be sent."""
    unsettled: Count = 0
    """Rows that were written again and again while they were looked at."""
    problem: str = ""
    """Why the table was not compared, or not to the end."""


class VerifyReport(Message):
    """A device answers `VerifyNow` with what it found."""

    type: Literal["verify_report"] = "verify_report"
    incarnation: Id
    boot: Id
    nonce: Id
    position: Position
    """The last entry applied when it began."""
    tables: Annotated[tuple[ComparedTable, ...], FailFast()] = ()
    problem: str = ""
    """Why nothing was compared."""

    @property
    def equal(self) -> bool:
        """Whether everything was compared, and is equal."""
        return not (
            self.problem
            or any(t.differing or t.problem or t.pending or t.too_large or t.unsettled for t in self.tables)
        )


class Verified(Component):
    """What verifications of a device found: of each table the last, at the time of the newest."""

    at: Millis
    position: Position
    """The last entry applied when it began."""
    rows: Count
    """Rows that were compared."""
    differing: Count
    """Rows that are not as the log says, less those that were repaired."""
    complete: bool
    """Whether all rows were compared."""
