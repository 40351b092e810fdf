"""Serving the HTTP application on the hub's own event loop."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from tidewire_schemas.errors import SettingError


class HttpServer(uvicorn.Server):
    """A uvicorn server that leaves signals to the hub."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        """Take the port.

        Raises:
            SettingError: it cannot be listened on.
        """
        logging.getLogger("uvicorn").setLevel(logging.WARNING)  # it announces itself, and the hub says enough
        super().__init__(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", server_header=False))
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family)
        except OSError as error:
            raise SettingError(f"http: cannot listen on {host}:{port}: {error.strerror}") from None

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
