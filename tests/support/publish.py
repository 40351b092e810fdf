"""Publishing what no Tidewire program would: payloads made by hand."""

from __future__ import annotations

import subprocess

from support.broker import Mosquitto


def publish(broker: Mosquitto, *messages: tuple[str, bytes]) -> None:
    """Publish (topic, payload) pairs with QoS 1, one after another, not retained."""
    for topic, payload in messages:
        command = ["mosquitto_pub", "-p", str(broker.port), "-q", "1", "-t", topic, "-s" if payload else "-n"]
        subprocess.run(command, input=payload, check=True, timeout=20)
