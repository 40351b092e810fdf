"""Disks fill up while apps write: the hub's, and that of a device with its app."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from sqlite3 import connect

import pytest

from support.mounts import small_disk
from support.processes import Site
from support.waiting import wait_for
from support.work import Work
from support.writer import SCHEMA, Writer

NO_RESERVE = ("--disk-reserve-bytes", "0")
HUB_OPTIONS = (*NO_RESERVE, "--commit-retry-max-s", "0.5")
AGENT_OPTIONS = (*NO_RESERVE, "--retry-delay-max-s", "0.5", "--ack-timeout-s", "2", "--welcome-timeout-s", "2")
PIECE = b"x" * 4096
PATIENT_S = 120.0


def cut_short(database: Path) -> None:
    """Give the space of its `-wal` back: SQLite would write it anew from its start, and for long need no more."""

    def emptied() -> bool:
        (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy  # nobody wrote or read just then

    with closing(connect(database, isolation_level=None, timeout=PATIENT_S)) as connection:
        wait_for(emptied, PATIENT_S, what=f"the -wal of {database} is empty")


@contextmanager
def filled(disk: Path, database: Path) -> Iterator[None]:
    """No space is left, to the last block; what is freed meanwhile is for whoever comes first."""
    cut_short(database)
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(PIECE)
    yield
    ballast.unlink()


def refused(writer: Writer, times: int) -> bool:
    return writer.refused >= times


@pytest.mark.timeout(1200)
@pytest.mark.needs("mount")
@pytest.mark.fault("the disks of the hub and of a device full in turn, while apps write")
def test_disks_that_fill_up_in_turn_cost_nothing_that_was_committed(
    tmp_path: Path, chance: random.Random, seed: int, rounds: int
) -> None:
    """Guarantees 1, 2, 3, 7 and 11."""
    print(f"full disks: --chaos-seed {seed} --fault-rounds {rounds}")  # noqa: T201 - to do it again
    with (
        # A disk must be full of the ballast, not of what is written in so many rounds.
        small_disk(tmp_path / "hub", f"{32 + 16 * rounds}m") as hub_disk,
        small_disk(tmp_path / "disk", f"{32 + 16 * rounds}m") as device_disk,
        Site(tmp_path, *HUB_OPTIONS) as site,
    ):
        near = site.device("near", SCHEMA, *AGENT_OPTIONS).start()
        full = site.device("full", SCHEMA, *AGENT_OPTIONS, folder=device_disk)
        full.log_path = tmp_path / "full.log"
        full.start()
        with Work(site, seed) as work:
            writer = work.writers[site.devices.index(full)]
            for _ in range(rounds):
                work.go_on()
                with filled(hub_disk, site.hub.data / "main" / "log.db"):
                    wait_for(lambda: not site.hub.ready(), PATIENT_S, what="the hub says that its disk is full")
                    work.go_on()
                wait_for(site.hub.ready, PATIENT_S, what="the hub goes on")
                told = writer.refused + 3
                with filled(device_disk, full.db):
                    wait_for(partial(refused, writer, told), PATIENT_S, what="the app is told that its disk is full")
                    full.wait_problem("disk_full", PATIENT_S)
                full.wait_no_problem()
            log = work.check()
        near.wait_no_problem()
    print(f"full disks: {len(log)} entries, {writer.refused} refused by a full disk")  # noqa: T201
