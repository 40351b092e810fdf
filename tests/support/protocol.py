"""Which MQTT version the programs of a test speak."""

from __future__ import annotations

import os
from typing import Literal, cast

Protocol = Literal["5", "3.1.1"]

PROTOCOLS: tuple[Protocol, ...] = ("5", "3.1.1")

VARIABLES = ("TIDEWIRE_AGENT_PROTOCOL", "TIDEWIRE_HUB_PROTOCOL")
"""By these a test's hub and agents hear of it, however they are started; a flag would win over them."""


def chosen_protocol() -> Protocol:
    """What the fixture `protocol` chose for this test; MQTT 5, as the programs themselves, where there is none."""
    return cast(Protocol, os.environ.get(VARIABLES[0], "5"))
