"""Whether a hub may lead beside another one: by what it heard, and when."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from support.hub_core import Driver, every, messages, only
from tidewire_hub.actions import Lead, Publish, Serve, StepDown
from tidewire_hub.log.port import HEARD_EPOCH_MAX, StaleLeader
from tidewire_hub.rivals import Rivals, Verdict
from tidewire_schemas import codec, topics
from tidewire_schemas.messages import Head, HubState
from tidewire_schemas.positions import START

LOG, OTHER_LOG = "1" * 32, "2" * 32
BOOT, OTHER_BOOT, LAST_BOOT = "a" * 32, "b" * 32, "c" * 32
EPOCH = 1000


def rivals(*, take_over: bool = False) -> Rivals:
    made = Rivals(log=LOG, boot=BOOT, previous=LAST_BOOT, take_over=take_over, wait_s=5)
    made.look(100)
    return made


def head(log: str = LOG, *, epoch: int = EPOCH + 1, boot: str | None = OTHER_BOOT, **more: Any) -> Head:
    return Head(log=log, epoch=epoch, head=START, oldest=1, leader="other", boot=boot, at=0, **more)


def state(name: Any, boot: str = OTHER_BOOT, node: str = "other") -> HubState:
    return HubState(state=name, node=node, boot=boot)


def echo(seen: Rivals) -> None:
    seen.heard_state(state("starting", BOOT, "hub"), retained=False)


def verdict(seen: Rivals, at_s: float = 100) -> Verdict:
    return seen.verdict_of_look(EPOCH, at_s)


def test_where_nothing_was_kept_it_leads_as_soon_as_its_question_comes_back() -> None:
    seen = rivals()
    assert verdict(seen) is Verdict.WAIT
    echo(seen)
    assert verdict(seen) is Verdict.LEAD


def test_where_its_question_never_comes_back_it_leads_in_the_end() -> None:
    seen = rivals()
    assert verdict(seen, 104) is Verdict.WAIT
    assert verdict(seen, 105) is Verdict.LEAD


@pytest.mark.parametrize("log", [LOG, OTHER_LOG])
def test_a_head_that_was_kept_counts_only_if_its_hub_answers(log: str) -> None:
    seen = rivals()
    seen.heard_head(head(log), retained=True)
    seen.heard_state(state("leading"), retained=True)
    echo(seen)
    assert verdict(seen, 104) is Verdict.WAIT
    assert verdict(seen, 105) is Verdict.LEAD
    seen.heard_head(head(log), retained=False)
    assert verdict(seen, 104) is Verdict.GIVE_WAY


@pytest.mark.parametrize("last_word", ["stopped", "replaced", "offline"])
def test_a_hub_that_said_goodbye_is_not_waited_for(last_word: str) -> None:
    seen = rivals()
    seen.heard_head(head(), retained=True)
    seen.heard_state(state(last_word), retained=True)
    assert verdict(seen) is Verdict.WAIT  # more may have been kept
    echo(seen)
    assert verdict(seen) is Verdict.LEAD


def test_the_goodbye_of_an_earlier_process_says_nothing_of_the_one_that_leads() -> None:
    seen = rivals()
    seen.heard_head(head(), retained=True)
    seen.heard_state(state("offline", "d" * 32), retained=True)
    echo(seen)
    assert verdict(seen) is Verdict.WAIT


def test_the_process_that_had_this_data_before_is_gone_whatever_the_broker_kept() -> None:
    seen = rivals()
    seen.heard_head(head(boot=LAST_BOOT), retained=True)
    seen.heard_state(state("leading", LAST_BOOT), retained=True)
    echo(seen)
    assert verdict(seen) is Verdict.LEAD


def test_who_takes_over_waits_for_nobody_and_says_which_log_it_replaces() -> None:
    seen = rivals(take_over=True)
    seen.heard_head(head(OTHER_LOG), retained=True)
    seen.heard_head(head(OTHER_LOG), retained=False)
    assert verdict(seen) is Verdict.WAIT
    echo(seen)
    assert verdict(seen) is Verdict.LEAD
    assert seen.replaces == OTHER_LOG


def test_a_head_of_its_own_or_with_an_impossible_epoch_is_no_rival() -> None:
    seen = rivals()
    assert not seen.heard_head(head(boot=BOOT), retained=False)
    assert not seen.heard_head(head(epoch=HEARD_EPOCH_MAX), retained=False)
    assert seen.head is None


def test_a_leader_that_comes_back_gives_way_to_who_led_its_log_meanwhile_even_if_that_one_is_gone() -> None:
    seen = rivals()
    seen.has_led = True
    seen.heard_head(head(), retained=True)
    seen.heard_state(state("stopped"), retained=True)
    assert verdict(seen) is Verdict.GIVE_WAY


def test_a_leader_that_comes_back_is_not_stopped_by_what_is_left_of_another_log() -> None:
    seen = rivals()
    seen.has_led = True
    seen.heard_head(head(OTHER_LOG, epoch=EPOCH - 1), retained=True)
    echo(seen)
    assert verdict(seen, 105) is Verdict.LEAD


@pytest.mark.parametrize("ours", [EPOCH, EPOCH + 1, EPOCH + 2])
@pytest.mark.parametrize("their_log", [LOG, OTHER_LOG])
@pytest.mark.parametrize("our_word", [None, OTHER_LOG])
@pytest.mark.parametrize("their_word", [None, LOG])
def test_of_two_leaders_exactly_one_gives_way(
    ours: int, their_log: str, our_word: str | None, their_word: str | None
) -> None:
    theirs = EPOCH + 1
    here = rivals()
    there = Rivals(log=their_log, boot=OTHER_BOOT, previous=None, take_over=False, wait_s=5)
    here.replaces, there.replaces = our_word, their_word
    said_here = head(LOG, epoch=ours, boot=BOOT, replaces=our_word)
    said_there = head(their_log, epoch=theirs, boot=OTHER_BOOT, replaces=their_word)
    verdicts = {here.verdict_of(said_there, ours), there.verdict_of(said_here, theirs)}
    assert verdicts == {Verdict.LEAD, Verdict.GIVE_WAY}


def test_of_two_logs_the_elder_stays_unless_a_person_said_otherwise() -> None:
    assert rivals().verdict_of(head(OTHER_LOG), EPOCH) is Verdict.LEAD
    assert rivals().verdict_of(head(OTHER_LOG, replaces=LOG), EPOCH) is Verdict.GIVE_WAY


# ── what the core does about it ───────────────────────────────────────────────────────────────────────────────────


def looking(**changes: Any) -> Driver:
    driver = Driver.make(**changes)
    driver.take(driver.core.on_watching(driver.now))
    return driver


def came_back(driver: Driver) -> list[Any]:
    """Its question comes back."""
    return driver.send(topics.hub_state("hub"), state("starting", "d" * 32, "hub"))


def leading() -> Driver:
    driver = looking()
    came_back(driver)
    driver.take(driver.core.on_connected(100_000, driver.now))
    return driver


def test_it_asks_first_and_says_nothing_that_is_kept_before_it_leads() -> None:
    driver = looking()
    assert [publish.retain for publish in every(Publish, driver.seen)] == [False]
    only(Serve, came_back(driver))
    assert driver.core.wake_at() == inf


def test_it_leads_above_the_epoch_of_a_dead_hub_whose_clock_was_years_ahead() -> None:
    driver = looking(rival_wait_s=5)
    kept = codec.encode(head(epoch=EPOCH + 10**9))
    driver.take(driver.core.on_message(topics.head("main"), kept, driver.now, retained=True))
    came_back(driver)
    assert driver.core.waits_for is not None
    effects = driver.later(5)
    assert only(Lead, effects).heard_epoch == EPOCH + 10**9
    assert not every(Serve, effects)
    effects = driver.take(driver.core.on_led(EPOCH + 10**9 + 1, driver.now))
    only(Serve, effects)
    assert not every(Publish, effects)


def test_a_leader_answers_who_asks_and_puts_its_state_right() -> None:
    driver = leading()
    effects = driver.send(topics.hub_state("other"), state("starting"))
    assert [said.boot for said in messages(effects, topics.head("main"))] == ["d" * 32]
    effects = driver.send(topics.hub_state("hub"), state("offline", OTHER_BOOT, "hub"))
    assert [said.state for said in messages(effects, topics.hub_state("hub"))] == ["leading"]


def test_a_stale_leader_hears_our_head_and_a_person_hears_of_it_once() -> None:
    """Guarantee 8."""
    driver = leading()
    for _ in range(3):
        effects = driver.send(topics.head("main"), head("a" * 32, epoch=EPOCH - 1))
        assert [said.epoch for said in messages(effects, topics.head("main"))] == [EPOCH]
    warnings = [effect for effect in driver.seen if "still speaks" in str(effect)]
    assert len(warnings) == 1


def test_a_replaced_leader_says_so_ends_and_does_nothing_any_more() -> None:
    """Guarantee 8."""
    driver = leading()
    effects = driver.send(topics.head("main"), head("a" * 32))
    step = only(StepDown, effects)
    assert step.mark is not None
    assert "--take-over" in step.error.hint
    (said,) = messages(effects, topics.hub_state("hub"))
    assert said.state == "replaced"
    assert "other" in said.problem
    assert driver.up("till", b"{}") == []
    assert not every(Publish, driver.take(driver.core.stop(driver.now)))


def test_a_leader_whose_log_was_acquired_by_another_is_replaced() -> None:
    """Guarantee 8."""
    driver = leading()
    error = StaleLeader(ours=EPOCH, stored=EPOCH + 1)
    effects = driver.take(driver.core.on_append_failed((), error, driver.now, storage=True))
    assert "replaced" in only(StepDown, effects).error.message
    assert driver.core.wake_at() == inf
