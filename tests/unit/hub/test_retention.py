"""How much of the log is kept."""

from __future__ import annotations

import pytest

from support.stream_kit import LOG_ID
from tidewire_hub.log.memory import MemoryLog
from tidewire_hub.log.port import StoredEntry
from tidewire_hub.log.retention import DAY_MS, Kept, Retention
from tidewire_schemas.codec import encode_entry
from tidewire_schemas.positions import Epoch, Position, Seq

EPOCH = Epoch(5)
NOW_MS = 1000 * DAY_MS
ALL = Seq(10**9)


def log_of(entries: int, *, at_day: float = 1000, days_each: float = 0, padding: int = 0) -> MemoryLog:
    """A log whose entries were committed `days_each` apart, the first of them on day `at_day`."""
    log = MemoryLog(LOG_ID)
    log.acquire(EPOCH)
    stored = [
        StoredEntry(
            Position(EPOCH, seq),
            encode_entry(
                seq=seq,
                epoch=EPOCH,
                device="till-7",
                incarnation="a" * 32,
                batch=seq,
                digest="b" * 32,
                at=round((at_day + (seq - 1) * days_each) * DAY_MS),
                refused_json=b"[]",
                changes_json=b'[{"at":1,"x":"%s"}]' % (b"x" * padding),
            ),
        )
        for seq in range(1, entries + 1)
    ]
    log.append(EPOCH, Seq(0), stored)
    return log


def settle(policy: Retention, log: MemoryLog, needed_from: Seq = ALL) -> Kept:
    while (kept := policy.step(log, needed_from, NOW_MS)).removed:
        pass
    return kept


def test_all_is_kept_where_nothing_is_said() -> None:
    log = log_of(1000, at_day=0)
    assert settle(Retention(), log)[:1] == (1,)


@pytest.mark.parametrize("step", [1, 7, 256])
def test_the_newest_entries_are_kept_by_count(step: int) -> None:
    log = log_of(1000)
    assert settle(Retention(entries=100, step_entries_max=step), log).oldest == 901
    assert log.head().seq == 1000


def test_a_count_above_what_there_is_removes_nothing() -> None:
    assert settle(Retention(entries=100), log_of(30)).oldest == 1


@pytest.mark.parametrize("step", [1, 16, 256])
def test_entries_are_kept_by_age_to_the_day(step: int) -> None:
    log = log_of(1000, at_day=500.5, days_each=0.5)  # the last was committed on day 1000
    kept = settle(Retention(days=10, step_entries_max=step), log)
    assert kept.oldest == 980  # of day 990


def test_the_log_is_kept_below_its_bytes_give_or_take_a_step() -> None:
    log = log_of(1000, padding=1000)
    full = log.size_bytes()
    kept = settle(Retention(bytes=full // 2, step_entries_max=10), log)
    assert full // 2 - 11 * full // 1000 <= kept.log_bytes <= full // 2


def test_the_head_is_kept_whatever_is_said() -> None:
    for policy in (Retention(entries=1), Retention(bytes=1), Retention(days=1)):
        assert settle(policy, log_of(50, at_day=1)).oldest == 50


def test_nothing_goes_that_a_snapshot_does_not_hold_and_it_is_said_that_it_would() -> None:
    """Guarantee 3."""
    log = log_of(1000)
    policy = Retention(entries=100)
    kept = settle(policy, log, needed_from=Seq(501))
    assert (kept.oldest, kept.held_up) == (501, True)
    assert settle(policy, log, needed_from=Seq(1)).oldest == 501
    kept = settle(policy, log, needed_from=Seq(951))
    assert (kept.oldest, kept.held_up) == (901, False)


def test_a_step_is_small() -> None:
    """Guarantee 12."""
    log = log_of(1000, padding=1000)
    assert Retention(entries=1, step_entries_max=5).step(log, ALL, NOW_MS).removed == 5
    assert Retention(entries=1, step_bytes_max=3000).step(log, ALL, NOW_MS).removed == 2


def test_a_clock_that_jumped_back_removes_nothing() -> None:
    """Guarantee 9."""
    log = log_of(100, at_day=2000)
    assert settle(Retention(days=1), log).oldest == 1
