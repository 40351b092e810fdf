from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from tidewire_link.sockets import BufferedSocket


@pytest.fixture
def pair() -> Iterator[tuple[BufferedSocket, socket.socket]]:
    near, far = socket.socketpair()
    near.setblocking(False)
    buffered = BufferedSocket(near)
    yield buffered, far
    buffered.release()
    far.close()


def test_small_reads_are_served_from_one_large_one(pair: tuple[BufferedSocket, socket.socket]) -> None:
    near, far = pair
    far.sendall(b"abcdef")
    assert [near.recv(1), near.recv(2)] == [b"a", b"bc"]
    assert near.pending
    assert near.recv(100) == b"def"
    assert not near.pending
    with pytest.raises(BlockingIOError):
        near.recv(1)
    far.close()
    assert near.recv(1) == b""


def test_a_paused_socket_gives_nothing_even_of_what_it_holds(pair: tuple[BufferedSocket, socket.socket]) -> None:
    near, far = pair
    far.sendall(b"ab")
    near.recv(1)
    near.paused = True
    with pytest.raises(BlockingIOError):
        near.recv(1)
    near.paused = False
    assert near.recv(1) == b"b"


def test_what_the_kernel_does_not_take_leaves_later_and_whole(pair: tuple[BufferedSocket, socket.socket]) -> None:
    near, far = pair
    data = os.urandom(3_000_000)
    assert near.send(data[:1000]) == 1000
    assert near.send(data[1000:]) == len(data) - 1000
    assert not near.flush()
    received = bytearray()
    while len(received) < len(data):
        received += far.recv(1 << 20)
        near.flush()
    assert received == data
    assert near.flush()


def test_a_broken_connection_is_raised_and_remembered(pair: tuple[BufferedSocket, socket.socket]) -> None:
    near, far = pair
    far.close()
    near.send(b"x")
    with pytest.raises(OSError):
        near.flush()
    assert isinstance(near.error, BrokenPipeError)


def test_half_closing_says_the_last_words_and_reads_to_the_end(pair: tuple[BufferedSocket, socket.socket]) -> None:
    near, far = pair
    near.send(b"bye")
    near.flush()
    with near.half_close() as bare:
        assert far.recv(10) == b"bye"
        assert far.recv(10) == b""
        far.sendall(b"late")
        assert bare.recv(10) == b"late"
