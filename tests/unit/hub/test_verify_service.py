"""Devices that compare their rows are answered one at a time, within a bound."""

from __future__ import annotations

from pathlib import Path

from tidewire_hub.actions import Effect, Now, Publish, Report, Verify
from tidewire_hub.settings import HubSettings
from tidewire_hub.verify_service import VerifyService
from tidewire_hub.voice import Voice
from tidewire_schemas.errors import DatabaseError
from tidewire_schemas.positions import Position
from tidewire_schemas.verification import VerifyAnswer, VerifyRequest

NOW = Now(0.0, 0)


def request(number: int) -> VerifyRequest:
    return VerifyRequest(
        incarnation="a" * 32, boot="b" * 32, nonce=f"{number:032x}", table="t", columns=("id",), key=1, rows=[[1]]
    )


def answer(number: int) -> VerifyAnswer:
    return VerifyAnswer(incarnation="a" * 32, boot="b" * 32, nonce=f"{number:032x}", position=Position(1, 1))


class Bench:
    def __init__(self, waiting_max: int = 2) -> None:
        self.voice = Voice(HubSettings(data=Path("nowhere")))
        self.service = VerifyService(self.voice, waiting_max)

    def take(self, device: str, number: int) -> list[Effect]:
        self.service.take(device, request(number))
        return self.voice.take()


def begun(effects: list[Effect]) -> list[str]:
    return [effect.device for effect in effects if isinstance(effect, Verify)]


def test_one_answer_is_made_at_a_time_in_the_order_of_the_questions() -> None:
    bench = Bench()
    assert begun(bench.take("a", 1)) == ["a"]
    assert begun(bench.take("b", 2)) == []
    assert begun(bench.take("c", 3)) == []
    after = bench.service.on_verified("a", answer(1), NOW)
    assert [effect.topic for effect in after if isinstance(effect, Publish)] == ["tidewire/v1/device/a/in/main"]
    assert begun(after) == ["b"]


def test_a_device_that_asks_again_has_one_question() -> None:
    bench = Bench()
    bench.take("a", 1)
    bench.take("b", 2)
    bench.take("b", 3)
    (verify,) = [e for e in bench.service.on_verified("a", answer(1), NOW) if isinstance(e, Verify)]
    assert verify == Verify("b", request(3))
    assert begun(bench.service.on_verified("b", answer(3), NOW)) == []


def test_no_more_wait_than_may_and_the_log_says_so() -> None:
    """Guarantee 12."""
    bench = Bench(waiting_max=1)
    bench.take("a", 1)
    bench.take("b", 2)
    assert [effect.level for effect in bench.take("c", 3) if isinstance(effect, Report)] == ["warning"]
    assert begun(bench.service.on_verified("a", answer(1), NOW)) == ["b"]
    assert begun(bench.service.on_verified("b", answer(2), NOW)) == []


def test_an_answer_that_cannot_be_made_holds_up_no_other() -> None:
    """Guarantee 10."""
    bench = Bench()
    bench.take("a", 1)
    bench.take("b", 2)
    after = bench.service.on_verify_failed("a", DatabaseError("the disk is gone"), NOW)
    assert begun(after) == ["b"]
    assert [effect.level for effect in after if isinstance(effect, Report)] == ["error"]


def test_who_waited_on_a_lost_connection_asks_again() -> None:
    bench = Bench()
    bench.take("a", 1)
    bench.take("b", 2)
    bench.service.forget_all()
    assert begun(bench.service.on_verified("a", answer(1), NOW)) == []
