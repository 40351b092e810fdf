"""When changes are left in the change log, as no batch could be sent: until then they may become fewer. Pure.

A batch never changes again. In the change log a row that is written again and again costs a few bytes each time, and
becomes one change of the batch that is made of it in the end. All stays as durable as the app's own rows, as the change
log is written with them.
"""

from __future__ import annotations

from math import inf


class Gathering:
    """How many changes there must be until they are sealed though no batch could be sent.

    Args:
        changes_max: with so many a batch is made: more would not be one that others apply in a short time.
        pause_max_s: after so long, too.
    """

    def __init__(self, changes_max: int, pause_max_s: float) -> None:
        self._changes_max = changes_max
        self._pause_max_s = pause_max_s
        self._since = inf

    @property
    def due_at(self) -> float:
        """When what has gathered is to be sealed; infinity where nothing has."""
        return self._since + self._pause_max_s

    def least(self, now: float, *, sends: bool) -> int:
        """With fewer changes than this none is sealed now; `sends` says whether a batch would be sent."""
        return 1 if sends or now >= self.due_at else self._changes_max

    def looked(self, left: int, sealed: bool, now: float) -> None:
        """So many changes are left, after a batch was made or not."""
        if not left:
            self._since = inf
        elif sealed or self._since == inf:
            self._since = now
