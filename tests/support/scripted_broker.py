"""A TCP server that answers an MQTT client with bytes written by hand: for what a well-behaved broker never does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self

CONNACK_5 = bytes.fromhex("2003000000")
CONNACK_311 = bytes.fromhex("20020000")


class ScriptedBroker:
    """Answers each packet of a connection with the next piece of `script`; an empty piece closes the connection.

    After the script's end it stays silent.
    """

    def __init__(self, *script: bytes) -> None:
        self.script: Sequence[bytes] = script
        self.connections = 0
        self.heard: list[bytes] = []
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def url(self) -> str:
        """Its address as a broker URL."""
        return f"mqtt://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        for answer in self.script:
            heard = await reader.read(65536)
            self.heard.append(heard)
            if not heard or not answer:
                writer.close()
                return
            writer.write(answer)
        while await reader.read(65536):
            pass
        writer.close()
