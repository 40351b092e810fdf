"""A proxy that knows MQTT's packets and treats them as badly as MQTT allows. One seed, one sequence of decisions.

Between one client and its broker, in both directions, it
- delays publishes, and lets those on one topic overtake those on another (on one topic their order is kept);
- repeats the last few publishes of a topic, in order, as a sender does that got no confirmation in time, with the DUP
  flag or, as some do, without; and repeats confirmations;
- cuts connections in the middle of a packet; what it has still to pass on to the broker then comes late.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter, defaultdict, deque
from contextlib import suppress
from heapq import heappop, heappush
from types import TracebackType
from typing import Final, NamedTuple, Self

_PUBLISH: Final = 3
_PUBACK: Final = 4
_DISCONNECT: Final = 14
_DUP: Final = 0x08
_REPEATED_MAX: Final = 3
_LATE_S: Final = 1.0
_NO_LANE: Final = b""


class Mischief(NamedTuple):
    """How often it does what, per packet; each from 0 to 1."""

    delay: float = 0.3
    repeat: float = 0.08
    cut: float = 0.004


class Packet(NamedTuple):
    """A whole packet, as it travels."""

    data: bytes

    @property
    def kind(self) -> int:
        return self.data[0] >> 4

    @property
    def topic(self) -> bytes:
        """Of a publish."""
        start = 1 + next(at for at in range(1, 5) if not self.data[at] & 0x80)
        size = int.from_bytes(self.data[start : start + 2])
        return self.data[start + 2 : start + 2 + size]

    @property
    def is_confirmed(self) -> bool:
        """Whether it is a publish with QoS 1: only such a one may come twice."""
        return self.kind == _PUBLISH and (self.data[0] >> 1) & 3 == 1

    def again(self, *, dup: bool) -> Packet:
        """The same once more."""
        return Packet(bytes([self.data[0] | (_DUP if dup else 0)]) + self.data[1:])


async def read_packet(reader: asyncio.StreamReader) -> Packet:
    """The next packet.

    Raises:
        EOFError: the connection ended.
    """
    head = await reader.readexactly(1)
    size = shift = 0
    while True:
        byte = await reader.readexactly(1)
        head += byte
        size |= (byte[0] & 0x7F) << shift
        shift += 7
        if not byte[0] & 0x80:
            return Packet(head + await reader.readexactly(size))


class _Way:
    """One direction of one connection: what is to be passed on, and when."""

    def __init__(self, proxy: MqttProxy, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._writer = writer
        self._due: list[tuple[float, int, Packet]] = []
        self._number = 0
        self._lanes: dict[bytes, float] = {}
        self._passed: dict[bytes, deque[Packet]] = defaultdict(lambda: deque(maxlen=_REPEATED_MAX))
        self._news = asyncio.Event()

    @property
    def waits(self) -> bool:
        """Whether there is something to pass on still."""
        return bool(self._due)

    def take(self, packet: Packet) -> None:
        """Pass it on, sooner or later, and perhaps again."""
        chance, did, mischief = self._proxy.chance, self._proxy.did, self._proxy.mischief
        lane = packet.topic if packet.kind == _PUBLISH else _NO_LANE
        delay_s = 0.0
        if lane is not _NO_LANE and chance.random() < mischief.delay:
            delay_s = chance.choice([0.01, 0.05, 0.3]) * chance.random()
        repeats = [packet]
        if packet.is_confirmed:
            recent = self._passed[lane]
            recent.append(packet)
            if chance.random() < mischief.repeat:
                dup = chance.random() < 0.5
                again = list(recent)[-chance.randint(1, _REPEATED_MAX) :]
                repeats += [one.again(dup=dup) for one in again]
                did["repeated with DUP" if dup else "repeated without DUP"] += len(again)
        elif packet.kind == _PUBACK and chance.random() < mischief.repeat:
            repeats.append(packet)
            did["confirmation repeated"] += 1
        now = asyncio.get_running_loop().time()
        due = self._lanes[lane] = max(now + delay_s, self._lanes.get(lane, 0.0))
        if lane is not _NO_LANE and any(waiting > due for waiting, _number, _packet in self._due):
            did["overtaken"] += 1
        did["delayed"] += bool(delay_s)
        for one in repeats:
            self._number += 1
            heappush(self._due, (due, self._number, one))
        self._news.set()

    async def pass_on(self) -> None:
        """Until the connection ends.

        Raises:
            ConnectionError: it was cut.
        """
        loop, proxy = asyncio.get_running_loop(), self._proxy
        while True:
            while self._due and self._due[0][0] <= loop.time():
                _due, _number, packet = heappop(self._due)
                if proxy.chance.random() < proxy.mischief.cut:
                    self._writer.write(packet.data[: proxy.chance.randrange(len(packet.data))])
                    proxy.did["cut inside a packet"] += 1
                    raise ConnectionError
                self._writer.write(packet.data)
                if packet.kind == _DISCONNECT:
                    raise ConnectionError
            await self._writer.drain()
            self._news.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), self._due[0][0] - loop.time() if self._due else None)


class MqttProxy:
    """Listens on a port of its own of 127.0.0.1, in a thread of its own, and connects to a broker there.

    Attributes:
        mischief: what it does; may be set while it runs.
        did: how often it has done what.
        failures: mistakes of its own.
    """

    def __init__(self, broker_port: int, seed: object, mischief: Mischief | None = None) -> None:
        self.chance = random.Random(str(seed))
        self.mischief = Mischief() if mischief is None else mischief
        self.did: Counter[str] = Counter()
        self.failures: list[BaseException | None] = []
        self._broker_port = broker_port
        self._loop = asyncio.new_event_loop()
        self._closed = False
        self._connections: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mqtt proxy")
        self._thread.start()
        serve = asyncio.start_server(self._connect, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(serve, self._loop).result(30)
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        """Its address as a broker URL."""
        return f"mqtt://127.0.0.1:{self.port}"

    def close(self) -> None:
        """End all connections."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _end(self) -> None:
        self._closed = True
        self._server.close()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connect(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        whole = asyncio.current_task()
        assert whole is not None
        self._connections.add(whole)
        whole.add_done_callback(self._connections.discard)
        try:
            broker, to_broker = await asyncio.open_connection("127.0.0.1", self._broker_port)
        except OSError:
            to_client.close()
            return
        up, down = _Way(self, to_broker), _Way(self, to_client)
        to_go_on = asyncio.create_task(up.pass_on())
        tasks = [asyncio.create_task(work) for work in (_take(client, up), _take(broker, down), down.pass_on())]
        try:
            with suppress(asyncio.CancelledError):  # the proxy is closed
                await asyncio.wait([to_go_on, *tasks], return_when=asyncio.FIRST_COMPLETED)
            to_client.close()
            goes_on = not (self._closed or tasks[1].done() or to_go_on.done())
            if goes_on and up.waits:
                self.did["passed on late"] += 1
                await asyncio.wait([to_go_on], timeout=_LATE_S)
        finally:
            to_client.close()
            to_broker.close()
            for task in (to_go_on, *tasks):
                task.cancel()
            for ended in await asyncio.gather(to_go_on, *tasks, return_exceptions=True):
                if not isinstance(ended, ConnectionError | EOFError | asyncio.CancelledError):
                    self.failures.append(ended)


async def _take(reader: asyncio.StreamReader, way: _Way) -> None:
    while True:
        way.take(await read_packet(reader))
