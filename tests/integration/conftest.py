"""Every integration test that has a broker runs with MQTT 5 and with 3.1.1 (`--protocol`: with one of them)."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from support.broker import Mosquitto
from support.protocol import PROTOCOLS, VARIABLES, Protocol

BROKERS_WORD: dict[str, Protocol] = {"5": "5", "2": "3.1.1"}
"""How Mosquitto's log calls the versions."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "protocol" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--protocol")
        metafunc.parametrize("protocol", PROTOCOLS if chosen == "both" else [chosen], indirect=True)


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
