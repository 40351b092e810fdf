"""A session on a slow link: what comes behind something large is waited for. No clock, no broker."""

from __future__ import annotations

from support.sessions import LIMITS, at, codes, sent, session, welcome
from tidewire_agent.session.states import State


def test_welcome_pages_and_acks_are_waited_for_while_something_large_gets_on_and_nothing_is_sent_twice() -> None:
    made = session()
    made.connected(0.0)
    for now in range(2, 60, 2):
        made.moving(now)
        assert made.tick(now, 0.0) == []
    made.welcomed(welcome(at(3)), {}, 60.0)
    made.sealed(1, 60.0)
    made.sending(made.turn, sent(1, 1), 60.0)
    for now in range(60, 120, 2):
        made.moving(now)
        assert made.tick(now, 0.0) == []
    effects = made.tick(118.0 + LIMITS.stall_timeout_s, 0.0)  # nothing gets on any more
    assert codes(effects) == {"no_pages"}
    assert made.state is State.HANDSHAKING
