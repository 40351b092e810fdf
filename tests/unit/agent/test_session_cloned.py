"""What a session says of another agent under its name."""

from __future__ import annotations

from tidewire_agent.session import complaints
from tidewire_agent.session.effects import ClearProblem, SayProblem
from tidewire_agent.session.session import Session
from tidewire_agent.session.standing import Standing
from tidewire_agent.settings import AgentSettings
from tidewire_schemas.messages import Problem, Welcome
from tidewire_schemas.positions import START

ME, BOOT, LOG = "a" * 32, "c" * 32, "d" * 32
STANDING = Standing(ME, LOG, 0, START, 0)


def welcome(cloned: str | None = None) -> Welcome:
    return Welcome(
        v=1,
        type="welcome",
        incarnation=ME,
        boot=BOOT,
        log=LOG,
        epoch=1000,
        head=START,
        oldest=1,
        checkpoint="on_log",
        accepted=None,
        cloned=cloned,
        payload_bytes_max=50_000,
        batch_bytes_max=1_000_000,
    )


def problem(code: str, message: str = "why") -> Problem:
    return Problem(v=1, type="problem", incarnation=None, boot=None, code=code, message=message)


def test_that_a_device_is_cloned_stands_from_when_it_is_said_until_a_welcome_without_it() -> None:
    session = Session(AgentSettings.of(db="unused.db").session_limits(), BOOT, STANDING)
    session.connected(0.0)
    session.welcomed(welcome(), {}, 0.0)
    said = "device till is run twice: boots 1 and 2"
    assert session.received(problem("cloned", said), 10, 0.0, 0.0) == [SayProblem(complaints.cloned(said))]
    session.reintroduce(STANDING, 1.0)
    effects = session.welcomed(welcome(said), {}, 1.0)
    assert SayProblem(complaints.cloned(said)) in effects  # the same again, which is not told twice
    assert ClearProblem("cloned") not in effects
    session.received(problem("hello_needed"), 10, 2.0, 0.0)
    assert ClearProblem("cloned") in session.welcomed(welcome(), {}, 3.0)
