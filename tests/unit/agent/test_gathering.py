"""When changes that cannot be sent are sealed all the same."""

from __future__ import annotations

from math import inf

import pytest

from tidewire_agent.runtime.gathering import Gathering


@pytest.fixture
def gathering() -> Gathering:
    return Gathering(changes_max=100, pause_max_s=60)


def test_what_can_be_sent_is_sealed_at_once(gathering: Gathering) -> None:
    assert gathering.least(0.0, sends=True) == 1
    assert gathering.due_at == inf


def test_what_cannot_be_sent_waits_for_company_up_to_a_time(gathering: Gathering) -> None:
    assert gathering.least(5.0, sends=False) == 100
    gathering.looked(left=3, sealed=False, now=5.0)
    gathering.looked(left=7, sealed=False, now=30.0)
    assert gathering.due_at == 65.0
    assert gathering.least(64.9, sends=False) == 100
    assert gathering.least(65.0, sends=False) == 1


def test_once_sealed_the_time_begins_anew_with_what_is_left(gathering: Gathering) -> None:
    gathering.looked(left=3, sealed=False, now=5.0)
    gathering.looked(left=1, sealed=True, now=65.0)
    assert gathering.due_at == 125.0
    gathering.looked(left=0, sealed=True, now=125.0)
    assert gathering.due_at == inf


def test_where_flash_is_to_be_spared_also_what_can_be_sent_waits_for_company() -> None:
    sparing = Gathering(changes_max=100, pause_max_s=60, sending_pause_s=10)
    assert sparing.least(5.0, sends=True) == 100
    sparing.looked(left=3, sealed=False, now=5.0)
    assert sparing.due_at == 15.0
    assert sparing.least(15.0, sends=True) == 1
    sparing.looked(left=0, sealed=True, now=15.0)
    assert sparing.due_at == inf


def test_what_gathered_for_a_batch_that_can_no_longer_be_sent_gathers_on() -> None:
    sparing = Gathering(changes_max=100, pause_max_s=60, sending_pause_s=10)
    assert sparing.least(5.0, sends=True) == 100
    sparing.looked(left=3, sealed=False, now=5.0)
    assert sparing.least(15.0, sends=False) == 100
    assert sparing.due_at == 65.0
    assert sparing.least(16.0, sends=True) == 1
