"""A link to the broker that counts what passes and takes its time."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

_CHUNK = 65_536
_HELD_MAX = 4_096
"""Chunks under way in one direction: a full link stops its sender."""


class Relay:
    """Forwards connections on a port of its own to a port of this machine; each chunk arrives `delay_s` later.

    The delay is that of one direction, and does not bound how much passes in a second.
    """

    def __init__(self, target_port: int, delay_s: float = 0.0) -> None:
        self._target_port = target_port
        self._delay_s = delay_s
        self._loop = asyncio.new_event_loop()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.up_bytes = 0
        """Passed to the broker."""
        self.down_bytes = 0
        """Passed from it."""

    @property
    def url(self) -> str:
        """Its address as a broker URL."""
        return f"mqtt://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.start_server(self._connection, sock=self._listener))
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _connection(self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            far_in, far_out = await asyncio.open_connection("127.0.0.1", self._target_port)
            await asyncio.gather(self._pass(near_in, far_out, up=True), self._pass(far_in, near_out, up=False))

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, up: bool) -> None:
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_HELD_MAX)
        writing = asyncio.ensure_future(self._write(held, sink))
        with suppress(OSError):
            while data := await source.read(_CHUNK):
                if up:
                    self.up_bytes += len(data)
                else:
                    self.down_bytes += len(data)
                await held.put((self._loop.time() + self._delay_s, data))
        await held.put((self._loop.time() + self._delay_s, b""))
        await writing

    async def _write(self, held: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while True:
                due, data = await held.get()
                if (early_s := due - self._loop.time()) > 0:
                    await asyncio.sleep(early_s)
                if not data:
                    break
                sink.write(data)
                await sink.drain()
        sink.close()
