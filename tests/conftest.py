"""Fixtures that every suite may use."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from support.broker import Mosquitto
from support.protocol import PROTOCOLS

pytest_plugins = ["support.rights"]

# How long an example takes says more about the machine than about the code. The examples are the same in each run, so
# that a change is judged by what it changed; `--hypothesis-profile search` looks for new ones.
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("tidewire", settings.get_profile("search"), derandomize=True)
settings.load_profile("tidewire")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A running Mosquitto without passwords or store."""
    with Mosquitto(tmp_path / "broker") as running:
        yield running


def pytest_configure() -> None:
    """SIGTERM ends a run as Ctrl-C does: what tests have started is ended with it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tidewire")
    group.addoption(
        "--protocol",
        choices=["in turn", "both", *PROTOCOLS],
        default="in turn",
        help="MQTT version of the integration tests with a broker (default: half of them with each)",
    )
    group.addoption(
        "--away-entries", type=int, default=3000, help="how much test_away_for_long.py misses (default: 3000 entries)"
    )
    group.addoption("--chaos-kills", type=int, default=6, help="how many processes test_chaos.py kills (default: 6)")
    group.addoption("--chaos-seed", type=int, default=None, help="the seed that a test printed, to do it again")
    group.addoption(
        "--fault-rounds", type=int, default=2, help="how often a random fault comes in one test (default: 2)"
    )
    group.addoption(
        "--crash-steps",
        choices=["few", "all"],
        default="few",
        help="at which of their steps test_killed_at_each_step.py kills agent and hub (default: few)",
    )
