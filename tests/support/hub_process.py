"""A real hub in its own process, and a device made by hand that talks to it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from support.host import HERE, Host
from support.launching import Launch, Process, launched
from support.ports import free_port
from support.protocol import chosen_protocol
from support.waiting import PATIENCE_S, wait_for, wait_for_async
from tidewire_link.mqtt import MqttLink
from tidewire_link.port import Connected, Received
from tidewire_link.settings import LinkSettings
from tidewire_schemas import codec, topics
from tidewire_schemas.base import Message
from tidewire_schemas.digest import NO_DIGEST, message_digest
from tidewire_schemas.messages import Ack, Entry, Head, Hello, Page, Part, Problem, Replay, Welcome
from tidewire_schemas.parts import Assembler, split
from tidewire_schemas.positions import START, Position
from tidewire_schemas.shapes import ColumnShape, TableShape

READINGS = TableShape(
    name="readings",
    columns=(ColumnShape(name="id", affinity="INTEGER"), ColumnShape(name="note", affinity="TEXT")),
    key=("id",),
    key_is_rowid=True,
)


START_S = 120.0
"""Imports alone take seconds on a machine that does other things as well."""


def tidewire_hub(*arguments: str | Path, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of `tidewire-hub` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "tidewire_hub", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **(environ or {})},
    )


class HubProcess:
    """`tidewire-hub run` with an HTTP port; killed when the test ends."""

    def __init__(self, data: Path, broker: str, *options: str, log: Path, host: Host = HERE) -> None:
        self.data = data
        self.broker = broker
        self.options = options
        self.log_path = log
        self.host = host
        self.http_port = free_port()
        self.launch_program: Launch = launched
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        assert self._process is not None, "the hub was not started"
        return self._process

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def launch(self) -> None:
        """Start it and wait for nothing."""
        command = ["tidewire-hub", "run", "--data", str(self.data), "--broker", self.broker]
        command += ["--http", f"127.0.0.1:{self.http_port}", "--reconnect-delay-max-s", "0.5", *self.options]
        self._process = self.launch_program(command, self.log_path, self.host)

    def start(self, *, ready: bool = True) -> Self:
        """Start it, and wait until it is ready, or else until it answers."""
        self.launch()
        there = self.ready if ready else self.alive
        try:
            wait_for(lambda: there() or self.process.poll() is not None, START_S, what="the hub answers")
            assert there(), self.log
        except BaseException as error:
            error.add_note(f"--- log of the hub ---\n{self.log[-3000:]}")
            self._end()
            raise
        return self

    def http(self, path: str) -> tuple[int, Any] | None:
        """Status and JSON of a GET, None while nothing answers."""
        return self.host.call(lambda: self._get(path))

    def _get(self, path: str) -> tuple[int, Any] | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/{path}", timeout=PATIENCE_S) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as answer:
            return answer.code, json.load(answer)
        except OSError:
            return None

    def ready(self) -> bool:
        answer = self.http("readyz")
        return answer is not None and answer[0] == 200

    def alive(self) -> bool:
        return self.http("healthz") is not None

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE_S)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()


class HandMadeDevice:
    """An MQTT client that speaks the protocol message by message, and keeps all it hears."""

    def __init__(self, broker: str, name: str, *, incarnation: str | None = None) -> None:
        self.name = name
        self.incarnation = incarnation or message_digest(name.encode())
        self.boot = os.urandom(16).hex()
        self.heard: list[tuple[str, Any]] = []
        self.raw: list[tuple[str, bytes]] = []
        self.sealed: list[bytes] = []
        self._link = MqttLink(
            LinkSettings(
                url=broker,
                client_id=f"test-{name}-{self.boot[:8]}",
                protocol=chosen_protocol(),
                payload_bytes_max=10_000_000,
                reconnect_delay_min_s=0.05,
                reconnect_delay_max_s=0.2,
            )
        )
        self.subscribed = asyncio.Event()
        self._assemblers: dict[str, Assembler] = {}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._link.open()
        self._task = asyncio.create_task(self._listen())
        await asyncio.wait_for(self.subscribed.wait(), PATIENCE_S)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._link.close()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _listen(self) -> None:
        async for event in self._link:
            match event:
                case Connected():
                    await self._link.subscribe([*topics.agent_filters("main", self.name), topics.hub_state("hub")])
                    self.subscribed.set()
                case Received(topic=topic, payload=payload):
                    self._take(topic, payload)
                case _:
                    self.subscribed.clear()

    def _take(self, topic: str, payload: bytes) -> None:
        self.raw.append((topic, payload))
        place = topics.parse(topic)
        assert place is not None
        message = codec.parse(place.kind, payload)
        if isinstance(message, Part):
            whole = self._assemblers.setdefault(topic, Assembler(2**30)).feed(message)
            if whole is None:
                return
            message = codec.parse(place.kind, whole, bytes_max=2**30)
        self.heard.append((topic, message))

    # ── what it says ──────────────────────────────────────────────────────────────────────────────────────────────

    async def publish(self, topic: str, payload: bytes) -> None:
        await self._link.publish(topic, payload)

    async def publish_retained(self, topic: str, payload: bytes) -> None:
        """Publish what the broker keeps."""
        await self._link.publish(topic, payload, retain=True)

    async def say(self, message: Message) -> None:
        for part in split(codec.encode(message), 100_000):
            await self.publish(topics.ask("main", self.name), part)

    async def hello(self, *, position: Position = START, epoch: int = 0, log: str | None = None) -> Welcome:
        """Say Hello; the answer."""
        before = len(self.of(Welcome))
        await self.say_hello(position=position, epoch=epoch, log=log)
        await wait_for_async(lambda: len(self.of(Welcome)) > before, what="a Welcome")
        welcome: Welcome = self.of(Welcome)[-1]
        return welcome

    async def say_hello(self, *, position: Position = START, epoch: int = 0, log: str | None = None) -> None:
        """Say Hello with the table `readings`."""
        await self.say(
            Hello(
                v=1,
                type="hello",
                incarnation=self.incarnation,
                boot=self.boot,
                log=log,
                position=position,
                epoch=epoch,
                last_sealed=None,
                oldest_kept=0,
                tables=(READINGS,),
            )
        )

    def seal(self, *rows: tuple[int, str]) -> bytes:
        """The next batch: these rows put into `readings`."""
        changes = [
            {
                "op": "put",
                "table": "readings",
                "base": [0, 0],
                "key": 1,
                "columns": ["id", "note"],
                "rows": [list(row) for row in rows],
            }
        ]
        payload = codec.encode_batch(
            incarnation=self.incarnation,
            batch=len(self.sealed) + 1,
            prev_digest=message_digest(self.sealed[-1]) if self.sealed else NO_DIGEST,
            sealed_at=0,
            changes_json=json.dumps(changes, separators=(",", ":")).encode(),
        )
        self.sealed.append(payload)
        return payload

    async def send(self, payload: bytes) -> None:
        for part in split(payload, 100_000):
            await self.publish(topics.up("main", self.name), part)

    # ── what it heard ─────────────────────────────────────────────────────────────────────────────────────────────

    def of(self, kind: type[Any]) -> list[Any]:
        """All messages of a kind."""
        return [message for _, message in self.heard if isinstance(message, kind)]

    @property
    def acked(self) -> int:
        """The newest batch that was acked."""
        return max((ack.batch for ack in self.of(Ack)), default=0)

    @property
    def entries(self) -> list[Entry]:
        """Entries that came live, in the order they came."""
        return [entry for page in self.of(Page) for entry in page.entries]

    @property
    def replayed(self) -> list[Entry]:
        """Entries that came by replay."""
        return [entry for replay in self.of(Replay) for entry in replay.page.entries]

    @property
    def problems(self) -> list[str]:
        """Codes of the problems told to it."""
        return [problem.code for problem in self.of(Problem)]

    @property
    def head(self) -> Head:
        """The newest head."""
        heads: list[Head] = self.of(Head)
        return heads[-1]

    async def until_acked(self, batch: int, deadline_s: float = PATIENCE_S) -> None:
        await wait_for_async(lambda: self.acked >= batch, deadline_s, what=f"an ack of batch {batch}")
