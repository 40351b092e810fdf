"""The core has the state looked at, and made anew where the disk has changed it."""

from __future__ import annotations

import pytest

from support.hub_core import Driver, every, only
from tidewire_hub.actions import CheckState, MakeSnapshot, RemakeState, Report
from tidewire_hub.state.check import StateDamaged
from tidewire_hub.state.opening import StateLost
from tidewire_schemas.errors import DatabaseError
from tidewire_schemas.positions import Position

DAY_S = 86_400
DAMAGED = StateDamaged("rows differ")


@pytest.fixture
def driver() -> Driver:
    """A hub that serves, and has not looked at anything yet."""
    driver = Driver.make(head=Position(1000, 900), oldest=500)
    driver.core.on_watching(driver.now)
    driver.later(60)  # nobody else leads
    driver.core.on_connected(100_000, driver.now)
    return driver


def test_the_state_is_looked_at_when_the_hub_begins_to_serve_and_every_day(driver: Driver) -> None:
    only(CheckState, driver.later(0.01))
    assert not every(CheckState, driver.later(2 * DAY_S)), "one look at a time"
    driver.core.upkeep.on_checked(0, driver.now)
    assert not every(CheckState, driver.later(DAY_S - 10))
    only(CheckState, driver.later(20))
    driver.core.upkeep.on_check_failed(DatabaseError("busy"), driver.now)
    only(CheckState, driver.later(DAY_S + 1))


def test_a_new_connection_is_no_reason_to_look_again(driver: Driver) -> None:
    driver.later(0.01)
    driver.core.upkeep.on_checked(0, driver.now)
    driver.core.on_disconnected(driver.now)
    driver.core.on_connected(100_000, driver.now)
    assert not every(CheckState, driver.later(1))


def test_a_changed_state_is_made_anew_once_whoever_finds_it(driver: Driver) -> None:
    upkeep = driver.core.upkeep
    effects = upkeep.on_damaged(DAMAGED)
    only(RemakeState, effects)
    assert only(Report, effects).level == "error"
    assert upkeep.on_damaged(DAMAGED) == []
    upkeep.on_remade(None, driver.now)
    only(RemakeState, upkeep.on_damaged(DAMAGED))


def test_a_state_that_cannot_be_made_anew_is_said_and_tried_again_after_a_look_that_finds_it_whole(
    driver: Driver,
) -> None:
    upkeep = driver.core.upkeep
    upkeep.on_damaged(DAMAGED)
    assert only(Report, upkeep.on_remake_failed(StateLost("trimmed"), driver.now)).level == "error"
    assert upkeep.on_damaged(DAMAGED) == []
    upkeep.on_checked(0, driver.now)
    only(RemakeState, upkeep.on_damaged(DAMAGED))


def test_a_changed_copy_of_the_state_is_replaced_where_the_log_was_trimmed(driver: Driver) -> None:
    effects = driver.core.upkeep.on_checked(1, driver.now)
    assert only(Report, effects).level == "error"
    only(MakeSnapshot, driver.later(0.01))
