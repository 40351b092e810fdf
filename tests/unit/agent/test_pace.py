"""The app's write lock is taken for no more than its share."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidewire_agent.runtime.pace import LockBudget


def test_after_a_quiet_time_nothing_waits() -> None:
    assert LockBudget(0.01, 0.02, 60, 0.0).wait_s(0.0) == 0


def test_a_burst_goes_through_and_then_the_share_holds() -> None:
    budget = LockBudget(0.01, 0.02, 60, 0.0)
    budget.spend(0.01, 0.0)
    assert budget.wait_s(0.0) == 0
    budget.spend(0.02, 0.0)
    assert round(budget.wait_s(0.0), 6) == 1.0
    assert budget.wait_s(2.0) == 0


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 0.1)), max_size=50))
def test_the_share_is_never_exceeded(uses: list[tuple[float, float]]) -> None:
    """Guarantee 12: over any time, share × time + burst + one hold."""
    share, burst = 0.01, 0.02
    budget, now, used = LockBudget(share, burst, 1e6, 0.0), 0.0, 0.0
    for idle_s, lock_s in uses:
        now += idle_s + budget.wait_s(now + idle_s)
        budget.spend(lock_s, now)
        used += lock_s
        assert used <= share * now + burst + lock_s + 1e-9


def test_one_slow_hold_stops_the_sealing_for_no_longer_than_the_longest_pause() -> None:
    budget = LockBudget(0.01, 0.02, 1.0, 0.0)
    budget.spend(5.0, 0.0)
    assert budget.wait_s(0.0) == 1.0
