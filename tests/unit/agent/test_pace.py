"""The app's write lock is taken for no more than its share."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidewire_agent.runtime.pace import (
    ACTIVE_S,
    APPLY_ACTIVE_S,
    GAP_S,
    LONG_HOLD_S,
    REST_S,
    RUSH_AFTER_S,
    LockBudget,
    Pace,
    Rush,
)


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


def commits(rush: Rush, began_at: float, ended_at: float, every_s: float = 0.004) -> None:
    """An app commits from one moment to another, and each look finds it."""
    now = began_at
    while now <= ended_at:
        rush.looked(True, now)
        now += every_s
    rush.looked(True, ended_at)


def test_a_rush_lasts_until_a_look_finds_nothing() -> None:
    rush = Rush()
    commits(rush, 0.0, 1.0)
    assert rush.lasts_s() == 1.0
    rush.looked(False, 1.0 + GAP_S / 2)
    assert rush.lasts_s() == 1.0
    rush.looked(False, 1.0 + GAP_S * 2)
    assert rush.lasts_s() == 0.0


def test_a_look_that_comes_late_ends_no_rush() -> None:
    """While the agent waits for the lock it cannot look."""
    rush = Rush()
    commits(rush, 0.0, 1.0)
    commits(rush, 1.5, 2.0)
    assert rush.lasts_s() == 2.0


def pace() -> Pace:
    return Pace(share_max=0.01, burst_s=0.02, pause_max_s=1.0, rush_share_max=0.001, rush_pause_max_s=5.0, now=0.0)


def test_no_app_writes_and_nothing_waits() -> None:
    manners = pace()
    manners.held(0.5, 0.0)
    assert manners.wait_s(0.0) == 0
    commits(manners.rush, 1.0, 1.0 + RUSH_AFTER_S)
    now = 1.0 + RUSH_AFTER_S
    manners.held(0.5, now)
    assert manners.wait_s(now) > 0
    assert manners.wait_s(now + ACTIVE_S * 1.1) == 0


def test_an_app_that_writes_all_the_time_meets_the_lock_for_its_share_at_most() -> None:
    manners = pace()
    commits(manners.rush, 1.0, 1.0 + RUSH_AFTER_S)
    now = 1.0 + RUSH_AFTER_S
    manners.held(0.01, now)
    assert manners.wait_s(now) == 0
    manners.held(0.015, now)
    assert round(manners.wait_s(now), 6) == 0.5


def test_an_app_that_pauses_after_each_commit_waits_for_no_budget_to_be_sealed() -> None:
    manners = pace()
    for moment in (1.0, 1.05, 1.1, 1.15):
        manners.rush.looked(True, moment)
        manners.held(0.1, moment)
        assert manners.wait_s(moment) == 0
        assert manners.wait_s(moment, applying=True) > 0
        manners.rush.looked(False, moment + GAP_S * 1.1)


def test_an_app_that_commits_small_transactions_without_a_pause_is_left_alone_until_it_pauses() -> None:
    manners = pace()
    commits(manners.rush, 1.0, 1.0 + RUSH_AFTER_S)
    now = 1.0 + RUSH_AFTER_S
    manners.sealed(100, 0, now)
    manners.held(0.001, now)
    assert round(manners.wait_s(now), 6) == 1.0
    assert manners.wait_s(now, applying=True) == manners.wait_s(now)
    manners.rush.looked(False, now + GAP_S * 1.1)
    assert manners.wait_s(now + GAP_S * 1.1) == 0


def test_an_app_that_pauses_between_its_commits_is_in_no_rush_however_often_the_agent_looks() -> None:
    manners = pace()
    commits(manners.rush, 1.0, 2.0, every_s=0.009)
    manners.sealed(110, 0, 2.0)
    manners.held(0.001, 2.0)
    assert manners.wait_s(2.0) == 0


def test_changes_that_are_left_for_later_count_when_they_were_made() -> None:
    manners = pace()
    commits(manners.rush, 1.0, 2.0)
    manners.sealed(10_000, 90_000, 2.0)
    commits(manners.rush, 2.0, 3.0)
    manners.sealed(10_000, 82_000, 3.0)  # 2,000 were made in this second
    manners.held(0.001, 3.0)
    assert round(manners.wait_s(3.0), 6) == 1.0


def test_large_transactions_do_not_gather() -> None:
    manners = pace()
    commits(manners.rush, 1.0, 2.0)
    manners.sealed(100_000, 0, 2.0)
    manners.held(0.001, 2.0)
    assert manners.wait_s(2.0) == 0


def test_large_transactions_do_not_gather_on_a_busy_machine_either() -> None:
    manners = pace()
    commits(manners.rush, 1.0, 2.0)
    manners.sealed(10_000, 0, 2.0, step=500)
    manners.held(0.001, 2.0)
    assert manners.wait_s(2.0) == 0
    commits(manners.rush, 2.0, 3.0)
    manners.sealed(10_000, 0, 3.0, step=100)
    manners.held(0.001, 3.0)
    assert round(manners.wait_s(3.0), 6) == 1.0


def test_catching_up_beside_an_app_that_writes_goes_on_after_short_pauses() -> None:
    manners = pace()
    manners.rush.looked(True, 1.0)
    manners.held(1.0, 1.5)
    assert round(manners.wait_s(1.5, applying=True), 6) == REST_S
    assert manners.wait_s(1.5 + REST_S, applying=True) == 0
    assert manners.wait_s(1.0 + APPLY_ACTIVE_S * 1.1, applying=True) == 0


def test_catching_up_leaves_a_rest_after_each_long_hold_also_where_the_budget_would_allow_the_next_one() -> None:
    manners = pace()
    manners.rush.looked(True, 1.0)
    manners.held(LONG_HOLD_S / 2, 1.0)
    assert manners.wait_s(1.0, applying=True) == 0
    manners.held(LONG_HOLD_S, 1.0)
    assert round(manners.wait_s(1.0, applying=True), 6) == REST_S


def test_a_backlog_beside_an_app_that_writes_is_sealed_with_short_rests() -> None:
    manners = pace()
    commits(manners.rush, 1.0, 2.2)
    manners.sealed(10_000, 990_000, 2.0)
    manners.held(0.04, 2.0)
    assert round(manners.wait_s(2.0), 6) == REST_S
    manners.sealed(10_000, 980_020, 2.1)
    manners.held(0.04, 2.1)
    assert round(manners.wait_s(2.1), 6) == REST_S
    manners.sealed(980_050, 0, 2.2)
    manners.held(0.04, 2.2)
    assert manners.wait_s(2.2) > REST_S
