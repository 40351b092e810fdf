"""The network between a device, or the hub, and the broker is cut without a word, in one direction or in both.

A program that is cut off in such a way hears nothing of it: its connection stays open, and what it sends is lost.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.networks import Network
from support.processes import Site
from support.waiting import wait_for
from support.work import Work
from support.writer import SCHEMA

BROKER_OPTIONS = ("--keepalive-s", "2", "--connect-timeout-s", "1", "--puback-timeout-s", "3")
AGENT_OPTIONS = (
    *BROKER_OPTIONS,
    *("--welcome-timeout-s", "1", "--hello-backoff-max-s", "1", "--hello-spread-s", "0.2"),
    *("--ack-timeout-s", "2", "--stall-timeout-s", "1"),
)
NOTICED_S = 30.0
"""Until a cut is noticed at the latest: ten times what the settings say, as the machine may have other work. TCP by
itself takes 15 minutes, or for ever where there is nothing to send."""

CUTS = {
    "what it sends is lost": {"up": True},
    "what is sent to it is lost": {"down": True},
    "both are lost": {"up": True, "down": True},
}


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as network:
        yield network


def chosen_cuts(chance: random.Random, rounds: int) -> list[str]:
    return [cut for _ in range((rounds + 1) // 2) for cut in chance.sample(list(CUTS), len(CUTS))]


@pytest.mark.timeout(1200)
@pytest.mark.needs("networks")
@pytest.mark.fault("a device's connection cut without a word, in one direction and in both")
def test_a_device_whose_network_swallows_packets_notices_and_comes_back_with_all_it_wrote(
    network: Network, tmp_path: Path, chance: random.Random, seed: int, rounds: int
) -> None:
    """Guarantees 2, 3, 5 and 7."""
    print(f"cut links: --chaos-seed {seed} --fault-rounds {rounds}")  # noqa: T201 - to do it again
    link = network.client()
    with Site(tmp_path, *BROKER_OPTIONS, host=network.server) as site:
        near, far = site.device("near", SCHEMA, *AGENT_OPTIONS), site.device("far", SCHEMA, *AGENT_OPTIONS, client=link)
        near.start()
        far.start()
        with Work(site, seed) as work:
            for cut in chosen_cuts(chance, rounds):
                far.wait_state("live")
                work.go_on()
                link.cut(**CUTS[cut])
                far.wait_state("offline", deadline_s=NOTICED_S)
                work.go_on()
                assert far.standing().changes + far.standing().batches, "what an app writes waits on the device"
                link.heal()
            work.check()


@pytest.mark.timeout(1200)
@pytest.mark.needs("networks")
@pytest.mark.fault("a hub's connection cut without a word, in one direction and in both")
def test_a_hub_whose_network_swallows_packets_notices_and_goes_on_where_it_was(
    network: Network, tmp_path: Path, chance: random.Random, seed: int, rounds: int
) -> None:
    """Guarantees 1, 2, 3, 5 and 7."""
    print(f"cut links: --chaos-seed {seed} --fault-rounds {rounds}")  # noqa: T201 - to do it again
    link = network.client()
    with Site(tmp_path, *BROKER_OPTIONS, host=network.server, hub_client=link) as site:
        for name in ("a", "b"):
            site.device(name, SCHEMA, *AGENT_OPTIONS).start()
        with Work(site, seed) as work:
            for cut in chosen_cuts(chance, rounds):
                wait_for(site.hub.ready, NOTICED_S, what="the hub is ready")
                work.go_on()
                link.cut(**CUTS[cut])
                wait_for(lambda: not site.hub.ready(), NOTICED_S, what="the hub notices")
                work.go_on()
                link.heal()
            work.check()
