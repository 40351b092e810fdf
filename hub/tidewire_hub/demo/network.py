"""The network cable of one device: a port of its own in front of the broker, that can be pulled and plugged in."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Final

_CHUNK_BYTES: Final = 65_536


class Cable:
    """Passes bytes between its own port and the broker's while it is plugged in."""

    def __init__(self, broker_port: int) -> None:
        self._broker_port = broker_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._plugged = True
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []

    def start(self) -> None:
        """Begin to take connections."""
        threading.Thread(target=self._accept, name="cable", daemon=True).start()

    def pull(self) -> None:
        """End all connections, and each new one at once."""
        with self._lock:
            self._plugged = False
            sockets, self._sockets = self._sockets, []
        for one in sockets:
            _hang_up(one)

    def plug_in(self) -> None:
        """Pass connections on again."""
        with self._lock:
            self._plugged = True

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            try:
                far = self._dial()
            except OSError:
                near.close()
                continue
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_pass_on, args=(source, sink), daemon=True).start()
            with self._lock:
                self._sockets += [near, far]
                if not self._plugged:  # pulled while we dialled
                    _hang_up(near)
                    _hang_up(far)

    def _dial(self) -> socket.socket:
        with self._lock:
            if not self._plugged:
                raise ConnectionError
        far = socket.create_connection(("127.0.0.1", self._broker_port), timeout=5)
        far.settimeout(None)
        return far


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := source.recv(_CHUNK_BYTES):
            sink.sendall(data)
    _hang_up(sink)


def _hang_up(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
