"""Says when dead letters go, or are about to, as more of them come than may be kept."""

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
        gone = backlog.dead_dropped
        if backlog.dead_letters < FULL_SHARE * self._letters_max:
            self._troubles.clear(DEAD_LETTERS_FULL)
            self._told = gone
        elif gone == self._seen or gone >= 2 * self._told:  # while many go, not a line in the log for each look
            self._told = gone
            self._troubles.say(self._trouble(gone))
        self._seen = gone

    def _trouble(self, gone: int) -> Trouble:
        if gone:
            text = f"{gone} dead letters are gone: only the newest dead_letters_max={self._letters_max} are kept"
        else:
            limit = f"dead_letters_max={self._letters_max}"
            text = f"there are {FULL_SHARE:.0%} of {limit} dead letters or more: above it the oldest go"
        return Trouble(DEAD_LETTERS_FULL, text, _HINT)
