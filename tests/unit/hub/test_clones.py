"""Two agents under one name are found out, and a restart is not taken for that."""

from __future__ import annotations

from typing import Any

from support.hub_core import Driver, batch, group_of, hello, told
from tidewire_hub.actions import Standing
from tidewire_hub.clones import BOOTS_MAX, CloneWatch
from tidewire_hub.sessions import Session
from tidewire_schemas import codec, topics
from tidewire_schemas.messages import DeviceState, Problem, Welcome

FIRST, SECOND = "1" * 32, "2" * 32


def watch(*boots: str, memory_s: float = 100) -> CloneWatch:
    made = CloneWatch()
    for boot in boots:
        made.heard(boot, boot[::-1], 0, memory_s=memory_s)
    return made


def test_boots_that_speak_in_turn_are_two_agents() -> None:
    text = watch(FIRST, SECOND, FIRST, SECOND, FIRST).clones("till")
    assert text is not None
    assert "device till is run twice: boots 11111111 and 22222222" in text


def test_restarts_are_no_clones() -> None:
    assert watch(*(f"{number:032}" for number in range(50))).clones("till") is None


def test_a_last_message_that_was_overtaken_by_the_next_start_is_no_clone() -> None:
    assert watch(FIRST, FIRST, SECOND, FIRST, SECOND, SECOND).clones("till") is None


def test_one_of_two_that_says_goodbye_or_falls_silent_ends_it() -> None:
    seen = watch(*[FIRST, SECOND] * 3)
    assert seen.clones("till")
    seen.ended(SECOND)
    assert seen.clones("till") is None
    seen = watch(*[FIRST, SECOND] * 3)
    seen.heard(FIRST, FIRST, 101, memory_s=100)
    assert seen.clones("till") is None


def test_of_many_copies_some_are_named() -> None:
    text = watch(*[f"{number:032}"[::-1] for number in range(BOOTS_MAX)] * 3).clones("till")
    assert text is not None
    assert f"is run {BOOTS_MAX} times" in text


def said_hello(driver: Driver, boot: str) -> Welcome:
    said = hello(incarnation=boot, boot=boot)
    driver.ask("till", said)
    standing = Standing(table_problems=(), on_log=True, accepted=None, recent=())
    (answer,) = told(driver.take(driver.core.greetings.on_greeted("till", said, standing, driver.now)), "till")
    assert isinstance(answer, Welcome)
    return answer


def say(driver: Driver, state: Any, boot: str, *, retained: bool = False) -> list[Any]:
    message = DeviceState(state=state, incarnation=boot, boot=boot)
    effects = driver.core.on_message(topics.device_state("till"), codec.encode(message), driver.now, retained=retained)
    return told(driver.take(effects), "till")


def test_the_hub_names_both_to_a_person_and_tells_them() -> None:
    driver = Driver.make()
    answers = [answer for boot in [FIRST, SECOND] * 4 for answer in say(driver, "live", boot)]
    asked, problem = answers
    assert isinstance(asked, Problem)
    assert isinstance(problem, Problem)
    assert asked.code == "hello_needed"  # each says which tables it has
    assert (problem.code, problem.incarnation, problem.boot) == ("cloned", None, None)
    record = driver.core.devices.get("till")
    assert record is not None
    assert record.clone == problem.message
    assert [effect for effect in driver.seen if "run twice" in str(effect) and "Report" in str(effect)]
    (over,) = say(driver, "offline", FIRST)
    assert isinstance(over, Problem)
    assert over.code == "hello_needed"  # the Welcome says that it is over
    record = driver.core.devices.get("till")
    assert record is not None
    assert (record.clone, record.state, record.boot) == (None, "live", SECOND)
    say(driver, "stopped", SECOND)
    record = driver.core.devices.get("till")
    assert record is not None
    assert record.state == "stopped"


def test_a_batch_that_becomes_an_entry_after_its_agent_has_gone_does_not_bring_that_back() -> None:
    driver = Driver.make()
    said_hello(driver, FIRST)
    group = group_of(driver.up("till", batch(incarnation=FIRST)))
    say(driver, "offline", FIRST)
    driver.appended(group)
    for boot in [SECOND, "3" * 32] * 4:
        say(driver, "live", boot)
    record = driver.core.devices.get("till")
    assert record is not None
    assert record.clone is not None
    assert FIRST[:8] not in record.clone


def test_a_welcome_says_so_for_as_long_as_it_is_so() -> None:
    driver = Driver.make()
    assert said_hello(driver, FIRST).cloned is None
    for boot in [FIRST, SECOND] * 4:
        say(driver, "live", boot)
    told_first = said_hello(driver, FIRST).cloned
    assert told_first is not None
    assert told_first.startswith("device till is run twice")
    say(driver, "stopped", SECOND)
    assert said_hello(driver, FIRST).cloned is None


def test_an_agent_that_goes_on_with_other_numbers_is_no_longer_who_has_the_old_ones() -> None:
    session = Session("till")
    session.met("old", FIRST)
    session.met("old", SECOND)  # a copy, at its start
    session.met("new", SECOND)
    assert session.boots == {"new": SECOND}  # an ack for the old ones names no boot: whoever has them takes it
    session.met("old", FIRST)
    assert session.boots == {"old": FIRST, "new": SECOND}


def test_last_wills_and_what_the_broker_kept_do_not_speak_for_an_agent() -> None:
    driver = Driver.make()
    for _ in range(5):
        assert not say(driver, "offline", FIRST)
        assert not say(driver, "live", FIRST, retained=True)
        assert not say(driver, "live", SECOND)
