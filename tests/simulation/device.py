"""A device: a machine with an app, its database and a real agent, whose thread and broker are the world's."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from simulation.agent import SimulatedWatch
from simulation.apps import MARK, SCHEMA, TABLES, App
from simulation.checkers import EdgeChecker, check_limits
from simulation.disk import Files
from simulation.observer import Observer
from simulation.oracle import Oracle
from simulation.process import Clock, Process
from simulation.surroundings import Surroundings
from tidewire_agent.runtime.agent import Agent
from tidewire_agent.runtime.engine import Engine
from tidewire_agent.settings import AgentSettings
from tidewire_agent.store.edge_store import EdgeStore
from tidewire_link.port import Link
from tidewire_link.reconnecting import ReconnectingLink
from tidewire_link.settings import LinkSettings


class Device:
    """A machine with one database, one app and one agent.

    Args:
        world: its surroundings.
        name: the device's name; copies of one card share it.
        label: its app's name, and the machine's in the network: unlike any other's.
        folder: where its database is.
        oracle: what the log says.
    """

    def __init__(self, world: Surroundings, name: str, label: str, folder: Path, oracle: Oracle) -> None:
        self.name = name
        self.label = label
        self.path = folder / f"{label}.db"
        self.clock = Clock()
        self.app = App(label, self.path, random.Random(world.chance.random()))
        self.writers = {label}
        """Apps that have written this file."""
        self.backups: list[Files] = []
        """Older copies of the file."""
        self.lied_to = False
        """Whether its file was put back or copied, so that its writes may come twice."""
        self._loading: object = None
        self._attached = False
        self._world = world
        self._checker = EdgeChecker(name, label, oracle)
        self._settings = AgentSettings(db=self.path, device=name, username=label, **_SETTINGS)
        self._process: Process | None = None
        self._agent: Agent | None = None
        self._observer: Observer | None = None
        self._kept = self._dead = 0

    # ── its parts ─────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def running(self) -> bool:
        """Whether its agent runs."""
        return self._process is not None and self._process.alive

    @property
    def engine(self) -> Engine | None:
        """The running agent's engine."""
        return self._agent._engine if self._agent is not None and self.running else None

    @property
    def observer(self) -> Observer:
        """A connection for who looks at the file."""
        if self._observer is None:
            self._observer = Observer.of(self.path)
            self._observer.text_factory = bytes
        return self._observer

    @property
    def attached(self) -> bool:
        """Whether its tables are synced: transactions before that are rows like others, sent in any pieces."""
        if not self._attached and self._has_tidewire():
            (count,) = self.observer.execute("SELECT count(*) FROM tidewire_table").fetchone()
            self._attached = count == len(TABLES)
        return self._attached

    # ── what happens to it ────────────────────────────────────────────────────────────────────────────────────────

    def install(self, seeds: int) -> None:
        """Make the database, with some rows in it."""
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.executescript(f"PRAGMA journal_mode = WAL; {SCHEMA}")
        connection.close()
        self.app.start()
        self.app.seed(seeds)

    def start(self) -> None:
        """Start the agent."""
        assert not self.running
        name = f"agent {self.label}"
        self._process = process = Process(
            name,
            self.clock,
            self._world.chance,
            on_end=lambda error: self._world.ended(name, error),
            on_call=self._after_call,
            on_death=lambda: self._die_inside(name),
        )
        self._agent = agent = Agent(self._settings, self._link)
        process.start(agent.run)

    async def stop(self) -> None:
        """Stop the agent as SIGTERM does."""
        if self._agent is not None and self.running and self._process is not None:
            await self._agent.stop()
            await self._process.gone()

    def kill(self) -> None:
        """The agent is killed; the app goes on."""
        if self._process is None or not self._process.alive:
            return
        self._process.kill()
        for client in self._world.network.of_machine(self.label):
            client.cut(notice_s=self._world.chance.random() * 2)
        if self.app.running or self._observer is not None:
            self._process.close()
        else:
            self._world.disk.kill((self.path,), self._process.close)

    @property
    def may_start(self) -> bool:
        """Whether it is down, and nothing of its last life is left."""
        return self._process is None or (not self._process.alive and self._process.is_gone)

    def die_inside(self, instructions: int) -> None:
        """The agent is killed inside one of its next database calls."""
        if self._process is not None:
            self._process.die_inside(instructions)

    def cut_power(self) -> bool:
        """All of the machine goes; whether writes were lost."""
        if self._process is not None and self._process.alive:
            self._process.kill()
            for client in self._world.network.of_machine(self.label):
                client.cut(notice_s=self._world.chance.random() * 2)
        lost = self._world.disk.cut_power(self.path, self._close_all)
        self._file_is_another()
        return lost

    def put_back(self, files: Files) -> None:
        """An older copy of the file takes its place."""
        self.kill()
        self._close_all()
        self._world.disk.write(self.path, files)
        self.lied_to = True
        self._file_is_another()

    def adopt_log(self) -> None:
        """A person lets it follow whatever log the hub has now. Of what was not sent, only the rows here count."""
        store = EdgeStore.open(self.path, device=None)
        try:
            store.adopt()
            store.harden()
        finally:
            store.close()
        self._checker.adopt(self.observer)
        ledger = {entry.decode() for (entry,) in self.observer.execute("SELECT id FROM ledger")}
        self.app.forget(ledger, self.app.seen())

    def copy(self) -> Files:
        """A copy of the file, as a backup of the stopped machine has it."""
        return self._world.disk.read(self.path)

    def adopt(self, other: Device, files: Files) -> None:
        """Begin with a copy of another machine's card."""
        self._world.disk.write(self.path, files)
        self.writers |= other.writers
        self._checker.broken_off = other._checker.broken_off
        self.lied_to = other.lied_to = True

    def tell(self) -> None:
        """The app has committed."""
        notify = SimulatedWatch.watching.get(self.path)
        if notify is not None:
            notify()

    def close(self) -> None:
        """The world ends."""
        self._close_all()

    # ── what is checked ───────────────────────────────────────────────────────────────────────────────────────────

    def held(self) -> Iterator[tuple[str, int, int]]:
        """Its queues, how much they hold, and their limits."""
        engine = self.engine
        if engine is None:
            return
        session, limits = engine.session, self._settings
        yield "window", len(session._uplink.window), limits.window_batches
        yield "pages held", len(session._downlink.pages), limits.pages_held_max
        yield (
            "bytes of pages held",
            session._downlink.pages.bytes_held if len(session._downlink.pages) > 1 else 0,
            (limits.pages_held_bytes_max),
        )
        yield "effects for the hub", engine._shell.to_hub.qsize(), 8
        yield "effects for the file", engine._shell.to_file.qsize(), 8
        file = self.observer
        if file.has_news("queues"):
            (self._kept,) = file.execute(_KEPT).fetchone()
            (self._dead,) = file.execute("SELECT count(*) FROM tidewire_dead").fetchone()
        yield "batches kept", self._kept, limits.kept_batches_max
        yield "dead letters", self._dead, limits.dead_letters_max

    def dead_marks(self) -> bytes:
        """What the dead letters hold, as text."""
        rows = self.observer.execute("SELECT cells FROM tidewire_dead").fetchall()
        return b" ".join(cells for (cells,) in rows)

    def check_limits(self) -> None:
        """Whether its queues are within their limits."""
        check_limits(self.label, self.held())

    def _after_call(self) -> None:
        self._world.guard(self.look)

    def look(self) -> None:
        """Compare the file with what its checkpoint says."""
        if self.observer.has_news("rows") and self._has_tidewire():
            self._look_at_loading()
            self._checker.look(self.observer, self.writers)

    def _look_at_loading(self) -> None:
        row = self.observer.execute("SELECT value FROM tidewire_meta WHERE name = 'load_snapshot'").fetchone()
        before, self._loading = self._loading, row[0] if row else None
        if self._loading is not None and self._loading != before:
            self._world.happened("device_far_behind")

    def _has_tidewire(self) -> bool:
        found = self.observer.execute("SELECT 1 FROM sqlite_master WHERE name = 'tidewire_table'").fetchone()
        return found is not None

    # ── helpers ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _link(self, settings: LinkSettings) -> Link:
        return ReconnectingLink(settings, self._world.network.dial, chance=self._world.chance.random)

    def _die_inside(self, name: str) -> None:
        self.kill()
        self._world.died(name)

    def _close_all(self) -> None:
        if self._process is not None:
            self._process.close()
        if self._observer is not None:
            self._observer.close()
            self._observer = None
        self.app.stop()

    def _file_is_another(self) -> None:
        """What the app wrote and the file no longer has is not waited for."""
        self._checker.begin_anew()
        self._attached = False
        self.app.start()
        ledger = {entry.decode() for (entry,) in self.observer.execute("SELECT id FROM ledger")}
        self.app.forget(ledger, self.app.seen() | self.marks_in_outbox())

    def marks_in_outbox(self) -> set[str]:
        """Marks in batches that the file holds still."""
        found: set[str] = set()
        if not self._has_tidewire():
            return found
        for (payload,) in self.observer.execute("SELECT payload FROM tidewire_batch"):
            found.update(MARK.findall(payload.decode()))
        return found


_KEPT: Final = """
    SELECT count(*) FROM tidewire_batch
    WHERE batch <= coalesce((SELECT value FROM tidewire_meta WHERE name = 'released'), 0)
"""

_SETTINGS: Final[dict[str, Any]] = {
    "all_tables": True,
    "busy_timeout_s": 0.001,
    "kept_batches_max": 3,
    "seed_chunk_bytes": 1024,
    "dead_letters_max": 100_000,
    "welcome_timeout_s": 1.0,
    "hello_backoff_max_s": 4.0,
    "ack_timeout_s": 2.0,
    "stall_timeout_s": 1.0,
    "window_batches": 4,
    "offline_changes_max": 2,
    "window_bytes": 16 * 1024,
    "replay_pages": 2,
    "pages_held_max": 5,
    "pages_held_bytes_max": 32 * 1024,
    "payload_bytes_max": 2048,
    "retry_delay_max_s": 1.0,
    "status_interval_s": 5.0,
    "stop_timeout_s": 0.01,
    "reconnect_delay_min_s": 0.05,
    "reconnect_delay_max_s": 1.0,
    "puback_timeout_s": 5.0,
}
"""Small, so that every limit and timeout is met often."""
