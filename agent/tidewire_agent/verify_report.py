"""What a verification found: for the command that asked, for `status`, and for the log."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from tidewire_schemas import verification as wire
from tidewire_schemas.codec import encode
from tidewire_schemas.positions import Position

NOT_ATTACHED: Final = "it is not attached here"
"""Why a table was not compared that somebody named."""

TOLD_BYTES_MAX: Final = 64 * 1024
"""Of a report to the hub: rows that do not fit are not listed there. Below the limit of any message to a hub."""


class ReportPart(BaseModel):
    """Base: frozen; unknown fields are ignored, as a newer agent may have written it."""

    model_config = ConfigDict(defer_build=True, frozen=True, extra="ignore")


class RowDifference(ReportPart):
    """A row that is not here as the log says. Values are wire values by column; long ones are shortened."""

    key: list[Any]
    here: dict[str, Any] | None
    """None where the row is not here."""
    hub: dict[str, Any] | None
    """None where the hub has no such row."""
    repaired: bool = False


class TableVerified(ReportPart):
    """How one table compares with the hub's."""

    table: str
    rows: int = 0
    """Rows here when it was looked at."""
    differing: int = 0
    """Rows that are not as the log says."""
    repaired: int = 0
    """How many of them were given the hub's values."""
    listed: tuple[RowDifference, ...] = ()
    """The first of them."""
    pending: int = 0
    """Rows that were not compared: a local change of them is not in the log yet, or one of the log waits to fit."""
    too_large: int = 0
    """Rows that are here otherwise than at the hub, or only here, as they are too large to be sent."""
    unsettled: int = 0
    """Rows that were written again and again while they were looked at."""
    problem: str = ""
    """Why the table was not compared, or not to the end."""

    @property
    def complete(self) -> bool:
        """Whether all of it was compared that can be."""
        return not (self.problem or self.pending or self.unsettled)

    @property
    def wrong(self) -> int:
        """Rows that are not as the log says, less those that were repaired."""
        return self.differing - self.repaired


class VerifyReport(ReportPart):
    """What a verification found."""

    at: int
    """When it ended, milliseconds since 1970."""
    position: Position
    """The last entry applied when it began."""
    tables: tuple[TableVerified, ...] = ()
    problem: str = ""
    """Why nothing was compared."""

    @property
    def differing(self) -> int:
        """Rows of all tables that are not as the log says, less those that were repaired."""
        return sum(table.wrong for table in self.tables)

    @property
    def complete(self) -> bool:
        """Whether everything was compared: rows that are too large to be sent cannot be."""
        return not self.problem and all(table.complete and not table.too_large for table in self.tables)

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(table.rows for table in self.tables)

    def without_rows(self) -> VerifyReport:
        """The same without the rows that it lists."""
        return self.model_copy(update={"tables": tuple(t.model_copy(update={"listed": ()}) for t in self.tables)})


def told(report: VerifyReport, nonce: str, incarnation: str, boot: str) -> wire.VerifyReport:
    """The report for the hub, with as many rows listed as there is room for."""
    left = max((len(table.listed) for table in report.tables), default=0)
    while True:
        tables = tuple(
            wire.ComparedTable(
                table=table.table,
                rows=table.rows,
                differing=table.differing,
                listed=tuple(wire.DifferingRow(key=row.key, here=row.here, hub=row.hub) for row in table.listed[:left]),
                pending=table.pending,
                too_large=table.too_large,
                unsettled=table.unsettled,
                problem=table.problem,
            )
            for table in report.tables
        )
        message = wire.VerifyReport(
            incarnation=incarnation,
            boot=boot,
            nonce=nonce,
            position=report.position,
            tables=tables,
            problem=report.problem,
        )
        if not left or len(encode(message)) <= TOLD_BYTES_MAX:
            return message
        left //= 2
