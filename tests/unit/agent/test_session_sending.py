"""What a session sends of the outbox, and from which batch on. No clock, no broker."""

from __future__ import annotations

from math import inf

import pytest

from support.sessions import (
    EPOCH,
    LIMITS,
    LOG,
    ME,
    OTHER,
    ack,
    at,
    codes,
    digest,
    feed,
    live,
    only,
    problem,
    sent,
    session,
    welcome,
)
from tidewire_agent.session.effects import Renumber, SendBatches, SendHello
from tidewire_agent.session.standing import Standing
from tidewire_agent.session.states import State
from tidewire_schemas.messages import ChainPoint
from tidewire_schemas.positions import START

# ── the chain of batches ──────────────────────────────────────────────────────────────────────────────────────────


def test_sending_goes_on_after_what_the_hub_has() -> None:
    made = session(sealed=9)
    made.connected(0.0)
    effects = made.welcomed(welcome(at(4), accepted=7), {7: digest(7)}, 0.0)
    assert only(effects, SendBatches) == [SendBatches(made.turn, 7, 9, 3, 1024)]


def test_a_digest_that_differs_finds_the_last_common_batch_and_renumbers() -> None:
    made = session(sealed=9)
    made.connected(0.0)
    recent = tuple(ChainPoint(batch=n, digest=digest(n), seq=n) for n in (6, 5, 4))
    told = welcome(at(9), accepted=7, recent=recent)
    effects = made.welcomed(told, {7: "f" * 32, 6: "e" * 32, 5: digest(5), 4: digest(4)}, 0.0)
    assert effects == [Renumber(5, digest(5))]
    assert made.wake_at == inf
    effects = made.reintroduce(Standing(OTHER, LOG, EPOCH, at(9), 4), 0.1)
    assert effects == [SendHello()]


def test_a_hub_ahead_of_what_was_sealed_renumbers_after_the_newest_of_ours() -> None:
    made = session(sealed=3)
    made.connected(0.0)
    recent = tuple(ChainPoint(batch=n, digest=digest(n), seq=n) for n in (4, 3, 2))
    assert made.welcomed(welcome(accepted=5, recent=recent), {3: digest(3), 2: digest(2)}, 0.0) == [
        Renumber(3, digest(3))
    ]


def test_without_a_common_batch_all_are_renumbered() -> None:
    made = session(sealed=3)
    made.connected(0.0)
    assert made.welcomed(welcome(accepted=5), {}, 0.0) == [Renumber(0, None)]


def test_a_batch_that_is_no_longer_kept_counts_as_common() -> None:
    made = session(sealed=9)
    made.connected(0.0)
    assert only(made.welcomed(welcome(accepted=7), {}, 0.0), SendBatches)


def test_while_renumbering_neither_welcome_nor_reconnect_says_hello() -> None:
    made = session(sealed=3)
    made.connected(0.0)
    made.welcomed(welcome(accepted=5), {}, 0.0)
    assert made.welcomed(welcome(), {}, 0.0) == []
    made.disconnected()
    assert SendHello() not in made.connected(1.0)
    assert SendHello() in made.reintroduce(Standing(OTHER, LOG, EPOCH, START, 3), 2.0)


def test_while_renumbering_changed_tables_wait_for_the_new_numbers() -> None:
    made = session(sealed=3)
    made.connected(0.0)
    made.welcomed(welcome(accepted=5), {}, 0.0)
    assert made.reintroduce(Standing(ME, LOG, EPOCH, START, 4), 1.0) == []
    assert made.welcomed(welcome(accepted=5), {}, 1.0) == []
    assert SendHello() in made.reintroduce(Standing(OTHER, LOG, EPOCH, START, 4), 2.0)


# ── sending ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_sent_before_the_handshake() -> None:
    made = session(sealed=5)
    assert made.sealed(6, 0.0) == []
    made.connected(0.0)
    assert made.sealed(7, 0.0) == []


def test_a_sealed_batch_is_read_at_once_and_one_reading_goes_on_at_a_time() -> None:
    made = live()
    assert made.sealed(1, 1.0) == [SendBatches(made.turn, 0, 1, 3, 1024)]
    assert made.sealed(2, 1.0) == []
    assert made.sending(made.turn, sent(1, 1), 1.0) == [SendBatches(made.turn, 1, 2, 2, 1014)]


def test_what_is_sealed_later_is_not_read_with_what_was_sealed_before() -> None:
    made = live()
    made.sealed(2, 0.0)
    made.sealed(5, 0.0)
    assert made.sending(made.turn, sent(1, 2), 0.0) == [SendBatches(made.turn, 2, 5, 1, 1004)]


def test_what_was_sealed_of_changed_tables_is_sent_only_after_the_next_welcome() -> None:
    made = live()
    made.sealed(1, 0.0)
    turn = made.turn
    effects = made.reintroduce(Standing(ME, LOG, EPOCH, made.position, 2), 0.0)
    assert SendHello() in effects
    assert only(effects, SendBatches) == []
    assert made.turn != turn
    assert made.sending(turn, sent(1, 1), 0.0) == []
    assert made.sealed(3, 0.0) == []
    effects = made.welcomed(welcome(handshake=made.handshake), {}, 0.0)
    assert only(effects, SendBatches) == [SendBatches(made.turn, 0, 3, 3, 1024)]


def test_the_window_is_bounded_by_count() -> None:
    made = live()
    made.sealed(9, 0.0)
    assert made.sending(made.turn, sent(1, 3), 0.0) == []
    assert feed(made, ack(2)) == [SendBatches(made.turn, 3, 9, 2, 1014)]


def test_the_window_is_bounded_by_bytes_and_takes_one_large_batch() -> None:
    made = live()
    made.sealed(9, 0.0)
    assert made.sending(made.turn, sent(1, 1, size=5000), 0.0) == []
    assert feed(made, ack(1)) == [SendBatches(made.turn, 1, 9, 3, 1024)]


def test_resend_goes_on_from_the_batch_that_is_asked_for_once() -> None:
    made = live()
    made.sealed(3, 0.0)
    made.sending(made.turn, sent(1, 3), 0.0)
    turn = made.turn
    assert feed(made, problem("resend", batch=2), now=1.0) == [SendBatches(turn + 1, 1, 3, 3, 1024)]
    assert feed(made, problem("resend", batch=2), now=1.0) == []
    later = 1.0 + LIMITS.hello_pause_s
    assert feed(made, problem("resend", batch=2), now=later) == [SendBatches(turn + 2, 1, 3, 3, 1024)]


def test_resend_of_what_was_never_sent_is_ignored() -> None:
    made = live(sealed=0)
    assert feed(made, problem("resend", batch=5)) == []


@pytest.mark.parametrize("code", ["fork", "hello_needed", "resend"])
def test_a_hub_that_does_not_know_us_or_sees_a_fork_gets_a_hello(code: str) -> None:
    made = live()
    assert SendHello() in feed(made, problem(code), now=1.0)
    assert made.state is State.HANDSHAKING


def test_what_the_hub_cannot_take_is_numbered_anew_after_a_new_handshake() -> None:
    made = live(sealed=9)
    effects = feed(made, problem("entry_too_large", batch=8), now=100.0)
    assert SendHello() in effects
    assert codes(effects) == {"hub_problem"}
    assert only(made.welcomed(welcome(accepted=7, handshake=made.handshake), {7: digest(7)}, 100.0), Renumber)


def test_other_problems_of_the_hub_are_shown() -> None:
    made = live()
    assert codes(feed(made, problem("message_malformed", batch=1))) == {"hub_problem"}
    assert made.state is State.LIVE


def test_problems_of_another_start_are_not_ours() -> None:
    made = live()
    assert feed(made, problem("hello_needed", boot=OTHER)) == []
    assert feed(made, problem("hello_needed", incarnation=OTHER)) == []


def test_an_outbox_that_is_empty_after_all_is_not_read_again_and_again() -> None:
    made = live()
    made.sealed(1, 0.0)
    assert made.sending(made.turn, [], 0.0) == []
    assert made.sealed(1, 0.0) == [SendBatches(made.turn, 0, 1, 3, 1024)]
