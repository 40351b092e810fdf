"""The problem of rows that are too large to be sent."""

from __future__ import annotations

from tidewire_agent.runtime.too_large_watch import TooLargeWatch
from tidewire_agent.runtime.troubles import Troubles
from tidewire_agent.store.backlog import Backlog


def test_rows_that_never_travel_are_a_problem_until_they_are_mended() -> None:
    troubles = Troubles(lambda: None)
    watch = TooLargeWatch(troubles)
    watch.look(Backlog(0, 0, 0, None, 0, 3, 0, (("items", 1), ("orders", 2))))
    assert "3 rows are only on this device as they are, too large to be sent, in items, orders" in str(troubles.line)
    watch.look(Backlog(0, 0, 0, None, 0, 0, 0))
    assert troubles.line is None
