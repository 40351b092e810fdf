"""A hub that says nothing to a device that waits for nothing. No clock, no broker."""

from __future__ import annotations

import pytest

from support.sessions import BOOT, EPOCH, LOG, ME, ack, welcome
from tidewire_agent.session.complaints import HUB_SILENT
from tidewire_agent.session.effects import ClearProblem, Effect, SayProblem, SendHello
from tidewire_agent.session.limits import SessionLimits
from tidewire_agent.session.session import Incoming, Session
from tidewire_agent.session.standing import Standing
from tidewire_agent.session.states import State
from tidewire_agent.settings import AgentSettings
from tidewire_schemas.messages import Entry, Head, Page
from tidewire_schemas.positions import Position

LIMITS: SessionLimits = AgentSettings.of(db="unused.db", hub_silence_s=30.0).session_limits()


def head(epoch: int = EPOCH) -> Head:
    return Head(v=1, type="head", log=LOG, epoch=epoch, head=Position(EPOCH, 1), oldest=1, leader="hub", at=0)


def page() -> Page:
    entry = Entry(
        seq=2,
        epoch=EPOCH,
        device="x",
        incarnation="e" * 32,
        batch=1,
        digest="1" * 32,
        at=0,
        refused=[],
        changes=[],
    )
    return Page(v=1, type="page", log=LOG, prev=Position(EPOCH, 1), entries=[entry])


def live(limits: SessionLimits = LIMITS) -> Session:
    made = Session(limits, BOOT, Standing(ME, LOG, 0, Position(EPOCH, 1), 0))
    made.connected(0.0)
    made.welcomed(welcome(Position(EPOCH, 1)), {}, 0.0)
    assert made.state is State.LIVE
    return made


def said(effects: list[Effect]) -> list[SayProblem]:
    return [effect for effect in effects if isinstance(effect, SayProblem)]


def until(made: Session, end: float) -> list[Effect]:
    """All that comes of letting time pass, as the shell does."""
    effects: list[Effect] = []
    while made.wake_at <= end:
        effects += made.tick(made.wake_at, 0.0)
    return effects


def test_a_hub_that_says_nothing_is_asked_and_named_once_and_the_device_is_not_live() -> None:
    made = live()
    assert until(made, 29.9) == []
    asked = until(made, 30.0)
    assert SendHello() in asked
    assert said(asked) == []  # it may have had nothing to say
    assert made.state is State.HANDSHAKING
    assert said(until(made, 3600.0)) == [SayProblem(HUB_SILENT, 0.0)]


def test_a_hub_that_answers_after_a_silence_was_never_a_problem() -> None:
    made = live()
    until(made, 30.0)
    assert said(made.welcomed(welcome(Position(EPOCH, 1)), {}, 30.2)) == []
    assert made.state is State.LIVE
    assert until(made, 60.1) == []
    assert SendHello() in until(made, 60.2)


@pytest.mark.parametrize("word", [head(), page(), ack()])
def test_each_word_of_the_hub_is_one(word: Incoming) -> None:
    made = live()
    made.received(word, 100, 20.0, 0.0)
    assert SendHello() not in until(made, 49.9)
    assert made.state is not State.HANDSHAKING
    assert SendHello() in until(made, 50.0)


def test_the_word_of_a_stale_leader_is_none() -> None:
    """Guarantee 8."""
    made = live()
    made.received(head(EPOCH - 1), 100, 20.0, 0.0)
    assert SendHello() in until(made, 30.0)


def test_the_problem_is_over_when_the_hub_answers_and_its_head_is_reason_to_ask_at_once() -> None:
    made = live()
    until(made, 300.0)
    made.received(head(), 100, 300.0, 0.0)
    assert made.wake_at <= 300.0 + LIMITS.hello_pause_s
    assert SendHello() in made.tick(made.wake_at, 0.0)
    assert ClearProblem("hub_silent") in made.welcomed(welcome(Position(EPOCH, 1)), {}, 300.3)
    assert made.state is State.LIVE


def test_what_the_hub_says_behind_something_large_is_waited_for() -> None:
    made = live()
    for now in range(20, 100, 20):
        made.moving(now)
        assert made.tick(now, 0.0) == []
    assert until(made, 109.9) == []
    assert SendHello() in until(made, 110.0)


def test_nothing_is_asked_where_nobody_wants_it() -> None:
    made = live(AgentSettings.of(db="unused.db", hub_silence_s=0).session_limits())
    assert until(made, 1e6) == []
