"""The agent: one database kept in step with its stream, from start to stop.

`Agent` owns what lives as long as the process does: the lock, the link, the problems, the reports. The work on an open
database is an `Engine`; when the database fails, its engine ends, the link stays, and the file is opened again after a
pause. Any other error is a mistake in Tidewire and ends `run` with it: never a silent stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Final, cast

from tidewire_agent.errors import DeviceNeeded, check_is_file
from tidewire_agent.lock import AgentLock
from tidewire_agent.runtime.database import Database
from tidewire_agent.runtime.engine import Engine
from tidewire_agent.runtime.filework import read_standing
from tidewire_agent.runtime.inbox import Inbox
from tidewire_agent.runtime.letter_watch import LetterWatch
from tidewire_agent.runtime.reporter import Reporter
from tidewire_agent.runtime.too_large_watch import TooLargeWatch
from tidewire_agent.runtime.troubles import BROKER, Troubles
from tidewire_agent.session.standing import Standing
from tidewire_agent.settings import AgentSettings, host_device_name
from tidewire_agent.status import AgentStatus
from tidewire_agent.store.backlog import Backlog
from tidewire_agent.store.edge_store import EdgeStore
from tidewire_link.errors import LinkError, NotConnected, SubscriptionDenied
from tidewire_link.port import Connected, Disconnected, Link, Received
from tidewire_link.settings import LinkSettings, Will
from tidewire_schemas import topics
from tidewire_schemas.codec import encode
from tidewire_schemas.errors import DatabaseError
from tidewire_schemas.messages import DeviceState
from tidewire_schemas.positions import Position
from tidewire_schemas.snapshots import LoadProgress

LinkMaker = Callable[[LinkSettings], Link]

_SOLVED_BY_OPENING: Final = (
    "database",
    "database_missing",
    "database_not_usable",
    "database_replaced",
    "wal_replaced",
)

BOOT_DIGITS_IN_CLIENT_ID: Final = 8
"""Enough to keep two agents of one device apart, which tells a person better than a fight over one client id."""

_log = logging.getLogger("tidewire.agent")


def _mqtt_link(settings: LinkSettings) -> Link:
    from tidewire_link.mqtt import MqttLink  # noqa: PLC0415  # commands that need no broker start without paho

    return MqttLink(settings)


class Agent:
    """Keeps one database in step with its stream.

    agent = Agent(AgentSettings.of(db="shop.db", device="till-7", broker="mqtt://broker.local", tables=["orders"]))
    await agent.run()                           # until agent.stop() is called

    Args:
        settings: all of them.
        make_link: makes the connection; MQTT by default, an in-memory twin in simulations.
    """

    def __init__(self, settings: AgentSettings, make_link: LinkMaker = _mqtt_link) -> None:
        self._settings = settings
        self._make_link = make_link
        self._boot = secrets.token_hex(16)
        self._troubles = Troubles(lambda: self._changed(at_once=True))
        self._letters = LetterWatch(settings.dead_letters_max, self._troubles)
        self._too_large = TooLargeWatch(self._troubles)
        self._stopping = asyncio.Event()
        self._database: Database[EdgeStore] | None = None
        self._engine: Engine | None = None
        self._link: Link | None = None
        self._online: int | None = None
        self._subscribing: asyncio.Task[None] | None = None
        self._inbox: Inbox | None = None
        self._state_topic = ""
        self._reporter: Reporter | None = None
        self._lock: AgentLock | None = None

    @property
    def status(self) -> AgentStatus | None:
        """How it is; None before `run`."""
        return self._reporter.status if self._reporter else None

    @property
    def loading(self) -> LoadProgress | None:
        """How much of a snapshot is loaded; None while none is."""
        return self._reporter.loading if self._reporter else None

    def wake(self) -> None:
        """Something was committed: look at the file now. From the event loop's thread."""
        if self._engine is not None:
            self._engine.wake()

    async def stop(self) -> None:
        """Let `run` end cleanly: the last state is published, the database closed. Returns at once."""
        self._stopping.set()

    async def run(self) -> None:
        """Run until `stop` is called, or cancelled.

        Raises:
            AlreadyRunning: an agent runs on this file already.
            SettingError: a setting is wrong or missing.
            DatabaseError: the file cannot be used at start; later, it is waited for.
        """
        check_is_file(self._settings.db)
        with AgentLock.acquire(self._settings.db) as lock:
            _log.info("starting on %s", self._settings.db)
            reporter = Reporter(self._settings, lock, self._troubles, boot=self._boot, publish=self._publish_state)
            self._reporter, self._lock = reporter, lock
            try:
                await self._until_stopped(self._run())
            finally:
                await self._shut(reporter)
                lock.write(reporter.status)
                self._reporter = None

    # ── the whole ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self) -> None:
        standing, device = await self._open_at_start()
        reporter = cast(Reporter, self._reporter)
        self._inbox = Inbox(self._settings.stream, device, self._settings.message_bytes_max, _now_ms)
        reporter.device, reporter.incarnation, reporter.inbox = device, standing.incarnation, self._inbox
        self._state_topic = topics.device_state(device)
        will = DeviceState(state="offline", incarnation=standing.incarnation, boot=self._boot)
        self._link = self._make_link(
            self._settings.link_settings(
                client_id=f"tidewire-{device}-{self._boot[:BOOT_DIGITS_IN_CLIENT_ID]}",
                will=Will(topic=self._state_topic, payload=encode(will)),
            )
        )
        reporter.enter("offline")
        await self._link.open()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(self._link, device), name="link")
                tasks.create_task(self._live(standing, device), name="database")
                tasks.create_task(reporter.run(self._refresh_report), name="report")
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from group

    async def _until_stopped(self, work: Awaitable[None]) -> None:
        working = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            if not working.done():
                working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await working

    async def _shut(self, reporter: Reporter) -> None:
        """Say goodbye and close what is open; a step that hangs or fails does not keep the others from being done."""
        reporter.enter("stopped")
        if self._link is not None:
            with contextlib.suppress(LinkError, TimeoutError):
                async with asyncio.timeout(self._settings.stop_timeout_s):
                    if self._link.connected:
                        await self._link.publish(self._state_topic, encode(reporter.device_state()), retain=True)
                    await self._link.close()
        await self._close_database()
        _log.info("stopped")

    # ── the database ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _open_at_start(self) -> tuple[Standing, str]:
        """Open it for the first time: what cannot pass by itself ends the agent, the rest is waited for."""
        delay = self._settings.retry_delay_min_s
        while True:
            try:
                return await self._open()
            except DatabaseError as error:
                if not error.retry:
                    raise
                self._troubles.say_error(error)
            await self._close_database()
            await asyncio.sleep(delay)
            delay = min(delay * 2, self._settings.retry_delay_max_s)

    async def _open(self) -> tuple[Standing, str]:
        settings = self._settings
        check_is_file(settings.db)
        cast(AgentLock, self._lock).follow()

        def opener() -> EdgeStore:
            try:
                return EdgeStore.open(settings.db, device=settings.device, settings=settings.store_settings())
            except DeviceNeeded:
                return EdgeStore.open(settings.db, device=host_device_name(), settings=settings.store_settings())

        self._database = await Database.open(opener)
        await self._database.run(EdgeStore.join, settings.stream)
        await self._database.run(EdgeStore.attach, settings.tables, all_tables=settings.all_tables)
        standing = await self._database.run(read_standing)
        device = await self._database.run(lambda store: store.device)
        return standing, device

    async def _live(self, standing: Standing, device: str) -> None:
        """Engine after engine: one for each time the database is opened."""
        delay = self._settings.retry_delay_min_s
        while True:
            began = time.monotonic()
            try:
                if self._database is None:
                    standing, device = await self._open()
                self._troubles.clear(*_SOLVED_BY_OPENING)
                await self._work(standing, device)
            except DatabaseError as error:
                self._troubles.say_error(error, code=None if error.code.startswith(("database", "wal")) else "database")
                cast(Reporter, self._reporter).enter("halted")
            finally:
                self._engine = cast(Reporter, self._reporter).engine = None
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.stop_timeout_s):
                        await self._refresh_report()  # the last words tell how things are, not how they were
                await self._close_database()
            if time.monotonic() - began > self._settings.retry_delay_max_s:
                delay = self._settings.retry_delay_min_s
            await asyncio.sleep(delay)
            delay = min(delay * 2, self._settings.retry_delay_max_s)

    async def _work(self, standing: Standing, device: str) -> None:
        reporter = cast(Reporter, self._reporter)
        engine = Engine(
            self._settings,
            cast("Database[EdgeStore]", self._database),
            cast(Link, self._link),
            boot=self._boot,
            standing=standing,
            device=device,
            inbox=cast(Inbox, self._inbox),
            troubles=self._troubles,
            on_change=lambda of_state: self._changed(at_once=of_state),
        )
        self._engine = reporter.engine = engine
        reporter.enter("offline")
        if self._online is not None:
            engine.connected(self._online)
        await engine.run()

    async def _close_database(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            try:
                await database.close()
            except DatabaseError as error:
                _log.warning("closing the database: %s", error)

    # ── the link ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _pump(self, link: Link, device: str) -> None:
        filters = topics.agent_filters(self._settings.stream, device)
        try:
            async for event in link:
                match event:
                    case Connected():
                        cast(Reporter, self._reporter).connects_at = None
                        self._subscribing = asyncio.create_task(self._subscribe(link, event, filters))
                    case Received(topic, payload):
                        if self._engine is not None:
                            with contextlib.suppress(DatabaseError):  # the engine meets it as well, and ends
                                await self._engine.received(topic, payload)
                    case Disconnected(reason, retry_in_s):
                        self._lost(reason, retry_in_s)
        finally:
            if self._subscribing is not None:
                self._subscribing.cancel()

    async def _subscribe(self, link: Link, connection: Connected, filters: tuple[str, ...]) -> None:
        """Until the broker grants all of them: its rules may be corrected while we wait."""
        delay = self._settings.hello_pause_s
        while True:
            try:
                await link.subscribe(filters)
                break
            except SubscriptionDenied as error:
                self._troubles.say_error(error)
            except LinkError:
                return  # the connection is gone, which an event tells
            await asyncio.sleep(delay)
            delay = min(delay * 2, self._settings.hello_backoff_max_s)
        self._troubles.clear(BROKER, SubscriptionDenied.code)
        self._online = connection.payload_bytes_max
        cast(Reporter, self._reporter).protocol = connection.protocol
        if self._engine is not None:
            self._engine.connected(connection.payload_bytes_max)

    def _lost(self, reason: LinkError | None, retry_in_s: float) -> None:
        self._online = None
        reporter = cast(Reporter, self._reporter)
        reporter.protocol, reporter.connects_at = None, _now_ms() + round(retry_in_s * 1000)
        reporter.changed(at_once=True)
        if self._subscribing is not None:
            self._subscribing.cancel()
        if self._engine is not None:
            self._engine.disconnected()
        if reason is not None:
            self._troubles.say_error(reason, code=BROKER)

    # ── reports ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _changed(self, *, at_once: bool) -> None:
        reporter = self._reporter
        if reporter is None:
            return
        if self._engine is not None and at_once:
            reporter.enter(self._engine.session.state.value)
        reporter.changed(at_once=at_once)

    async def _refresh_report(self) -> None:
        reporter = cast(Reporter, self._reporter)
        if self._database is None:
            return
        with contextlib.suppress(DatabaseError, ValueError):  # closed or failing: the last numbers stay
            backlog, standing, position = await self._database.run(_report)
            reporter.backlog, reporter.position = backlog, position
            reporter.incarnation, reporter.log = standing.incarnation, standing.log
            self._too_large.look(backlog)
            self._letters.look(backlog)

    def _publish_state(self, payload: bytes) -> None:
        if self._link is not None and self._online is not None:
            with contextlib.suppress(NotConnected, LinkError):
                self._link.publish(self._state_topic, payload, retain=True)


def _report(store: EdgeStore) -> tuple[Backlog, Standing, Position]:
    return store.backlog(), read_standing(store), store.checkpoint


def _now_ms() -> int:
    return int(time.time() * 1000)
