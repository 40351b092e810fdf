"""An MQTT client of a person: what a broker passes on, in its order."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from support.broker import Mosquitto
from support.waiting import wait_for


class Said(NamedTuple):
    """A message."""

    topic: str
    message: dict[str, Any]


@contextmanager
def listening(broker: Mosquitto, path: Path, *filters: str) -> Iterator[Path]:
    """Notes messages in a file (see `heard`) while the block runs; one of the filters has a retained message."""
    topics = [word for name in filters for word in ("-t", name)]
    address = ["-h", broker.host.address, "-p", str(broker.port)]
    with path.open("wb") as out:
        command = ["mosquitto_sub", *address, "-q", "1", "-F", "%t %p", *topics]
        client = subprocess.Popen(broker.host.command(command), stdout=out)
        try:
            wait_for(lambda: path.stat().st_size, what="a retained message")
            yield path
        finally:
            client.terminate()
            client.wait(30)


def heard(path: Path) -> Iterator[Said]:
    """All messages in order."""
    for line in path.read_text(encoding="utf-8").splitlines():
        topic, _, payload = line.partition(" ")
        yield Said(topic, json.loads(payload))
