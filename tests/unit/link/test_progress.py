from __future__ import annotations

import socket

from tidewire_link.progress import Progress
from tidewire_link.sockets import BufferedSocket


def test_what_leaves_a_long_queue_slowly_is_under_way_until_it_stands_still() -> None:
    made = Progress()
    for second in range(100):
        made.queued(1_000_000, 1_000_000 - 5_000 * second, float(second))
        assert made.moving(float(second)) == (second > 0)
    made.queued(2_000_000, 2_000_000 - 495_000, 100.0)  # more is queued, and nothing leaves any more
    assert not made.moving(120.0)


def test_the_tail_of_a_queue_is_no_reason_to_wait() -> None:
    made = Progress()
    made.queued(300, 300, 0.0)
    made.queued(600, 300, 1.0)
    assert not made.moving(1.0)


def test_a_message_that_comes_in_for_longer_than_a_moment_is_under_way() -> None:
    made = Progress()
    packet = object()
    made.came(packet, 0.0)
    made.came(packet, 0.1)
    assert not made.moving(0.1)
    made.came(packet, 5.0)
    assert made.moving(5.0)
    assert made.moving(10.0)
    assert not made.moving(15.0)


def test_many_messages_that_come_quickly_hold_nothing_up() -> None:
    made = Progress()
    for tenth in range(100):
        made.came(object() if tenth % 2 else None, tenth / 10)
        assert not made.moving(tenth / 10)


def test_a_socket_knows_what_the_other_end_has_not_taken() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    inner = socket.create_connection(listener.getsockname())
    inner.setblocking(False)
    near, (far, _address) = BufferedSocket(inner), listener.accept()
    with listener, far:
        near.send(b"x" * 20_000_000)
        assert near.waiting() == 20_000_000
        assert not near.flush()
        taken = far.recv(65_536)
        assert 0 < near.waiting() <= near.taken - len(taken)
        near.release()
    assert near.taken == 20_000_000
