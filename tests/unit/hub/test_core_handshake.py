"""The core answers Hello, freshness and states, and sets aside what it cannot use."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.hub_core import BOOT, EPOCH, INCARNATION, LOG, Driver, batch, every, hello, messages, only, sealed, told
from tidewire_hub.actions import Append, Greet, Lead, Publish, SaveDevices, Standing
from tidewire_hub.device_watch import NEWS_DEVICES, NEWS_S
from tidewire_hub.devices import read_document
from tidewire_schemas import topics
from tidewire_schemas.codec import encode
from tidewire_schemas.errors import DatabaseError
from tidewire_schemas.messages import (
    ChainPoint,
    ColumnsElsewhere,
    DeviceState,
    FreshRequest,
    HubState,
    Part,
    TableProblem,
)
from tidewire_schemas.parts import split
from tidewire_schemas.positions import START, Position
from tidewire_schemas.shapes import ColumnShape, TableShape

STANDING = Standing(table_problems=(), on_log=True, accepted=None, recent=())


def welcomed(driver: Driver, standing: Standing = STANDING, **changes: object) -> list[Any]:
    said = hello(**changes)
    only(Greet, driver.ask("till", said))
    return told(driver.take(driver.core.greetings.on_greeted("till", said, standing, driver.now)), "till")


def test_a_hello_is_answered_with_where_the_device_stands() -> None:
    driver = Driver.make(head=Position(EPOCH, 7))
    problems = (TableProblem(table="t", code="unique_broken", message="no"),)
    accepted = ChainPoint(batch=3, digest="e" * 32, seq=6)
    (welcome,) = welcomed(
        driver, Standing(problems, True, accepted, (accepted,)), log=LOG, last_sealed=sealed(3, "e" * 32)
    )
    assert (welcome.log, welcome.epoch, welcome.head, welcome.oldest) == (LOG, EPOCH, Position(EPOCH, 7), 1)
    assert (welcome.incarnation, welcome.boot) == (INCARNATION, BOOT)
    assert (welcome.checkpoint, welcome.accepted, welcome.recent) == ("on_log", accepted, ())
    assert welcome.table_problems == problems
    assert (welcome.payload_bytes_max, welcome.batch_bytes_max) == (100_000, 16 * 1024 * 1024)


def test_the_answer_names_the_hello_that_it_answers() -> None:
    """Of two that a device said, with tables that have changed in between, it takes only the second answer."""
    driver = Driver.make(head=Position(EPOCH, 7))
    assert [welcomed(driver, handshake=number)[0].handshake for number in (1, 2)] == [1, 2]
    assert welcomed(driver)[0].handshake == 0  # who does not count them is answered, too


def test_replay_does_not_begin_before_a_column_that_came_back() -> None:
    """Guarantee 6."""
    elsewhere = (ColumnsElsewhere(table="t", columns=("z",)),)
    standing = STANDING._replace(whole_since=5, columns_elsewhere=elsewhere)
    (welcome,) = welcomed(Driver.make(head=Position(EPOCH, 7)), standing)
    assert (welcome.oldest, welcome.columns_elsewhere) == (6, elsewhere)


def test_a_checkpoint_that_is_not_on_the_log_is_said_so() -> None:
    (welcome,) = welcomed(Driver.make(), STANDING._replace(on_log=False))
    assert welcome.checkpoint == "off_log"


def chain(first: int, last: int) -> tuple[ChainPoint, ...]:
    return tuple(ChainPoint(batch=n, digest=f"{n:032x}", seq=n) for n in range(last, first - 1, -1))


def test_a_restored_copy_gets_the_one_point_where_its_chain_ends() -> None:
    points = chain(1, 900)
    (welcome,) = welcomed(Driver.make(), Standing((), True, points[0], points), last_sealed=sealed(5, f"{5:032x}"))
    assert [point.batch for point in welcome.recent] == [5]


def test_a_copy_that_went_its_own_way_gets_all_points_it_may_share() -> None:
    points = chain(1, 900)
    (welcome,) = welcomed(Driver.make(), Standing((), True, points[0], points), last_sealed=sealed(300, "f" * 32))
    assert [point.batch for point in welcome.recent] == list(range(300, 0, -1))


def test_a_device_with_batches_of_its_own_beyond_ours_gets_a_few_points() -> None:
    points = chain(1, 900)
    (welcome,) = welcomed(Driver.make(), Standing((), True, points[0], points), last_sealed=sealed(905))
    assert welcome.recent == points[:256]


def test_a_higher_epoch_heard_elsewhere_is_overtaken_before_the_answer() -> None:
    """Guarantee 8."""
    driver = Driver.make()
    effects = driver.ask("till", hello(epoch=EPOCH + 50))
    assert [type(effect) for effect in effects] == [Lead, Greet]
    assert only(Lead, effects).heard_epoch == EPOCH + 50
    driver.take(driver.core.on_led(EPOCH + 51, driver.now))
    (welcome,) = told(driver.take(driver.core.greetings.on_greeted("till", hello(), STANDING, driver.now)), "till")
    assert welcome.epoch == EPOCH + 51


def test_an_epoch_that_no_hub_can_have_made_is_refused() -> None:
    driver = Driver.make()
    effects = driver.ask("till", hello(epoch=2**53 - 2))
    assert [answer.code for answer in told(effects, "till")] == ["epoch_impossible"]
    assert not every(Lead, effects)


def test_a_device_of_another_log_is_told_so_and_nothing_of_it_is_taken() -> None:
    driver = Driver.make()
    effects = driver.ask("till", hello(log="9" * 32))
    (answer,) = told(effects, "till")
    assert (answer.code, answer.incarnation, answer.boot) == ("log_unknown", INCARNATION, BOOT)
    assert "adopt" in answer.hint
    assert not every(Greet, effects)


def test_of_many_hellos_at_once_the_first_and_the_last_are_answered() -> None:
    driver = Driver.make()
    greets = [only(Greet, driver.ask("till", hello(boot="1" * 32)))]
    for number in "234":
        assert not every(Greet, driver.ask("till", hello(boot=number * 32)))
    effects = driver.core.greetings.on_greeted("till", greets[0].hello, STANDING, driver.now)
    assert only(Greet, effects).hello.boot == "4" * 32
    assert not every(Greet, driver.core.greetings.on_greeted("till", hello(boot="4" * 32), STANDING, driver.now))


def test_a_hello_that_cannot_be_answered_is_a_problem_that_says_try_again() -> None:
    driver = Driver.make()
    driver.ask("till", hello())
    effects = driver.core.greetings.on_greet_failed("till", hello(), DatabaseError("disk full"), driver.now)
    (answer,) = told(effects, "till")
    assert (answer.code, answer.retry, answer.boot) == ("database", True, BOOT)
    assert every(Greet, driver.ask("till", hello()))


def test_a_hello_with_many_tables_comes_in_parts() -> None:
    driver = Driver.make()
    columns = tuple(ColumnShape(name=f"column_{n}", affinity="TEXT") for n in range(2000))
    tables = tuple(TableShape(name=f"t{n}", columns=columns, key=("column_0",)) for n in range(3))
    said = hello(tables=tables)
    effects = [driver.ask("till", part) for part in split(encode(said), 100_000)]
    assert len(effects) > 1
    assert only(Greet, effects[-1]).hello == said


def test_freshness_is_answered_with_the_head() -> None:
    driver = Driver.make(head=Position(EPOCH, 7))
    question = FreshRequest(v=1, type="fresh_request", incarnation=INCARNATION, boot=BOOT, nonce="0" * 32)
    (answer,) = told(driver.ask("till", question), "till")
    assert (answer.head, answer.nonce) == (Position(EPOCH, 7), "0" * 32)


def test_on_connect_the_hub_says_how_it_is_and_how_far_the_log_goes_retained() -> None:
    driver = Driver.make(head=Position(EPOCH, 7))
    effects = driver.core.on_connected(100_000, driver.now)
    state, head = every(Publish, effects)
    assert (state.topic, state.retain) == ("tidewire/v1/hub/hub/state", True)
    (said,) = messages(effects, head.topic)
    assert (said.head, said.log, said.epoch, said.leader) == (Position(EPOCH, 7), LOG, EPOCH, "hub")
    assert json.loads(driver.core.last_will())["state"] == "offline"


def test_heads_go_on_while_nothing_happens() -> None:
    driver = Driver.make(head_period_s=10)
    driver.core.on_connected(100_000, driver.now)
    assert not every(Publish, driver.later(9.9))
    assert driver.core.wake_at() == pytest.approx(110)
    assert messages(driver.later(0.2), topics.head("main"))


def test_when_stopping_the_last_word_is_the_state() -> None:
    driver = Driver.make()
    (said,) = messages(driver.core.stop(driver.now), topics.hub_state("hub"))
    assert isinstance(said, HubState)
    assert said.state == "stopped"


GARBAGE = {
    "nothing": b"",
    "garbage": b"\xff\xfe\x00garbage",
    "truncated": batch()[:-20],
    "no object": b"[]",
    "too deep": b'{"v":1,"type":"hello","tables":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "endless number": b'{"v":1,"type":"batch","batch":' + b"9" * 5000 + b"}",
    "wrong version": b'{"v":2,"type":"batch"}',
    "unknown type": b'{"v":1,"type":"greeting"}',
    "unknown field": b'{"v":1,"type":"fresh_request","incarnation":"%s","boot":"%s","nonce":"%s","more":1}'
    % (b"c" * 32, b"c" * 32, b"c" * 32),
    "too large": b'{"v":1,"type":"part","text":"' + b"x" * 100_000 + b'"}',
}


@pytest.mark.parametrize("payload", GARBAGE.values(), ids=GARBAGE.keys())
def test_an_unusable_question_is_told_kept_and_holds_nothing_up(payload: bytes) -> None:
    """Guarantee 10."""
    driver = Driver.make()
    (answer,) = told(driver.ask("till", payload), "till")
    assert answer.code in ("message_malformed", "message_version", "message_too_large")
    document = read_document(only(SaveDevices, driver.later(10)).document)
    assert document is not None
    (kept,) = document.rejected
    assert (kept.device, kept.topic, kept.size) == ("till", "tidewire/v1/stream/main/ask/till", len(payload))
    assert only(Greet, driver.ask("till", hello()))


@pytest.mark.parametrize("payload", [*GARBAGE.values()][1:], ids=[*GARBAGE][1:])
def test_an_unusable_state_is_told_and_changes_nothing(payload: bytes) -> None:
    """Guarantee 10."""
    driver = Driver.make()
    (answer,) = told(driver.send(topics.device_state("till"), payload), "till")
    assert answer.code.startswith("message_")
    assert len(driver.core.devices) == 0


def test_a_device_that_sends_only_garbage_is_not_answered_each_time() -> None:
    driver = Driver.make(problem_burst=3, problem_interval_s=1, rejected_max=5)
    answers = [told(driver.ask("till", b"?"), "till") for _ in range(100)]
    assert sum(map(len, answers)) == 3
    driver.s += 1.1
    assert len(told(driver.ask("till", b"?"), "till")) == 1
    assert len(told(driver.ask("other", b"?"), "other")) == 1
    document = read_document(only(SaveDevices, driver.later(10)).document)
    assert document is not None
    assert (len(document.rejected), document.rejected_total) == (5, 102)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "$SYS/broker/uptime",
        "tidewire/v1/stream/other/up/till",
        "tidewire/v1/stream/main/up/TILL",
        "tidewire/v1/stream/main/up/till/more",
        "tidewire/v1/stream/main/log",
        "tidewire/v1/device/till/in/main",
        "tidewire/v2/stream/main/up/till",
    ],
)
def test_what_nobody_asked_for_is_ignored(topic: str) -> None:
    driver = Driver.make()
    assert driver.send(topic, batch()) == []
    assert driver.send(topic, b"\xff") == []


def test_what_devices_say_of_themselves_is_kept_and_saved_now_and_then() -> None:
    driver = Driver.make(devices_save_interval_s=5)
    state = DeviceState(
        v=1,
        type="device_state",
        state="live",
        incarnation=INCARNATION,
        boot=BOOT,
        position=Position(EPOCH, 4),
        pending=2,
        problem="slow",
    )
    driver.send(topics.device_state("till"), state)
    offline = DeviceState(v=1, type="device_state", state="offline", incarnation=INCARNATION, boot=BOOT)
    driver.send(topics.device_state("till"), offline)
    document = read_document(only(SaveDevices, driver.later(5)).document)
    assert document is not None
    (record,) = document.devices
    assert (record.state, record.position, record.pending, record.problem) == ("offline", Position(EPOCH, 4), 2, None)
    assert record.last_seen == 100_000
    assert not every(SaveDevices, driver.later(100))
    driver.send(topics.device_state("till"), b"")  # the retained message was removed
    assert len(driver.core.devices) == 0


def test_a_device_that_was_never_seen_is_saved_at_once_and_what_it_says_later_now_and_then() -> None:
    driver = Driver.make(devices_save_interval_s=5)
    driver.ask("till", hello())
    assert only(SaveDevices, driver.later(NEWS_S))
    driver.ask("till", hello())
    assert not every(SaveDevices, driver.later(NEWS_S))
    assert only(SaveDevices, driver.later(5))


def test_a_state_a_problem_or_dead_letters_that_have_changed_are_saved_at_once_and_how_far_it_is_now_and_then() -> None:
    driver = Driver.make(devices_save_interval_s=5)
    said = DeviceState(state="live", incarnation=INCARNATION, boot=BOOT, dead_letters=1)
    news: list[dict[str, Any]] = [
        {},
        {"state": "catching_up"},
        {"problem": "slow"},
        {"dead_letters": 0},
        {"dead_letters_dropped": 1},
    ]
    for changes in news:
        driver.later(10)
        said = said.model_copy(update=changes)
        driver.send(topics.device_state("till"), said)
        assert only(SaveDevices, driver.later(NEWS_S)), changes
    driver.send(topics.device_state("till"), said.model_copy(update={"pending": 7, "position": Position(EPOCH, 4)}))
    assert not every(SaveDevices, driver.later(NEWS_S))
    assert only(SaveDevices, driver.later(5))


def test_many_devices_with_news_are_saved_less_often() -> None:
    """Guarantee 12."""
    driver = Driver.make(devices_save_interval_s=5)
    said = DeviceState(state="live", incarnation=INCARNATION, boot=BOOT)
    for number in range(2 * NEWS_DEVICES):
        driver.send(topics.device_state(f"till-{number}"), said)
    driver.later(10)
    driver.send(topics.device_state("till-1"), said.model_copy(update={"problem": "slow"}))
    assert not every(SaveDevices, driver.later(2.9 * NEWS_S))
    assert only(SaveDevices, driver.later(0.2 * NEWS_S))


def test_a_state_that_the_broker_kept_says_nothing_of_when_a_device_was_heard() -> None:
    driver = Driver.make()
    state = DeviceState(v=1, type="device_state", state="live", incarnation=INCARNATION, boot=BOOT)
    driver.core.on_message(topics.device_state("till"), encode(state), driver.now, retained=True)
    (record,) = driver.core.devices.records()
    assert (record.state, record.last_seen) == ("live", 0)


def test_a_new_hub_process_knows_what_the_one_before_saved() -> None:
    driver = Driver.make(rejected_max=2)
    driver.ask("till", hello())
    for garbage in (b"1", b"2", b"3"):
        driver.ask("till", garbage)
    document = read_document(only(SaveDevices, driver.core.stop(driver.now)).document)
    assert document is not None
    successor = Driver.make(rejected_max=2)
    successor.core.restore(document)
    again = read_document(only(SaveDevices, successor.core.stop(driver.now)).document)
    assert again is not None
    assert again == document
    assert ([kept.sample for kept in again.rejected], again.rejected_total) == (["3", "2"], 3)


def test_the_registry_forgets_whom_it_heard_longest_ago() -> None:
    """Guarantee 12."""
    driver = Driver.make(devices_max=2)
    for name in ("a", "b", "c"):
        driver.ask(name, hello())
    assert [record.device for record in driver.core.devices.records()] == ["b", "c"]


def test_a_part_of_a_question_that_never_ends_is_dropped_in_time() -> None:
    """Guarantee 12."""
    driver = Driver.make(parts_timeout_s=60, parts_bytes_max=64 * 1024 * 1024)
    part = Part(v=1, type="part", digest="0" * 32, part=0, parts=2, size=1_900_000, text="x")
    driver.ask("till", part)
    assert driver.core.wake_at() <= 160
    driver.later(61)
    assert driver.core.wake_at() == float("inf")
    assert driver.core.head == START


def test_a_batch_sent_as_a_question_is_not_taken() -> None:
    driver = Driver.make()
    effects = driver.ask("till", batch())
    assert [answer.code for answer in told(effects, "till")] == ["message_malformed"]
    assert not every(Append, effects)
