"""Says when dead letters go, or are about to, as more of them come than may be kept; and what rows never travel."""

from __future__ import annotations

from typing import Final

from tidewire_agent.runtime.troubles import Troubles
from tidewire_agent.session.effects import Trouble
from tidewire_agent.store.backlog import Backlog

DEAD_LETTERS_FULL: Final = "dead_letters_full"
"""Code of the problem that says so."""

FULL_SHARE: Final = 0.9
"""From this share of `dead_letters_max` on a person should know: the rest may be gone within one entry."""

_HINT: Final = (
    "look with `tidewire-agent dead list`, then `dead retry` or `dead discard`, or allow more (dead_letters_max)"
)


ROWS_TOO_LARGE: Final = "rows_too_large"
"""Code of the problem that rows stay on this device."""

_MEND: Final = (
    "`tidewire-agent dead list` names them: make them smaller in the app, or raise batch_bytes_max here and at the hub,"
    " then `dead retry`"
)


class LetterWatch:
    """Keeps the problem up to date: it is over once there is room again.

    Args:
        letters_max: the setting `dead_letters_max`.
    """

    def __init__(self, letters_max: int, troubles: Troubles) -> None:
        self._letters_max = letters_max
        self._troubles = troubles
        self._seen = 0
        self._told = 0

    def look(self, backlog: Backlog) -> None:
        """There are so many letters now, and so many went."""
        self._look_at_rows(backlog)
        gone = backlog.dead_dropped
        if backlog.dead_letters < FULL_SHARE * self._letters_max:
            self._troubles.clear(DEAD_LETTERS_FULL)
            self._told = gone
        elif gone == self._seen or gone >= 2 * self._told:  # while many go, not a line in the log for each look
            self._told = gone
            self._troubles.say(self._trouble(gone))
        self._seen = gone

    def _look_at_rows(self, backlog: Backlog) -> None:
        if backlog.too_large:
            count = sum(rows for _, rows in backlog.too_large)
            tables = ", ".join(table for table, _ in backlog.too_large)
            text = f"{count} rows are only on this device as they are, too large to be sent, in {tables}"
            self._troubles.say(Trouble(ROWS_TOO_LARGE, text, _MEND))
        else:
            self._troubles.clear(ROWS_TOO_LARGE)

    def _trouble(self, gone: int) -> Trouble:
        if gone:
            text = f"{gone} dead letters are gone: only the newest dead_letters_max={self._letters_max} are kept"
        else:
            limit = f"dead_letters_max={self._letters_max}"
            text = f"there are {FULL_SHARE:.0%} of {limit} dead letters or more: above it the oldest go"
        return Trouble(DEAD_LETTERS_FULL, text, _HINT)
