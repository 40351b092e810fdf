"""The hub's shell on a link in memory and a real stream: what real brokers do only at bad moments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from support.hub_core import batch, settings
from support.waiting import wait_for_async
from tidewire_hub.actions import ReadPage
from tidewire_hub.core import HubCore
from tidewire_hub.layout import DataDirectory
from tidewire_hub.runtime import HubRuntime
from tidewire_hub.stream import Commit
from tidewire_hub.stream_host import StreamHost
from tidewire_link.memory import InMemoryBroker, InMemoryLink
from tidewire_link.port import Connected, Received
from tidewire_link.settings import LinkSettings
from tidewire_schemas import codec, topics
from tidewire_schemas.messages import Ack, FreshAnswer, FreshRequest, Head, Page, ReplayRequest
from tidewire_schemas.positions import START
from tidewire_schemas.shapes import ColumnShape, TableShape

TABLE = TableShape(
    name="t",
    columns=(ColumnShape(name="id", affinity="INTEGER"), ColumnShape(name="x", affinity="TEXT")),
    key=("id",),
    key_is_rowid=False,
)
"""Of `batch`."""


class Bench:
    """A running hub and one client that hears what it says."""

    def __init__(self, broker: InMemoryBroker, runtime: HubRuntime, host: StreamHost, client: InMemoryLink) -> None:
        self.broker = broker
        self.runtime = runtime
        self.host = host
        self.client = client
        self.heard: list[Any] = []

    async def listen(self) -> None:
        async for event in self.client:
            match event:
                case Connected():
                    await self.client.subscribe(
                        [topics.log("main"), topics.head("main"), "tidewire/v1/device/+/in/main"]
                    )
                case Received(topic=topic, payload=payload):
                    place = topics.parse(topic)
                    assert place is not None
                    self.heard.append(codec.parse(place.kind, payload))
                case _:
                    pass

    def of(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.heard if isinstance(message, kind)]

    async def up(self, device: str, payload: bytes) -> None:
        await self.client.publish(topics.up("main", device), payload)


@asynccontextmanager
async def bench(
    tmp_path: Path, broker: InMemoryBroker, host_type: type[StreamHost] = StreamHost, **changes: Any
) -> AsyncIterator[Bench]:
    chosen = settings(data=tmp_path, **changes)
    DataDirectory(tmp_path, "main").make()
    executor = ThreadPoolExecutor(max_workers=1)
    loop = asyncio.get_running_loop()
    host = await loop.run_in_executor(executor, host_type.open, chosen)
    stream = host.stream
    await loop.run_in_executor(executor, stream.declare, "somebody", [TABLE])  # so that no batch waits for a Hello
    core = HubCore(
        chosen,
        log=stream.log_id,
        epoch=stream.epoch,
        head=stream.head,
        oldest=stream.oldest,
        boot="d" * 32,
        version="1",
    )
    link = InMemoryLink(LinkSettings(client_id="hub", reconnect_delay_max_s=0.5), broker)
    runtime = HubRuntime(chosen, host=host, executor=executor, link=link, core=core)
    client = InMemoryLink(LinkSettings(client_id="client"), broker)
    made = Bench(broker, runtime, host, client)
    stop = asyncio.Event()
    running = asyncio.create_task(runtime.run(stop))
    await client.open()
    listening = asyncio.create_task(made.listen())
    try:
        yield made
    finally:
        stop.set()
        await running
        await client.close()
        await listening
        await loop.run_in_executor(executor, host.close)
        executor.shutdown()


def ready(on: Bench) -> Callable[[], bool]:
    return lambda: not on.runtime.reasons_not_ready()


async def test_a_denied_subscription_is_said_and_tried_again(tmp_path: Path) -> None:
    broker = InMemoryBroker()
    broker.deny_subscribe("tidewire/v1/stream/main/up/+")
    async with bench(tmp_path, broker, subscribe_retry_s=0.05) as on:
        await wait_for_async(lambda: "access rules" in " ".join(on.runtime.reasons_not_ready()), what="the reason")
        broker.allow_everything()
        await wait_for_async(ready(on), what="ready")


async def test_a_denied_publish_is_said_until_it_succeeds(tmp_path: Path) -> None:
    broker = InMemoryBroker()
    broker.deny_publish(topics.head("main"))
    async with bench(tmp_path, broker, head_period_s=0.05) as on:
        await wait_for_async(lambda: topics.head("main") in " ".join(on.runtime.reasons_not_ready()), what="the reason")
        broker.allow_everything()
        await wait_for_async(ready(on), what="ready")


class SlowHost(StreamHost):
    """A stream whose commits wait for the test."""

    gate = asyncio.Event()
    groups: list[int]

    def append(self, group: Any) -> Commit:
        self.groups = [*getattr(self, "groups", []), len(group)]
        asyncio.run_coroutine_threadsafe(self.gate.wait(), self.loop).result(30)
        return super().append(group)

    loop: asyncio.AbstractEventLoop


async def test_the_loop_goes_on_reading_while_a_commit_waits_for_the_disk(tmp_path: Path) -> None:
    SlowHost.gate = asyncio.Event()
    SlowHost.loop = asyncio.get_running_loop()
    async with bench(tmp_path, InMemoryBroker(), SlowHost) as on:
        await wait_for_async(ready(on), what="ready")
        host = on.host
        assert isinstance(host, SlowHost)
        for number in range(1, 11):
            await on.up(f"device-{number}", batch(1))
        await wait_for_async(lambda: len(on.runtime._core._commits.queue) == 9, what="nine gather while one commits")
        assert on.of(Ack) == []
        SlowHost.gate.set()
        await wait_for_async(lambda: len(on.of(Ack)) == 10, what="ten acks")
        assert host.groups == [1, 9]
        assert [len(page.entries) for page in on.of(Page)] == [1, 9]


async def test_a_commit_that_takes_long_is_told_to_all_and_keeps_no_question_of_freshness_waiting(
    tmp_path: Path,
) -> None:
    SlowHost.gate = asyncio.Event()
    SlowHost.loop = asyncio.get_running_loop()
    async with bench(tmp_path, InMemoryBroker(), SlowHost, commit_busy_s=0.05) as on:
        await wait_for_async(ready(on), what="ready")
        await on.up("a", batch(1))
        await wait_for_async(lambda: len([head for head in on.of(Head) if head.busy]) > 1, what="two words of it")
        question = FreshRequest(v=1, type="fresh_request", incarnation="c" * 32, boot="b" * 32, nonce="e" * 32)
        await on.client.publish(topics.ask("main", "b"), codec.encode(question))
        await wait_for_async(lambda: on.of(FreshAnswer), what="how far the log goes")
        assert on.of(Ack) == []
        SlowHost.gate.set()
        await wait_for_async(lambda: on.of(Ack), what="the ack")
        await wait_for_async(lambda: on.of(Head)[-1].busy is None, what="the end of it")


@pytest.mark.fault("acks lost with the connection")
async def test_acks_lost_with_the_connection_are_given_again_for_the_same_batch(tmp_path: Path) -> None:
    """Guarantee 2."""
    SlowHost.gate = asyncio.Event()
    SlowHost.loop = asyncio.get_running_loop()
    broker = InMemoryBroker()
    async with bench(tmp_path, broker, SlowHost) as on:
        await wait_for_async(ready(on), what="ready")
        await on.up("a", batch(1))
        await wait_for_async(lambda: hasattr(on.host, "groups"), what="a commit under way")
        broker.cut("hub")
        await wait_for_async(lambda: bool(on.runtime.reasons_not_ready()), what="the loss")
        SlowHost.gate.set()
        await wait_for_async(ready(on), what="ready again")
        assert on.of(Ack) == []
        await on.up("a", batch(1))
        await wait_for_async(lambda: on.of(Ack), what="the ack")
        assert on.of(Ack)[0].seq == 1
        assert on.runtime.status()["head"] == 1


async def test_messages_that_the_broker_does_not_take_hold_commits_back(tmp_path: Path) -> None:
    broker = InMemoryBroker()
    async with bench(tmp_path, broker, publish_bytes_max=4096) as on:
        await wait_for_async(ready(on), what="ready")
        runtime = on.runtime
        runtime._outbox._grow(5000)
        await on.up("a", batch(1))
        await wait_for_async(lambda: len(runtime._core._commits.queue) == 1, what="a batch that waits")
        runtime._outbox._grow(-5000)
        await wait_for_async(lambda: on.of(Ack), what="its ack")


class BrokenHost(StreamHost):
    """A stream with a mistake in it."""

    def append(self, group: Any) -> Commit:
        if any(item.device == "poison" for item in group):
            raise ZeroDivisionError("a mistake")
        return super().append(group)

    def read(self, page: ReadPage) -> Any:
        raise OSError(5, "Input/output error")


async def test_a_mistake_over_one_batch_leaves_the_others_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Guarantee 10."""
    async with bench(tmp_path, InMemoryBroker(), BrokenHost) as on:
        await wait_for_async(ready(on), what="ready")
        for device in ("a", "poison", "b", "c"):
            await on.up(device, batch(1))
        await wait_for_async(lambda: len(on.of(Ack)) == 3, what="three acks")
        assert on.runtime.reasons_not_ready() == []
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.fault("a log that cannot be read")
async def test_a_log_that_cannot_be_read_is_told_to_whoever_asks(tmp_path: Path) -> None:
    """Guarantee 11."""
    async with bench(tmp_path, InMemoryBroker(), BrokenHost) as on:
        await wait_for_async(ready(on), what="ready")
        await on.up("a", batch(1))
        await wait_for_async(lambda: on.of(Ack), what="an ack")
        request = ReplayRequest(
            v=1, type="replay_request", incarnation="c" * 32, boot="b" * 32, position=START, pages=1
        )
        await on.client.publish(topics.ask("main", "a"), codec.encode(request))
        await wait_for_async(lambda: any("Input/output" in m.message for m in on.heard if m.type == "problem"))


async def test_a_mistake_of_the_core_ends_the_hub_with_it(tmp_path: Path) -> None:
    async def make_a_mistake() -> None:
        async with bench(tmp_path, InMemoryBroker()) as on:
            await wait_for_async(ready(on), what="ready")

            def mistaken(*_: object) -> Any:
                raise ValueError("a mistake")

            on.runtime._jobs.on_stream(lambda: None, mistaken, mistaken)
            await wait_for_async(lambda: "the hub is stopping" in on.runtime.reasons_not_ready(), what="the end")

    with pytest.raises(ValueError, match="a mistake"):
        await make_a_mistake()
