"""Hub, agents and broker are killed at random moments while three devices write.

The short form runs with all other tests. The long one:

    python -m pytest tests/acceptance/test_chaos.py -s --chaos-kills 20 [--chaos-seed N]
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.processes import Device, Site
from support.waiting import wait_for
from support.work import Work
from support.writer import SCHEMA

DEVICES = ("a", "b", "c")
BROKER_OPTIONS = ("--keepalive-s", "3", "--connect-timeout-s", "3", "--puback-timeout-s", "3")
AGENT_OPTIONS = (
    *BROKER_OPTIONS,
    *("--welcome-timeout-s", "1", "--hello-backoff-max-s", "1", "--hello-spread-s", "0.2"),
    *("--ack-timeout-s", "2", "--stall-timeout-s", "1"),
)
"""So that what was lost is noticed in seconds."""


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--chaos-kills"))


@pytest.fixture
def site(tmp_path: Path, chance: random.Random) -> Iterator[Site]:
    """Three devices that are live. Some speak MQTT 5, some 3.1.1."""
    site = Site(tmp_path, *BROKER_OPTIONS, "--protocol", chance.choice(["5", "3.1.1"]))
    site.broker.persistence = True
    site.broker.config = ["autosave_on_changes true", "autosave_interval 50"]
    with site:
        for name in DEVICES:
            site.device(name, SCHEMA, *AGENT_OPTIONS, "--protocol", chance.choice(["5", "3.1.1"])).start()
        yield site


class Dangers:
    """What may happen to an installation. Each ends with all parts running again, but not yet well."""

    def __init__(self, site: Site, chance: random.Random) -> None:
        self._site = site
        self._chance = chance
        self.kills = 0

    def all(self) -> list[Callable[[], None]]:
        return [
            self.hub_killed,
            self.agent_killed,
            self.broker_killed_and_its_store_deleted,
            self.hub_killed_while_it_starts,
            self.agent_killed_while_it_starts,
            self.broker_killed_with_an_old_store,
            self.hub_and_broker_killed,
            self.all_agents_killed,
        ]

    def hub_killed(self) -> None:
        self._kill_hub()
        self._pause(1)
        self._site.hub.launch()

    def hub_killed_while_it_starts(self) -> None:
        self._kill_hub()
        self._site.hub.launch()
        self._pause(0.8)
        self._kill_hub()
        self._site.hub.launch()

    def agent_killed(self) -> None:
        device = self._one()
        self._kill_agent(device)
        self._pause(1)
        device.start(until=None)

    def agent_killed_while_it_starts(self) -> None:
        device = self._one()
        self._kill_agent(device)
        device.start(until=None)
        self._pause(0.8)
        self._kill_agent(device)
        device.start(until=None)

    def all_agents_killed(self) -> None:
        for device in self._site.devices:
            self._kill_agent(device)
        self._pause(1)
        for device in self._site.devices:
            device.start(until=None)

    def broker_killed_and_its_store_deleted(self) -> None:
        self._kill_broker()
        self._site.broker.wipe()
        self._pause(1)
        self._site.broker.start()

    def broker_killed_with_an_old_store(self) -> None:
        """It comes back with a retained head of some time ago."""
        self._kill_broker()
        self._pause(1)
        self._site.broker.start()

    def hub_and_broker_killed(self) -> None:
        self._kill_broker()
        self._kill_hub()
        self._site.broker.wipe()
        self._site.hub.launch()
        self._pause(1)
        self._site.broker.start()

    def broker_frozen(self) -> None:
        """Connections stay open and nothing answers, for shorter or longer than a keepalive."""
        self._site.broker.freeze()
        self._pause(6)
        self._site.broker.thaw()

    def _one(self) -> Device:
        return self._chance.choice(self._site.devices)

    def _kill_agent(self, device: Device) -> None:
        assert device.running, device.log[-3000:]
        device.kill()
        self.kills += 1

    def _kill_hub(self) -> None:
        assert self._site.hub.process.poll() is None, self._site.hub.log[-3000:]
        self._site.hub.kill()
        self.kills += 1

    def _kill_broker(self) -> None:
        self._site.broker.kill()
        self.kills += 1

    def _pause(self, longest_s: float) -> None:
        time.sleep(self._chance.random() * longest_s)


@pytest.mark.timeout(1200)
@pytest.mark.fault("agents, hub and broker killed at random moments, the broker's store deleted")
def test_nothing_is_lost_and_nothing_comes_twice_whatever_is_killed(
    site: Site, chance: random.Random, seed: int, kills: int
) -> None:
    """Guarantee 2. Guarantee 3. Guarantee 4. Guarantee 5. Guarantee 7."""
    print(f"chaos: --chaos-seed {seed} --chaos-kills {kills}")  # noqa: T201 - to do it again
    dangers = Dangers(site, chance)
    with Work(site, seed) as work:
        endanger(dangers, chance, kills)
        wait_for(site.hub.ready, 120, what="the hub is ready")
        for device in site.devices:
            device.wait_state("live", deadline_s=120)
        log = work.check()
    assert dangers.kills >= kills
    written = sum(writer.committed for writer in work.writers)
    print(f"chaos: {dangers.kills} kills, {written} transactions, {len(log)} entries")  # noqa: T201


def endanger(dangers: Dangers, chance: random.Random, kills: int) -> None:
    """Every danger in turn, in random order, with random time between; now and then the broker falls silent."""
    deck: list[Callable[[], None]] = []
    since_frozen = 0
    while dangers.kills < kills:
        if not deck:
            deck = dangers.all()
            chance.shuffle(deck)
        time.sleep(chance.random() * 3)
        deck.pop()()
        since_frozen += 1
        if since_frozen == 4:
            since_frozen = 0
            time.sleep(chance.random() * 3)
            dangers.broker_frozen()
    time.sleep(chance.random() * 3)
