"""Hub, agents and broker are killed at random moments while three devices write.

The short form runs with all other tests. The long one:

    python -m pytest tests/acceptance/test_chaos.py -s --chaos-kills 20 [--chaos-seed N]
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.hub_process import tidewire_hub
from support.processes import Device, Site
from support.waiting import wait_for
from support.writer import SCHEMA, Observer, Writer

DEVICES = ("a", "b", "c")
KEYS = {"journal": 2, "tally": 1, "own": 2, "shared": 1, "tickets": 1}
"""How many of the first columns are the key, by table."""

BROKER_OPTIONS = ("--keepalive-s", "3", "--connect-timeout-s", "3", "--puback-timeout-s", "3")
AGENT_OPTIONS = (
    *BROKER_OPTIONS,
    *("--welcome-timeout-s", "1", "--hello-backoff-max-s", "1", "--hello-spread-s", "0.2"),
    *("--ack-timeout-s", "2", "--stall-timeout-s", "1"),
)
"""So that what was lost is noticed in seconds."""


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    given = request.config.getoption("--chaos-seed")
    return random.SystemRandom().randrange(10**6) if given is None else int(given)


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--chaos-kills"))


@pytest.fixture
def chance(seed: int) -> random.Random:
    return random.Random(seed)


@pytest.fixture
def site(tmp_path: Path, chance: random.Random) -> Iterator[Site]:
    """Three devices that are live. Some speak MQTT 5, some 3.1.1."""
    site = Site(tmp_path, *BROKER_OPTIONS, "--protocol", chance.choice(["5", "3.1.1"]))
    site.broker.persistence = True
    site.broker.config = ["autosave_on_changes true", "autosave_interval 50"]
    with site:
        for name in DEVICES:
            site.device(name, SCHEMA, *AGENT_OPTIONS, "--protocol", chance.choice(["5", "3.1.1"])).start()
        yield site


class Dangers:
    """What may happen to an installation. Each ends with all parts running again, but not yet well."""

    def __init__(self, site: Site, chance: random.Random) -> None:
        self._site = site
        self._chance = chance
        self.kills = 0

    def all(self) -> list[Callable[[], None]]:
        return [
            self.hub_killed,
            self.agent_killed,
            self.broker_killed_and_its_store_deleted,
            self.hub_killed_while_it_starts,
            self.agent_killed_while_it_starts,
            self.broker_killed_with_an_old_store,
            self.hub_and_broker_killed,
            self.all_agents_killed,
        ]

    def hub_killed(self) -> None:
        self._kill_hub()
        self._pause(1)
        self._site.hub.launch()

    def hub_killed_while_it_starts(self) -> None:
        self._kill_hub()
        self._site.hub.launch()
        self._pause(0.8)
        self._kill_hub()
        self._site.hub.launch()

    def agent_killed(self) -> None:
        device = self._one()
        self._kill_agent(device)
        self._pause(1)
        device.start(until=None)

    def agent_killed_while_it_starts(self) -> None:
        device = self._one()
        self._kill_agent(device)
        device.start(until=None)
        self._pause(0.8)
        self._kill_agent(device)
        device.start(until=None)

    def all_agents_killed(self) -> None:
        for device in self._site.devices:
            self._kill_agent(device)
        self._pause(1)
        for device in self._site.devices:
            device.start(until=None)

    def broker_killed_and_its_store_deleted(self) -> None:
        self._kill_broker()
        self._site.broker.wipe()
        self._pause(1)
        self._site.broker.start()

    def broker_killed_with_an_old_store(self) -> None:
        """It comes back with a retained head of some time ago."""
        self._kill_broker()
        self._pause(1)
        self._site.broker.start()

    def hub_and_broker_killed(self) -> None:
        self._kill_broker()
        self._kill_hub()
        self._site.broker.wipe()
        self._site.hub.launch()
        self._pause(1)
        self._site.broker.start()

    def broker_frozen(self) -> None:
        """Connections stay open and nothing answers, for shorter or longer than a keepalive."""
        self._site.broker.freeze()
        self._pause(6)
        self._site.broker.thaw()

    def _one(self) -> Device:
        return self._chance.choice(self._site.devices)

    def _kill_agent(self, device: Device) -> None:
        assert device.running, device.log[-3000:]
        device.kill()
        self.kills += 1

    def _kill_hub(self) -> None:
        assert self._site.hub.process.poll() is None, self._site.hub.log[-3000:]
        self._site.hub.kill()
        self.kills += 1

    def _kill_broker(self) -> None:
        self._site.broker.kill()
        self.kills += 1

    def _pause(self, longest_s: float) -> None:
        time.sleep(self._chance.random() * longest_s)


@pytest.mark.timeout(1200)
@pytest.mark.fault("agents, hub and broker killed at random moments, the broker's store deleted")
def test_nothing_is_lost_and_nothing_comes_twice_whatever_is_killed(
    site: Site, chance: random.Random, seed: int, kills: int
) -> None:
    """Guarantee 2. Guarantee 3. Guarantee 4. Guarantee 5. Guarantee 7."""
    print(f"chaos: --chaos-seed {seed} --chaos-kills {kills}")  # noqa: T201 - to do it again
    writers = [Writer(device.db, device.device, seed) for device in site.devices]
    observers = [Observer(device.db) for device in site.devices]
    for writer in writers:
        writer.start()
    for observer in observers:
        observer.start()
    dangers = Dangers(site, chance)
    try:
        endanger(dangers, chance, kills)
    finally:
        for writer in writers:
            writer.stop()
    wait_for(site.hub.ready, 30, what="the hub is ready")
    for device in site.devices:
        device.wait_state("live", deadline_s=60)
    site.wait_at_rest(deadline_s=120)
    for observer in observers:
        observer.stop()

    assert dangers.kills >= kills
    log = stored_log(site)
    check_log(log, len(DEVICES))
    site.assert_equal()
    for device in site.devices:
        check_rows(device, writers)
        assert rows_of(device) == folded(log)
    check_tickets(site, writers)
    check_programs(site)
    looks = sum(observer.looks for observer in observers)
    written = sum(writer.committed for writer in writers)
    print(f"chaos: {dangers.kills} kills, {written} transactions, {len(log)} entries, {looks} looks")  # noqa: T201


def endanger(dangers: Dangers, chance: random.Random, kills: int) -> None:
    """Every danger in turn, in random order, with random time between; now and then the broker falls silent."""
    deck: list[Callable[[], None]] = []
    since_frozen = 0
    while dangers.kills < kills:
        if not deck:
            deck = dangers.all()
            chance.shuffle(deck)
        time.sleep(chance.random() * 3)
        deck.pop()()
        since_frozen += 1
        if since_frozen == 4:
            since_frozen = 0
            time.sleep(chance.random() * 3)
            dangers.broker_frozen()
    time.sleep(chance.random() * 3)


# ── what must hold at the end ─────────────────────────────────────────────────────────────────────────────────────


def stored_log(site: Site) -> list[dict[str, Any]]:
    answer = tidewire_hub("log", "--data", site.hub.data, "--from", "1", "--json")
    assert answer.returncode == 0, answer.stderr
    return [json.loads(line) for line in answer.stdout.splitlines()]


def check_log(log: list[dict[str, Any]], devices: int) -> None:
    """Numbered without a gap; each device's batches once and in order; and so its transactions."""
    assert [entry["seq"] for entry in log] == list(range(1, len(log) + 1))
    assert [entry["epoch"] for entry in log] == sorted(entry["epoch"] for entry in log)
    chains: dict[tuple[str, str], list[int]] = {}
    journal: dict[str, list[int]] = {}
    for entry in log:
        chains.setdefault((entry["device"], entry["incarnation"]), []).append(entry["batch"])
        noted = [row[1] for run in entry["changes"] if run["table"] == "journal" for row in run["rows"]]
        journal.setdefault(entry["device"], []).extend(sorted(noted))
        assert all(refused["table"] in ("shared", "tickets") for refused in entry["refused"]), entry["refused"]
    assert len(chains) == devices, "a kill made no device take a new incarnation"
    for batches in (*chains.values(), *journal.values()):
        assert batches == list(range(1, len(batches) + 1))


def check_rows(device: Device, writers: list[Writer]) -> None:
    """What nobody else changed is as its writer committed it last; a cell that all change is as one wrote it."""
    for writer in writers:
        mine = writer.device
        journal = device.query("SELECT n, note FROM journal WHERE device = ? ORDER BY n", mine)
        assert journal == [(n, f"{mine} {n}") for n in range(1, writer.committed + 1)]
        assert device.query("SELECT n FROM tally WHERE device = ?", mine) == [(writer.committed,)]
        own = device.query("SELECT slot, n, note FROM own WHERE device = ? ORDER BY slot", mine)
        assert own == [(slot, *writer.own[slot]) for slot in sorted(writer.own)]
    written = set[tuple[str, str, str]]().union(*(writer.shared for writer in writers))
    for key, left, right in device.query("SELECT key, left, right FROM shared"):
        assert {(key, "left", left), (key, "right", right)} <= written


def check_tickets(site: Site, writers: list[Writer]) -> None:
    """Every ticket is in the table or in the dead letters of its device, once."""
    found = Counter(site.devices[0].query("SELECT device, n FROM tickets"))
    for device in site.devices:
        letters = device.dead()
        assert {letter["table"] for letter in letters} <= {"shared", "tickets"}
        for letter in letters:
            if letter["table"] == "tickets":
                assert (letter["reason"], letter["cells"]["device"]) == ("key_taken", device.device)
                found[device.device, letter["cells"]["n"]] += 1
    assert found == Counter((writer.device, n) for writer in writers for n in writer.tickets)


def check_programs(site: Site) -> None:
    """Nothing failed in a way nobody thought of, and nothing is complained of now."""
    assert "Traceback" not in site.hub.log
    for device in site.devices:
        assert "Traceback" not in device.log
        assert device.status.rejected_count == 0
        device.wait_no_problem()


Rows = dict[str, dict[tuple[Any, ...], tuple[Any, ...]]]


def rows_of(device: Device) -> Rows:
    found: Rows = {table: {} for table in KEYS}
    for table, width in KEYS.items():
        for row in device.query(f"SELECT * FROM {table}"):
            found[table][row[:width]] = row[width:]
    return found


def folded(log: list[dict[str, Any]]) -> Rows:
    """The rows that the log makes, by the simplest reading of the protocol page."""
    columns = {"journal": ["note"], "tally": ["n"], "own": ["n", "note"], "shared": ["left", "right"]}
    columns["tickets"] = ["device", "n"]
    rows: Rows = {table: {} for table in KEYS}
    for entry in log:
        for run in sorted(entry["changes"], key=lambda run: run["op"] != "delete"):
            table = rows[run["table"]]
            for row in run["rows"]:
                key = tuple(row[: run["key"]])
                if run["op"] == "delete":
                    table.pop(key, None)
                    continue
                cells = dict(zip(columns[run["table"]], table.get(key, ()), strict=False))
                cells.update(zip(run["columns"][run["key"] :], row[run["key"] :], strict=True))
                table[key] = tuple(cells[name] for name in columns[run["table"]])
    return rows
