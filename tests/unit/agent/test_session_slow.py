"""A session on a slow link: what comes behind something large is waited for. No clock, no broker."""

from __future__ import annotations

from tidewire_agent.session.effects import SayProblem
from tidewire_agent.session.limits import SessionLimits
from tidewire_agent.session.session import Session
from tidewire_agent.session.standing import Standing
from tidewire_agent.session.states import State
from tidewire_agent.session.window import SentBatch
from tidewire_agent.settings import AgentSettings
from tidewire_schemas.messages import Welcome
from tidewire_schemas.positions import START, Position

ME, BOOT, LOG = "a" * 32, "c" * 32, "d" * 32
EPOCH = 1000
LIMITS: SessionLimits = AgentSettings.of(db="unused.db").session_limits()

WELCOME = Welcome(
    v=1,
    type="welcome",
    incarnation=ME,
    boot=BOOT,
    log=LOG,
    epoch=EPOCH,
    head=Position(EPOCH, 3),
    oldest=1,
    checkpoint="on_log",
    accepted=None,
    payload_bytes_max=50_000,
    batch_bytes_max=1_000_000,
)


def test_welcome_pages_and_acks_are_waited_for_while_something_large_gets_on_and_nothing_is_sent_twice() -> None:
    made = Session(LIMITS, BOOT, Standing(ME, LOG, 0, START, 0))
    made.connected(0.0)
    for now in range(2, 60, 2):
        made.moving(now)
        assert made.tick(now, 0.0) == []
    made.welcomed(WELCOME, {}, 60.0)
    made.sealed(1, 60.0)
    made.sending(made.turn, [SentBatch(1, "1" * 32, 100)], 60.0)
    for now in range(60, 120, 2):
        made.moving(now)
        assert made.tick(now, 0.0) == []
    effects = made.tick(118.0 + LIMITS.stall_timeout_s, 0.0)  # nothing gets on any more
    assert [effect.trouble.code for effect in effects if isinstance(effect, SayProblem)] == ["no_pages"]
    assert made.state is State.HANDSHAKING
