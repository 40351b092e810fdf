"""When changes are left in the change log, as no batch could be sent or few should be made. Pure.

A batch never changes again. In the change log a row that is written again and again costs a few bytes each time, and
becomes one change of the batch that is made of it in the end. All stays as durable as the app's own rows, as the change
log is written with them. And a batch costs the disk some pages, however small it is: where flash is to be spared,
changes gather also while they could be sent.
"""

from __future__ import annotations

from math import inf


class Gathering:
    """How many changes there must be until they are sealed.

    Args:
        changes_max: with so many a batch is made: more would not be one that others apply in a short time.
        pause_max_s: after so long, too, though no batch could be sent.
        sending_pause_s: the same while it would be sent.
    """

    def __init__(self, changes_max: int, pause_max_s: float, sending_pause_s: float = 0.0) -> None:
        self._changes_max = changes_max
        self._pause_max_s = pause_max_s
        self._sending_pause_s = sending_pause_s
        self._pause_s = pause_max_s
        """Of the two the one that held at the last look."""
        self._since = inf

    @property
    def due_at(self) -> float:
        """When what has gathered is to be sealed; infinity where nothing has."""
        return self._since + self._pause_s

    def least(self, now: float, *, sends: bool) -> int:
        """With fewer changes than this none is sealed now; `sends` says whether a batch would be sent."""
        self._pause_s = self._sending_pause_s if sends else self._pause_max_s
        at_once = sends and not self._sending_pause_s
        return 1 if at_once or now >= self.due_at else self._changes_max

    def looked(self, left: int, sealed: bool, now: float) -> None:
        """So many changes are left, after a batch was made or not."""
        if not left:
            self._since = inf
        elif sealed or self._since == inf:
            self._since = now
