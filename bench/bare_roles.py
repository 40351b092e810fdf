"""The processes of the bare way: `python -m bench.bare_roles send|hub|take PORT DATABASE` is one of them.

It prints a line once it is ready, and goes on until it is terminated.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import threading
import time
from collections.abc import Callable

from paho.mqtt.client import Client, MQTTMessage

from bench.app import PATIENCE_S
from bench.raw_mqtt import connected

UP, DOWN = "bench/up", "bench/down"

LOOK_S = 0.001
"""The sender looks so often whether another connection has committed."""

ROWS_PER_MESSAGE = 1_000

STORE = "INSERT OR REPLACE INTO readings VALUES (?, ?, ?, ?, ?)"


def send(client: Client, db: sqlite3.Connection) -> None:
    """Publish what the change log holds, for ever."""
    version = None
    print("ready", flush=True)
    while True:
        before, (version,) = version, db.execute("PRAGMA data_version").fetchone()
        if version == before:
            time.sleep(LOOK_S)
            continue
        while found := db.execute("SELECT seq, row FROM changes ORDER BY seq LIMIT ?", (ROWS_PER_MESSAGE,)).fetchall():
            client.publish(UP, f"[{','.join([row for _, row in found])}]", qos=1)
            db.execute("DELETE FROM changes WHERE seq <= ?", (found[-1][0],))


def hub(client: Client, db: sqlite3.Connection) -> None:
    """Store each message durably, and publish it again."""
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE log (seq INTEGER PRIMARY KEY, message BLOB NOT NULL)")

    def take(payload: bytes) -> None:
        db.execute("INSERT INTO log (message) VALUES (?)", (payload,))
        client.publish(DOWN, payload, qos=1)

    _serve(client, UP, take)


def take(client: Client, db: sqlite3.Connection) -> None:
    """Insert the rows of each message."""

    def insert(payload: bytes) -> None:
        db.execute("BEGIN IMMEDIATE")
        db.executemany(STORE, json.loads(payload))
        db.execute("COMMIT")

    _serve(client, DOWN, insert)


def _serve(client: Client, topic: str, handle: Callable[[bytes], None]) -> None:
    """Handle what comes on a topic in the client's own thread, for ever."""
    subscribed = threading.Event()

    def on_message(_client: Client, _data: object, message: MQTTMessage) -> None:
        handle(bytes(message.payload))

    client.on_message = on_message
    client.on_subscribe = lambda *_: subscribed.set()
    client.subscribe(topic, qos=1)
    if not subscribed.wait(PATIENCE_S):
        raise TimeoutError("the broker does not answer")
    print("ready", flush=True)
    threading.Event().wait()


def main() -> None:
    """Be one of the three."""
    role, port, path = sys.argv[1:]
    db = sqlite3.connect(path, isolation_level=None, timeout=PATIENCE_S, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    with connected(int(port)) as client:
        {"send": send, "hub": hub, "take": take}[role](client, db)


if __name__ == "__main__":
    main()
