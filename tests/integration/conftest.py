"""Integration tests that have a broker run with MQTT 5 and with 3.1.1.

`--protocol both` runs each with both. Unless told, a test runs with one of them, taken in turn, to save time; with both
where a module is marked `both_protocols`, as what it tests depends on the version.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from zlib import crc32

import pytest

from support.broker import Mosquitto
from support.fleet import Fleet
from support.protocol import PROTOCOLS, VARIABLES, Protocol

BROKERS_WORD: dict[str, Protocol] = {"5": "5", "2": "3.1.1"}
"""How Mosquitto's log calls the versions."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "protocol" in metafunc.fixturenames:
        metafunc.parametrize("protocol", _protocols(metafunc), indirect=True)


def _protocols(metafunc: pytest.Metafunc) -> Sequence[str]:
    chosen: str = metafunc.config.getoption("--protocol")
    if chosen == "both" or (chosen == "in turn" and metafunc.definition.get_closest_marker("both_protocols")):
        return PROTOCOLS
    if chosen == "in turn":
        return [PROTOCOLS[crc32(metafunc.definition.nodeid.encode()) % len(PROTOCOLS)]]
    return [chosen]


@pytest.fixture
def protocol(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Protocol:
    """The MQTT version that hub, agents and devices made by hand speak in this test."""
    chosen: Protocol = request.param
    for variable in VARIABLES:
        monkeypatch.setenv(variable, chosen)
    return chosen


@pytest.fixture
def broker(broker: Mosquitto, protocol: Protocol) -> Iterator[Mosquitto]:
    """A running Mosquitto without passwords or store; at the end, all programs have spoken the version of this test."""
    yield broker
    spoken = re.findall(r" as tidewire-\S+ \(p(\d)", broker.log)
    assert {BROKERS_WORD[word] for word in spoken} <= {protocol}


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A hub's stream and edge stores in this process."""
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.close()
