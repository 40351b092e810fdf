"""Ports that are a test's own: nobody else is given them, in this run of the tests or in another one beside it.

A port that the kernel picks is free when it is asked for, and may be a neighbour's a second later, when the program
that should listen there is up. So each process of the tests takes a block of ports that no other one takes.
"""

from __future__ import annotations

import fcntl
import socket
import tempfile
from collections.abc import Iterator
from functools import cache
from io import FileIO
from itertools import cycle
from pathlib import Path
from typing import Final

_FIRST: Final = 10_000
_BLOCKS: Final = 44
_BLOCK_PORTS: Final = 500
"""All of them below the ports that Linux gives to connections, and to whoever asks for any."""


class _Block:
    """A block of ports, ours until this process ends."""

    def __init__(self) -> None:
        directory = Path(tempfile.gettempdir()) / "tidewire-test-ports"
        directory.mkdir(exist_ok=True)
        for number in range(_BLOCKS):
            self._lock = FileIO(str(directory / str(number)), "w")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._lock.close()
                continue
            first = _FIRST + number * _BLOCK_PORTS
            self.ports: Iterator[int] = cycle(range(first, first + _BLOCK_PORTS))
            return
        raise RuntimeError(f"{_BLOCKS} processes hold all blocks of ports: see who has files open in {directory}")


@cache
def _block() -> _Block:
    """Taken when the first test needs a port."""
    return _Block()


def free_port() -> int:
    """A port on 127.0.0.1 where nothing listens."""
    return next(port for port in _block().ports if _is_free(port))


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
