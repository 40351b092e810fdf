"""`tidewire-hub run`: put the parts of a hub together and run them until a signal."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import NamedTuple

from tidewire_hub.core import HubCore
from tidewire_hub.layout import DataDirectory, DataLock
from tidewire_hub.runtime import HubRuntime
from tidewire_hub.settings import HubSettings, parse_http
from tidewire_hub.stream_host import StreamHost
from tidewire_link.mqtt import MqttLink
from tidewire_link.settings import LinkSettings, Will
from tidewire_link.version import VERSION
from tidewire_schemas import topics
from tidewire_schemas.errors import SettingError

logger = logging.getLogger(__name__)


class _Start(NamedTuple):
    """What is particular to this start."""

    boot: str
    previous: str | None
    take_over: bool


class _OpenStream(NamedTuple):
    host: StreamHost
    executor: ThreadPoolExecutor


async def serve(settings: HubSettings, stop: asyncio.Event | None = None, *, take_over: bool = False) -> None:
    """Run a hub until SIGTERM, SIGINT or `stop`; with `take_over` even if another one leads the stream.

    Raises:
        LedElsewhere: another hub leads the stream, or has taken it over.
        AlreadyRunning: another hub uses the data directory.
        DatabaseError: its files cannot be used.
        SettingError: a setting cannot be used, such as a port that is taken.
    """
    stop = stop or asyncio.Event()
    boot = os.urandom(16).hex()
    with _locked(settings, boot) as lock, _listening(settings) as listener, _signals(stop):
        async with _led_stream(settings, take_over=take_over) as (host, executor):
            start = _Start(boot, lock.previous, take_over)
            runtime = _runtime(settings, host, executor, start)
            async with _served_http(listener, runtime):
                await runtime.run(stop)
    logger.info("stopped")


def _runtime(settings: HubSettings, host: StreamHost, executor: ThreadPoolExecutor, start: _Start) -> HubRuntime:
    stream = host.stream
    core = HubCore(
        settings,
        log=stream.log_id,
        epoch=stream.epoch,
        head=stream.head,
        oldest=stream.oldest,
        version=VERSION,
        **start._asdict(),
        log_bytes=stream.log_bytes,
        snapshots=host.snapshots,
        spare=host.spare,
    )
    link = LinkSettings.of(
        url=settings.broker,
        client_id=f"tidewire-hub-{settings.node}-{start.boot[:8]}",
        payload_bytes_max=settings.payload_bytes_max,
        will=Will(topic=topics.hub_state(settings.node), payload=core.last_will()),
        **settings.broker_values(),
    )
    place = {"log": stream.log_id, "epoch": stream.epoch, "head": stream.head.seq}
    logger.info("stream %s is open", settings.stream, extra={**place, "broker": settings.broker_address})
    return HubRuntime(settings, host=host, executor=executor, link=MqttLink(link), core=core)


@contextmanager
def _locked(settings: HubSettings, boot: str) -> Iterator[DataLock]:
    data = DataDirectory(settings.data, settings.stream)
    data.make()
    lock = DataLock(data.lock, boot)
    try:
        yield lock
    finally:
        lock.release()


@contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    """SIGTERM and Ctrl-C stop the hub cleanly."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@asynccontextmanager
async def _led_stream(settings: HubSettings, *, take_over: bool) -> AsyncIterator[_OpenStream]:
    """The stream, opened and led on a thread of its own."""
    loop = asyncio.get_running_loop()
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="stream")
    try:
        host = await loop.run_in_executor(executor, partial(StreamHost.open, settings, take_over=take_over))
        try:
            yield _OpenStream(host, executor)
        finally:
            await loop.run_in_executor(executor, host.close)
    finally:
        executor.shutdown()


@contextmanager
def _listening(settings: HubSettings) -> Iterator[socket.socket | None]:
    """The socket of the HTTP API, if that was asked for."""
    if settings.http is None:
        yield None
        return
    try:
        from tidewire_hub.http.server import listen  # noqa: PLC0415  # only who asks for HTTP needs the extra
    except ImportError as error:
        hint = "pip install 'tidewire[hub]'"
        raise SettingError(f"http needs packages that are not installed ({error.name})", hint=hint) from None
    with listen(*parse_http(settings.http)) as listener:
        yield listener


@asynccontextmanager
async def _served_http(listener: socket.socket | None, runtime: HubRuntime) -> AsyncIterator[None]:
    """The HTTP API while inside."""
    if listener is None:
        yield
        return
    from tidewire_hub.http.app import make_app  # noqa: PLC0415  # see _listening
    from tidewire_hub.http.server import HttpServer  # noqa: PLC0415

    server = HttpServer(make_app(runtime), listener)
    task = asyncio.create_task(server.run_until_stopped())
    try:
        yield
    finally:
        server.stop()
        await asyncio.wait([task])
