"""A hub is frozen while devices write, a second one starts on a copy of its log, and the first one wakes up."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.hub_process import HubProcess, tidewire_hub
from support.listening import heard, listening
from support.processes import Site
from support.waiting import wait_for
from support.work import Work
from support.writer import SCHEMA
from tidewire_link.command_line import ExitCode

DEVICES = ("a", "b", "c")
HUB_OPTIONS = ("--rival-wait-s", "0.5")
PATIENT = ("--keepalive-s", "300")
"""The broker keeps the connection of a frozen hub, and all that it should have heard."""
IMPATIENT = ("--keepalive-s", "2")
"""The broker ends the connection before the frozen hub wakes up."""
AGENT_OPTIONS = ("--ack-timeout-s", "2", "--welcome-timeout-s", "1", "--hello-spread-s", "0.2")


def stale(path: Path) -> Counter[str]:
    """Pages, acks and heads under an epoch below one that was heard before, by kind."""
    highest, found = 0, Counter[str]()
    for _topic, message in heard(path):
        epoch = epoch_of(message)
        if epoch is not None:
            found[message["type"]] += epoch < highest
            highest = max(highest, epoch)
    return +found


def epoch_of(message: dict[str, Any]) -> int | None:
    """The leader under which a hub said this; None where it says none."""
    match message:
        case {"type": "page", "entries": [*_, {"epoch": int(epoch)}]} | {"type": "head" | "ack", "epoch": int(epoch)}:
            return epoch
    return None


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, *HUB_OPTIONS, *PATIENT)
    site.broker.config = ["max_inflight_messages 1"]  # a hub hears one message after the other, and answers between
    with site:
        for name in DEVICES:
            site.device(name, SCHEMA, *AGENT_OPTIONS).start()
        yield site


def successor(site: Site, number: int) -> HubProcess:
    """Another hub, on a copy of what the present one has in its log by now."""
    data = site.folder / f"hub-{number}"
    answer = tidewire_hub("backup", "--data", site.hub.data, data)
    assert answer.returncode == 0, answer.stderr
    options = (*HUB_OPTIONS, *(IMPATIENT if number % 2 else PATIENT), "--node", f"hub-{number}")
    return HubProcess(data, site.broker.url, *options, log=site.folder / f"hub-{number}.log")


def under_way(site: Site) -> int:
    """Batches that the devices have sealed and that are in no log that they know."""
    return sum(device.standing().batches for device in site.devices)


def replace(site: Site, number: int, chance: random.Random) -> None:
    """The hub that leads is frozen and wakes up when another one leads: it ends, as in docs/how-to/replace-a-hub.md."""
    stale, head = site.hub, site.head()
    wait_for(lambda: site.head() > head, what="an entry of the hub that leads")
    stale.process.send_signal(signal.SIGSTOP)
    try:
        wait_for(lambda: under_way(site) >= len(DEVICES), what="batches that nobody answers")
        site.hub = successor(site, number)
        site.hub.start()
        time.sleep(chance.random() * 2)
        stale.process.send_signal(signal.SIGCONT)
        assert stale.process.wait(60) == ExitCode.LED_ELSEWHERE
    finally:
        stale.__exit__(None, None, None)
    assert f"replaced: hub hub-{number} has taken over stream main" in stale.log
    assert "Traceback" not in stale.log


@pytest.mark.timeout(1200)
@pytest.mark.fault("a hub frozen until its successor leads")
def test_a_hub_that_was_frozen_until_another_one_leads_changes_nothing_any_more_and_ends(
    site: Site, tmp_path: Path, chance: random.Random, seed: int, rounds: int
) -> None:
    """Guarantees 2, 3, 5, 7 and 8."""
    print(f"frozen hub: --chaos-seed {seed} --fault-rounds {rounds}")  # noqa: T201 - to do it again
    with listening(site.broker, tmp_path / "heard", "tidewire/v1/#") as said, Work(site, seed) as work:
        for number in range(1, rounds + 1):
            replace(site, number, chance)
        log = work.check()
    assert len({entry["epoch"] for entry in log}) == rounds + 1
    spoken = stale(said)
    assert spoken, "the frozen hub did not get to say what nobody may believe"
    print(f"frozen hub: {len(log)} entries, said by hubs that were replaced: {dict(spoken)}")  # noqa: T201
