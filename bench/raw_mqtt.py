"""MQTT alone: messages of QoS 1 from one process through Mosquitto to others, on connections as Tidewire makes them.

Called as `python -m bench.raw_mqtt PORT MESSAGES` it is a receiver: it prints a line once it is subscribed, and when
(monotonic seconds) each message came once it has all.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from bench.app import PATIENCE_S
from bench.machine import ROOT

TOPIC = "bench"
IN_FLIGHT = 64
"""Messages on their way at once: as many as an agent's window."""


@contextmanager
def connected(port: int) -> Iterator[Client]:
    """A client whose thread reads and writes."""
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.max_inflight_messages_set(IN_FLIGHT)
    there = threading.Event()
    client.on_connect = lambda *_: there.set()
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        if not there.wait(PATIENCE_S):
            raise TimeoutError("the broker does not answer")
        yield client
    finally:
        client.disconnect()
        client.loop_stop()


def travel(port: int, payloads: Sequence[bytes], *, receivers: int = 1, pause_s: float = 0.0) -> list[list[float]]:
    """Publish messages; for each receiver, how long after the first publish (or, with a pause, its own) each came."""
    command = [sys.executable, "-m", "bench.raw_mqtt", str(port), str(len(payloads))]
    with ExitStack() as running, connected(port) as client:
        processes = [
            running.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT))
            for _ in range(receivers)
        ]
        for process in processes:
            _line(process)
        sent = []
        for payload in payloads:
            sent.append(time.monotonic())
            client.publish(TOPIC, payload, qos=1)
            if pause_s:
                time.sleep(pause_s)
        arrived = [json.loads(_line(process)) for process in processes]
    return [
        [there - (here if pause_s else sent[0]) for here, there in zip(sent, times, strict=True)] for times in arrived
    ]


def _line(process: subprocess.Popen[str]) -> str:
    out: IO[str] | None = process.stdout
    if out is None or not (line := out.readline()):
        raise RuntimeError("a receiver ended early")
    return line


def receive(port: int, messages: int) -> None:
    """Be a receiver."""
    arrived: list[float] = []
    complete, subscribed = threading.Event(), threading.Event()

    def on_message(_client: Client, _data: object, _message: MQTTMessage) -> None:
        arrived.append(time.monotonic())
        if len(arrived) == messages:
            complete.set()

    with connected(port) as client:
        client.on_message = on_message
        client.on_subscribe = lambda *_: subscribed.set()
        client.subscribe(TOPIC, qos=1)
        if not subscribed.wait(PATIENCE_S):
            raise TimeoutError("the broker does not answer")
        print("subscribed", flush=True)
        if not complete.wait(PATIENCE_S):
            raise TimeoutError(f"{len(arrived)} of {messages} messages came")
        print(json.dumps(arrived), flush=True)


if __name__ == "__main__":
    receive(int(sys.argv[1]), int(sys.argv[2]))
