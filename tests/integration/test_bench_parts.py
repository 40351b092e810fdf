"""What measurements are made with tells the truth: the relay that delays and counts, the light devices."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from bench.app import readings
from bench.bare import move
from bench.light_mqtt import LightConnection
from bench.raw_mqtt import travel
from bench.relay import Relay
from support.broker import Mosquitto
from support.waiting import wait_for_async

DELAY_S = 0.05


class Listener:
    """Owns a light connection."""

    def __init__(self) -> None:
        self.is_connected = self.is_subscribed = False
        self.heard: list[tuple[bytes, bytes]] = []

    def connected(self) -> None:
        self.is_connected = True

    def subscribed(self) -> None:
        self.is_subscribed = True

    def received(self, topic: bytes, payload: bytes) -> None:
        self.heard.append((topic, payload))


async def test_a_light_device_hears_what_it_and_others_say_and_leaves_a_will(broker: Mosquitto) -> None:
    loop = asyncio.get_running_loop()
    listeners = [Listener(), Listener()]
    connections = []
    for number, listener in enumerate(listeners):
        connection = LightConnection(listener, f"c{number}", "will", b"gone")
        await loop.create_connection(lambda made=connection: made, "127.0.0.1", broker.port)  # type: ignore[misc]  # bound
        connections.append(connection)
    await wait_for_async(lambda: all(one.is_connected for one in listeners))
    connections[0].subscribe(["a/+", "will"])
    await wait_for_async(lambda: listeners[0].is_subscribed)
    large = b"x" * 300_000
    connections[1].publish("a/b", large)
    connections[0].publish("a/c", b"mine")
    await wait_for_async(lambda: len(listeners[0].heard) == 2)
    assert sorted(listeners[0].heard) == [(b"a/b", large), (b"a/c", b"mine")]
    connections[1].close()
    await wait_for_async(lambda: (b"will", b"gone") in listeners[0].heard)
    broker.kill()
    await wait_for_async(connections[0].over.done)


def test_messages_of_mqtt_alone_all_arrive_at_each_receiver(broker: Mosquitto) -> None:
    took = travel(broker.port, [b"one", b"two", b"three"], receivers=2)
    assert [len(times) for times in took] == [3, 3]
    assert all(time_s > 0 for times in took for time_s in times)


def test_rows_that_go_the_bare_way_are_the_same_at_each_receiver(tmp_path: Path) -> None:
    moved = move(tmp_path, rows=50, per_transaction=10, receivers=2)
    assert [len(times) for times in moved.seen] == [50, 50]
    for name in ("a", "b0", "b1"):
        with closing(sqlite3.connect(tmp_path / f"{name}.db")) as db:
            assert sorted(db.execute("SELECT * FROM readings")) == sorted(readings(50))


def test_a_relay_delays_both_directions_and_counts_what_passes(broker: Mosquitto) -> None:
    with Relay(broker.port, DELAY_S) as relay:
        began = time.monotonic()
        port = int(relay.url.rsplit(":", 1)[1])
        (took,) = travel(port, [b"x" * 1000], receivers=1)
        assert took[0] >= 2 * DELAY_S
        assert time.monotonic() - began >= 2 * DELAY_S
        assert 1000 < relay.up_bytes < 2000
        assert 1000 < relay.down_bytes < 2000
