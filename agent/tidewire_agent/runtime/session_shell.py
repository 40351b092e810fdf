"""The session at work: brings it what happens, with the time, and its effects to those who perform them."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from math import inf

from tidewire_agent.runtime.alarm import Alarm
from tidewire_agent.runtime.database import Database
from tidewire_agent.runtime.filework import LoadEffect, read_standing
from tidewire_agent.runtime.publisher import Publisher
from tidewire_agent.runtime.troubles import Troubles
from tidewire_agent.session.effects import (
    AnswerFresh,
    ApplyPage,
    AskFresh,
    AwaitSnapshot,
    BeginLoad,
    ClearProblem,
    Effect,
    FinishLoad,
    Follow,
    ForgetLoad,
    Heal,
    Limits,
    LoadChunk,
    PublishState,
    Renumber,
    RequestReplay,
    RequestSnapshot,
    SayProblem,
    SendBatches,
    SendHello,
)
from tidewire_agent.session.session import Session
from tidewire_agent.session.standing import Standing
from tidewire_agent.session.states import STATE_LINES, State
from tidewire_agent.settings import AgentSettings
from tidewire_agent.store.edge_store import EdgeStore
from tidewire_agent.store.outbox import SealedBatch
from tidewire_link.port import Link
from tidewire_schemas.positions import Position
from tidewire_schemas.verification import VerifyReport, VerifyRequest

HubEffect = SendHello | SendBatches | RequestReplay | RequestSnapshot | AskFresh | VerifyRequest | VerifyReport
FileEffect = Follow | ApplyPage | AnswerFresh | Renumber | Heal | AwaitSnapshot | LoadEffect

_log = logging.getLogger("tidewire.agent")


class SessionShell:
    """One session, its timer, and the queues of what it wants done.

    Args:
        boot: random, of this start.
        standing: what the file says.
        publisher: is told how large messages may be.
        troubles: where problems are said.
        on_change: called when something changed that status shows; True if the state did.
        on_performed: called after the session has decided something: it may take batches now, or none any more.
    """

    def __init__(
        self,
        settings: AgentSettings,
        database: Database[EdgeStore],
        link: Link,
        *,
        boot: str,
        standing: Standing,
        publisher: Publisher,
        troubles: Troubles,
        on_change: Callable[[bool], None],
        on_performed: Callable[[], None],
    ) -> None:
        self._database = database
        self._link = link
        self._publisher = publisher
        self._troubles = troubles
        self._on_change = on_change
        self._on_performed = on_performed
        self._loop = asyncio.get_running_loop()
        self.session = Session(settings.session_limits(), boot, standing)
        self.boot = boot
        self.incarnation = standing.incarnation
        self.batch_bytes_max: int | None = None
        """The largest batch that the hub takes, where that is known."""
        self.newest: SealedBatch | None = None
        """What was sealed last: it mostly is what is to be sent next."""
        # Both are bounded by what the session asks for: one reading of batches, one page, a few questions.
        self.to_hub: asyncio.Queue[HubEffect] = asyncio.Queue()
        self.to_file: asyncio.Queue[FileEffect] = asyncio.Queue()
        self.hello_waits = False
        """Whether a Hello is to be made still: it will tell what the file holds then."""
        self._timer = Alarm(self._tick)
        self._failed: asyncio.Future[None] = self._loop.create_future()

    @property
    def state(self) -> State:
        """Of the conversation with the hub."""
        return self.session.state

    @property
    def position(self) -> Position:
        """The last entry applied."""
        return self.session.position

    async def run(self) -> None:
        """Until cancelled: a mistake in a timer's callback must end the agent as one in a task does."""
        await self._failed

    def close(self) -> None:
        """Its timer rings no more."""
        self._timer.set(inf)

    # ── in ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def connected(self) -> None:
        """The broker is there and the subscriptions are granted."""
        self.perform(self.session.connected(self._loop.time()))

    def disconnected(self) -> None:
        """The connection is gone."""
        self.perform(self.session.disconnected())

    async def reintroduce(self) -> None:
        """Stop sending, and say Hello anew, with what the file says now."""
        self.introduce(await self._database.run(read_standing))

    def introduce(self, standing: Standing) -> None:
        """Stop sending, and say Hello anew."""
        self.incarnation = standing.incarnation
        self.newest = None
        self.perform(self.session.reintroduce(standing, self._loop.time()))

    def _tick(self) -> None:
        try:
            # A timer may fire a clock's grain too early.
            now = max(self._loop.time(), min(self.session.wake_at, self._loop.time() + 0.001))
            if self._link.moving:
                self.session.moving(now)
            self.perform(self.session.tick(now, random.random()))
        except BaseException as error:
            if not self._failed.done():
                self._failed.set_exception(error)

    # ── out ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def perform(self, effects: Sequence[Effect]) -> None:
        """Do what the session says, or have it done in order by who takes it from the queues."""
        for effect in effects:
            match effect:
                case SendHello() if self.hello_waits:
                    pass  # the one that waits says all that this one would
                case SendHello() | SendBatches() | RequestReplay() | RequestSnapshot() | AskFresh():
                    self.hello_waits = self.hello_waits or isinstance(effect, SendHello)
                    self.to_hub.put_nowait(effect)
                case Follow() | ApplyPage() | AnswerFresh() | Renumber() | Heal() | AwaitSnapshot():
                    self.to_file.put_nowait(effect)
                case BeginLoad() | LoadChunk() | FinishLoad() | ForgetLoad():
                    self.to_file.put_nowait(effect)
                case Limits():
                    self._publisher.heed(effect.payload_bytes_max)
                    self.batch_bytes_max = effect.batch_bytes_max
                case PublishState():
                    _log.info("%s", STATE_LINES[effect.state])
                    self._on_change(True)
                case SayProblem(trouble, None):
                    self._troubles.say(trouble)
                case SayProblem(trouble, since) if since is not None:
                    self._troubles.say_since(trouble, time.time() - (self._loop.time() - since))
                case ClearProblem():
                    self._troubles.clear(effect.code)
        self._on_performed()
        self._timer.set(self.session.wake_at)

    def tell_hub(self, message: VerifyRequest | VerifyReport) -> None:
        """Send a question or a report after what is to be sent before it; lost where there is no connection."""
        self.to_hub.put_nowait(message)
