"""Two agents under one name are found out, and a restart is not taken for that."""

from __future__ import annotations

from typing import Any

from support.hub_core import Driver, told
from tidewire_hub.clones import BOOTS_MAX, CloneWatch
from tidewire_schemas import codec, topics
from tidewire_schemas.messages import DeviceState, Problem

FIRST, SECOND = "1" * 32, "2" * 32


def watch(*boots: str, memory_s: float = 100) -> CloneWatch:
    made = CloneWatch()
    for boot in boots:
        made.heard(boot, boot[::-1], 0, memory_s=memory_s)
    return made


def test_boots_that_speak_in_turn_are_two_agents() -> None:
    text = watch(FIRST, SECOND, FIRST, SECOND, FIRST).clones()
    assert text is not None
    assert "run twice: boots 11111111 and 22222222" in text


def test_restarts_are_no_clones() -> None:
    assert watch(*(f"{number:032}" for number in range(50))).clones() is None


def test_a_last_message_that_was_overtaken_by_the_next_start_is_no_clone() -> None:
    assert watch(FIRST, FIRST, SECOND, FIRST, SECOND, SECOND).clones() is None


def test_one_of_two_that_says_goodbye_or_falls_silent_ends_it() -> None:
    seen = watch(*[FIRST, SECOND] * 3)
    assert seen.clones()
    seen.ended(SECOND)
    assert seen.clones() is None
    seen = watch(*[FIRST, SECOND] * 3)
    seen.heard(FIRST, FIRST, 101, memory_s=100)
    assert seen.clones() is None


def test_of_many_copies_some_are_named() -> None:
    text = watch(*[f"{number:032}"[::-1] for number in range(BOOTS_MAX)] * 3).clones()
    assert text is not None
    assert f"run {BOOTS_MAX} times" in text


def say(driver: Driver, state: Any, boot: str, *, retained: bool = False) -> list[Any]:
    message = DeviceState(state=state, incarnation=boot, boot=boot)
    effects = driver.core.on_message(topics.device_state("till"), codec.encode(message), driver.now, retained=retained)
    return told(driver.take(effects), "till")


def test_the_hub_names_both_to_a_person_and_tells_them() -> None:
    driver = Driver.make()
    answers = [answer for boot in [FIRST, SECOND] * 4 for answer in say(driver, "live", boot)]
    (problem,) = answers
    assert isinstance(problem, Problem)
    assert (problem.code, problem.incarnation, problem.boot) == ("cloned", None, None)
    record = driver.core.devices.get("till")
    assert record is not None
    assert record.clone == problem.message
    assert [effect for effect in driver.seen if "run twice" in str(effect) and "Report" in str(effect)]
    say(driver, "offline", FIRST)
    record = driver.core.devices.get("till")
    assert record is not None
    assert record.clone is None


def test_last_wills_and_what_the_broker_kept_do_not_speak_for_an_agent() -> None:
    driver = Driver.make()
    for _ in range(5):
        assert not say(driver, "offline", FIRST)
        assert not say(driver, "live", FIRST, retained=True)
        assert not say(driver, "live", SECOND)
