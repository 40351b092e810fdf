from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidewire_link.backoff import Backoff

CHANCES = st.floats(min_value=0, max_value=1, exclude_max=True)


def backoff() -> Backoff:
    return Backoff(delay_min_s=0.5, delay_max_s=60, stable_after_s=30)


def test_the_cap_doubles_with_each_failure_up_to_the_longest_delay() -> None:
    delays = backoff()
    assert [delays.failed(0, 1.0) for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]


@given(st.lists(CHANCES, min_size=1, max_size=200))
def test_every_delay_lies_between_nothing_and_the_cap(chances: list[float]) -> None:
    delays = backoff()
    for failures, chance in enumerate(chances):
        assert 0 <= delays.failed(0, chance) <= min(60, 0.5 * 2**failures)


def test_a_connection_that_held_begins_small_again() -> None:
    delays = backoff()
    for _ in range(5):
        delays.failed(0, 1.0)
    delays.connected(100)
    assert delays.failed(130, 1.0) == 0.5


def test_a_connection_that_did_not_hold_does_not() -> None:
    delays = backoff()
    for _ in range(5):
        delays.failed(0, 1.0)
    delays.connected(100)
    assert delays.failed(129.9, 1.0) == 16


@given(CHANCES, st.integers(min_value=0, max_value=5000))
def test_where_trying_soon_does_harm_the_delay_is_long(chance: float, failures: int) -> None:
    delays = backoff()
    for _ in range(failures % 50):
        delays.failed(0, chance)
    assert 30 <= delays.failed(0, chance, slow=True) <= 60


def test_thousands_of_failures_overflow_nothing() -> None:
    delays = backoff()
    assert {delays.failed(0, 1.0) for _ in range(5000)} >= {60}
