"""What tests with random faults share: the seed that repeats one, and how long they go on."""

from __future__ import annotations

import random

import pytest


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    given = request.config.getoption("--chaos-seed")
    return random.SystemRandom().randrange(10**6) if given is None else int(given)


@pytest.fixture
def chance(seed: int) -> random.Random:
    return random.Random(seed)


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    """How often a fault comes and goes."""
    return int(request.config.getoption("--fault-rounds"))
