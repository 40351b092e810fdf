"""An installation in which apps write on two devices or rest, processes die where a test says, and all is looked at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from sqlite3 import connect
from typing import Any, Final, Self

from support.crash_point import CrashPoint
from support.forked import Forked
from support.launching import Process
from support.outcome import check_log, check_rows, check_tickets, rows_of
from support.processes import Device, Site
from support.waiting import wait_for
from support.writer import SCHEMA, Writer

AGENT_OPTIONS: Final = (
    *("--welcome-timeout-s", "1", "--hello-backoff-max-s", "1", "--hello-spread-s", "0.1", "--ack-timeout-s", "2"),
    *("--stall-timeout-s", "1", "--hello-pause-s", "0.05", "--wal-bytes-max", "65536", "--lock-hold-ms-max", "2"),
    *("--kept-batches-max", "8", "--poll-interval-s", "0.2"),
)
"""So that what was lost is noticed in a moment, and rare steps are frequent."""

HUB_OPTIONS: Final = ("--devices-save-interval-s", "0.1")

SHORT_LOG: Final = (
    *("--retention-entries", "25", "--retention-interval-s", "0.05", "--retention-step-entries", "16"),
    *("--snapshot-interval-s", "0.3", "--snapshot-hold-s", "0.5", "--snapshot-reuse-entries", "10"),
    *("--payload-bytes-max", "3000"),
)
"""A hub that keeps as little of its log as it may, and makes small chunks."""

DEATH_S: Final = 90.0
"""A step that is not reached in this time is never reached."""

ROUND: Final = 4
"""Transactions of each app, and entries of the log, before and after something happens."""


class Town:
    """A broker, a hub, and the devices `a` and `b` with their apps; and others that come and go."""

    def __init__(self, folder: Path, programs: Forked, *hub_options: str) -> None:
        self.site = Site(folder, *HUB_OPTIONS, *hub_options, launch_program=programs.start)
        self.programs = programs
        self.writers: dict[str, Writer] = {}
        self.late_tables: set[str] = set()
        """Devices whose tables were attached when their apps had written."""
        self._incarnations: set[str] = set()
        self._made = 0

    def __enter__(self) -> Self:
        self.site.__enter__()
        return self

    def begin(self) -> Self:
        """Make `a` and `b`, whose apps rest."""
        for name in ("a", "b"):
            writer = self.device(name)
            writer.pause()
            writer.start()
        return self

    def __exit__(self, *error: Any) -> None:
        for device in ("a", "b"):
            if device in self.writers:
                self.writers[device].end()
        self.site.__exit__(*error)

    # ── who is there ──────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def a(self) -> Device:
        return self.site.devices[0]

    @property
    def b(self) -> Device:
        return self.site.devices[1]

    def device(self, name: str) -> Writer:
        """One more device, not started; its app."""
        device = self.site.device(name, SCHEMA, *AGENT_OPTIONS)
        writer = self.writers[name] = Writer(device.db, name, seed=1)
        return writer

    def newcomer(self) -> Device:
        """A device that has never met the log, whose app has written already."""
        self._made += 1
        name = f"new{self._made}"
        self.late_tables.add(name)
        self.device(name).write(30)
        return self.site.devices[-1]

    def leave(self, device: Device) -> None:
        """A device that goes, and does not come back."""
        self._incarnations.add(device.incarnation)
        device.kill()
        self.site.devices.remove(device)

    def new_path(self, name: str) -> Path:
        """Where there is nothing yet."""
        self._made += 1
        return self.site.folder / f"{name}{self._made}"

    # ── what goes on ──────────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def writing(self, *names: str) -> Iterator[None]:
        """The apps of `a` and `b`, or one of them, write meanwhile."""
        writers = [self.writers[name] for name in names or ("a", "b")]
        for writer in writers:
            writer.resume()
        try:
            yield
        finally:
            for writer in writers:
                writer.pause()

    def written(self, rounds: int = ROUND, *names: str) -> None:
        """Wait until the apps have written some more."""
        goal = {name: self.writers[name].committed + rounds for name in names or ("a", "b")}
        wait_for(
            lambda: all(self.writers[name].committed >= count for name, count in goal.items()),
            what="apps have written more",
        )

    def appended(self, entries: int = ROUND) -> None:
        """Wait until the log has some more entries."""
        goal = self.site.head() + entries
        wait_for(lambda: self.site.head() >= goal, DEATH_S, what="the log has grown", every_s=0.02)

    def until_trimmed(self, seq: int) -> None:
        """Wait until the log no longer has this entry."""

        def trimmed() -> bool:
            answer = self.site.hub.http("readyz")
            return answer is not None and bool(answer[1]["hub"]["oldest"] > seq)

        wait_for(trimmed, DEATH_S, what=f"entry {seq} is trimmed", every_s=0.02)

    # ── death ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def start_to_die(self, device: Device, point: CrashPoint) -> None:
        """Start its agent, which will die there."""
        self._incarnations |= {found.incarnation for found in self.site.devices if found.known}
        device.launch_program = partial(self.programs.start, crash=point)
        device.start(until=None)
        device.launch_program = self.programs.start

    def start_hub_to_die(self, point: CrashPoint) -> None:
        """Start the hub, which will die there."""
        hub = self.site.hub
        hub.launch_program = partial(self.programs.start, crash=point)
        hub.launch()
        hub.launch_program = self.programs.start

    def wait_dead(self, process: Process, point: CrashPoint) -> None:
        """Until a process has died of it."""
        wait_for(lambda: process.poll() is not None, DEATH_S, what=f"it comes to {point}")
        assert process.poll() == -9, f"it ended before it came to {point}"

    def command_dies(self, point: CrashPoint, *command: str | Path) -> None:
        """Run a command that dies there."""
        done = self.programs.run(command, point)
        assert (done.returncode, done.stdout) == (-9, f"dies {point}\n"), done

    def command(self, *command: str | Path) -> str:
        """Run a command; what it says."""
        done = self.programs.run(command)
        assert done.returncode == 0, done
        return done.stdout

    # ── what must hold ────────────────────────────────────────────────────────────────────────────────────────────

    def check(self) -> None:
        """All is in the log once, all devices hold the same, and every file is sound. The apps must rest."""
        site = self.site
        for device in site.devices:
            device.wait_state("live")
        site.wait_at_rest()
        self._incarnations |= {device.incarnation for device in site.devices}
        check_log(self._log(), self._incarnations, late_tables=self.late_tables)
        writers = list(self.writers.values())
        hub = self._digests()
        for device in site.devices:
            check_rows(device, writers)
            assert rows_of(device) == rows_of(self.a), device.device
            assert device.digests() == hub, device.device
            assert "Traceback" not in device.log
        self._check_tickets()
        assert "Traceback" not in site.hub.log
        stream = site.hub.data / "main"
        for path in (*(device.db for device in site.devices), stream / "log.db", stream / "state.db"):
            assert_sound(path)

    def _log(self) -> list[dict[str, Any]]:
        path = self.site.hub.data / "main" / "log.db"
        with closing(connect(f"{path.as_uri()}?mode=ro", uri=True)) as log:
            return [json.loads(data) for (data,) in log.execute("SELECT data FROM entry ORDER BY seq")]

    def _digests(self) -> dict[str, tuple[int, str]]:
        said = self.command("tidewire-hub", "digests", "--data", self.site.hub.data, "--json")
        records = map(json.loads, said.splitlines())
        return {record["table"]: (record["rows"], record["digest"]) for record in records}

    def _check_tickets(self) -> None:
        """Of devices whose tables were attached from the first: rows of the others clash with those that they meet."""
        letters = {
            device.device: self._letters(device)
            for device in self.site.devices
            if device.device not in self.late_tables
        }
        tickets = self.a.query("SELECT device, n FROM tickets")
        writers = [self.writers[name] for name in letters]
        check_tickets([ticket for ticket in tickets if ticket[0] in letters], letters, writers)

    def _letters(self, device: Device) -> list[dict[str, Any]]:
        said = self.command("tidewire-agent", "dead", "list", "--db", device.db, "--limit", "100000", "--json")
        return [json.loads(line) for line in said.splitlines()]


def assert_sound(path: Path) -> None:
    """SQLite finds nothing wrong in a file."""
    with closing(connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=30)) as reader:
        assert reader.execute("PRAGMA integrity_check").fetchall() == [("ok",)], path
