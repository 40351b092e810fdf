"""What a session does with pages and heads that come by themselves. No clock, no broker."""

from __future__ import annotations

from math import inf

import pytest

from support.sessions import (
    EPOCH,
    LIMITS,
    OTHER,
    at,
    behind,
    codes,
    feed,
    head,
    joined,
    live,
    only,
    page,
    replay,
    session,
    welcome,
)
from tidewire_agent.session.effects import ApplyPage, ClearProblem, PublishState, RequestReplay, SendHello
from tidewire_agent.session.states import State
from tidewire_schemas.positions import START, Position

# ── pages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_live_pages_are_applied_one_after_another() -> None:
    made = live()
    first, second = page(START, 1), page(at(1), 1)
    assert feed(made, first) == [ApplyPage(first)]
    assert feed(made, second) == []
    assert made.applied(at(1), 0.0) == [ApplyPage(second)]


def test_a_page_that_was_applied_already_is_ignored() -> None:
    made = live(at(3))
    assert feed(made, page(at(1), 2)) == []
    assert made.state is State.LIVE


def test_a_gap_is_asked_for() -> None:
    """Guarantee 3."""
    made = live()
    second = page(at(1), 1)
    assert feed(made, second) == [PublishState(State.CATCHING_UP), RequestReplay(START, LIMITS.replay_pages)]
    first = page(START, 1)
    assert feed(made, replay(first, last=False)) == [ApplyPage(joined(first, second))]


def test_the_same_place_under_another_epoch_means_a_new_handshake() -> None:
    made = live(at(2))
    assert SendHello() in feed(made, page(Position(EPOCH - 3, 2), 1), now=1.0)


def test_a_stale_leaders_page_is_never_applied() -> None:
    """Guarantee 8."""
    made = live(at(2))
    assert feed(made, page(at(2), 1, epoch=EPOCH - 1)) == []
    assert feed(made, replay(page(at(2), 1, epoch=EPOCH - 1), last=True)) == []
    assert made.state is State.LIVE


def test_replay_brings_entries_of_earlier_epochs_up_to_the_welcomes_head() -> None:
    made = session()
    made.connected(0.0)
    made.welcomed(welcome(Position(EPOCH - 7, 2)), {}, 0.0)
    old = page(START, 2, epoch=EPOCH - 7)
    assert feed(made, replay(old, last=True)) == [ApplyPage(old)]


def test_replay_with_another_entry_at_the_welcomes_head_is_a_stale_leaders() -> None:
    """Guarantee 8."""
    made = behind(2)
    assert feed(made, replay(page(START, 2, epoch=EPOCH - 1), last=True)) == []
    assert feed(made, replay(page(START, 3, epoch=EPOCH - 1), last=True)) == []


def test_a_later_epoch_in_a_page_means_a_new_handshake_spread_over_time() -> None:
    made = live()
    feed(made, page(START, 1, epoch=EPOCH + 1), now=5.0, random=0.5)
    assert made.state is State.HANDSHAKING
    assert made.wake_at == pytest.approx(5.0 + 0.5 * LIMITS.hello_spread_s)
    assert made.epoch == EPOCH


def test_a_later_epoch_in_a_replay_means_a_new_handshake() -> None:
    made = behind(2)
    feed(made, replay(page(START, 1, epoch=EPOCH + 1), last=True), now=5.0)
    assert made.state is State.HANDSHAKING


def test_a_page_of_another_log_means_a_new_handshake_but_not_a_flood_of_them() -> None:
    made = live()
    now, hellos = 10.0, 0
    for _ in range(100):
        now += LIMITS.hello_pause_s / 10
        effects = feed(made, page(START, 1, log=OTHER), now=now) + made.tick(now, 0.0)
        if SendHello() in effects:
            hellos += 1
            made.welcomed(welcome(handshake=made.handshake), {}, now)
    assert 5 <= hellos <= 11


def test_a_page_that_comes_before_the_welcome_is_kept() -> None:
    made = session()
    made.connected(0.0)
    second = page(at(1), 1)
    assert feed(made, second) == []
    made.welcomed(welcome(at(1)), {}, 0.0)
    first = page(START, 1)
    assert ApplyPage(joined(first, second)) in feed(made, replay(first, last=True))


def test_pages_that_wait_are_bounded() -> None:
    """Guarantee 12."""
    made = behind(1000)
    for number in range(500):
        feed(made, page(at(1000 + number), 1))
    assert len(made._downlink.pages) <= LIMITS.pages_held_max


def test_pages_that_wait_are_bounded_by_bytes() -> None:
    """Guarantee 12."""
    made = behind(1000)
    for number in range(20):
        feed(made, page(at(1000 + number), 1), size=LIMITS.pages_held_bytes_max // 4)
    assert made._downlink.pages.bytes_held <= LIMITS.pages_held_bytes_max


def test_a_page_that_the_log_does_not_know_is_forgotten_rather_than_asked_for_without_end() -> None:
    """Guarantee 10."""
    made = live(at(2))
    effects = feed(made, page(at(9), 1), now=1.0)
    asked, now = 0, 1.0
    while effects and now < 60.0:
        asked += len(only(effects, RequestReplay))
        effects = feed(made, replay(page(at(2), 0), last=True), now=now)
        assert made.state is State.LIVE
        if made.wake_at != inf:
            now = made.wake_at
            effects = made.tick(now, 0.0)
    assert asked == 2
    assert made.wake_at == inf
    third = page(at(2), 1)
    assert feed(made, third, now=now) == [ApplyPage(third)]


def test_a_page_from_nowhere_that_came_before_the_welcome_is_forgotten_as_well() -> None:
    made = session()
    made.connected(0.0)
    feed(made, page(at(9), 1))
    effects, now, asked = made.welcomed(welcome(), {}, 0.0), 0.0, 0
    while made.wake_at != inf or only(effects, RequestReplay):
        asked += len(only(effects, RequestReplay))
        effects = feed(made, replay(page(START, 0), last=True), now=now)
        if made.wake_at != inf:
            now = made.wake_at
            effects = made.tick(now, 0.0)
    assert asked == 2
    assert made.state is State.LIVE


# ── heads ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_head_ahead_without_pages_is_asked_for_and_then_a_problem() -> None:
    made = live()
    assert feed(made, head(3), now=1.0) == []
    due = made.wake_at
    assert due == 1.0 + LIMITS.stall_timeout_s
    assert made.tick(due, 0.0) == [PublishState(State.CATCHING_UP), RequestReplay(START, LIMITS.replay_pages)]
    assert codes(made.tick(made.wake_at, 0.0)) == {"no_pages"}


def test_entries_that_come_only_when_asked_for_are_a_problem_until_a_page_comes_by_itself() -> None:
    made, now, said = live(), 0.0, set()
    for seq in (1, 2):
        feed(made, head(seq), now=now)
        now = made.wake_at
        said |= codes(made.tick(now, 0.0))
        feed(made, replay(page(at(seq - 1), 1), last=True), now=now)
        made.applied(at(seq), now)
        assert made.state is State.LIVE
    assert said == {"no_live_pages"}
    assert ClearProblem("no_live_pages") in feed(made, page(at(2), 1), now=now)


def test_pages_that_come_after_their_head_are_no_stall() -> None:
    made = live()
    feed(made, head(1), now=1.0)
    feed(made, page(START, 1), now=1.1)
    made.applied(at(1), 1.2)
    assert made.wake_at == inf


def test_the_epoch_of_a_head_is_never_adopted() -> None:
    """Guarantee 8."""
    made = live()
    feed(made, head(1, epoch=EPOCH + 1), now=1.0)
    assert (made.state, made.epoch) == (State.HANDSHAKING, EPOCH)


def test_an_old_or_foreign_head() -> None:
    made = live()
    assert feed(made, head(9, epoch=EPOCH - 1)) == []
    assert SendHello() in feed(made, head(1, log=OTHER), now=5.0)
