"""How a session catches up with the log. No clock, no broker."""

from __future__ import annotations

from math import inf
from typing import Any

from support.sessions import LIMITS, OTHER, at, behind, codes, feed, joined, live, only, page, replay, welcome
from tidewire_agent.session.effects import ApplyPage, ClearProblem, Effect, PublishState, RequestReplay, SendHello
from tidewire_agent.session.pages import TAKEN_BYTES_MAX
from tidewire_agent.session.states import State
from tidewire_schemas.positions import START


def test_replay_is_applied_page_by_page_and_ends_live() -> None:
    made = behind(4)
    first, second = page(START, 2), page(at(2), 2)
    assert feed(made, replay(first, last=False)) == [ApplyPage(first)]
    assert feed(made, replay(second, last=True)) == []
    assert made.applied(at(2), 1.0) == [ApplyPage(second)]
    assert made.applied(at(4), 2.0) == [PublishState(State.LIVE)]
    assert made.wake_at == inf


def test_replay_out_of_order_and_twice_is_put_in_order() -> None:
    made = behind(4)
    first, second = page(START, 2), page(at(2), 2)
    assert feed(made, replay(second, last=True)) == []
    assert feed(made, replay(first, last=False)) == [ApplyPage(joined(first, second))]
    assert feed(made, replay(first, last=False)) == []
    assert feed(made, replay(second, last=True)) == []
    assert made.applied(at(4), 1.0) == [PublishState(State.LIVE)]


def test_more_is_asked_for_when_the_credit_is_used_up() -> None:
    made = behind(100)
    effects: list[Effect] = []
    for number in range(LIMITS.replay_pages):
        effects += feed(made, replay(page(at(number), 1), last=False))
    assert not only(effects, RequestReplay)
    asked = []
    for number in range(1, LIMITS.replay_pages + 1):
        asked += only(made.applied(at(number), 1.0), RequestReplay)
    assert asked[0] == RequestReplay(at(LIMITS.replay_pages), LIMITS.replay_pages)
    assert len(asked) == 1


def test_live_pages_that_wait_do_not_keep_the_next_pages_from_being_asked_for() -> None:
    far = 100
    made = behind(far)
    for number in range(LIMITS.replay_pages):
        feed(made, page(at(far + number), 1))
    asked: list[Any] = []
    for number in range(LIMITS.replay_pages):
        effects = feed(made, replay(page(at(number), 1), last=False))
        asked += only(effects + made.applied(at(number + 1), 1.0), RequestReplay)
    assert asked == [RequestReplay(at(LIMITS.replay_pages), LIMITS.replay_pages)]


def test_an_empty_replay_says_there_is_nothing_more() -> None:
    made = behind(3)
    assert feed(made, replay(page(START, 0), last=True)) == [PublishState(State.LIVE)]


def test_live_pages_wait_while_catching_up() -> None:
    made = behind(2)
    third = page(at(2), 1)
    assert feed(made, third) == []
    first = page(START, 2)
    assert feed(made, replay(first, last=True)) == [ApplyPage(joined(first, third))]
    assert made.applied(at(3), 0.0) == [PublishState(State.LIVE)]


def test_pages_that_wait_are_applied_as_one_up_to_a_size() -> None:
    made = behind(3)
    pages = [page(START, 1), page(at(1), 1), page(at(2), 1)]
    for one in reversed(pages):
        effects = feed(made, replay(one, last=one is pages[2]), size=TAKEN_BYTES_MAX // 2)
    assert effects == [ApplyPage(joined(*pages[:2]))]
    assert made.applied(at(2), 0.0) == [ApplyPage(pages[2])]


def test_replay_that_does_not_come_is_a_problem_and_begins_anew() -> None:
    made = behind(2)
    due = made.wake_at
    assert due == LIMITS.stall_timeout_s
    effects = made.tick(due, 0.0)
    assert codes(effects) == {"no_pages"}
    assert SendHello() in effects
    made.welcomed(welcome(at(2)), {}, due)
    first = page(START, 2)
    feed(made, replay(first, last=True), now=due)
    assert ClearProblem("no_pages") in made.applied(at(2), due)


def test_a_page_that_takes_long_to_apply_is_no_stall() -> None:
    made = behind(2)
    feed(made, replay(page(START, 1), last=False))
    assert codes(made.tick(made.wake_at, 0.0)) == set()
    assert made.state is State.CATCHING_UP


def test_replay_for_another_start_is_ignored() -> None:
    made = behind(2)
    assert feed(made, replay(page(START, 2), last=True, boot=OTHER)) == []


def test_a_page_that_began_before_our_position_is_cut() -> None:
    made = live(at(2))
    long = page(at(1), 3)
    (effect,) = feed(made, long)
    assert isinstance(effect, ApplyPage)
    assert effect.page.prev == at(2)
    assert [entry.seq for entry in effect.page.entries] == [3, 4]
