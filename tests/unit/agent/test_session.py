"""The session's decisions, input by input. No clock, no database, no broker: time is a number."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from support.sessions import (
    EPOCH,
    LIMITS,
    LOG,
    ME,
    OTHER,
    at,
    codes,
    digest,
    feed,
    head,
    live,
    only,
    page,
    problem,
    replay,
    session,
    welcome,
)
from tidewire_agent.session.effects import ClearProblem, Follow, Heal, Limits, PublishState, RequestReplay, SendHello
from tidewire_agent.session.standing import Standing
from tidewire_agent.session.states import TRANSITIONS, Cause, State
from tidewire_schemas.messages import ChainPoint, TableProblem
from tidewire_schemas.positions import START


def test_every_state_can_be_reached_and_left() -> None:
    assert set(TRANSITIONS.values()) == set(State)
    assert {before for before, _ in TRANSITIONS} == set(State)
    assert {cause for _, cause in TRANSITIONS} == set(Cause)


# ── handshake ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_hello_is_the_first_thing_said() -> None:
    assert session().connected(0.0) == [PublishState(State.HANDSHAKING), SendHello()]


def test_a_welcome_at_the_same_place_makes_the_device_live() -> None:
    made = session()
    made.connected(0.0)
    effects = made.welcomed(welcome(), {}, 1.0)
    assert effects == [Follow(LOG, EPOCH, START), Limits(50_000, 1_000_000), PublishState(State.LIVE)]
    assert made.wake_at == inf


def test_a_device_without_a_log_adopts_the_one_it_is_told() -> None:
    made = session(log=None)
    made.connected(0.0)
    assert Follow(LOG, EPOCH, START) in made.welcomed(welcome(), {}, 0.0)


def test_an_unanswered_hello_becomes_a_problem_and_is_said_again_with_growing_pauses() -> None:
    made = session()
    made.connected(0.0)
    pauses, now, said = [], 0.0, set()
    for _ in range(8):
        due = made.wake_at
        pauses.append(due - now)
        now = due
        effects = made.tick(now, 1.0)
        assert SendHello() in effects
        said |= codes(effects)
    assert said == {"no_welcome"}
    assert pauses == sorted(pauses)
    assert pauses[0] >= LIMITS.welcome_timeout_s
    assert pauses[-1] == LIMITS.welcome_timeout_s + LIMITS.hello_backoff_max_s


def test_a_welcome_clears_the_problem_of_the_missing_one() -> None:
    made = session()
    made.connected(0.0)
    made.tick(made.wake_at, 0.0)
    assert ClearProblem("no_welcome") in made.welcomed(welcome(), {}, 20.0)


def test_nothing_is_said_early() -> None:
    made = session()
    made.connected(0.0)
    assert made.tick(1.0, 0.5) == []


@pytest.mark.parametrize("change", [{"incarnation": OTHER}, {"boot": OTHER}])
def test_a_welcome_for_another_incarnation_or_start_is_ignored(change: dict[str, Any]) -> None:
    made = session()
    made.connected(0.0)
    assert made.welcomed(welcome(**change), {}, 0.0) == []
    assert made.state is State.HANDSHAKING


def test_a_second_welcome_is_ignored() -> None:
    made = live(sealed=2)
    assert made.welcomed(welcome(head=at(7), epoch=EPOCH + 5), {}, 0.0) == []
    assert (made.state, made.epoch) == (State.LIVE, EPOCH)


def test_a_welcome_of_an_earlier_leader_is_refused() -> None:
    """Guarantee 8."""
    made = session(epoch=EPOCH + 1)
    made.connected(0.0)
    assert codes(made.welcomed(welcome(), {}, 0.0)) == {"leader_stale"}
    assert made.state is State.HANDSHAKING


def test_a_foreign_log_halts_the_device_until_the_right_one_is_back() -> None:
    made = session()
    made.connected(0.0)
    effects = made.welcomed(welcome(log=OTHER), {}, 0.0)
    assert codes(effects) == {"log_foreign"}
    assert PublishState(State.HALTED) in effects
    assert not only(effects, Follow)
    again = made.wake_at
    assert SendHello() in made.tick(again, 0.0)
    effects = made.welcomed(welcome(), {}, again)
    assert made.state is State.LIVE
    assert ClearProblem("log_foreign") in effects


def test_a_halted_device_sends_and_applies_nothing() -> None:
    made = session(sealed=3)
    made.connected(0.0)
    made.welcomed(welcome(log=OTHER), {}, 0.0)
    assert made.sealed(4, 1.0) == []
    assert feed(made, page(START, 1)) == []
    assert feed(made, head(5)) == []
    assert feed(made, replay(page(START, 1), last=True)) == []


def test_a_hub_that_has_lost_its_end_is_said_and_healed() -> None:
    made = session(at(5))
    made.connected(0.0)
    recent = (ChainPoint(batch=1, digest=digest(1), seq=2),)
    effects = made.welcomed(
        welcome(checkpoint="off_log", common=at(3), recent=recent, handshake=made.handshake), {}, 0.0
    )
    assert codes(effects) == {"log_lost_its_end"}
    assert only(effects, Heal) == [Heal(at(3), recent)]
    assert made.welcomed(welcome(handshake=made.handshake), {}, 0.0) == []
    assert SendHello() in made.reintroduce(Standing(OTHER, LOG, EPOCH, at(3), 4), 1.0)
    assert ClearProblem("log_lost_its_end") in made.welcomed(
        welcome(at(3), incarnation=OTHER, handshake=made.handshake), {}, 1.1
    )


def test_log_unknown_as_a_problem_halts_as_well() -> None:
    made = session()
    made.connected(0.0)
    assert codes(feed(made, problem("log_unknown"))) == {"log_foreign"}
    assert made.state is State.HALTED


def test_tables_that_the_hub_refuses_are_a_problem_and_hold_nothing_up() -> None:
    made = session()
    made.connected(0.0)
    refused = (TableProblem(table="orders", code="unique", message="twice the same e-mail"),)
    assert codes(made.welcomed(welcome(table_problems=refused, handshake=made.handshake), {}, 0.0)) == {
        "tables_refused"
    }
    assert (made.state, made.refused) == (State.LIVE, refused)
    made.reintroduce(Standing(ME, LOG, EPOCH, START, 0), 1.0)
    assert ClearProblem("tables_refused") in made.welcomed(welcome(handshake=made.handshake), {}, 1.0)
    assert not made.refused


def test_a_leader_not_heard_before_is_greeted_without_waiting_out_the_backoff() -> None:
    made = session()
    made.connected(0.0)
    for _ in range(5):
        made.tick(made.wake_at, 1.0)
    now = made.wake_at - 30
    feed(made, head(3, epoch=EPOCH + 9), now=now, random=0.5)
    assert made.wake_at == pytest.approx(now + 0.5 * LIMITS.hello_spread_s)


def test_after_a_lost_connection_it_begins_anew() -> None:
    made = live(sealed=2)
    assert made.disconnected() == [PublishState(State.OFFLINE)]
    assert made.wake_at == inf
    assert made.sealed(3, 5.0) == []
    assert made.connected(9.0) == [PublishState(State.HANDSHAKING), SendHello()]


def test_connected_twice_is_a_new_connection() -> None:
    made = live()
    assert made.connected(1.0) == [PublishState(State.OFFLINE), PublishState(State.HANDSHAKING), SendHello()]


# ── the file ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_changed_tables_are_told_at_once() -> None:
    made = live()
    assert made.reintroduce(Standing(ME, LOG, EPOCH, START, 0), 0.01) == [
        PublishState(State.HANDSHAKING),
        SendHello(),
    ]


def test_a_newly_attached_table_is_brought_up_from_the_start() -> None:
    made = live(at(8))
    made.reintroduce(Standing(ME, LOG, EPOCH, START, 0), 1.0)
    effects = made.welcomed(welcome(at(8), handshake=made.handshake), {}, 1.0)
    assert only(effects, RequestReplay) == [RequestReplay(START, LIMITS.replay_pages)]


def test_a_position_that_went_elsewhere_than_expected_is_taken_as_it_is() -> None:
    made = live()
    feed(made, page(START, 2))
    feed(made, page(at(2), 1))
    effects = made.applied(START, 1.0)
    assert only(effects, RequestReplay) == [RequestReplay(START, LIMITS.replay_pages)]


def test_a_file_set_back_while_a_page_is_applied_is_caught_up_from_where_it_stands() -> None:
    made = live()
    feed(made, page(START, 4))
    made.applied(at(4), 0.0)
    feed(made, page(at(4), 1))  # being applied, while a table is attached that wants the log from its start
    made.reintroduce(Standing(ME, LOG, EPOCH, START, 0), 0.0)
    effects = made.welcomed(welcome(head=at(5), handshake=made.handshake), {}, 0.0)
    assert only(effects, RequestReplay) == [RequestReplay(START, LIMITS.replay_pages)]
