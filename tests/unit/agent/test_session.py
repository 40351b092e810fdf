"""The session's decisions, input by input. No clock, no database, no broker: time is a number."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from tidewire_agent.session.effects import (
    ApplyPage,
    ClearProblem,
    Effect,
    Follow,
    Heal,
    Limits,
    PublishState,
    Renumber,
    RequestReplay,
    SayProblem,
    SendBatches,
    SendHello,
)
from tidewire_agent.session.pages import TAKEN_BYTES_MAX
from tidewire_agent.session.session import Session
from tidewire_agent.session.standing import Standing
from tidewire_agent.session.states import TRANSITIONS, Cause, State
from tidewire_agent.session.window import SentBatch
from tidewire_agent.settings import AgentSettings
from tidewire_schemas.messages import (
    Ack,
    ChainPoint,
    Entry,
    Head,
    Page,
    Problem,
    Replay,
    TableProblem,
    Welcome,
)
from tidewire_schemas.positions import START, Position

ME, BOOT, LOG = "a" * 32, "b" * 32, "c" * 32
OTHER = "d" * 32
EPOCH = 1000
LIMITS = AgentSettings.of(db="unused.db", window_batches=3, window_bytes=1024, hub_silence_s=0).session_limits()


def at(seq: int, epoch: int = EPOCH) -> Position:
    return Position(epoch, seq) if seq else START


def digest(batch: int) -> str:
    return f"{batch:032x}"


def page(prev: Position, count: int, *, epoch: int = EPOCH, log: str = LOG) -> Page:
    entries = [
        Entry(
            seq=prev.seq + 1 + i,
            epoch=epoch,
            device="x",
            incarnation=OTHER,
            batch=1,
            digest=digest(1),
            at=0,
            refused=[],
            changes=[],
        )
        for i in range(count)
    ]
    return Page(v=1, type="page", log=log, prev=prev, entries=entries)


def joined(first: Page, *others: Page) -> Page:
    """Pages that follow each other, as one."""
    return first.model_copy(update={"entries": [entry for one in (first, *others) for entry in one.entries]})


def replay(of: Page, *, last: bool, boot: str = BOOT) -> Replay:
    return Replay(v=1, type="replay", incarnation=ME, boot=boot, last=last, page=of)


def welcome(head: Position = START, accepted: int = 0, **changes: Any) -> Welcome:
    values: dict[str, Any] = {
        "v": 1,
        "type": "welcome",
        "incarnation": ME,
        "boot": BOOT,
        "log": LOG,
        "epoch": EPOCH,
        "head": head,
        "oldest": 1,
        "checkpoint": "on_log",
        "accepted": ChainPoint(batch=accepted, digest=digest(accepted), seq=1) if accepted else None,
        "payload_bytes_max": 50_000,
        "batch_bytes_max": 1_000_000,
    }
    return Welcome(**(values | changes))


def ack(number: int, **changes: Any) -> Ack:
    values: dict[str, Any] = {
        "v": 1,
        "type": "ack",
        "incarnation": ME,
        "boot": BOOT,
        "epoch": EPOCH,
        "batch": number,
        "digest": digest(number),
        "seq": number,
    }
    return Ack(**(values | changes))


def head(seq: int, *, epoch: int = EPOCH, log: str = LOG, busy: str | None = None) -> Head:
    position = Position(epoch, seq)
    return Head(v=1, type="head", log=log, epoch=epoch, head=position, oldest=1, leader="hub", at=0, busy=busy)


def problem(code: str, **changes: Any) -> Problem:
    values: dict[str, Any] = {"v": 1, "type": "problem", "incarnation": ME, "boot": BOOT, "code": code}
    return Problem(**(values | {"message": "why"} | changes))


def session(position: Position = START, sealed: int = 0, log: str | None = LOG, epoch: int = 0) -> Session:
    return Session(LIMITS, BOOT, Standing(ME, log, epoch, position, sealed))


def live(position: Position = START, sealed: int = 0) -> Session:
    made = session(position, sealed)
    made.connected(0.0)
    made.welcomed(welcome(position), {}, 0.0)
    assert made.state is State.LIVE
    return made


def feed(target: Session, message: Any, now: float = 0.0, random: float = 0.0, size: int = 10) -> list[Effect]:
    return target.received(message, size, now, random)


def only(effects: list[Effect], kind: type) -> list[Any]:
    return [effect for effect in effects if isinstance(effect, kind)]


def codes(effects: list[Effect]) -> set[str]:
    return {effect.trouble.code for effect in only(effects, SayProblem)}


def sent(first: int, last: int, size: int = 10) -> list[SentBatch]:
    return [SentBatch(number, digest(number), size) for number in range(first, last + 1)]


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
    effects = made.welcomed(welcome(checkpoint="off_log", common=at(3), recent=recent), {}, 0.0)
    assert codes(effects) == {"log_lost_its_end"}
    assert only(effects, Heal) == [Heal(at(3), recent)]
    assert made.welcomed(welcome(), {}, 0.0) == []
    assert SendHello() in made.reintroduce(Standing(OTHER, LOG, EPOCH, at(3), 4), 1.0)
    assert ClearProblem("log_lost_its_end") in made.welcomed(welcome(at(3), incarnation=OTHER), {}, 1.1)


def test_log_unknown_as_a_problem_halts_as_well() -> None:
    made = session()
    made.connected(0.0)
    assert codes(feed(made, problem("log_unknown"))) == {"log_foreign"}
    assert made.state is State.HALTED


def test_tables_that_the_hub_refuses_are_a_problem_and_hold_nothing_up() -> None:
    made = session()
    made.connected(0.0)
    refused = (TableProblem(table="orders", code="unique", message="twice the same e-mail"),)
    assert codes(made.welcomed(welcome(table_problems=refused), {}, 0.0)) == {"tables_refused"}
    assert (made.state, made.refused) == (State.LIVE, refused)
    made.reintroduce(Standing(ME, LOG, EPOCH, START, 0), 1.0)
    assert ClearProblem("tables_refused") in made.welcomed(welcome(), {}, 1.0)
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
    effects = made.welcomed(welcome(), {}, 0.0)
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
    effects = made.welcomed(welcome(accepted=1), {1: digest(1)}, 11.0)
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
    assert ClearProblem("no_ack") in made.welcomed(welcome(accepted=1), {1: digest(1)}, 11.0)


def test_a_later_epoch_in_an_ack_means_a_new_handshake_and_is_not_adopted() -> None:
    made = live()
    made.sealed(1, 0.0)
    made.sending(made.turn, sent(1, 1), 0.0)
    feed(made, ack(1, epoch=EPOCH + 1), now=1.0)
    assert (made.state, made.epoch) == (State.HANDSHAKING, EPOCH)


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
    assert only(made.welcomed(welcome(accepted=7), {7: digest(7)}, 100.0), Renumber)


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


# ── catching up ───────────────────────────────────────────────────────────────────────────────────────────────────


def behind(by: int = 5) -> Session:
    made = session()
    made.connected(0.0)
    effects = made.welcomed(welcome(at(by)), {}, 0.0)
    assert only(effects, RequestReplay) == [RequestReplay(START, LIMITS.replay_pages)]
    assert made.state is State.CATCHING_UP
    return made


def test_replay_is_applied_page_by_page_and_ends_live() -> None:
    made = behind(4)
    first, second = page(START, 2), page(at(2), 2)
    assert feed(made, replay(first, last=False)) == [ApplyPage(first)]
    assert feed(made, replay(second, last=True)) == []
    assert made.applied(at(2), 1.0) == [ApplyPage(second)]
    assert made.applied(at(4), 2.0) == [PublishState(State.LIVE)]
    assert made.wake_at == inf


def test_replay_out_of_order_and_twice_is_put_in_order() -> None:
    made = behind(4)
    first, second = page(START, 2), page(at(2), 2)
    assert feed(made, replay(second, last=True)) == []
    assert feed(made, replay(first, last=False)) == [ApplyPage(joined(first, second))]
    assert feed(made, replay(first, last=False)) == []
    assert feed(made, replay(second, last=True)) == []
    assert made.applied(at(4), 1.0) == [PublishState(State.LIVE)]


def test_more_is_asked_for_when_the_credit_is_used_up() -> None:
    made = behind(100)
    effects: list[Effect] = []
    for number in range(LIMITS.replay_pages):
        effects += feed(made, replay(page(at(number), 1), last=False))
    assert not only(effects, RequestReplay)
    asked = []
    for number in range(1, LIMITS.replay_pages + 1):
        asked += only(made.applied(at(number), 1.0), RequestReplay)
    assert asked[0] == RequestReplay(at(LIMITS.replay_pages), LIMITS.replay_pages)
    assert len(asked) == 1


def test_live_pages_that_wait_do_not_keep_the_next_pages_from_being_asked_for() -> None:
    far = 100
    made = behind(far)
    for number in range(LIMITS.replay_pages):
        feed(made, page(at(far + number), 1))
    asked: list[Any] = []
    for number in range(LIMITS.replay_pages):
        effects = feed(made, replay(page(at(number), 1), last=False))
        asked += only(effects + made.applied(at(number + 1), 1.0), RequestReplay)
    assert asked == [RequestReplay(at(LIMITS.replay_pages), LIMITS.replay_pages)]


def test_an_empty_replay_says_there_is_nothing_more() -> None:
    made = behind(3)
    assert feed(made, replay(page(START, 0), last=True)) == [PublishState(State.LIVE)]


def test_live_pages_wait_while_catching_up() -> None:
    made = behind(2)
    third = page(at(2), 1)
    assert feed(made, third) == []
    first = page(START, 2)
    assert feed(made, replay(first, last=True)) == [ApplyPage(joined(first, third))]
    assert made.applied(at(3), 0.0) == [PublishState(State.LIVE)]


def test_pages_that_wait_are_applied_as_one_up_to_a_size() -> None:
    made = behind(3)
    pages = [page(START, 1), page(at(1), 1), page(at(2), 1)]
    for one in reversed(pages):
        effects = feed(made, replay(one, last=one is pages[2]), size=TAKEN_BYTES_MAX // 2)
    assert effects == [ApplyPage(joined(*pages[:2]))]
    assert made.applied(at(2), 0.0) == [ApplyPage(pages[2])]


def test_replay_that_does_not_come_is_a_problem_and_begins_anew() -> None:
    made = behind(2)
    due = made.wake_at
    assert due == LIMITS.stall_timeout_s
    effects = made.tick(due, 0.0)
    assert codes(effects) == {"no_pages"}
    assert SendHello() in effects
    made.welcomed(welcome(at(2)), {}, due)
    first = page(START, 2)
    feed(made, replay(first, last=True), now=due)
    assert ClearProblem("no_pages") in made.applied(at(2), due)


def test_a_page_that_takes_long_to_apply_is_no_stall() -> None:
    made = behind(2)
    feed(made, replay(page(START, 1), last=False))
    assert codes(made.tick(made.wake_at, 0.0)) == set()
    assert made.state is State.CATCHING_UP


def test_replay_for_another_start_is_ignored() -> None:
    made = behind(2)
    assert feed(made, replay(page(START, 2), last=True, boot=OTHER)) == []


def test_a_page_that_began_before_our_position_is_cut() -> None:
    made = live(at(2))
    long = page(at(1), 3)
    (effect,) = feed(made, long)
    assert isinstance(effect, ApplyPage)
    assert effect.page.prev == at(2)
    assert [entry.seq for entry in effect.page.entries] == [3, 4]


# ── live ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_live_pages_are_applied_one_after_another() -> None:
    made = live()
    first, second = page(START, 1), page(at(1), 1)
    assert feed(made, first) == [ApplyPage(first)]
    assert feed(made, second) == []
    assert made.applied(at(1), 0.0) == [ApplyPage(second)]


def test_a_page_that_was_applied_already_is_ignored() -> None:
    made = live(at(3))
    assert feed(made, page(at(1), 2)) == []
    assert made.state is State.LIVE


def test_a_gap_is_asked_for() -> None:
    """Guarantee 3."""
    made = live()
    second = page(at(1), 1)
    assert feed(made, second) == [PublishState(State.CATCHING_UP), RequestReplay(START, LIMITS.replay_pages)]
    first = page(START, 1)
    assert feed(made, replay(first, last=False)) == [ApplyPage(joined(first, second))]


def test_the_same_place_under_another_epoch_means_a_new_handshake() -> None:
    made = live(at(2))
    assert SendHello() in feed(made, page(Position(EPOCH - 3, 2), 1), now=1.0)


def test_a_stale_leaders_page_is_never_applied() -> None:
    """Guarantee 8."""
    made = live(at(2))
    assert feed(made, page(at(2), 1, epoch=EPOCH - 1)) == []
    assert feed(made, replay(page(at(2), 1, epoch=EPOCH - 1), last=True)) == []
    assert made.state is State.LIVE


def test_replay_brings_entries_of_earlier_epochs_up_to_the_welcomes_head() -> None:
    made = session()
    made.connected(0.0)
    made.welcomed(welcome(Position(EPOCH - 7, 2)), {}, 0.0)
    old = page(START, 2, epoch=EPOCH - 7)
    assert feed(made, replay(old, last=True)) == [ApplyPage(old)]


def test_replay_with_another_entry_at_the_welcomes_head_is_a_stale_leaders() -> None:
    """Guarantee 8."""
    made = behind(2)
    assert feed(made, replay(page(START, 2, epoch=EPOCH - 1), last=True)) == []
    assert feed(made, replay(page(START, 3, epoch=EPOCH - 1), last=True)) == []


def test_a_later_epoch_in_a_page_means_a_new_handshake_spread_over_time() -> None:
    made = live()
    feed(made, page(START, 1, epoch=EPOCH + 1), now=5.0, random=0.5)
    assert made.state is State.HANDSHAKING
    assert made.wake_at == pytest.approx(5.0 + 0.5 * LIMITS.hello_spread_s)
    assert made.epoch == EPOCH


def test_a_later_epoch_in_a_replay_means_a_new_handshake() -> None:
    made = behind(2)
    feed(made, replay(page(START, 1, epoch=EPOCH + 1), last=True), now=5.0)
    assert made.state is State.HANDSHAKING


def test_a_page_of_another_log_means_a_new_handshake_but_not_a_flood_of_them() -> None:
    made = live()
    now, hellos = 10.0, 0
    for _ in range(100):
        now += LIMITS.hello_pause_s / 10
        effects = feed(made, page(START, 1, log=OTHER), now=now) + made.tick(now, 0.0)
        if SendHello() in effects:
            hellos += 1
            made.welcomed(welcome(), {}, now)
    assert 5 <= hellos <= 11


def test_a_page_that_comes_before_the_welcome_is_kept() -> None:
    made = session()
    made.connected(0.0)
    second = page(at(1), 1)
    assert feed(made, second) == []
    made.welcomed(welcome(at(1)), {}, 0.0)
    first = page(START, 1)
    assert ApplyPage(joined(first, second)) in feed(made, replay(first, last=True))


def test_pages_that_wait_are_bounded() -> None:
    """Guarantee 12."""
    made = behind(1000)
    for number in range(500):
        feed(made, page(at(1000 + number), 1))
    assert len(made._downlink.pages) <= LIMITS.pages_held_max


def test_pages_that_wait_are_bounded_by_bytes() -> None:
    """Guarantee 12."""
    made = behind(1000)
    for number in range(20):
        feed(made, page(at(1000 + number), 1), size=LIMITS.pages_held_bytes_max // 4)
    assert made._downlink.pages.bytes_held <= LIMITS.pages_held_bytes_max


def test_a_page_that_the_log_does_not_know_is_forgotten_rather_than_asked_for_without_end() -> None:
    """Guarantee 10."""
    made = live(at(2))
    effects = feed(made, page(at(9), 1), now=1.0)
    asked, now = 0, 1.0
    while effects and now < 60.0:
        asked += len(only(effects, RequestReplay))
        effects = feed(made, replay(page(at(2), 0), last=True), now=now)
        assert made.state is State.LIVE
        if made.wake_at != inf:
            now = made.wake_at
            effects = made.tick(now, 0.0)
    assert asked == 2
    assert made.wake_at == inf
    third = page(at(2), 1)
    assert feed(made, third, now=now) == [ApplyPage(third)]


def test_a_page_from_nowhere_that_came_before_the_welcome_is_forgotten_as_well() -> None:
    made = session()
    made.connected(0.0)
    feed(made, page(at(9), 1))
    effects, now, asked = made.welcomed(welcome(), {}, 0.0), 0.0, 0
    while made.wake_at != inf or only(effects, RequestReplay):
        asked += len(only(effects, RequestReplay))
        effects = feed(made, replay(page(START, 0), last=True), now=now)
        if made.wake_at != inf:
            now = made.wake_at
            effects = made.tick(now, 0.0)
    assert asked == 2
    assert made.state is State.LIVE


# ── heads ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_head_ahead_without_pages_is_asked_for_and_then_a_problem() -> None:
    made = live()
    assert feed(made, head(3), now=1.0) == []
    due = made.wake_at
    assert due == 1.0 + LIMITS.stall_timeout_s
    assert made.tick(due, 0.0) == [PublishState(State.CATCHING_UP), RequestReplay(START, LIMITS.replay_pages)]
    assert codes(made.tick(made.wake_at, 0.0)) == {"no_pages"}


def test_entries_that_come_only_when_asked_for_are_a_problem_until_a_page_comes_by_itself() -> None:
    made, now, said = live(), 0.0, set()
    for seq in (1, 2):
        feed(made, head(seq), now=now)
        now = made.wake_at
        said |= codes(made.tick(now, 0.0))
        feed(made, replay(page(at(seq - 1), 1), last=True), now=now)
        made.applied(at(seq), now)
        assert made.state is State.LIVE
    assert said == {"no_live_pages"}
    assert ClearProblem("no_live_pages") in feed(made, page(at(2), 1), now=now)


def test_pages_that_come_after_their_head_are_no_stall() -> None:
    made = live()
    feed(made, head(1), now=1.0)
    feed(made, page(START, 1), now=1.1)
    made.applied(at(1), 1.2)
    assert made.wake_at == inf


def test_the_epoch_of_a_head_is_never_adopted() -> None:
    """Guarantee 8."""
    made = live()
    feed(made, head(1, epoch=EPOCH + 1), now=1.0)
    assert (made.state, made.epoch) == (State.HANDSHAKING, EPOCH)


def test_an_old_or_foreign_head() -> None:
    made = live()
    assert feed(made, head(9, epoch=EPOCH - 1)) == []
    assert SendHello() in feed(made, head(1, log=OTHER), now=5.0)


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
    effects = made.welcomed(welcome(at(8)), {}, 1.0)
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
    effects = made.welcomed(welcome(head=at(5)), {}, 0.0)
    assert only(effects, RequestReplay) == [RequestReplay(START, LIMITS.replay_pages)]
