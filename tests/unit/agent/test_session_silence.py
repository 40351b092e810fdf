"""A hub that says nothing to a device that waits for nothing. No clock, no broker."""

from __future__ import annotations

from collections import deque
from math import inf

import pytest

from support.sessions import EPOCH, LIMITS, ack, at, head, live, only, page, welcome
from tidewire_agent.session.complaints import HUB_SILENT
from tidewire_agent.session.effects import ClearProblem, Effect, SayProblem, SendHello
from tidewire_agent.session.session import Incoming, Session
from tidewire_agent.session.states import State
from tidewire_agent.settings import AgentSettings
from tidewire_schemas.messages import Welcome


def listening(silence_s: float = 30.0) -> Session:
    return live(at(1), limits=AgentSettings.of(db="unused.db", hub_silence_s=silence_s).session_limits())


def until(made: Session, end: float) -> list[Effect]:
    """All that comes of letting time pass, as the shell does."""
    effects: list[Effect] = []
    while (now := made.wake_at) <= end:
        effects += made.tick(now, 0.0)
        assert made.wake_at > now
    return effects


def test_a_hub_that_says_nothing_is_asked_and_named_once_and_the_device_is_not_live() -> None:
    made = listening()
    assert until(made, 29.9) == []
    asked = until(made, 30.0)
    assert SendHello() in asked
    assert only(asked, SayProblem) == []  # it may have had nothing to say
    assert made.state is State.HANDSHAKING
    assert only(until(made, 3600.0), SayProblem) == [SayProblem(HUB_SILENT, 0.0)]


def test_a_hub_that_answers_after_a_silence_was_never_a_problem() -> None:
    made = listening()
    until(made, 30.0)
    assert only(made.welcomed(welcome(at(1), handshake=made.handshake), {}, 30.2), SayProblem) == []
    assert made.state is State.LIVE
    assert until(made, 60.1) == []
    assert SendHello() in until(made, 60.2)


@pytest.mark.parametrize("word", [head(1), page(at(1), 1), ack(1)])
def test_each_word_of_the_hub_is_one(word: Incoming) -> None:
    made = listening()
    made.received(word, 100, 20.0, 0.0)
    assert SendHello() not in until(made, 49.9)
    assert made.state is not State.HANDSHAKING
    assert SendHello() in until(made, 50.0)


def test_the_word_of_a_stale_leader_is_none() -> None:
    """Guarantee 8."""
    made = listening()
    made.received(head(1, epoch=EPOCH - 1), 100, 20.0, 0.0)
    assert SendHello() in until(made, 30.0)


def test_the_problem_is_over_when_the_hub_answers_and_its_head_is_reason_to_ask_at_once() -> None:
    made = listening()
    until(made, 300.0)
    made.received(head(1), 100, 300.0, 0.0)
    assert made.wake_at <= 300.0 + LIMITS.hello_pause_s
    assert SendHello() in made.tick(made.wake_at, 0.0)
    assert ClearProblem("hub_silent") in made.welcomed(welcome(at(1), handshake=made.handshake), {}, 300.3)
    assert made.state is State.LIVE


def test_a_hub_that_answers_with_another_log_is_not_silent_any_more() -> None:
    made = listening()
    until(made, 300.0)
    effects = made.welcomed(welcome(at(1), log="e" * 32, handshake=made.handshake), {}, 300.3)
    assert ClearProblem("hub_silent") in effects
    assert [said.trouble.code for said in only(effects, SayProblem)] == ["log_foreign"]


def test_what_the_hub_says_behind_something_large_is_waited_for() -> None:
    made = listening()
    for now in range(20, 100, 20):
        made.moving(now)
        assert made.tick(now, 0.0) == []
    assert until(made, 109.9) == []
    assert SendHello() in until(made, 110.0)


def test_nothing_is_asked_where_nobody_wants_it() -> None:
    made = listening(silence_s=0)
    assert until(made, 1e6) == []


def beside_a_hub(made: Session, *, head_every_s: float, answers_after_s: float, end: float) -> list[Effect]:
    """All that comes of time passing beside a hub that says its head so often, and takes so long to answer a Hello."""
    effects: list[Effect] = []
    head_at = head_every_s
    answers: deque[tuple[float, Welcome]] = deque()
    while (now := min(made.wake_at, head_at, answers[0][0] if answers else inf)) <= end:
        if answers and now == answers[0][0]:
            came = made.welcomed(answers.popleft()[1], {}, now)
        elif now == head_at:
            came, head_at = made.received(head(1), 100, now, 0.0), now + head_every_s
        else:
            came = made.tick(now, 0.0)
            assert made.wake_at > now
        if SendHello() in came:
            answers.append((now + answers_after_s, welcome(at(1), handshake=made.handshake)))
        effects += came
    return effects


@pytest.mark.parametrize("answers_after_s", [0.2, 4.9])
@pytest.mark.parametrize("head_every_s", [10.0, 29.999, 30.0, 30.001, 31.0, 45.0])
def test_a_hub_that_is_slow_but_alive_is_never_named_however_near_the_limit_its_words_come(
    head_every_s: float, answers_after_s: float
) -> None:
    made = listening()
    effects = beside_a_hub(made, head_every_s=head_every_s, answers_after_s=answers_after_s, end=3600.0)
    assert only(effects, SayProblem) == []
    hellos = len(only(effects, SendHello))
    assert hellos <= 3600 / 30
    assert (hellos == 0) == (head_every_s <= 30)


@pytest.mark.parametrize("answers_after_s", [5.1, 12.0, 20.0])
def test_a_hub_that_comes_and_goes_around_the_limit_is_named_once_for_each_silence(answers_after_s: float) -> None:
    made = listening()
    effects = beside_a_hub(made, head_every_s=inf, answers_after_s=answers_after_s, end=3600.0)
    named = len(only(effects, SayProblem))
    assert 3600 / (30 + 60) - 1 <= named <= 3600 / (30 + answers_after_s)
    assert abs(named - effects.count(ClearProblem(HUB_SILENT.code))) <= 1


def test_a_hub_that_speaks_just_when_it_is_asked_is_not_asked_twice() -> None:
    made = listening()
    assert SendHello() in until(made, 30.0)
    assert SendHello() not in made.received(head(1), 100, 30.0, 0.0)
    assert only(made.welcomed(welcome(at(1), handshake=made.handshake), {}, 30.1), SayProblem) == []
    assert made.state is State.LIVE
    assert until(made, 60.0) == []
