"""A whole installation of real processes: a broker, a hub, and a device per database; and what "equal" means there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from sqlite3 import connect
from types import TracebackType
from typing import Any, NamedTuple, Self

from support.agent_process import AgentProcess, tidewire_agent
from support.broker import Mosquitto
from support.host import HERE, Host
from support.hub_process import HubProcess, tidewire_hub
from support.launching import Launch, launched
from support.networks import Client
from support.waiting import wait_for
from tidewire_agent.store.edge_store import EdgeStore

REST_S = 120.0
"""Far above what any test here takes: only a fault reaches it."""


class Standing(NamedTuple):
    """What a device's file says of its sync; read as any program may, so true also while no agent runs."""

    seq: int
    """The last entry applied."""
    changes: int
    """Written and not sealed."""
    batches: int
    """Sealed and not in the applied log."""
    parked: int
    unsettled: int
    """Tables that are still being brought up, or whose old rows are being offered."""

    @property
    def at_rest(self) -> bool:
        return not (self.changes or self.batches or self.parked or self.unsettled)


class Device(AgentProcess):
    """A device: its database, and the agent beside it."""

    def sql(self, *statements: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run statements with the `sqlite3` program, as a person does: foreign keys on, 5 s of patience.

        A statement that fails is reported and the next one runs.
        """
        script = ".timeout 5000\nPRAGMA foreign_keys = ON;\n" + "\n".join(statements) + "\n"
        return subprocess.run(
            ["sqlite3", str(self.db)], input=script, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def query(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Read as an app does."""
        with closing(connect(self.db, timeout=5)) as app:
            return app.execute(query, values).fetchall()

    def dump(self, table: str) -> list[bytes]:
        """The rows of a table as `sqlite3 FILE '.dump TABLE'` prints them, sorted."""
        command = ["sqlite3", str(self.db), f".dump {table}"]
        done = subprocess.run(command, capture_output=True, timeout=60, check=True)
        # Bytes, as a text may hold what is not UTF-8.
        return sorted(line for line in done.stdout.splitlines() if line.startswith(b"INSERT INTO"))

    @property
    def known(self) -> bool:
        """Whether its file has been used by an agent."""
        return bool(self.query("SELECT 1 FROM sqlite_master WHERE name = 'tidewire_meta'"))

    @property
    def incarnation(self) -> str:
        """As its file says."""
        ((found,),) = self.query("SELECT value FROM tidewire_meta WHERE name = 'incarnation'")
        return str(found)

    def standing(self) -> Standing:
        with closing(connect(self.db, timeout=5)) as reader:
            reader.execute("BEGIN")  # all of it at one moment
            meta = dict(reader.execute("SELECT name, value FROM tidewire_meta"))
            (changes,) = reader.execute("SELECT count(*) FROM tidewire_change").fetchone()
            (parked,) = reader.execute("SELECT count(*) FROM tidewire_parked").fetchone()
            (unsettled,) = reader.execute(
                "SELECT count(*) FROM tidewire_table WHERE state IN ('taking', 'offering') OR cursor_seq IS NOT NULL"
            ).fetchone()
        batches = max(1, meta.get("next_batch") or 1) - 1 - (meta.get("released") or 0)
        return Standing(meta.get("seq") or 0, changes, batches, parked, unsettled)

    def dead(self) -> list[dict[str, Any]]:
        """Its dead letters, oldest first, as `tidewire-agent dead list` prints them."""
        done = tidewire_agent("dead", "list", "--db", self.db, "--limit", "100000", "--json")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in reversed(done.stdout.splitlines())]

    def digests(self) -> dict[str, tuple[int, str]]:
        """Rows and digest of each table, computed from the rows that are there now."""
        with closing(EdgeStore.open(self.db, device=None)) as store:
            return {digest.table: (digest.rows, digest.digest) for digest in store.digests()[1]}


class Site:
    """A broker, a hub and devices, all of them real processes; ended with the test.

    They run on `host`, except a hub or device that is given a client of its network.

    with Site(tmp_path) as site:
        a = site.device("a", SCHEMA).start()
        a.sql("INSERT INTO items VALUES (1, 'x');")
        site.wait_at_rest()
        site.assert_equal()
    """

    def __init__(
        self,
        folder: Path,
        *hub_options: str,
        host: Host = HERE,
        hub_client: Client | None = None,
        launch_program: Launch = launched,
    ) -> None:
        self.folder = folder
        self.host = host
        self.hub_client = hub_client
        self.broker = Mosquitto(folder / "broker", host=host)
        self._hub_options = hub_options
        self._launch_program = launch_program
        self.hub = self._make_hub()
        self.devices: list[Device] = []

    def __enter__(self) -> Self:
        self.broker.start()
        self.hub = self._make_hub()  # the broker may have got another port
        try:
            self.hub.start()
        except BaseException:
            self.broker.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for device in self.devices:
            device.__exit__(kind, error, trace)
        if error is not None:
            error.add_note(f"--- log of the hub ---\n{self.hub.log[-3000:]}")
        self.hub.__exit__(kind, error, trace)
        self.broker.__exit__(kind, error, trace)

    def device(
        self,
        name: str,
        schema: str = "",
        *options: str,
        tables: Sequence[str] = (),
        client: Client | None = None,
        folder: Path | None = None,
    ) -> Device:
        """A device that is not started yet: its app made the database in WAL mode. All tables unless some are named.

        It runs where broker and hub do, or as a `client` in their network; its file lies in the site's folder, or in
        another one.
        """
        options = (*(() if tables else ("--all-tables",)), *options)
        path, host = (folder or self.folder) / f"{name}.db", client or self.host
        device = Device(path, name, self._url_for(client), *options, tables=tables, host=host)
        device.launch_program = self._launch_program
        with closing(connect(device.db, isolation_level=None)) as app:
            app.executescript(f"PRAGMA journal_mode = WAL; {schema}")
        self.devices.append(device)
        return device

    def head(self) -> int:
        """The seq of the hub's newest entry."""
        answer = self.hub.http("readyz")
        assert answer is not None, self.hub.log
        return int(answer[1]["hub"]["head"])

    def wait_at_rest(self, *devices: Device, deadline_s: float = REST_S) -> None:
        """Until all devices (or these) have applied all there is, and nothing of theirs is under way."""
        chosen = devices or tuple(self.devices)

        def rests() -> bool:
            assert all(device.running for device in chosen), [device.log[-2000:] for device in chosen]
            head = self.head()
            return all(s.at_rest and s.seq == head for s in (device.standing() for device in chosen))

        wait_for(rests, deadline_s, what="all devices are at rest", every_s=0.05)

    def hub_digests(self) -> dict[str, tuple[int, str]]:
        """Rows and digest of each table as the hub has them."""
        return {record["table"]: (record["rows"], record["digest"]) for record in self._records("digests")}

    def conflicts(self) -> list[dict[str, Any]]:
        """Concurrent writes, oldest first."""
        return self._records("conflicts", "--limit", "1000000")

    def assert_equal(self, *devices: Device) -> None:
        """Guarantee 7: all devices (or these) and the hub hold equal rows."""
        chosen = devices or tuple(self.devices)
        hub = self.hub_digests()
        for device in chosen:
            assert device.digests() == hub, device.device
        for table in hub:
            first, *others = (device.dump(table) for device in chosen)
            for device, rows in zip(chosen[1:], others, strict=True):
                assert rows == first, (table, device.device)

    def _make_hub(self) -> HubProcess:
        url, log = self._url_for(self.hub_client), self.folder / "hub.log"
        hub = HubProcess(self.folder / "hub", url, *self._hub_options, log=log, host=self.hub_client or self.host)
        hub.launch_program = self._launch_program
        return hub

    def _url_for(self, client: Client | None) -> str:
        return self.broker.url if client is None else f"mqtt://{client.server_address}:{self.broker.port}"

    def _records(self, *command: str) -> list[dict[str, Any]]:
        done = tidewire_hub(command[0], "--data", self.hub.data, *command[1:], "--json")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]
