"""What a running agent says about itself: the status document beside the database, and the device's state topic."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Literal

from tidewire_agent.lock import AgentLock
from tidewire_agent.runtime.engine import Engine
from tidewire_agent.runtime.inbox import Inbox
from tidewire_agent.runtime.troubles import Troubles
from tidewire_agent.settings import AgentSettings
from tidewire_agent.status import AgentStatus, ProblemStatus
from tidewire_agent.store.backlog import Backlog
from tidewire_agent.verify_report import VerifyReport
from tidewire_link.settings import parse_url
from tidewire_link.version import VERSION
from tidewire_schemas.codec import encode
from tidewire_schemas.messages import DeviceState
from tidewire_schemas.positions import Position
from tidewire_schemas.snapshots import LoadProgress
from tidewire_schemas.verification import Verified

SHARE_OVER_S: Final = 60.0
"""Over how long the share of time under the write lock is told."""

AgentState = Literal[
    "starting", "offline", "handshaking", "catching_up", "loading_snapshot", "live", "halted", "stopped"
]


class Reporter:
    """Keeps the status document and the retained `DeviceState` up to date.

    Neither writes the app's database: a file that is synced must not be changed by the fact that it is.

    Args:
        publish: sends a `DeviceState`; does nothing while there is no connection.
        backlog: asks the database; None while it is not open.
    """

    def __init__(
        self,
        settings: AgentSettings,
        lock: AgentLock,
        troubles: Troubles,
        *,
        boot: str,
        publish: Callable[[bytes], None],
    ) -> None:
        self._settings = settings
        self._lock = lock
        self._troubles = troubles
        self._boot = boot
        self._publish = publish
        self._state: AgentState = "starting"
        self._since = _now_ms()
        self._soon = asyncio.Event()
        self._news = asyncio.Event()
        self._shares: deque[tuple[float, float]] = deque()
        self.device = settings.device or ""
        self.incarnation = ""
        self.protocol: str | None = None
        self.connects_at: int | None = None
        self.inbox: Inbox | None = None
        self.engine: Engine | None = None
        self.backlog: Backlog | None = None
        self.log: str | None = None
        self.position: Position | None = None

    def changed(self, *, at_once: bool) -> None:
        """Something changed; `at_once` for the state and problems, which people wait to see."""
        self._news.set()
        if at_once:
            self._soon.set()

    def enter(self, state: AgentState) -> None:
        """The agent is in this state now."""
        if state != self._state:
            self._state, self._since = state, _now_ms()
            self.changed(at_once=True)

    @property
    def state(self) -> AgentState:
        """The agent's state."""
        return self._state

    async def run(self, refresh: Callable[[], Awaitable[None]]) -> None:
        """Report until cancelled. `refresh` is awaited before each report and sets `backlog` and the like."""
        clock = asyncio.get_running_loop().time
        published_at = 0.0
        unsaid = False
        while True:
            urgent = self._soon.is_set()
            unsaid = unsaid or self._news.is_set()
            self._soon.clear()
            self._news.clear()
            await refresh()
            self._lock.write(self.status)
            if urgent or clock() >= published_at + self._pause_s(unsaid):
                published_at = clock()
                unsaid = False
                self._publish(encode(self.device_state()))
            await self._rest(published_at + self._pause_s(unsaid) - clock())

    def _pause_s(self, unsaid: bool) -> float:
        return self._settings.state_pause_s if unsaid else self._settings.state_interval_s

    async def _rest(self, until_next_s: float) -> None:
        """Until there is something to say: news at the pace of `status_interval_s`, urgent news at once."""
        if await _is_set_within(self._soon, self._settings.status_interval_s):
            return
        waiting = [asyncio.ensure_future(event.wait()) for event in (self._soon, self._news)]
        try:
            await asyncio.wait(waiting, timeout=max(0.0, until_next_s), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiting:
                waiter.cancel()

    @property
    def status(self) -> AgentStatus:
        """The status document."""
        backlog, engine, inbox = self.backlog, self.engine, self.inbox
        return AgentStatus(
            state=self._state,
            pid=os.getpid(),
            since=self._since,
            updated_at=_now_ms(),
            version=VERSION,
            device=self.device,
            stream=self._settings.stream,
            broker=str(parse_url(self._settings.broker)),
            protocol=self.protocol,
            connects_at=self.connects_at,
            incarnation=self.incarnation or None,
            boot=self._boot,
            log=self.log,
            position=self.position,
            snapshot=self.loading,
            heard=engine.session.heard if engine and engine.session.heard else None,
            changes=backlog.changes if backlog else None,
            batches=backlog.batches if backlog else None,
            batch_bytes=backlog.batch_bytes if backlog else None,
            outbox_bytes_max=self._settings.outbox_bytes_max or None,
            oldest_sealed_at=backlog.oldest_sealed_at if backlog else None,
            parked=backlog.parked if backlog else None,
            dead_letters=backlog.dead_letters if backlog else None,
            dead_letters_dropped=backlog.dead_dropped if backlog else None,
            lock_share=self._lock_share(),
            lock_longest_ms=round(engine.lock.longest_s * 1000, 1) if engine else 0.0,
            verified=self._report.without_rows() if self._report else None,
            refused={problem.table: problem.message for problem in engine.session.refused} if engine else {},
            problems=tuple(ProblemStatus(code=t.code, message=t.message, hint=t.hint) for t in self._troubles.all),
            rejected_count=inbox.rejected_count if inbox else 0,
            rejected=tuple(inbox.rejected) if inbox else (),
        )

    def device_state(self) -> DeviceState:
        """The message for the device's state topic."""
        backlog = self.backlog
        return DeviceState(
            state="offline" if self._state == "starting" else self._state,
            incarnation=self.incarnation,
            boot=self._boot,
            position=self.position,
            pending=backlog.changes + backlog.batches if backlog else None,
            outbox_bytes=backlog.batch_bytes if backlog else None,
            outbox_bytes_max=self._settings.outbox_bytes_max or None,
            oldest_unsent_at=backlog.oldest_sealed_at if backlog else None,
            dead_letters=backlog.dead_letters if backlog else None,
            dead_letters_dropped=backlog.dead_dropped if backlog else None,
            verified=self._verified,
            snapshot=self.loading,
            problem=self._troubles.line,
            version=VERSION,
        )

    @property
    def _report(self) -> VerifyReport | None:
        return self.engine.verifications.report if self.engine else None

    @property
    def _verified(self) -> Verified | None:
        found = self._report
        if found is None:
            return None
        return Verified(
            at=found.at,
            position=found.position,
            rows=found.rows,
            differing=found.differing,
            complete=found.complete,
        )

    @property
    def loading(self) -> LoadProgress | None:
        """How much of a snapshot is loaded; None while none is."""
        loading = self.engine.session.loading if self.engine else None
        if loading is None or loading.snapshot is None:
            return None
        return LoadProgress(snapshot=loading.snapshot, loaded=loading.loaded, chunks=loading.chunks)

    def _lock_share(self) -> float:
        if self.engine is None:
            return 0.0
        now = asyncio.get_running_loop().time()
        self._shares.append((now, self.engine.lock.held_s))
        while len(self._shares) > 2 and self._shares[1][0] < now - SHARE_OVER_S:
            self._shares.popleft()
        began, lock_s = self._shares[0]
        return round(max(0.0, self.engine.lock.held_s - lock_s) / max(now - began, 1.0), 6)


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _now_ms() -> int:
    return int(time.time() * 1000)
