"""The power is cut at a device, at the hub, or at both in one moment, again and again, while apps write.

A short form runs with all other tests; a longer one:

    python -m pytest tests/acceptance/test_power_cut.py -s --fault-rounds 12 [--chaos-seed N]
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from sqlite3 import connect
from typing import Any, Final, Literal, Self

import pytest

from support import steady_app
from support.card import Card
from support.crash_point import CrashPoint
from support.forked import Forked
from support.hub_process import HubProcess
from support.processes import Device, Site
from support.town import AGENT_OPTIONS, HUB_OPTIONS, assert_sound
from support.waiting import PATIENCE_S, wait_for

Where = Literal["device", "hub", "both"]

SMALL_DISK: Final = ("--disk-reserve-bytes", "0")

LIE: Final = CrashPoint("tidewire_agent.store.outbox:_sync", "instead of")
"""The agent believes that its batches are on the disk, and they are not."""


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--fault-rounds"))


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    given = request.config.getoption("--chaos-seed")
    seed = random.SystemRandom().randrange(10**6) if given is None else int(given)
    print(f"power cuts: --chaos-seed {seed}")  # noqa: T201 - to do it again
    return random.Random(seed)


class App:
    """An app on a device, in a process of its own."""

    def __init__(self, device: Device, said: Path, synchronous: str) -> None:
        self.device = device
        self._said = said
        self._synchronous = synchronous
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-P", steady_app.__file__, str(self.device.db), self.device.device]
        with self._said.open("ab") as said:
            self._process = subprocess.Popen([*command, self._synchronous], stdout=said, stderr=subprocess.DEVNULL)

    @property
    def committed(self) -> int:
        """The newest transaction that it said to be committed."""
        lines = self._said.read_bytes().split(b"\n")[:-1] if self._said.exists() else []
        return int(lines[-1]) if lines else 0

    def go_on(self, transactions: int) -> None:
        """Until it has committed so many more."""
        goal = self.committed + transactions
        wait_for(lambda: self.committed >= goal, what=f"transactions of {self.device.device}")

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_S)
            self._process = None


class Installation:
    """Devices `a` and `b`, each with an app, and a hub; of these `b`, the hub or both are on a card."""

    def __init__(self, folder: Path, card: Card, programs: Forked, where: Where, synchronous: str) -> None:
        self.card = card
        self.where = where
        self._folder = folder
        self._programs = programs
        self._synchronous = synchronous
        self.site = Site(folder, *HUB_OPTIONS, *SMALL_DISK, launch_program=programs.start)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            if self.where != "device":
                (self._folder / "hub").symlink_to(self.card.path / "hub")
                (self.card.path / "hub").mkdir()
            stack.enter_context(self.site)
            self._listen(stack)
            self.a = self.site.device("a", steady_app.SCHEMA, *AGENT_OPTIONS)
            self.b = self._device_on_card() if self.where != "hub" else self.site.device("b", "", *AGENT_OPTIONS)
            if self.where == "hub":
                self.b.sql(steady_app.SCHEMA)
            self.apps = [
                App(self.a, self._folder / "a.said", "NORMAL"),
                App(self.b, self._folder / "b.said", self._synchronous),
            ]
            for app in self.apps:
                stack.callback(app.kill)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def _device_on_card(self) -> Device:
        device = Device(self.card.path / "b.db", "b", self.site.broker.url, "--all-tables", *AGENT_OPTIONS, tables=())
        device.log_path = self._folder / "b.log"
        device.launch_program = self._programs.start
        with closing(connect(device.db, isolation_level=None)) as app:
            app.executescript(f"PRAGMA journal_mode = WAL; {steady_app.SCHEMA}")
        self.site.devices.append(device)
        return device

    def _listen(self, stack: ExitStack) -> None:
        """Keep what the hub tells devices."""
        command = ["mosquitto_sub", "-p", str(self.site.broker.port), "-q", "1", "-t", "tidewire/v1/device/+/in/+"]
        with (self._folder / "told").open("wb") as told:
            listener = subprocess.Popen([*command, "-F", "%t %p"], stdout=told)
        stack.callback(listener.wait)
        stack.callback(listener.kill)

    def start(self) -> None:
        self.a.start()
        self.b.start()
        for app in self.apps:
            app.start()

    def cut(self, chance: random.Random) -> None:
        """Cut the power, and start again what was on the card."""
        site, (_, app) = self.site, self.apps
        victims: list[Device | App | HubProcess] = []
        if self.where != "hub":
            victims += [self.b, *([app] if app.running else [])]
        if self.where != "device":
            victims.append(site.hub)
        chance.shuffle(victims)
        self.card.cut_power(*(victim.process.pid for victim in victims))
        for victim in victims:
            victim.kill()
        self.card.restore()
        if self.where != "device":
            self.check_acks()
            site.hub.start()
        if self.where != "hub":
            assert_sound(self.b.db)
            kept = self.b.query("SELECT coalesce(max(n), 0) FROM journal WHERE device = 'b'")[0][0]
            assert self._synchronous != "FULL" or kept >= app.committed
            self.b.start()
            app.start()

    def log(self) -> list[dict[str, Any]]:
        path = self.site.hub.data.resolve() / "main" / "log.db"
        with closing(connect(f"{path.as_uri()}?mode=ro", uri=True)) as log:
            return [json.loads(data) for (data,) in log.execute("SELECT data FROM entry ORDER BY seq")]

    def check_acks(self) -> None:
        """Guarantee 2: what was acked is in the log."""
        log = {entry["seq"]: entry for entry in self.log()}
        for line in (self._folder / "told").read_text().split("\n")[:-1]:
            topic, _, payload = line.partition(" ")
            ack = json.loads(payload)
            if ack.get("type") == "ack":
                entry = log[ack["seq"]]
                device = topic.split("/")[3]
                acked = (device, ack["incarnation"], ack["batch"], ack["digest"])
                assert acked == (entry["device"], entry["incarnation"], entry["batch"], entry["digest"])

    def check(self, *, incarnations: int = 2) -> None:
        """All that the files kept is in the log once and everywhere."""
        for app in self.apps:
            app.kill()
        self.site.wait_at_rest()
        self.check_acks()
        log = self.log()
        assert [entry["seq"] for entry in log] == list(range(1, len(log) + 1))
        assert len({entry["incarnation"] for entry in log}) <= incarnations
        assert not any(entry["refused"] or entry.get("was") for entry in log)
        rows = [row for entry in log for run in entry["changes"] if run["table"] == "journal" for row in run["rows"]]
        assert len(rows) == len({tuple(row) for row in rows}), "a transaction came twice"
        expected = {device.device: self._counted(device) for device in self.site.devices}
        tables = [self._tables(device) for device in self.site.devices]
        assert tables[0] == tables[1] == expected_tables(expected)
        hub = self._hub_digests()
        for device in self.site.devices:
            assert device.digests() == hub
            assert device.query("SELECT count(*) FROM tidewire_dead") == [(0,)]
            assert_sound(device.db)
        for name in ("log.db", "state.db"):
            assert_sound(self.site.hub.data.resolve() / "main" / name)

    def _hub_digests(self) -> dict[str, tuple[int, str]]:
        done = self._programs.run(["tidewire-hub", "digests", "--data", self.site.hub.data, "--json"])
        assert done.returncode == 0, done
        records = map(json.loads, done.stdout.splitlines())
        return {record["table"]: (record["rows"], record["digest"]) for record in records}

    def _counted(self, device: Device) -> int:
        ((n,),) = device.query("SELECT n FROM tally WHERE device = ?", device.device)
        return int(n)

    def _tables(self, device: Device) -> list[list[tuple[Any, ...]]]:
        return [device.query(f"SELECT * FROM {table} ORDER BY 1, 2") for table in ("journal", "tally", "own")]


def expected_tables(counts: dict[str, int]) -> list[list[tuple[Any, ...]]]:
    """What tables hold after so many transactions of each device."""
    with closing(connect(":memory:", isolation_level=None)) as app:
        app.executescript(steady_app.SCHEMA)
        for device, count in counts.items():
            for n in range(1, count + 1):
                steady_app.transaction(app, device, n)
        tables = ("journal", "tally", "own")
        return [app.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in tables]


@pytest.fixture
def card(tmp_path: Path) -> Iterator[Card]:
    with Card(tmp_path) as card:
        yield card


@pytest.fixture
def programs() -> Iterator[Forked]:
    with Forked() as programs:
        yield programs


@pytest.mark.needs("power cut")
@pytest.mark.fault("the power cut at a device, at the hub, and at both in one moment")
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("where", "synchronous"), [("device", "FULL"), ("device", "NORMAL"), ("hub", "NORMAL"), ("both", "FULL")]
)
def test_what_was_committed_or_acked_outlives_a_power_cut(
    tmp_path: Path,
    card: Card,
    programs: Forked,
    where: Where,
    synchronous: str,
    rounds: int,
    chance: random.Random,
) -> None:
    """Guarantee 1. Guarantee 2. Guarantee 3. Guarantee 4. Guarantee 5. Guarantee 7."""
    with Installation(tmp_path, card, programs, where, synchronous) as installation:
        installation.start()
        for _ in range(rounds):
            for app in installation.apps:
                app.go_on(chance.randint(1, 30))
            installation.cut(chance)
        for app in installation.apps:
            app.go_on(5)
        installation.check()


@pytest.mark.needs("power cut")
@pytest.mark.fault("the power cut at a device whose disk lied about what it had written")
def test_a_device_that_lost_what_the_hub_has_of_it_gets_it_back(
    tmp_path: Path, card: Card, programs: Forked, chance: random.Random
) -> None:
    """Guarantee 2. Guarantee 5. Guarantee 7."""
    with Installation(tmp_path, card, programs, "device", "NORMAL") as installation:
        b, (_, app) = installation.b, installation.apps
        b.launch_program = partial(programs.start, crash=LIE)
        installation.start()
        app.go_on(30)
        app.kill()
        installation.apps[0].kill()
        installation.site.wait_at_rest()
        b.launch_program = programs.start
        installation.cut(chance)
        app.go_on(5)
        installation.check(incarnations=3)
