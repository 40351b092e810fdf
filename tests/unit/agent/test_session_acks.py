"""What frees batches that were sent. No clock, no broker."""

from __future__ import annotations

import pytest

from support.sessions import BOOT, DIGEST, LOG, ME, OTHER, ack, welcome
from tidewire_agent.session.effects import SendBatches, SendHello
from tidewire_agent.session.session import Session
from tidewire_agent.session.standing import Standing
from tidewire_agent.session.states import State
from tidewire_agent.session.window import SentBatch
from tidewire_agent.settings import AgentSettings
from tidewire_schemas.positions import START

LIMITS = AgentSettings.of(db="unused.db", hub_silence_s=0).session_limits()


def with_a_batch_on_its_way() -> Session:
    made = Session(LIMITS, BOOT, Standing(ME, LOG, 0, START, 0))
    made.connected(0.0)
    made.welcomed(welcome(), {}, 0.0)
    (send,) = (effect for effect in made.sealed(1, 0.0) if isinstance(effect, SendBatches))
    made.sending(send.turn, [SentBatch(1, DIGEST, 100)], 0.0)
    return made


@pytest.mark.fault("an ack for another batch")
def test_an_ack_with_another_digest_frees_nothing_and_the_hub_is_asked_again() -> None:
    """Guarantee 2: only what the hub has is taken as acked."""
    made = with_a_batch_on_its_way()
    made.received(ack(OTHER), 100, 0.0, 0.0)
    assert SendHello() in made.tick(LIMITS.ack_timeout_s, 0.0)
    assert made.state is State.HANDSHAKING


def test_the_ack_of_a_batch_frees_it_and_nothing_is_waited_for() -> None:
    made = with_a_batch_on_its_way()
    made.received(ack(), 100, 0.0, 0.0)
    assert made.tick(LIMITS.ack_timeout_s, 0.0) == []
    assert made.state is State.LIVE
