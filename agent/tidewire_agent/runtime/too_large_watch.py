"""Says which tables have rows that never travel, as they are too large to be sent."""

from __future__ import annotations

from typing import Final

from tidewire_agent.runtime.troubles import Troubles
from tidewire_agent.session.effects import Trouble
from tidewire_agent.store.backlog import Backlog

ROWS_TOO_LARGE: Final = "rows_too_large"
"""Code of the problem that rows stay on this device."""

_HINT: Final = (
    "`tidewire-agent dead list` names them: make them smaller in the app, or raise batch_bytes_max here and at the hub,"
    " then `dead retry`"
)


class TooLargeWatch:
    """Keeps the problem up to date: it is over once all of them are mended."""

    def __init__(self, troubles: Troubles) -> None:
        self._troubles = troubles

    def look(self, backlog: Backlog) -> None:
        """There are so many of them now."""
        if backlog.too_large:
            count = sum(rows for _, rows in backlog.too_large)
            tables = ", ".join(table for table, _ in backlog.too_large)
            text = f"{count} rows are only on this device as they are, too large to be sent, in {tables}"
            self._troubles.say(Trouble(ROWS_TOO_LARGE, text, _HINT))
        else:
            self._troubles.clear(ROWS_TOO_LARGE)
