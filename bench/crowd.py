"""Many light devices in one process: real connections, real messages, and no database.

Called as `python -m bench.crowd BROKER_URL FIRST COUNT`. Each device says Hello, asks for what it lacks, says its
state as an agent does, and counts rows instead of applying them. Lines on stdout, as JSON with monotonic seconds
`at`, tell when all devices are live (`{"live": COUNT}`), and when all of them hold more rows than before
(`{"rows": N}`).
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import sys
import time
from contextlib import suppress
from functools import lru_cache

from bench.light_mqtt import LightConnection
from support.long_log import SHAPE
from tidewire_link.backoff import Backoff
from tidewire_link.settings import LinkSettings, parse_url
from tidewire_schemas import codec, topics
from tidewire_schemas.base import Message
from tidewire_schemas.digest import message_digest
from tidewire_schemas.messages import DeviceState, Hello, Page, Part, Replay, ReplayRequest, Welcome
from tidewire_schemas.parts import Assembler
from tidewire_schemas.positions import START

STREAM = "main"
REPLAY_PAGES = 1
WELCOME_TIMEOUT_S = 5.0
MESSAGE_BYTES_MAX = 2**24


@lru_cache(maxsize=64)
def parse(kind: topics.Kind, payload: bytes) -> Message:
    """A message; what goes to all devices is parsed once, as its parsing is not what is measured."""
    return codec.parse(kind, payload, bytes_max=MESSAGE_BYTES_MAX)


class Crowd:
    """The devices together, and what is told of them."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._live = 0
        self._rows: dict[int, int] = {}
        """Rows → how many devices hold exactly so many."""

    def live(self, more: int) -> None:
        """So many devices more are live, or fewer."""
        self._live += more
        if more > 0 and self._live == self._count:
            say(live=self._count)

    def holds(self, before: int, after: int) -> None:
        """A device holds more rows; says so when it was the last that held so few."""
        rows = self._rows
        rows[after] = rows.get(after, 0) + 1
        if before in rows:
            rows[before] -= 1
            if not rows[before]:
                del rows[before]
        if sum(rows.values()) == self._count and before < min(rows):
            say(rows=min(rows))


class LightDevice:
    """One device."""

    def __init__(self, crowd: Crowd, name: str) -> None:
        self._crowd = crowd
        self._name = name
        self._incarnation = message_digest(name.encode())
        self._boot = message_digest(f"boot of {name}".encode())
        self._log: str | None = None
        self._epoch = 0
        self._position = START
        self._live = False
        self._asked = False
        """Whether an answer to a question for replay is still to come."""
        self._rows = 0
        kinds: dict[topics.Kind, str] = {"in": topics.inbox(name, STREAM), "log": topics.log(STREAM)}
        self._parts = {kind: Assembler(MESSAGE_BYTES_MAX) for kind in kinds}
        self._kinds = {topic.encode(): kind for kind, topic in kinds.items()}
        self._connection: LightConnection | None = None

    async def run(self, host: str, port: int) -> None:
        """Follow the log until cancelled; connect again at the pace of an agent."""
        usual = LinkSettings(client_id=self._name)
        backoff = Backoff(
            delay_min_s=usual.reconnect_delay_min_s,
            delay_max_s=usual.reconnect_delay_max_s,
            stable_after_s=usual.stable_after_s,
        )
        clock = asyncio.get_running_loop().time
        while True:
            with suppress(OSError):
                await asyncio.get_running_loop().create_connection(self._connect, host, port)
                backoff.connected(clock())
                assert self._connection is not None
                await self._connection.over
            self._lost()
            await asyncio.sleep(backoff.failed(clock(), random.random()))

    def _connect(self) -> LightConnection:
        client_id = f"{self._name}-{self._boot[:8]}"
        self._connection = LightConnection(self, client_id, topics.device_state(self._name), self._state("offline"))
        return self._connection

    def _lost(self) -> None:
        for parts in self._parts.values():
            parts.drop()
        self._asked = False
        if self._live:
            self._live = False
            self._crowd.live(-1)

    # ── what the connection tells ─────────────────────────────────────────────────────────────────────────────────

    def connected(self) -> None:
        assert self._connection is not None
        self._connection.subscribe(topics.agent_filters(STREAM, self._name))

    def subscribed(self) -> None:
        self._publish_state("handshaking")
        self._say_hello(self._connection)

    def _say_hello(self, connection: LightConnection | None) -> None:
        """Until it is answered: the hub may not be there yet."""
        if connection is self._connection and not self._live:
            self._asked = False
            self._ask(self._hello())
            asyncio.get_running_loop().call_later(WELCOME_TIMEOUT_S, self._say_hello, connection)

    def received(self, topic: bytes, payload: bytes) -> None:
        kind = self._kinds.get(topic)
        if kind is not None:  # the head is heard, and says nothing new here
            self._hear(kind, parse(kind, payload))

    def _hear(self, kind: topics.Kind, message: Message) -> None:
        match message:
            case Part():
                if (whole := self._parts[kind].feed(message)) is not None:
                    self._hear(kind, parse(kind, whole))
            case Welcome():
                self._log, self._epoch = message.log, message.epoch
                if self._position == message.head:
                    self._now_live()
                else:
                    self._ask_replay()
            case Replay(page=page, last=last):
                self._asked = False
                self._apply(page)
                if last:
                    self._now_live()
                else:
                    self._ask_replay()
            case Page():
                self._apply(message)
                if self._live and message.prev.seq > self._position.seq:
                    self._ask_replay()  # one before it did not come

    def _apply(self, page: Page) -> None:
        if page.prev == self._position:
            self._position = page.end
            before = self._rows
            self._rows += sum(len(run.rows) for entry in page.entries for run in entry.changes)
            self._crowd.holds(before, self._rows)

    def _now_live(self) -> None:
        if not self._live:
            self._live = True
            self._publish_state("live")
            self._crowd.live(1)

    # ── what it says ──────────────────────────────────────────────────────────────────────────────────────────────

    def _publish_state(self, state: str) -> None:
        assert self._connection is not None
        self._connection.publish(topics.device_state(self._name), self._state(state), retain=True)

    def _ask_replay(self) -> None:
        if self._asked:
            return
        self._asked = True
        self._ask(
            ReplayRequest(incarnation=self._incarnation, boot=self._boot, position=self._position, pages=REPLAY_PAGES)
        )

    def _ask(self, message: Message) -> None:
        assert self._connection is not None
        self._connection.publish(topics.ask(STREAM, self._name), codec.encode(message))

    def _hello(self) -> Hello:
        return Hello(
            incarnation=self._incarnation,
            boot=self._boot,
            log=self._log,
            position=self._position,
            epoch=self._epoch,
            last_sealed=None,
            oldest_kept=0,
            tables=(SHAPE,),
        )

    def _state(self, state: str) -> bytes:
        return codec.encode(
            DeviceState.model_validate({"state": state, "incarnation": self._incarnation, "boot": self._boot})
        )


def say(**what: int) -> None:
    """One line for who called."""
    print(json.dumps({**what, "at": time.monotonic()}), flush=True)


async def main(url: str, first: int, count: int) -> None:
    """Be so many devices."""
    crowd = Crowd(count)
    broker = parse_url(url)
    devices = [LightDevice(crowd, f"light-{number}") for number in range(first, first + count)]
    await asyncio.gather(*(device.run(broker.host, broker.port) for device in devices))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
