"""What a session says of another agent under its name."""

from __future__ import annotations

from support.sessions import EPOCH, LOG, ME, feed, live, problem, welcome
from tidewire_agent.session import complaints
from tidewire_agent.session.effects import ClearProblem, SayProblem
from tidewire_agent.session.standing import Standing
from tidewire_schemas.positions import START


def test_that_a_device_is_cloned_stands_from_when_it_is_said_until_a_welcome_without_it() -> None:
    session = live()
    said = "device till is run twice: boots 1 and 2"
    warning = problem("cloned", message=said, incarnation=None, boot=None)
    assert feed(session, warning) == [SayProblem(complaints.cloned(said))]
    session.reintroduce(Standing(ME, LOG, EPOCH, START, 0), 1.0)
    effects = session.welcomed(welcome(cloned=said, handshake=session.handshake), {}, 1.0)
    assert SayProblem(complaints.cloned(said)) in effects  # the same again, which is not told twice
    assert ClearProblem("cloned") not in effects
    feed(session, problem("hello_needed"), now=2.0)
    assert ClearProblem("cloned") in session.welcomed(welcome(handshake=session.handshake), {}, 3.0)
