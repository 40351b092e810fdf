"""Serving the HTTP application on the hub's own event loop."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from collections.abc import Iterator
from typing import Final

import uvicorn
from fastapi import FastAPI

from tidewire_schemas.errors import SettingError


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; held from the start of the hub, so that a port that is taken is known before all else.

    Raises:
        SettingError: it cannot be listened on.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason, hint = _EXPLAINED.get(error.errno or 0, (error.strerror, "give --http an address of this machine"))
        raise SettingError(f"http: cannot listen on {host}:{port}: {reason}", hint=hint) from None


_EXPLAINED: Final[dict[int, tuple[str, str]]] = {
    errno.EADDRINUSE: ("another program uses this port", "give --http another port, or stop that program"),
    errno.EADDRNOTAVAIL: ("this machine has no such address", "use 127.0.0.1, or 0.0.0.0 for all of its addresses"),
    errno.EACCES: ("ports below 1024 need more rights", "give --http a port from 1024 on"),
}


class HttpServer(uvicorn.Server):
    """A uvicorn server that leaves signals to the hub."""

    def __init__(self, app: FastAPI, listener: socket.socket) -> None:
        logging.getLogger("uvicorn").setLevel(logging.WARNING)  # it announces itself, and the hub says enough
        super().__init__(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", server_header=False))
        self._socket = listener

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave SIGTERM and SIGINT to the hub, which stops this server as its last step."""
        yield

    async def run_until_stopped(self) -> None:
        """Serve until `stop`."""
        try:
            await self.serve(sockets=[self._socket])
        finally:
            self._socket.close()

    def stop(self) -> None:
        """End `run_until_stopped` soon."""
        self.should_exit = self.force_exit = True
