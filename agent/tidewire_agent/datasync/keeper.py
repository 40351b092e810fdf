"""The agent that a `DataSync` runs itself.

One agent runs per file, whoever starts it. So an agent is kept: while another one runs on the file we only look now and
then whether it ended, and then take over; one that fails is started again after a while.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from tidewire_agent.store.tables import KV_TABLE
from tidewire_schemas.errors import AlreadyRunning, SettingError, TidewireError

if TYPE_CHECKING:
    from tidewire_agent.datasync.own_agent import OwnAgents

TAKE_OVER_EVERY_S: Final = 0.25
"""How often to try whether the file's agent is gone: one `flock` call, so it may be often."""

RESTART_DELAY_MIN_S: Final = 0.5
RESTART_DELAY_MAX_S: Final = 30.0
"""An agent that fails is started again after these; what made it fail (a full disk, say) may pass."""

STOP_TIMEOUT_S: Final = 5.0
"""How long close() waits for the agent's goodbye; it needs the network for that."""

_log = logging.getLogger("tidewire.agent")


class Runnable(Protocol):
    """What is kept running: an agent."""

    async def run(self) -> None:
        """Run until stopped.

        Raises:
            AlreadyRunning: another one runs on the same file.
        """

    async def stop(self) -> None:
        """Let `run` end cleanly."""


class Agents(Protocol):
    """Where agents for one file come from."""

    def make(self) -> Runnable:
        """One that can be run once."""

    def join(self) -> bool:
        """Have the agent that runs already do our part as well; False to be asked again. May block."""


class AgentKeeper:
    """Runs an agent on a file whenever nobody else does, until stopped. For one event loop."""

    def __init__(self, agents: Agents) -> None:
        self._agents = agents
        self._joined = False
        self._agent: Runnable | None = None
        self._stopping = asyncio.Event()
        self.problem: Exception | None = None
        """Why the last agent ended, if it did not end well."""

    async def run(self) -> None:
        """Keep an agent running until `stop`."""
        delay = RESTART_DELAY_MIN_S
        while not self._stopping.is_set():
            try:
                await self._run_or_join()
                delay = RESTART_DELAY_MIN_S
            except Exception as error:
                self.problem = error
                _log.error("the agent ended: %s", error, exc_info=not isinstance(error, TidewireError))
                await self._rest(delay)
                delay = min(delay * 2, RESTART_DELAY_MAX_S)
            finally:
                self._agent = None

    async def stop(self) -> None:
        """Let `run` end, and the agent before it."""
        self._stopping.set()
        if self._agent is not None:
            await self._agent.stop()

    async def _run_or_join(self) -> None:
        self._agent = self._agents.make()
        self.problem = None
        try:
            await self._agent.run()
        except AlreadyRunning:
            self._joined = self._joined or await asyncio.to_thread(self._agents.join)
            await self._rest(TAKE_OVER_EVERY_S)

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass


class AgentThread:
    """An `AgentKeeper` on an event loop of its own, in a background thread."""

    def __init__(self, agents: Agents, *, name: str) -> None:
        self._agents = agents
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._keeper: AgentKeeper | None = None
        # A daemon, so that a program that forgot close() can end.
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()
        self._ready.wait()

    @property
    def problem(self) -> Exception | None:
        """Why the last agent ended, if it did not end well."""
        return self._keeper.problem if self._keeper is not None else None

    def stop(self) -> None:
        """Stop the agent, and wait until it has ended, at most `STOP_TIMEOUT_S`."""
        if self._thread.is_alive() and self._loop is not None and self._keeper is not None:
            asyncio.run_coroutine_threadsafe(self._keeper.stop(), self._loop)
            if threading.current_thread() is not self._thread:  # the garbage collector may call from anywhere
                self._thread.join(STOP_TIMEOUT_S)

    def _main(self) -> None:
        asyncio.run(self._keep())

    async def _keep(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._keeper = AgentKeeper(self._agents)
        self._ready.set()
        await self._keeper.run()


def agents_for(
    path: str | os.PathLike[str],
    broker: str | None,
    *,
    device: str | None,
    tables: Sequence[str],
    settings: Mapping[str, object],
) -> OwnAgents | None:
    """What runs the agent of a file, None without a broker.

    Raises:
        SettingError: a setting is unknown or wrong, or is one of the agent's and there is no broker.
    """
    if broker is None:
        if device is not None or tables or settings:
            raise SettingError("settings of the agent are given without a broker", hint="give a broker as well")
        return None
    # Imported here, as programs that use the file alone need no MQTT.
    from tidewire_agent.datasync.own_agent import OwnAgents  # noqa: PLC0415
    from tidewire_agent.settings import AgentSettings  # noqa: PLC0415

    if isinstance(tables, str):
        raise SettingError(f"tables={tables!r} is one text", hint="give a list of names")
    chosen = AgentSettings.of(
        db=Path(path).resolve(), device=device, broker=broker, tables=(KV_TABLE, *tables), **settings
    )
    return OwnAgents(chosen)
