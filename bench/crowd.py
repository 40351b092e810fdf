"""Many light devices in one process: real connections, real messages, and no database.

Called as `python -m bench.crowd BROKER_URL FIRST COUNT`. Each device says Hello, asks for what it lacks, says its
state as an agent does, and counts rows instead of applying them. Lines on stdout, as JSON with monotonic seconds
`at`, tell when all devices are live (`{"live": COUNT}`), and when all of them hold more rows than before
(`{"rows": N}`).
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from functools import lru_cache

from support.long_log import SHAPE
from tidewire_link.errors import LinkError
from tidewire_link.mqtt import MqttLink
from tidewire_link.port import Connected, Disconnected, Event, Received
from tidewire_link.settings import LinkSettings, Will
from tidewire_schemas import codec, topics
from tidewire_schemas.base import Message
from tidewire_schemas.digest import message_digest
from tidewire_schemas.messages import DeviceState, Hello, Page, Part, Replay, ReplayRequest, Welcome
from tidewire_schemas.parts import Assembler
from tidewire_schemas.positions import START

STREAM = "main"
REPLAY_PAGES = 1
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

    def __init__(self, crowd: Crowd, url: str, name: str) -> None:
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
        kinds: tuple[topics.Kind, ...] = ("in", "log")
        self._parts = {kind: Assembler(MESSAGE_BYTES_MAX) for kind in kinds}
        will = Will(topic=topics.device_state(name), payload=self._state("offline"), retain=True)
        self._link = MqttLink(LinkSettings(url=url, client_id=f"{name}-{self._boot[:8]}", will=will))

    async def run(self) -> None:
        """Follow the log until cancelled."""
        await self._link.open()
        async for event in self._link:
            try:
                await self._take(event)
            except LinkError:  # the connection ended meanwhile, which the next event says
                continue

    async def _take(self, event: Event) -> None:
        match event:
            case Connected():
                await self._link.subscribe(topics.agent_filters(STREAM, self._name))
                await self._publish_state("handshaking")
                await self._ask(self._hello())
            case Received(topic, payload):
                place = topics.parse(topic)
                if place is not None and place.kind in ("in", "log"):
                    await self._hear(place.kind, parse(place.kind, payload))
            case Disconnected():
                for parts in self._parts.values():
                    parts.drop()
                self._asked = False
                if self._live:
                    self._live = False
                    self._crowd.live(-1)

    async def _hear(self, kind: topics.Kind, message: Message) -> None:
        match message:
            case Part():
                if (whole := self._parts[kind].feed(message)) is not None:
                    await self._hear(kind, parse(kind, whole))
            case Welcome():
                self._log, self._epoch = message.log, message.epoch
                if self._position == message.head:
                    await self._now_live()
                else:
                    await self._ask_replay()
            case Replay(page=page, last=last):
                self._asked = False
                self._apply(page)
                if last:
                    await self._now_live()
                else:
                    await self._ask_replay()
            case Page():
                self._apply(message)
                if self._live and message.prev.seq > self._position.seq:
                    await self._ask_replay()  # one before it did not come

    def _apply(self, page: Page) -> None:
        if page.prev == self._position:
            self._position = page.end
            before = self._rows
            self._rows += sum(len(run.rows) for entry in page.entries for run in entry.changes)
            self._crowd.holds(before, self._rows)

    async def _now_live(self) -> None:
        if not self._live:
            self._live = True
            await self._publish_state("live")
            self._crowd.live(1)

    async def _publish_state(self, state: str) -> None:
        await self._link.publish(topics.device_state(self._name), self._state(state), retain=True)

    async def _ask_replay(self) -> None:
        if self._asked:
            return
        self._asked = True
        await self._ask(
            ReplayRequest(incarnation=self._incarnation, boot=self._boot, position=self._position, pages=REPLAY_PAGES)
        )

    async def _ask(self, message: Message) -> None:
        await self._link.publish(topics.ask(STREAM, self._name), codec.encode(message))

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
    devices = [LightDevice(crowd, url, f"light-{number}") for number in range(first, first + count)]
    await asyncio.gather(*(device.run() for device in devices))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
