"""When the batches of a device must be numbered anew."""

from __future__ import annotations

from typing import Any

import pytest

from tidewire_agent.session.chain import Chain
from tidewire_agent.session.effects import Heal, Renumber
from tidewire_agent.store.taking_apart import TakeApart
from tidewire_schemas.messages import ChainPoint, Welcome
from tidewire_schemas.positions import START

SEALED = 9
BYTES_MAX = 50_000


def digest(batch: int) -> str:
    return f"{batch + 100:032x}"


def welcome(accepted: int = 0, **changes: Any) -> Welcome:
    values: dict[str, Any] = {
        "incarnation": "a" * 32,
        "boot": "b" * 32,
        "log": "c" * 32,
        "epoch": 1,
        "head": START,
        "oldest": 1,
        "checkpoint": "on_log",
        "accepted": point(accepted) if accepted else None,
        "payload_bytes_max": 10_000,
        "batch_bytes_max": BYTES_MAX,
    }
    return Welcome(**(values | changes))


def point(batch: int, of: str | None = None) -> ChainPoint:
    return ChainPoint(batch=batch if batch > 0 else 7, digest=of or digest(batch), seq=1)


def judge(told: Welcome, ours: dict[int, str] | None = None, *, too_large: bool = False) -> Renumber | Heal | None:
    return Chain().judge(told, ours or {}, SEALED, too_large=too_large)


def test_chains_that_agree_are_left_alone() -> None:
    assert judge(welcome()) is None
    assert judge(welcome(accepted=7), {7: digest(7)}) is None
    assert judge(welcome(accepted=7)) is None


def test_where_the_log_lacks_what_the_incarnation_follows_an_earlier_batch_is_followed() -> None:
    told = welcome(parent="unknown", recent=(point(-2), point(-3)))
    assert judge(told, {-2: digest(-2), -3: digest(-3)}) == Renumber(-2, digest(-2))
    assert judge(told) == Renumber(None, None)


def test_two_copies_of_one_incarnation_have_its_beginning_in_common() -> None:
    assert judge(welcome(accepted=3), {3: "f" * 32}) == Renumber(0, None)


def test_a_batch_above_what_the_hub_takes_is_taken_apart_before_anything_is_sent() -> None:
    expected = Renumber(7, digest(7), TakeApart(BYTES_MAX, None))
    assert judge(welcome(accepted=7), {7: digest(7)}, too_large=True) == expected
    assert judge(welcome(), too_large=True) == Renumber(0, None, TakeApart(BYTES_MAX, None))


@pytest.mark.parametrize(("accepted", "halved"), [(7, True), (8, False)])
def test_a_batch_that_the_hub_cannot_take_is_halved_unless_it_is_in_the_log_after_all(
    accepted: int, halved: bool
) -> None:
    chain = Chain()
    chain.cannot_take(8)
    told, ours = welcome(accepted=accepted), {accepted: digest(accepted)}
    expected = Renumber(accepted, digest(accepted), TakeApart(BYTES_MAX, 8)) if halved else None
    assert chain.judge(told, ours, SEALED, too_large=False) == expected
    assert chain.judge(told, ours, SEALED, too_large=False) is None
