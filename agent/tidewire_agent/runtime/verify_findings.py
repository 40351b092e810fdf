"""What is known of all tables, from comparisons of all or of some: one look changes what is said of its tables only."""

from __future__ import annotations

from tidewire_agent.verify_report import NOT_ATTACHED, TableVerified, VerifyReport
from tidewire_schemas.names import fold


class VerifyFindings:
    """The last that was found of each table since the agent started."""

    def __init__(self) -> None:
        self._tables: dict[str, TableVerified] = {}

    @property
    def differing(self) -> tuple[TableVerified, ...]:
        """Tables with rows that are not as the log says, by name."""
        return tuple(table for _, table in sorted(self._tables.items()) if table.wrong)

    def take(self, report: VerifyReport, *, of_all: bool) -> VerifyReport:
        """What is known of all tables now; `of_all`: the report is of every table that is attached."""
        looked_at = {fold(table.table): table for table in report.tables}
        if of_all and not report.problem:
            self._tables = {name: table for name, table in self._tables.items() if name in looked_at}
        for name, table in looked_at.items():
            if table.problem == NOT_ATTACHED:
                self._tables.pop(name, None)
            elif table.complete or table.wrong or not self._wrong(name):
                self._tables[name] = table  # else the look was in vain: what was known of it stays
        return report.model_copy(update={"tables": tuple(table for _, table in sorted(self._tables.items()))})

    def _wrong(self, name: str) -> int:
        return self._tables[name].wrong if name in self._tables else 0
