"""A device behind a link that is slow or loses packets: what waits on both sides passes in the time that it takes.

Nothing is given up that gets on, however long it takes; so nothing large crosses the link again and again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.listening import heard, listening
from support.networks import Client, Network
from support.processes import Device, Site

SCHEMA = "CREATE TABLE notes (id TEXT PRIMARY KEY, note TEXT);"
WINDOW = 4
SMALL_WINDOW = ("--window-batches", str(WINDOW), "--batch-bytes-max", "150000")
IMPATIENT = (
    *SMALL_WINDOW,
    *("--welcome-timeout-s", "2", "--ack-timeout-s", "2", "--stall-timeout-s", "2", "--puback-timeout-s", "2"),
    *("--hello-backoff-max-s", "1"),
)
"""All of it is shorter than a message takes on the slow link."""
CONNECTIONS_MAX = 5
TIMES_MAX = 5
"""What is sent takes more bytes than the rows, and TCP repeats what was lost; a machine with other work may once in a
while be slow as well. Who gave up at each timeout would send without end."""
ROW_BYTES = 3000
ROWS_PER_ROUND = 20


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as network:
        yield network


def write(device: Device, rows: int) -> None:
    """Each row in a transaction of its own."""
    device.sql(
        *(
            f"INSERT INTO notes VALUES ('{device.device}-{number}', hex(randomblob({ROW_BYTES // 2})));"
            for number in range(rows)
        )
    )


def away_with_work_on_both_sides(site: Site, far: Device, near: Device, rows: int) -> None:
    """`far` has rows that the others lack, and they have rows that it lacks."""
    for device in (near, far):
        device.start()
    site.wait_at_rest()
    far.stop()
    write(far, rows)
    write(near, rows)
    site.wait_at_rest(near)


def check_window(path: Path) -> None:
    """Never were more batches under way than the window allows. (The ack that lets one more go is heard before it.)"""
    acked = 0
    for topic, message in heard(path):
        if topic.endswith("/up/far") and "batch" in message:
            assert message["batch"] - acked <= WINDOW
        elif message.get("type") == "ack":
            acked = max(acked, message["batch"])


def check_return(site: Site, far: Device, link: Client, rows: int, folder: Path) -> None:
    """`far` comes back: nothing large was sent again and again, and it did not connect again and again."""
    far.log_path.unlink()
    before = link.bytes_sent()
    with listening(site.broker, folder / "heard", "tidewire/v1/#") as said:
        far.start(until=None)
        site.wait_at_rest(deadline_s=600)
    sent, connections = link.bytes_sent() - before, far.log.count(" connected to ")
    far.wait_no_problem()
    check_window(said)
    site.assert_equal()
    print(f"slow link: {rows * ROW_BYTES} bytes of rows, {sent} sent, {connections} connections")  # noqa: T201
    assert sent < TIMES_MAX * rows * ROW_BYTES
    assert connections <= CONNECTIONS_MAX


@pytest.mark.timeout(1200)
@pytest.mark.needs("slow networks")
@pytest.mark.fault("a slow link")
def test_a_backlog_crosses_a_slow_link_though_each_message_takes_longer_than_any_timeout(
    network: Network, tmp_path: Path, chance: random.Random, seed: int, rounds: int
) -> None:
    """Guarantees 2, 7 and 12."""
    print(f"slow link: --chaos-seed {seed} --fault-rounds {rounds}")  # noqa: T201 - to do it again
    link, rows = network.client(), rounds * ROWS_PER_ROUND
    with Site(tmp_path, host=network.server) as site:
        near, far = site.device("near", SCHEMA), site.device("far", SCHEMA, *IMPATIENT, client=link)
        away_with_work_on_both_sides(site, far, near, rows)
        link.limit(chance.choice([128, 192, 256]))
        check_return(site, far, link, rows, tmp_path)


@pytest.mark.timeout(1200)
@pytest.mark.needs("networks")
@pytest.mark.fault("a link that loses packets")
def test_a_backlog_crosses_a_link_that_loses_packets(
    network: Network, tmp_path: Path, chance: random.Random, seed: int, rounds: int
) -> None:
    """Guarantees 2, 7 and 12."""
    print(f"lossy link: --chaos-seed {seed} --fault-rounds {rounds}")  # noqa: T201 - to do it again
    link, rows = network.client(), rounds * ROWS_PER_ROUND
    with Site(tmp_path, host=network.server) as site:
        near, far = site.device("near", SCHEMA), site.device("far", SCHEMA, *SMALL_WINDOW, client=link)
        away_with_work_on_both_sides(site, far, near, rows)
        link.lose(up=chance.uniform(0.1, 0.25), down=chance.uniform(0.1, 0.25))
        check_return(site, far, link, rows, tmp_path)
