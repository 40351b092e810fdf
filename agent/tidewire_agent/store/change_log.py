"""The change log: what the triggers wrote, where transactions are known to end, and where a batch should."""

from __future__ import annotations

import logging
import sqlite3
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from tidewire_agent.store import capture
from tidewire_agent.store.meta import Meta
from tidewire_schemas.codec import BATCH_FRAME_BYTES_MAX
from tidewire_schemas.positions import Position

logger = logging.getLogger(__name__)

TRANSACTION_ENDS_MAX: Final = 4096
"""Ends of transactions that are remembered: of more, every second one is forgotten, and batches get larger."""

STEPS: Final = 8
"""Looks that found commits, of which it is remembered how many changes were new."""

_MAX_ID: Final = 2**63 - 1


class Stretch(NamedTuple):
    """Changes that make one batch."""

    first: int
    """Lowest change id."""
    cut: int
    """Highest change id."""
    changes: int
    """How many they are."""
    bytes_max: int
    """What the batch may have, if that is more than one."""


class Bases:
    """What the device had applied when each change was made.

    Args:
        marks: (the last change made before something was applied, what had been applied until then), ascending.
        newest: what is applied now.
    """

    def __init__(self, marks: Sequence[tuple[int, Position]], newest: Position) -> None:
        self._last = [change_id for change_id, _ in marks]
        self._bases = [*(base for _, base in marks), newest]

    def __call__(self, change_id: int) -> Position:
        """The base of one change."""
        return self._bases[bisect_left(self._last, change_id)]

    def between(self, first: int, last: int) -> list[tuple[int, Position]]:
        """(last change, base) of each row of changes with one base, from the change `first` to `last`."""
        begin, end = bisect_left(self._last, first), bisect_left(self._last, last)
        return [*zip(self._last[begin:end], self._bases[begin:end], strict=True), (last, self._bases[end])]


class _Cutting(NamedTuple):
    """A group that is too large for one batch is being cut into pieces."""

    until: int
    """Its last change id."""
    limit: int
    """Changes in a piece."""


class ChangeLog:
    """The `tidewire_change` table, and its marks.

    Args:
        connection: the agent's connection.
        batch_bytes_max: bytes in one batch.
        changes_soft_max: a batch ends at a known end of a transaction after about so many changes.
        changes_max: changes in one batch, wherever transactions end.
        piece_changes_max, piece_bytes_max: the same of what must be cut anyway.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        meta: Meta,
        *,
        batch_bytes_max: int,
        changes_soft_max: int,
        changes_max: int,
        piece_changes_max: int,
        piece_bytes_max: int,
    ) -> None:
        self._connection = connection
        self._meta = meta
        self._own_batch_bytes_max = self.batch_bytes_max = batch_bytes_max
        self._changes_soft_max = changes_soft_max
        self._changes_max = changes_max
        self._piece_changes_max = min(piece_changes_max, changes_max)
        self._piece_bytes_max = piece_bytes_max
        self._ids_of = (-1, -1)
        """The numbers `drained` and `trimmed` for which the following holds: ids that were given then may be given
        again."""
        self._ends: list[int] = []
        """Change ids at which a transaction is known to end, ascending."""
        self._steps: deque[int] = deque(maxlen=STEPS)
        """How many changes were new when the last of them were seen."""
        self._inserts_until = 0
        """Changes up to this one are inserts."""
        self._cutting = _Cutting(0, 0)
        connection.execute("CREATE TEMP TABLE tidewire_stays AS SELECT * FROM main.tidewire_change WHERE 0")

    def heed(self, batch_bytes_max: int) -> None:
        """The hub takes no batch above this."""
        self.batch_bytes_max = min(self._own_batch_bytes_max, batch_bytes_max)

    @property
    def changes_bytes_max(self) -> int:
        """Bytes that the changes of one batch may have, so that all of the batch is within the limit."""
        return self.batch_bytes_max - BATCH_FRAME_BYTES_MAX

    def saw_commit(self) -> None:
        """Another connection has committed: what is in the log now ends with a whole transaction."""
        newest = self._newest()
        self._forget_other_ids()
        before = self._ends[-1] if self._ends else 0
        if newest is None or newest <= before:
            return
        self._steps.append(newest - before)
        self._ends.append(newest)
        if len(self._ends) > TRANSACTION_ENDS_MAX:
            del self._ends[::2]

    # ── which changes ─────────────────────────────────────────────────────────────────────────────────────────────

    def next(self) -> Stretch | None:
        """The changes of the next batch, None where there is no change. In one snapshot with reading them.

        All that is committed, as rows are read as they are now: so transactions stay whole. It may end before the
        newest change only if no later one is about a row of it, which is certain where there are only inserts: no key
        comes twice among them.
        """
        self._forget_other_ids()
        first = self._oldest()
        if first is None:
            return None
        if first > self._cutting.until:
            end = self._end_of_transaction(first)
            above = self._nth(first, self._changes_max, end)
            if above is None:
                return Stretch(first, *self._upto(first, self._changes_max, end), self.changes_bytes_max)
            until = min(end, self._newest() or 0)
            self._cutting = _Cutting(until, self._piece_changes_max)
            logger.warning(
                "%d changes, in one transaction or made while nobody looked, are more than changes_per_batch_max=%d:"
                " they are sent as several batches, which may part a transaction",
                until - first + 1,
                self._changes_max,
            )
        place = self._upto(first, self._cutting.limit, self._cutting.until)
        return Stretch(first, *place, min(self._piece_bytes_max, self.changes_bytes_max))

    def cut_smaller(self, stretch: Stretch) -> bool:
        """These changes are more bytes than a batch may have: cut them into pieces. False where they are but one."""
        if stretch.changes == 1:
            return False
        if stretch.first > self._cutting.until:
            logger.warning(
                "a transaction of more than batch_bytes_max=%d bytes is split into several batches",
                self.batch_bytes_max,
            )
        limit = min(self._piece_changes_max, stretch.changes // 2)
        self._cutting = _Cutting(max(stretch.cut, self._cutting.until), limit)
        return True

    def left(self) -> int:
        """About how many changes there are."""
        oldest, newest = self._oldest(), self._newest()
        return 0 if oldest is None or newest is None else newest - oldest + 1

    def step(self) -> int:
        """The fewest changes that were lately seen to be committed at once; 0 where too little was seen.

        Some transactions may be smaller, if commits followed each other so fast that none was seen alone.
        """
        return min(self._steps) if len(self._steps) == STEPS else 0

    def bases(self) -> Bases:
        """What the device had applied when each change was made."""
        marks = self._connection.execute("SELECT id, epoch, seq FROM tidewire_mark ORDER BY id").fetchall()
        return Bases([(mark_id, Position(epoch, seq)) for mark_id, epoch, seq in marks], self._meta.checkpoint)

    # ── what becomes of them ──────────────────────────────────────────────────────────────────────────────────────

    def remove(self, cut: int) -> None:
        """In the caller's transaction: changes up to this one are in a batch.

        Without WHERE a table is emptied page by page, not row by row: so what is to stay is set aside, if little.
        """
        oldest, newest = self._oldest(), self._newest()
        if oldest is None or newest is None or newest == cut:
            self._connection.execute("DELETE FROM tidewire_change")
            self._connection.execute("DELETE FROM tidewire_mark")
            self._meta.set(drained=self._meta.number("drained") + 1)  # ids begin anew
            return
        if newest - cut < (cut - oldest) // 4:
            self._connection.execute(
                "INSERT INTO temp.tidewire_stays SELECT * FROM main.tidewire_change WHERE id > ?", (cut,)
            )
            self._connection.execute("DELETE FROM main.tidewire_change")
            self._connection.execute("INSERT INTO main.tidewire_change SELECT * FROM temp.tidewire_stays")
            self._connection.execute("DELETE FROM temp.tidewire_stays")
        else:
            self._connection.execute("DELETE FROM tidewire_change WHERE id <= ?", (cut,))
        self._connection.execute("DELETE FROM tidewire_mark WHERE id <= ?", (cut,))

    # ── common ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _forget_other_ids(self) -> None:
        ids_of = self._meta.number("drained"), self._meta.number("trimmed")
        if ids_of != self._ids_of:
            self._ids_of = ids_of
            self._ends.clear()
            self._inserts_until = 0
            self._cutting = _Cutting(0, 0)

    def _end_of_transaction(self, first: int) -> int:
        """Where the batch that begins with this change should end, so that receivers apply it in a short time."""
        target = first + self._changes_soft_max
        if not self._ends or self._ends[-1] < target or not self._are_inserts():
            return _MAX_ID
        after = bisect_left(self._ends, target)
        # The end before it, if it makes a batch of a good size: receivers are held up less.
        place = after - 1 if after and self._ends[after - 1] - first >= self._changes_soft_max // 2 else after
        del self._ends[:place]
        return self._ends[0]

    def _are_inserts(self) -> bool:
        """Whether all changes are inserts."""
        newest = self._newest() or 0
        (others,) = self._connection.execute(
            "SELECT EXISTS (SELECT 1 FROM tidewire_change WHERE id > ? AND op <> ?)",
            (self._inserts_until, capture.INSERTED),
        ).fetchone()
        if not others:
            self._inserts_until = newest
        return not others

    # One extreme per query: SQLite finds one at an end of the table, but reads all of it for both at once.

    def _oldest(self) -> int | None:
        oldest: int | None = self._connection.execute("SELECT min(id) FROM tidewire_change").fetchone()[0]
        return oldest

    def _newest(self) -> int | None:
        newest: int | None = self._connection.execute("SELECT max(id) FROM tidewire_change").fetchone()[0]
        return newest

    def _nth(self, first: int, number: int, end: int) -> int | None:
        """The id of the change after so many, up to `end`."""
        row = self._connection.execute(
            "SELECT id FROM tidewire_change WHERE id BETWEEN ? AND ? ORDER BY id LIMIT 1 OFFSET ?", (first, end, number)
        ).fetchone()
        return None if row is None else int(row[0])

    def _upto(self, first: int, count: int, end: int) -> tuple[int, int]:
        """The last of so many changes, up to `end`, and how many they are."""
        last, found = self._connection.execute(
            """
            SELECT max(id), count(*)
            FROM (SELECT id FROM tidewire_change WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?)
            """,
            (first, end, count),
        ).fetchone()
        return int(last), int(found)
