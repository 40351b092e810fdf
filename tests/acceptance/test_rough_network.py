"""Between each program and the broker sits a proxy that does whatever MQTT allows a network and a broker to do."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.mqtt_proxy import Mischief, MqttProxy
from support.processes import Site
from support.work import Work
from support.writer import SCHEMA

DEVICES = ("a", "b", "c")
BROKER_OPTIONS = ("--puback-timeout-s", "5", "--connect-timeout-s", "5")
AGENT_OPTIONS = (
    *BROKER_OPTIONS,
    *("--welcome-timeout-s", "1", "--hello-backoff-max-s", "1", "--hello-spread-s", "0.2"),
    *("--ack-timeout-s", "2", "--stall-timeout-s", "1"),
)
TRANSACTIONS_PER_ROUND = 30
MISCHIEF = {
    *("delayed", "overtaken", "repeated with DUP", "repeated without DUP", "confirmation repeated"),
    "cut inside a packet",
}
"""A run goes on until each of these has happened."""


class Proxies:
    """One for each program."""

    def __init__(self, site: Site, seed: int, stack: ExitStack) -> None:
        self._made = [
            stack.enter_context(MqttProxy(site.broker.port, f"{seed} {number}"))
            for number in range(1 + len(site.devices))
        ]
        site.hub.broker, *urls = [made.url for made in self._made]
        for device, url in zip(site.devices, urls, strict=True):
            device.broker = url

    def did(self) -> Counter[str]:
        """What they did together."""
        return sum((made.did for made in self._made), Counter[str]())

    def spare_connections(self) -> None:
        """All goes on but the cuts."""
        for made in self._made:
            made.mischief = Mischief(cut=0.0)

    def failures(self) -> list[BaseException | None]:
        """Their own mistakes."""
        return [failure for made in self._made for failure in made.failures]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path, *BROKER_OPTIONS) as site:
        for name in DEVICES:
            site.device(name, SCHEMA, *AGENT_OPTIONS)
        yield site


@pytest.mark.timeout(1200)
@pytest.mark.fault("packets repeated, delayed, overtaken, and connections cut inside them")
def test_whatever_mqtt_allows_each_change_comes_once_and_all_end_equal(
    site: Site, chance: random.Random, seed: int, rounds: int
) -> None:
    """Guarantees 2, 3, 4, 5 and 7."""
    print(f"rough network: --chaos-seed {seed} --fault-rounds {rounds}")  # noqa: T201 - to do it again
    with ExitStack() as stack:
        proxies = Proxies(site, seed, stack)
        assert site.hub.terminate() == 0
        site.hub.start()
        for device in site.devices:
            device.start()
        work = stack.enter_context(Work(site, seed))
        for _ in range(rounds):
            work.go_on(TRANSACTIONS_PER_ROUND)
        while not set(proxies.did()) >= MISCHIEF:
            work.go_on(1)
        proxies.spare_connections()
        log = work.check()
        assert not proxies.failures()
    print(f"rough network: {len(log)} entries, {dict(proxies.did())}")  # noqa: T201
