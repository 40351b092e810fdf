"""The disk changes a byte of any file of a hub or a device: it is said, healed or harmless, and spreads nowhere.

Wherever the byte is: no device ever holds a value that no app wrote, other than the device whose own database was
changed; and once all are at rest, hub and devices are equal. Else somebody says what is wrong, and is well again with a
copy of its files.
"""

from __future__ import annotations

import random
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from support.agent_process import tidewire_agent
from support.flipped import flip_at, flip_somewhere
from support.hub_process import tidewire_hub
from support.ledger import SCHEMA, Ledger
from support.processes import Device, Site
from support.waiting import wait_for
from tidewire_agent.errors import DatabaseNotUsable
from tidewire_agent.lock import read_status

AGENT = ("--ack-timeout-s", "2", "--welcome-timeout-s", "2", "--retry-delay-max-s", "0.5")
HUB = ("--commit-retry-max-s", "0.5")
SHORT_LOG = (
    *("--retention-entries", "1", "--retention-interval-s", "0.05", "--snapshot-interval-s", "0.05"),
    *("--snapshot-hold-s", "0.05"),
)
PATIENT_S = 120.0
SAID = re.compile(
    r"log_damaged|state_damaged|state_lost|database_damaged|database_not_usable|database_missing|batch_damaged"
    r"|malformed|not a database|not an SQLite database|not as it was|later version|newer Tidewire|earlier Tidewire"
)
"""How hub and agent say that a file is not what it was."""


class Kind(NamedTuple):
    """A file of a hub."""

    pattern: str
    """Where it is in the stream's folder."""
    short: bool
    """Whether the log was trimmed, and snapshots were made."""
    killed: bool = False
    """Whether the hub is killed, so that the file stays."""
    alone: bool = False
    """Whether the hub's state is lost besides."""


KINDS = {
    "log.db": Kind("log.db", short=False),
    "log.db-wal": Kind("log.db-wal", short=False, killed=True),
    "state.db": Kind("state.db", short=False),
    "state.db of a trimmed log": Kind("state.db", short=True),
    "state.db-wal": Kind("state.db-wal", short=False, killed=True),
    "a snapshot's manifest": Kind("snapshots/[!.]*/manifest.json", short=True),
    "a snapshot's chunks": Kind("snapshots/[!.]*/chunks", short=True),
    "a snapshot's state.db": Kind("snapshots/[!.]*/state.db", short=True),
    "a snapshot's state.db, and the hub's lost": Kind("snapshots/[!.]*/state.db", short=True, alone=True),
    "devices.json": Kind("devices.json", short=False),
    "lock": Kind("../lock", short=False),
}


def in_a_note(path: Path, chance: random.Random) -> str:
    """Change a byte of a text that an app wrote, if the file has one."""
    places = [found.start() for found in re.finditer(rb" in version ", path.read_bytes())]
    if not places:
        return flip_somewhere(path, chance)
    place = chance.choice(places) + 3
    flip_at(path, place)
    return f"byte {place} of {path.name}, in a note"


def flip(number: int, path: Path, chance: random.Random) -> str:
    """Change a byte that matters, where a file has one; after the first time one that may be anywhere."""
    return in_a_note(path, chance) if number == 0 or chance.random() < 0.3 else flip_somewhere(path, chance)


def turns(rounds: int) -> range:
    """Each takes seconds: half as many as other faults have rounds."""
    return range(max(1, rounds // 2))


def newest(folder: Path, pattern: str) -> Path:
    """The file that was written last of those of a kind."""
    return max(folder.glob(pattern), key=lambda path: path.stat().st_mtime_ns)


def complaint(device: Device) -> str:
    """What a device says of a changed file, its own or the hub's; empty if nothing."""
    found = read_status(device.db)
    said = " ".join(f"{problem.code} {problem.message}" for problem in found.problems) if found else ""
    return said if SAID.search(said) else ""


class _Round:
    """One changed byte of a hub's file."""

    def __init__(self, ledger: Ledger, devices: list[Device], late: Device) -> None:
        self.site = ledger.site
        self.ledger = ledger
        self.devices = [*devices, late]
        self.late = late
        self.log_before = len(self.site.hub.log)

    @property
    def said(self) -> str:
        """How the hub ended, or a device has a problem, because of it."""
        hub = self.site.hub
        told = hub.log[self.log_before :]
        if hub.process.poll() is not None:
            assert SAID.search(told), told
            return told
        return next(filter(None, map(complaint, self.devices)), "")

    def over(self) -> str:
        """How it went, once that is clear."""
        if self.said:
            return "said"
        return "well" if self.site.hub.ready() and self._at_rest() else ""

    def _at_rest(self) -> bool:
        head = self.site.head()
        standing = [device.standing() for device in self.devices if device.known]
        return len(standing) == len(self.devices) and all(s.at_rest and s.seq == head for s in standing)


@pytest.mark.timeout(1200)
@pytest.mark.fault("a byte of any file of the hub that the disk has changed")
@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_byte_in_a_file_of_the_hub_spreads_nowhere(
    tmp_path: Path, chance: random.Random, seed: int, rounds: int, kind: str
) -> None:
    """Guarantees 2, 3 and 7."""
    print(f"flipped bytes: --chaos-seed {seed} --fault-rounds {rounds}")  # noqa: T201 - to do it again
    pattern, short, killed, alone = KINDS[kind]
    with Site(tmp_path, *HUB, *(SHORT_LOG if short else ())) as site:
        folder, copy = site.hub.data / "main", tmp_path / "copy"
        ledger = Ledger(site)
        devices = [site.device(name, SCHEMA, *AGENT).start() for name in ("a", "b")]
        for number in turns(rounds):
            for device in devices:
                ledger.write(device)
            site.wait_at_rest(*devices)
            if short:
                wait_for(lambda: any(folder.glob("snapshots/[!.]*/state.db")), what="a snapshot")
            site.hub.kill() if killed else site.hub.terminate()
            shutil.copytree(site.hub.data, copy)
            where = flip(number, newest(folder, pattern), chance)
            if alone:
                (folder / "state.db").unlink()
            late = site.device(f"late{number}", SCHEMA, *AGENT)
            turn = _Round(ledger, devices, late)
            site.hub.launch()
            late.start(until=None)
            for device in devices:
                ledger.write(device, rows=2, again=1)
            how = wait_for(turn.over, PATIENT_S, what=f"all are well after {where}, or it is said", every_s=0.05)
            print(f"{how}: {where} {turn.said[-300:] if how == 'said' else ''}")  # noqa: T201
            ledger.check_values(turn.devices)
            if how == "said":  # as a person does: with a copy of the files from before
                site.hub.process.kill()
                site.hub.process.wait()
                shutil.rmtree(site.hub.data)
                shutil.copytree(copy, site.hub.data)
                site.hub.start()
                ledger.wait_complete(turn.devices)
            ledger.check_all(turn.devices)
            late.stop()
            shutil.rmtree(copy)


FILES = ("a.db", "a.db-wal", "a.db-tidewire")


class _DeviceTurn:
    """One changed byte of a device's file."""

    def __init__(self, site: Site, device: Device, other: Device) -> None:
        self._site = site
        self._device = device
        self._other = other
        self._log_before = len(device.log)

    @property
    def said(self) -> str:
        """How the agent ended, or which problem it has."""
        told = self._device.log[self._log_before :]
        if not self._device.running:
            assert SAID.search(told), told
            return told
        return complaint(self._device)

    def over(self) -> str:
        """How it went, once that is clear: the other device always comes to rest."""
        head = self._site.head()
        standing = self._other.standing()
        if not (standing.at_rest and standing.seq == head):
            return ""
        if self.said:
            return "said"
        try:
            mine = self._device.standing()
        except sqlite3.DatabaseError:
            return ""  # its agent cannot read the file either, and has yet to say so
        return "well" if mine.at_rest and mine.seq == head else ""


@pytest.mark.timeout(1200)
@pytest.mark.fault("a byte of a device's database that the disk has changed")
@pytest.mark.parametrize("file", FILES)
def test_a_changed_byte_in_a_file_of_a_device_is_said_or_found_by_verify_and_reaches_no_other(
    tmp_path: Path, chance: random.Random, seed: int, rounds: int, file: str
) -> None:
    """Guarantees 2 and 7.

    A row of the app's own has no checksum: the device holds what its disk made of it, until `verify` finds that.
    """
    print(f"flipped bytes: --chaos-seed {seed} --fault-rounds {rounds}")  # noqa: T201 - to do it again
    with Site(tmp_path, *HUB) as site:
        ledger, folder = Ledger(site), tmp_path / "disk"
        folder.mkdir()
        a, b = site.device("a", SCHEMA, *AGENT, folder=folder), site.device("b", SCHEMA, *AGENT)
        for device in (a, b):
            device.start()
        for number in turns(rounds):
            for device in (a, b):
                ledger.write(device)
            site.wait_at_rest()
            kept = dict(ledger.written)
            site.hub.terminate()
            ledger.write(a)
            wait_for(lambda: a.standing().batches > 0 and a.standing().changes == 0, what="sealed batches wait")
            a.kill()
            if file == "a.db":
                a.query("PRAGMA wal_checkpoint(TRUNCATE)")
            copy = shutil.copytree(folder, tmp_path / "copy")
            where = flip(number, folder / file, chance)
            turn = _DeviceTurn(site, a, b)
            site.hub.start()
            a.start(until=None)
            ledger.write(b)
            how = wait_for(turn.over, PATIENT_S, what=f"it is clear what becomes of {where}", every_s=0.05)
            ledger.check_values([b])
            if how == "well":
                how = _verified(site, a, b)
            print(f"{how}: {where} {turn.said[-300:] if how == 'said' else ''}")  # noqa: T201
            if how != "well":  # as a person does: with a copy of the file from before
                if a.running:
                    a.kill()
                shutil.rmtree(folder)
                copy.rename(folder)
                a.start()
                ledger.wait_complete([a, b])
            else:
                shutil.rmtree(copy)
                if (
                    file == "a.db-wal"
                ):  # SQLite takes the changed frame for the end: what follows is written nowhere else
                    ledger.lose_end(a, kept)
            ledger.check_all([a, b])


def _verified(site: Site, device: Device, other: Device) -> str:
    """Whether a device that sees nothing wrong is as the hub: `verify` says the same. The other one is."""
    site.assert_equal(other)
    found = tidewire_agent("verify", "--db", device.db)
    try:
        equal = device.digests() == site.hub_digests()
    except DatabaseNotUsable:  # a page that the agent had no need of
        assert found.returncode != 0, (found.stdout, found.stderr)
        return "differs"
    if (found.returncode == 0) != equal:  # an index and its table say different things
        assert device.query("PRAGMA integrity_check") != [("ok",)], (found.stdout, found.stderr)
        return "differs"
    return "well" if equal else "differs"


@pytest.mark.timeout(1200)
@pytest.mark.fault("a byte changed under a running hub or agent")
@pytest.mark.parametrize("file", ["log.db", "state.db"])
def test_a_byte_changed_under_a_running_hub_spreads_nowhere(
    tmp_path: Path, chance: random.Random, seed: int, rounds: int, file: str
) -> None:
    """Guarantees 2, 3 and 7. What SQLite holds in memory is right: the byte is noticed when it is read, at last after
    a restart."""
    print(f"flipped bytes: --chaos-seed {seed} --fault-rounds {rounds}")  # noqa: T201 - to do it again
    with Site(tmp_path, *HUB, "--check-interval-s", "0.2") as site:
        ledger = Ledger(site)
        devices = [site.device(name, SCHEMA, *AGENT).start() for name in ("a", "b")]
        for number in turns(rounds):
            for device in devices:
                ledger.write(device)
            site.wait_at_rest(*devices)
            copy = tmp_path / f"copy{number}"
            done = tidewire_hub("backup", "--data", site.hub.data, copy)
            assert done.returncode == 0, done.stderr
            with closing(sqlite3.connect(site.hub.data / "main" / file)) as other:
                other.execute("PRAGMA wal_checkpoint")
            where = flip(number, site.hub.data / "main" / file, chance)
            turn = _Round(ledger, devices, site.device(f"late{number}", SCHEMA, *AGENT))
            turn.late.start(until=None)
            for device in devices:
                ledger.write(device, rows=2, again=1)
            how = wait_for(turn.over, PATIENT_S, what=f"all are well after {where}, or it is said", every_s=0.05)
            ledger.check_values(turn.devices)
            if how == "well":
                site.hub.terminate()
                site.hub.launch()
                how = wait_for(turn.over, PATIENT_S, what=f"the same after a restart, {where}", every_s=0.05)
            if how == "well":  # an entry that no device needed
                done = tidewire_hub("backup", "--data", site.hub.data, tmp_path / f"look{number}")
                assert done.returncode == 0 or SAID.search(done.stderr), done.stderr
                how = "said" if done.returncode else "well"
            print(f"{how}: {where} {turn.said[-300:] if how == 'said' else ''}")  # noqa: T201
            assert "Traceback" not in site.hub.log
            if how == "said":  # as a person does: with a copy of the files from before
                site.hub.process.kill()
                site.hub.process.wait()
                shutil.rmtree(site.hub.data)
                shutil.copytree(copy, site.hub.data)
                site.hub.start()
                ledger.wait_complete(turn.devices)
            ledger.check_all(turn.devices)
            turn.late.stop()


@pytest.mark.fault("a byte changed under a running hub or agent")
def test_a_byte_changed_under_a_running_agent_reaches_no_other_and_is_repaired(
    tmp_path: Path, chance: random.Random, seed: int
) -> None:
    """Guarantees 2 and 7. In a text, of a row or of a kept batch; noticed when it is read, at last after a restart."""
    print(f"flipped bytes: --chaos-seed {seed}")  # noqa: T201 - to do it again
    with Site(tmp_path, *HUB) as site:
        ledger = Ledger(site)
        a, b = (site.device(name, SCHEMA, *AGENT).start() for name in ("a", "b"))
        for device in (a, b):
            ledger.write(device)
        site.wait_at_rest()
        a.query("PRAGMA wal_checkpoint(TRUNCATE)")
        in_a_note(a.db, chance)
        ledger.write(b)
        site.wait_at_rest()
        ledger.check_values([b])
        a.kill()
        a.start()
        site.wait_at_rest()
        if _verified(site, a, b) == "differs":
            assert tidewire_agent("verify", "--db", a.db, "--repair").returncode == 0
        ledger.check_all([a, b])
        assert "Traceback" not in a.log
