"""One world: a hub, a broker, some devices with their apps, bad luck, and those who watch."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final

from simulation.apps import GROWING, NEW_COLUMNS
from simulation.checkers import Guarantee, LogChecker, Violation, is_quiet
from simulation.device import Device
from simulation.disk import Disk
from simulation.faults import FAULTS, Fault
from simulation.hub import Hub
from simulation.network import Network, Weather
from simulation.oracle import column_of
from simulation.virtual_time import PROCESSES, VirtualLoop
from tidewire_agent.session.states import State
from tidewire_agent.store.edge_store import EdgeStore
from tidewire_schemas import codec, topics
from tidewire_schemas.errors import LedElsewhere
from tidewire_schemas.messages import Ack

FAULT_SHARE: Final = 0.25
"""Share of the steps that are bad luck; in the others an app writes."""

SHORT_LOG_SHARE: Final = 0.5
"""Of the worlds with devices that fall far behind, so many have a hub that trims its log all the time."""

CALM_MAX_S: Final = 180.0
"""After the faults have stopped all must be at rest within this time."""

DEVICES_MAX: Final = 5
"""Clones included."""

HISTORY_LINES: Final = 400
"""The end of the history that a failure can show."""


@dataclass(frozen=True)
class Plan:
    """What to simulate.

    Args:
        seed: decides everything else.
        steps: writes of apps and strikes of bad luck.
        devices: how many there are at the beginning.
        faults: by name; None for all that are on.
    """

    seed: int
    steps: int = 100
    devices: int = 3
    faults: tuple[str, ...] | None = None

    def chosen(self) -> list[Fault]:
        """The faults of this world."""
        if self.faults is None:
            return [fault for fault in FAULTS.values() if fault.on]
        return [FAULTS[name] for name in self.faults]


class World:
    """A world, from its beginning to its rest. Made by `simulate` in lifetime.py."""

    def __init__(self, plan: Plan, folder: Path, loop: VirtualLoop) -> None:
        self.plan = plan
        self.chance = random.Random(f"world {plan.seed}")
        self.disk = Disk(random.Random(f"disk {plan.seed}"))
        self.log = LogChecker()
        self.network = Network(
            random.Random(f"network {plan.seed}"),
            on_publish=self._published,
            on_delivery=self._delivered,
            happened=self.happened,
        )
        self.devices: list[Device] = []
        self.struck: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.history: deque[str] = deque(maxlen=HISTORY_LINES)
        self.violation: Violation | None = None
        self._folder = folder
        self._place = str(folder)
        """Messages about files say where these are: that is no part of the history."""
        self._loop = loop
        self._hash = blake2b(digest_size=16)
        self._stopping = False
        far_behind = any(fault.name == "device_far_behind" for fault in plan.chosen())
        self.short_log = far_behind and self.chance.random() < SHORT_LOG_SHARE
        self.columns: set[tuple[str, str]] = set()
        """Tables and columns that any app has added."""
        self.hub = Hub(self, "hub", folder / "hub", self.log)
        self._old_hubs: list[Hub] = []

    @property
    def weather(self) -> Weather:
        """How the network is now."""
        return self.network.weather

    @property
    def digest(self) -> str:
        """Of all that has happened."""
        return self._hash.hexdigest()

    # ── its course ────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Live through all steps, then come to rest."""
        for number in range(self.plan.devices):
            self._install(f"till-{number + 1}", _label(number))
        self.hub.start()
        faults = self.plan.chosen()
        weights = [fault.weight for fault in faults]
        for step in range(self.plan.steps):
            self.counts["steps"] += 1
            if faults and self.chance.random() < FAULT_SHARE:
                (chosen,) = self.chance.choices(faults, weights)
                self.note("step", step, chosen.name)
                if await chosen.strike(self):
                    self.happened(chosen.name)
            else:
                self.write(self.any_device())
            await asyncio.sleep(self._pause())
            self._check()
            if self.chance.random() < 0.1:
                await self._help_halted()
        await self._come_to_rest()

    def _pause(self) -> float:
        """Mostly short beside the network's delays; now and then long beside the timeouts."""
        draw = self.chance.random()
        if draw < 0.3:
            return self.chance.random() * 0.002
        return self.chance.random() * (0.05 if draw < 0.85 else 0.5 if draw < 0.97 else 4.0)

    def _install(self, name: str, label: str) -> None:
        device = Device(self, name, label, self._folder, self.log.oracle)
        device.install(self.chance.randrange(8))
        self.devices.append(device)
        self.later(self.chance.random(), lambda: self._start(device))

    async def _come_to_rest(self) -> None:
        """No more faults, no more writes: all must get level."""
        self._stopping = True
        self.note("calm")
        self.network.weather = Weather()
        for device in self.devices:
            if device.app.finish():
                device.tell()
        deadline = self._loop.time() + CALM_MAX_S
        while self._loop.time() < deadline:
            await asyncio.sleep(0.5)
            self._check()
            await self._help_halted()
            if self._migrate_all() and self._rests():
                break
        else:
            raise Violation(Guarantee.REST, "; ".join(self._unrest()))
        self._account()

    def _migrate_all(self) -> bool:
        """In the end all apps have made the same changes to their tables. Whether they had."""
        done = True
        for device in self.devices:
            for table, column in sorted(self.columns - device.app.columns):
                done = False
                if device.attached and device.app.add_column(table, column, fill=False):
                    self.note("add", device.label, table, column)
                    device.tell()
        return done

    # ── what faults ask of it ─────────────────────────────────────────────────────────────────────────────────────

    def any_device(self) -> Device:
        """One of the devices."""
        return self.chance.choice(self.devices)

    def any_running(self) -> Device | None:
        """One of the devices whose agent runs."""
        running = [device for device in self.devices if device.running]
        return self.chance.choice(running) if running else None

    def write(self, device: Device) -> None:
        """An app makes a transaction."""
        if device.attached and device.app.write():
            self.note("write", device.label, len(device.app.written))
            device.tell()
        if self.chance.random() < 0.15 and device.attached and not device.app.holds:
            device.backups.append(device.copy())
        if self.chance.random() < 0.1 and (copy := self.hub.copy()) is not None:
            self.hub.backups.append(copy)

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Do something after a while, or when the faults stop."""
        self._loop.call_later(seconds, act)

    def start_again(self, machine: Device | Hub) -> None:
        """Start a stopped machine after a while, mostly soon."""
        soon = self.chance.random() < 0.8
        self.later(self.chance.uniform(0.2, 1.0 if soon else 6.0), lambda: self._start(machine))

    def _start(self, machine: Device | Hub) -> None:
        if machine.running or machine in self._old_hubs:
            return
        if not machine.may_start:
            self.later(0.1, lambda: self._start(machine))
            return
        self.note("start", machine.label)
        machine.start()

    def _take_over(self, hub: Hub) -> None:
        """A person has read that another hub led, and knows better."""
        if hub.may_start and hub is self.hub:
            self.note("take over", hub.label)
            hub.start(take_over=True)

    def cut_a_connection(self, *, late: bool) -> bool:
        """Cut one of the connections; whether there was one."""
        clients = list(self.network.clients.values())
        if not clients:
            return False
        self.chance.choice(clients).cut(notice_s=self.chance.random() * 3 if late else None)
        return True

    def start_second_hub(self) -> bool:
        """Start a hub on the same log, with a state of its own; after a while one of the two goes."""
        if (self._old_hubs and self._old_hubs[-1].running) or not self.hub.can_make_state_anew:
            return False
        old, number = self.hub, len(self._old_hubs) + 2
        folder = self._folder / f"hub{number}"
        new = Hub(self, f"hub{number}", folder, self.log)
        new.files.make()
        new.files.log.symlink_to(old.files.log.resolve())
        old.files.snapshots.mkdir(exist_ok=True)
        new.files.snapshots.symlink_to(old.files.snapshots.resolve())
        new.clock.offset_ms = old.clock.offset_ms
        self.hub = new
        self._old_hubs.append(old)
        new.start(take_over=True)
        self.later(self.chance.uniform(0.2, 4), old.kill)
        return True

    def roll_hub_back(self, *, state: bool) -> bool:
        """The hub goes on from an older copy of its log."""
        hub = self.hub
        if not hub.running or not hub.backups or not self.uses_alone(hub):
            return False
        hub.kill()
        for old in self._old_hubs:
            old.close()  # who looks at the log must not see its files change
        place = self.chance.randrange(len(hub.backups))
        hub.put_back(hub.backups[place], state=state)
        del hub.backups[place + 1 :]  # they are of what is lost
        self.start_again(hub)
        return True

    def lose_hub(self) -> bool:
        """All of the hub's files are lost: it begins another log, and a person lets each device adopt that."""
        hub = self.hub
        if not hub.running or not self.uses_alone(hub):
            return False
        hub.kill()
        for old in self._old_hubs:
            old.close()
        hub.lose_all()
        hub.backups.clear()
        self.start_again(hub)
        return True

    async def _help_halted(self) -> None:
        """A person looks after devices that know another log than the hub's."""
        for device in list(self.devices):
            engine = device.engine
            if engine is None or engine.session.state is not State.HALTED or device.app.holds:
                continue
            self.note("adopt", device.label)
            await device.stop()
            device.adopt_log()
            self._start(device)

    def uses_alone(self, hub: Hub) -> bool:
        """Whether no other hub has this one's log open."""
        return not any(other.running for other in (self.hub, *self._old_hubs) if other is not hub)

    def copied(self, device: Device) -> None:
        """From now on the writes of this device's apps may come twice."""
        self.log.copied |= device.writers

    def clone(self, device: Device) -> bool:
        """A second machine begins with a copy of a device's card."""
        if len(self.devices) >= DEVICES_MAX or device.app.columns:
            return False
        twin = Device(self, device.name, _label(len(self.devices)), self._folder, self.log.oracle)
        twin.adopt(device, device.copy())
        self.copied(twin)
        self.devices.append(twin)
        twin.app.start()
        self.later(self.chance.uniform(0, 2), lambda: self._start(twin))
        return True

    def change_columns(self, device: Device) -> bool:
        """An app adds a column to one of its tables, or gives one another name."""
        table, column = self.chance.choice(GROWING), self.chance.choice(sorted(NEW_COLUMNS))
        app = device.app
        copied = sum(other.name == device.name for other in self.devices) > 1
        if not device.attached or app.holds or copied:  # of two copies, each would take the other's new column away
            return False
        if not app.add_column(table, column, fill=self.chance.random() < 0.5) and not app.rename_column(table):
            return False
        self.columns |= app.columns
        self.note("columns", device.label, table, sorted(app.columns))
        if self.chance.random() < 0.8:
            device.tell()
        return True

    async def drop_column(self, device: Device) -> bool:
        """An app drops a column, while its table is detached; where it has none, one that it has just added."""
        if not device.app.columns and self.change_columns(device):
            await asyncio.sleep(self.chance.random())
        if not device.app.columns:
            return False
        table, column = self.chance.choice(sorted(device.app.columns))
        return await self.attach_anew(table, device, between=lambda: device.app.drop_column(table, column))

    async def attach_anew(self, table: str, device: Device, *, between: Callable[[], bool] = lambda: True) -> bool:
        """Detach a table and attach it again, with the agent stopped."""
        if device.app.holds or not device.running or not device.attached:
            return False
        await device.stop()
        store = EdgeStore.open(device.path, device=None)
        try:
            done = store.detach_table(table) and between()
            done = all(report.attached for report in store.attach([table])) and done
            store.harden()  # a power cut that undoes only the second half would leave the table to a person
        finally:
            store.close()
        self.start_again(device)
        return done

    # ── what it is told ───────────────────────────────────────────────────────────────────────────────────────────

    def note(self, *what: object) -> None:
        """Something happened: it belongs to the history."""
        line = f"{self._loop.time():.6f} {' '.join(map(str, what))}".replace(self._place, "")
        self._hash.update(line.encode() + b"\n")
        self.history.append(line)
        self.counts["events"] += 1

    def guard(self, check: Callable[[], None]) -> None:
        """Run a check; what it finds ends the world at its next step."""
        try:
            check()
        except Violation as violation:
            self.violation = self.violation or violation

    def ended(self, name: str, error: BaseException | None) -> None:
        """A process ended by itself."""
        self.note("ended", name, repr(error))
        for hub in (self.hub, *self._old_hubs):
            if hub.label == name:
                hub.close()  # also who looks at its log: the next hub's death may change its files
        if isinstance(error, LedElsewhere):
            hub = self.hub
            self.later(self.chance.uniform(0.2, 2.0), lambda: self._take_over(hub))
        elif error is not None:
            self.guard(lambda: _fail(Guarantee.MISTAKE, f"{name} ended: {error!r}"))

    def died(self, name: str) -> None:
        """A process died inside a call."""
        machine: Device | Hub | None = next((d for d in self.devices if f"agent {d.label}" == name), None)
        self.happened("hub_killed_inside_a_call" if machine is None else "agent_killed_inside_a_call")
        self.start_again(machine or self.hub)

    def logged(self, text: str, *, error: bool) -> None:
        """The product has logged something; an error is one that it did not expect."""
        process = PROCESSES.running.get()
        line = f"{self._loop.time():.6f} {process.name if process else ''}: {text}"
        self.history.append(line.replace(self._place, ""))
        if error:
            self.guard(lambda: _fail(Guarantee.MISTAKE, f"logged: {text}"))

    def happened(self, fault: str) -> None:
        """A fault has struck."""
        self.struck[fault] += 1

    def _published(self, client: str, topic: str, payload: bytes) -> None:
        self.note("at broker", client, topic, self._fingerprint(payload))
        place = topics.parse(topic)
        if place is not None and place.kind == "in" and place.device is not None and b'"type":"ack"' in payload:
            message = codec.parse("in", payload, bytes_max=len(payload))
            device = place.device
            if isinstance(message, Ack):
                self.guard(lambda: self.log.acked(message, device))

    def _delivered(self, client: str, topic: str, payload: bytes) -> None:
        self.note("delivered", client, topic, self._fingerprint(payload))

    def _fingerprint(self, payload: bytes) -> str:
        """Of a message; wherever the world's files are, it is the same."""
        return blake2b(payload.replace(self._place.encode(), b""), digest_size=6).hexdigest()

    # ── what is checked ───────────────────────────────────────────────────────────────────────────────────────────

    def _check(self) -> None:
        for machine in self.machines():
            self.guard(machine.check_limits)
        if self.violation is not None:
            raise self.violation

    def machines(self) -> list[Device | Hub]:
        """All there are."""
        return [*self.devices, self.hub, *self._old_hubs]

    def _rests(self) -> bool:
        return not any(True for _ in self._unrest())

    def _unrest(self) -> Iterator[str]:
        """What keeps the world from being at rest."""
        if self.hub.stream is None:
            yield "the hub is down"
            return
        head = self.log.oracle.head
        for device in self.devices:
            engine = device.engine
            if engine is None:
                yield f"{device.label} is down"
            elif engine.session.state.value != "live":
                yield f"{device.label} is {engine.session.state.value}"
            elif engine.session.position != head:
                yield f"{device.label} is at {engine.session.position}, the log at {head}"
            elif not is_quiet(device.observer):
                yield f"{device.label} has something to send"

    def _account(self) -> None:
        """At rest: all equal, and nothing that an app wrote is missing."""
        stream = self.hub.stream
        assert stream is not None
        by_hub = {found.table: (found.rows, found.digest) for found in stream.digests()}
        for device in self.devices:
            store = EdgeStore.open(device.path, device=None)
            try:
                position, digests = store.digests()
            finally:
                store.close()
            for found in digests:
                if (found.rows, found.digest) != by_hub.get(found.table, (0, "0" * 32)):
                    text = f"{device.label} and the hub differ in {found.table} at {position}"
                    raise Violation(Guarantee.DIVERGED, text)
            if stream.whole_since == 0:  # else the log says of columns what does not count any more
                self._compare_columns(device)
            self._find_writes(device)

    def _compare_columns(self, device: Device) -> None:
        """Columns that came; of one with a default the log says nothing where a row was there before."""
        for table, column in sorted(self.columns):
            found, wanted = column_of(device.observer, table, column), self.log.oracle.column(table, column)
            if NEW_COLUMNS[column] == column and found != wanted:
                only = f"only here {set(found) - set(wanted)}, only in the log {set(wanted) - set(found)}"
                raise Violation(Guarantee.DIVERGED, f"{column} of {table} at {device.label}: {only}")

    def _find_writes(self, device: Device) -> None:
        app = device.app
        missing: Iterable[str] = [entry for entry in app.written if not self.log.has(entry)]
        if missing:
            raise Violation(Guarantee.LOST, f"transactions of {device.label} are not in the log: {sorted(missing)}")
        dead = device.dead_marks().decode()
        gone = {mark for mark in app.waiting - self.log.marks if f'{mark}"' not in dead and f"{mark} " not in dead}
        if device.lied_to or self.log.lost_ends:
            gone -= self.log.refused
        if gone:
            text = f"values of {device.label} are neither in the log nor dead letters: {sorted(gone)}"
            raise Violation(Guarantee.LOST, text)


def _label(number: int) -> str:
    return "abcdefgh"[number]


def _fail(guarantee: Guarantee, text: str) -> None:
    raise Violation(guarantee, text)
