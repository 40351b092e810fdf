"""What frees batches that were sent, and what is done where nothing does. No clock, no broker."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from support.sessions import EPOCH, LIMITS, OTHER, ack, codes, digest, feed, head, live, only, sent, session, welcome
from tidewire_agent.session.effects import ClearProblem, SayProblem, SendBatches, SendHello
from tidewire_agent.session.states import State


def test_an_ack_covers_all_batches_before_it_and_ends_the_waiting() -> None:
    made = live()
    made.sealed(3, 0.0)
    made.sending(made.turn, sent(1, 3), 0.0)
    assert made.wake_at == LIMITS.ack_timeout_s
    assert feed(made, ack(3), now=1.0) == []
    assert made.wake_at == inf


def test_an_ack_that_is_progress_gives_the_rest_new_time() -> None:
    made = live()
    made.sealed(3, 0.0)
    made.sending(made.turn, sent(1, 3), 0.0)
    feed(made, ack(1), now=4.0)
    assert made.wake_at == 4.0 + LIMITS.ack_timeout_s


@pytest.mark.parametrize(
    "change", [{"incarnation": OTHER}, {"boot": OTHER}, {"digest": "f" * 32}, {"epoch": EPOCH - 1}, {"batch": 9}]
)
def test_an_ack_that_is_not_for_this_frees_nothing(change: dict[str, Any]) -> None:
    made = live()
    made.sealed(1, 0.0)
    made.sending(made.turn, sent(1, 1), 0.0)
    assert feed(made, ack(1, **change)) == []
    assert made.wake_at == LIMITS.ack_timeout_s
    assert feed(made, ack(1)) == []
    assert made.wake_at == inf


def test_without_an_ack_in_time_it_says_hello_and_sends_again() -> None:
    made = live()
    made.sealed(2, 0.0)
    made.sending(made.turn, sent(1, 2), 0.0)
    turn = made.turn
    effects = made.tick(LIMITS.ack_timeout_s, 0.0)
    assert codes(effects) == {"no_ack"}
    assert SendHello() in effects
    assert made.turn != turn
    assert made.sending(turn, sent(1, 2), 11.0) == []
    effects = made.welcomed(welcome(accepted=1, handshake=made.handshake), {1: digest(1)}, 11.0)
    assert only(effects, SendBatches) == [SendBatches(made.turn, 1, 2, 3, 1024)]
    made.sending(made.turn, sent(2, 2), 11.0)
    assert ClearProblem("no_ack") in feed(made, ack(2), now=11.1)


def test_a_busy_hub_is_waited_for_and_not_taken_for_gone() -> None:
    made = live()
    made.sealed(1, 0.0)
    made.sending(made.turn, sent(1, 1), 0.0)
    for now in range(2, 60, 2):
        (said,) = only(feed(made, head(0, busy="much"), now=now), SayProblem)
        assert said.trouble.code == "hub_busy"
        assert "much" in said.trouble.message
        assert made.tick(now + 1.9, 0.0) == []
    assert ClearProblem("hub_busy") in feed(made, head(0), now=60.0)
    feed(made, head(0, busy="much"), now=61.0)
    effects = made.tick(61.0 + LIMITS.ack_timeout_s, 0.0)
    assert ClearProblem("hub_busy") in effects
    assert codes(effects) == {"no_ack"}


def test_a_busy_hub_is_not_asked_again_and_again_for_its_welcome() -> None:
    made = session()
    made.connected(0.0)
    feed(made, head(0, busy="much"), now=1.0)
    assert made.tick(1.1, 0.0) == [SendHello()]  # to a leader that was not heard before, once
    for now in range(2, 30, 2):
        assert codes(feed(made, head(0, busy="much"), now=now)) == {"hub_busy"}
        assert made.tick(now + 1.9, 1.0) == []
    assert ClearProblem("hub_busy") in made.welcomed(welcome(), {}, 30.0)


def test_who_waits_for_nothing_does_not_care_that_the_hub_is_busy() -> None:
    assert feed(live(), head(0, busy="much")) == []


def test_a_welcome_that_has_all_batches_clears_the_missing_ack() -> None:
    made = live()
    made.sealed(1, 0.0)
    made.sending(made.turn, sent(1, 1), 0.0)
    made.tick(LIMITS.ack_timeout_s, 0.0)
    assert ClearProblem("no_ack") in made.welcomed(welcome(accepted=1, handshake=made.handshake), {1: digest(1)}, 11.0)


def test_a_later_epoch_in_an_ack_means_a_new_handshake_and_is_not_adopted() -> None:
    made = live()
    made.sealed(1, 0.0)
    made.sending(made.turn, sent(1, 1), 0.0)
    feed(made, ack(1, epoch=EPOCH + 1), now=1.0)
    assert (made.state, made.epoch) == (State.HANDSHAKING, EPOCH)


@pytest.mark.fault("an ack for another batch")
def test_an_ack_with_another_digest_frees_nothing_and_the_hub_is_asked_again() -> None:
    """Guarantee 2: only what the hub has is taken as acked."""
    made = live()
    made.sealed(1, 0.0)
    made.sending(made.turn, sent(1, 1), 0.0)
    feed(made, ack(1, digest=OTHER))
    assert SendHello() in made.tick(LIMITS.ack_timeout_s, 0.0)
    assert made.state is State.HANDSHAKING


def test_the_ack_of_a_batch_frees_it_and_nothing_is_waited_for() -> None:
    made = live()
    made.sealed(1, 0.0)
    made.sending(made.turn, sent(1, 1), 0.0)
    feed(made, ack(1))
    assert made.tick(LIMITS.ack_timeout_s, 0.0) == []
    assert made.state is State.LIVE
