"""The hub: the real program on real files, whose thread and broker are the world's."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol
from unittest.mock import patch

from simulation.checkers import LogChecker, check_limits
from simulation.disk import Files
from simulation.network import Network
from simulation.observer import Observer
from simulation.process import Clock, Process
from simulation.surroundings import Surroundings
from simulation.virtual_time import OneThread, current_process
from tidewire_hub import serve
from tidewire_hub.layout import DataDirectory
from tidewire_hub.runtime import HubRuntime
from tidewire_hub.settings import HubSettings
from tidewire_hub.stream import Stream
from tidewire_link.reconnecting import ReconnectingLink
from tidewire_link.settings import LinkSettings


class Neighbours(Surroundings, Protocol):
    """What a hub needs of its world."""

    short_log: bool
    """Whether the log is trimmed all the time, so that devices come back by snapshots."""

    def uses_alone(self, hub: Hub) -> bool:
        """Whether no other hub has this one's log open."""
        ...


class HubFiles(NamedTuple):
    """A copy of a hub's files."""

    log: Files
    state: Files


class Hub:
    """A machine that runs a hub.

    Args:
        world: its surroundings.
        label: the machine's name in the network.
        folder: its data directory.
        log: what is checked of the log.
    """

    def __init__(self, world: Neighbours, label: str, folder: Path, log: LogChecker) -> None:
        self.label = label
        self.clock = Clock()
        short = _SHORT_LOG if world.short_log else {}
        self.settings = HubSettings(data=folder, node=label, username=label, **_SETTINGS, **short)
        self.files = DataDirectory(folder, self.settings.stream)
        self._world = world
        self.backups: list[HubFiles] = []
        """Older copies of its files, the oldest first."""
        self._log = log
        self._process: Process | None = None
        self._observer: Observer | None = None
        self._stop = asyncio.Event()

    @property
    def running(self) -> bool:
        """Whether the hub runs."""
        return self._process is not None and self._process.alive

    @property
    def runtime(self) -> HubRuntime | None:
        """The running hub, once it has opened its files."""
        program = self._process.program if self._process is not None and self.running else None
        return program if isinstance(program, HubRuntime) else None

    @property
    def stream(self) -> Stream | None:
        """The running hub's stream."""
        return self.runtime._host.stream if self.runtime is not None else None

    def start(self, *, take_over: bool = False) -> None:
        """Start the hub; with `take_over` as a person does who has read that another one leads."""
        assert not self.running
        self.files.make()
        name = self.label
        self._process = process = Process(
            name,
            self.clock,
            self._world.chance,
            on_end=lambda error: self._world.ended(name, error),
            on_call=lambda: self._world.guard(self.look),
            on_death=lambda: self._die_inside(name),
        )
        self._stop = stop = asyncio.Event()
        process.start(lambda: serve.serve(self.settings, stop, take_over=take_over))

    async def stop(self) -> None:
        """Stop it as SIGTERM does."""
        if self._process is not None and self.running:
            self._stop.set()
            await self._process.gone()

    def kill(self) -> None:
        """It is killed."""
        if self._die() is not None:
            self._world.disk.kill((*self._own_log(), self.files.state), self.close)

    def cut_power(self) -> bool:
        """Its machine goes: the log is synced commit by commit, the state's tail may be lost. Whether it was."""
        if self._die() is None:
            return False
        lost = False

        def close() -> None:
            nonlocal lost
            lost = self._world.disk.cut_power(self.files.state, self.close)

        self._world.disk.kill(self._own_log(), close)
        return lost

    @property
    def may_start(self) -> bool:
        """Whether it is down, and nothing of its last life is left."""
        return self._process is None or (not self._process.alive and self._process.is_gone)

    def die_inside(self, instructions: int) -> None:
        """It is killed inside one of its next database calls."""
        if self._process is not None:
            self._process.die_inside(instructions)

    @property
    def can_make_state_anew(self) -> bool:
        """Whether the state can be made anew: from the whole log, or from a snapshot's copy and the log after it.

        The newest snapshot has that alone. Where it is of what the hub has lost, there is none until the next is made.
        """
        if self.stream is None:
            return False
        return self.stream.oldest == 1 or any(self.files.snapshots.glob("[!.]*/state.db"))

    def lose_state(self) -> None:
        """The state's file is deleted, as by a person who was told to."""
        assert not self.running
        self._world.disk.remove(self.files.state)

    def copy(self) -> HubFiles | None:
        """A copy of its files, as of the stopped machine."""
        log = self.files.log
        if not log.exists() or not self.files.state.exists() or self._observer is None:
            return None
        (entries,) = self._observer.execute("SELECT count(*) FROM sqlite_master WHERE name = 'entry'").fetchone()
        disk = self._world.disk
        return HubFiles(disk.read(log.resolve()), disk.read(self.files.state)) if entries else None

    def put_back(self, files: HubFiles, *, state: bool) -> None:
        """An older copy of the log takes its place, with that of the state or without."""
        assert not self.running
        self._world.disk.write(self.files.log.resolve(), files.log)
        if state:
            self._world.disk.write(self.files.state, files.state)
        self._observer = Observer.of(self.files.log)
        self._log.lose_end(self._observer)

    def lose_all(self) -> None:
        """Its data directory is gone."""
        assert not self.running
        self._world.disk.remove(self.files.log.resolve())
        self._world.disk.remove(self.files.state)
        if self.files.snapshots.exists():
            shutil.rmtree(self.files.snapshots.resolve())
            self.files.snapshots.resolve().mkdir()
        self._log.begin_anew()

    def fill_disk(self) -> bool:
        """No more space: whatever needs a new page fails, until `free_disk`."""
        return self._limit_pages("SELECT page_count FROM pragma_page_count")

    def free_disk(self) -> None:
        """There is space again."""
        self._limit_pages("SELECT 1 << 30")

    def _limit_pages(self, limit: str) -> bool:
        connections = self._process.connections if self._process is not None and self.running else []
        for connection in connections:
            (pages,) = connection.execute(limit).fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages}")
        return bool(connections)

    def look(self) -> None:
        """Take what is new in the log."""
        if self._observer is None and self.files.log.exists():
            self._observer = Observer.of(self.files.log)
        if self._observer is not None and self._observer.has_news("log"):
            self._log.look(self._observer)

    def check_limits(self) -> None:
        """Whether its queues are within their limits."""
        if self.runtime is not None:
            check_limits(self.label, self._held(self.runtime))

    def close(self) -> None:
        """Close its files, as the system does when a process has died."""
        if self._process is not None:
            self._process.close()
        if self._observer is not None:
            self._observer.close()
            self._observer = None

    def _held(self, runtime: HubRuntime) -> Iterator[tuple[str, int, int]]:
        core, settings = runtime._core, self.settings
        yield "ingest queue", len(core._commits.queue), settings.ingest_batches_max
        yield "bytes of the ingest queue", core._commits.queue.bytes_held, settings.ingest_bytes_max
        yield "parts", core._reassembly.bytes_reserved, settings.parts_bytes_max
        yield "replay on its way", core.downloads._window._in_flight, settings.replay_in_flight_max
        cache = core.downloads._replayer._cache
        yield "replay cache", cache.bytes_held if len(cache._values) > 1 else 0, settings.replay_cache_bytes_max
        yield "sessions", len(core._sessions._sessions), settings.devices_max

    def _die(self) -> Process | None:
        process = self._process
        if process is None or not process.alive:
            return None
        process.kill()
        for client in self._world.network.of_machine(self.label):
            client.cut(notice_s=self._world.chance.random() * 2)
        return process

    def _own_log(self) -> tuple[Path, ...]:
        """The log, unless another hub has it open."""
        return (self.files.log.resolve(),) if self._world.uses_alone(self) else ()

    def _die_inside(self, name: str) -> None:
        self.kill()
        self._world.died(name)


class _KnownRuntime(HubRuntime):
    """The real one; its process knows it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        process = current_process()
        assert isinstance(process, Process)
        process.program = self


@contextmanager
def simulated_hubs(network: Network, chance: random.Random) -> Iterator[None]:
    """While inside, hubs have simulated connections and random numbers."""

    def link(settings: LinkSettings) -> ReconnectingLink:
        return ReconnectingLink(settings, network.dial, chance=chance.random)

    with (
        patch("tidewire_hub.serve.MqttLink", link),
        patch("tidewire_hub.serve.ThreadPoolExecutor", OneThread),
        patch("tidewire_hub.snapshot.keeper.ThreadPoolExecutor", OneThread),
        patch("tidewire_hub.serve.HubRuntime", _KnownRuntime),
        patch("tidewire_hub.stream_host.randbits", chance.getrandbits),
    ):
        yield


_SETTINGS: Final[dict[str, Any]] = {
    "payload_bytes_max": 2048,
    "batch_bytes_max": 256 * 1024,
    "ingest_batches_max": 12,
    "ingest_bytes_max": 256 * 1024,
    "commit_batches_max": 4,
    "commit_bytes_max": 32 * 1024,
    "parts_bytes_max": 256 * 1024,
    "parts_timeout_s": 5.0,
    "replay_block_entries": 4,
    "replay_cache_bytes_max": 16 * 1024,
    "replay_in_flight_max": 2,
    "rival_wait_s": 1.0,
    "reconnect_delay_min_s": 0.05,
    "reconnect_delay_max_s": 1.0,
    "puback_timeout_s": 5.0,
}
"""Small, so that every limit and timeout is met often."""

_SHORT_LOG: Final[dict[str, Any]] = {
    "retention_entries": 12,
    "retention_interval_s": 0.5,
    "retention_step_entries": 4,
    "snapshot_reuse_entries": 4,
    "snapshot_interval_s": 1.0,
    "snapshot_hold_s": 2.0,
    "snapshot_keep_s": 5.0,
    "snapshot_advised_entries": 8,
    "snapshot_cache_bytes_max": 4096,
}
"""For worlds in which devices come back by a snapshot."""
