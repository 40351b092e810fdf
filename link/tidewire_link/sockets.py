"""A non-blocking socket with buffers on both sides, for a protocol library that reads byte by byte.

paho-mqtt takes three system calls to read a packet and one to write it; over websockets it loses a frame that the
kernel takes only in part. With these buffers reads come in large pieces, the packets of one turn of the event loop
leave together, and the library never sees a partial write. What is unsent is bounded by what the link lets be in
flight.
"""

from __future__ import annotations

import fcntl
import os
import socket
import ssl
import sys
import termios
from typing import Final

_READ_BYTES: Final = 64 * 1024
_WRITE_BYTES: Final = 256 * 1024
"""Largest piece handed to the kernel at once, so that a large backlog is not copied per attempt."""


class BufferedSocket:
    """Looks like a connected socket; the event loop moves the bytes with `flush` and by reading when told to.

    `close` is the library's; the file descriptor stays open until `release`, so that what was written last can leave.
    """

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner
        self._read = b""
        self._read_at = 0
        self._unsent = bytearray()
        self.taken = 0
        """Bytes that the library has given to be sent."""
        self.closed = False
        self.paused = False
        """While set, reading finds nothing."""
        self.error: OSError | None = None
        """What ended the connection, as far as the operating system or TLS said it."""

    @property
    def pending(self) -> bool:
        """Whether bytes were taken from the kernel and not yet read: the kernel does not announce these again."""
        if self._read_at < len(self._read):
            return True
        return isinstance(self._inner, ssl.SSLSocket) and not self.closed and self._inner.pending() > 0

    def recv(self, size: int) -> bytes:
        """At most `size` bytes, as `socket.recv`."""
        if self.paused:
            raise BlockingIOError
        if self._read_at < len(self._read):
            piece = self._read[self._read_at : self._read_at + size]
            self._read_at += len(piece)
            return piece
        if self.closed:
            return b""
        try:
            data = self._inner.recv(max(size, _READ_BYTES))
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError as error:
            self.error = error
            raise
        if len(data) <= size:
            return data
        self._read = data
        self._read_at = size
        return data[:size]

    def send(self, data: bytes | bytearray) -> int:
        """Take all of `data`; it leaves with the next `flush`."""
        self._unsent += data
        self.taken += len(data)
        return len(data)

    def waiting(self) -> int:
        """Bytes that were taken and that the other end has not got: here, or in the kernel as far as it tells."""
        try:
            kernel = int.from_bytes(fcntl.ioctl(self.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        except OSError:
            kernel = 0
        return len(self._unsent) + kernel

    def flush(self) -> bool:
        """Write as much as the kernel takes; whether all is out.

        Raises:
            OSError: the connection is broken.
        """
        while self._unsent:
            try:
                with memoryview(self._unsent) as whole, whole[:_WRITE_BYTES] as piece:
                    sent = self._inner.send(piece)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return False
            except OSError as error:
                self.error = error
                raise
            del self._unsent[:sent]
        return True

    def half_close(self) -> socket.socket:
        """Say that nothing more comes, and hand over the bare connection to read it to its end.

        A plain close with unread bytes in the kernel resets the connection, and the broker may then lose what was
        written last.
        """
        self.closed = True
        bare = socket.socket(fileno=os.dup(self._inner.fileno()))
        self._inner.close()
        bare.setblocking(False)
        bare.shutdown(socket.SHUT_WR)
        return bare

    def fileno(self) -> int:
        """The file descriptor to watch."""
        return self._inner.fileno()

    def setblocking(self, flag: bool) -> None:
        """As `socket.setblocking`."""
        self._inner.setblocking(flag)

    def close(self) -> None:
        """The library is done with it."""
        self.closed = True

    def release(self) -> None:
        """Close the file descriptor."""
        self.closed = True
        self._inner.close()
