"""What a session says of another agent under its name."""

from __future__ import annotations

from support.sessions import BOOT, LOG, ME, welcome
from tidewire_agent.session import complaints
from tidewire_agent.session.effects import ClearProblem, SayProblem
from tidewire_agent.session.session import Session
from tidewire_agent.session.standing import Standing
from tidewire_agent.settings import AgentSettings
from tidewire_schemas.messages import Problem
from tidewire_schemas.positions import START

STANDING = Standing(ME, LOG, 0, START, 0)


def problem(code: str, message: str = "why") -> Problem:
    return Problem(v=1, type="problem", incarnation=None, boot=None, code=code, message=message)


def test_that_a_device_is_cloned_stands_from_when_it_is_said_until_a_welcome_without_it() -> None:
    session = Session(AgentSettings.of(db="unused.db").session_limits(), BOOT, STANDING)
    session.connected(0.0)
    session.welcomed(welcome(), {}, 0.0)
    said = "device till is run twice: boots 1 and 2"
    assert session.received(problem("cloned", said), 10, 0.0, 0.0) == [SayProblem(complaints.cloned(said))]
    session.reintroduce(STANDING, 1.0)
    effects = session.welcomed(welcome(cloned=said), {}, 1.0)
    assert SayProblem(complaints.cloned(said)) in effects  # the same again, which is not told twice
    assert ClearProblem("cloned") not in effects
    session.received(problem("hello_needed"), 10, 2.0, 0.0)
    assert ClearProblem("cloned") in session.welcomed(welcome(), {}, 3.0)
