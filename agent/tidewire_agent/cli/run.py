"""`tidewire-agent run`."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any, Final

import click

from tidewire_agent.cli.common import EPILOG, known_to_tidewire
from tidewire_agent.cli.progress import show_progress
from tidewire_agent.runtime.agent import Agent
from tidewire_agent.settings import ENV_PREFIX, AgentSettings
from tidewire_link.command_line import load_settings, set_up_logging, settings_options
from tidewire_schemas.errors import DatabaseError

SWITCH_INTERVAL_S: Final = 0.0005
"""How long the event loop's thread may keep the interpreter while the database's thread waits for it, perhaps under the
app's write lock: ten times less than Python's default."""


@click.command(epilog=EPILOG)
@settings_options(AgentSettings)
def run(**options: Any) -> None:
    """Keep a database in step with its stream, until stopped (Ctrl-C or SIGTERM)."""
    settings = load_settings(AgentSettings, options, options["config"], ENV_PREFIX)
    _look_at_database(settings)
    set_up_logging(settings)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    asyncio.run(_run(settings))


def _look_at_database(settings: AgentSettings) -> None:
    """Before anything is said or made beside it. What passes by itself, such as a lock, the agent waits for.

    Raises:
        DatabaseMissing, DatabaseNotUsable: it cannot be used as it is.
    """
    try:
        known_to_tidewire(settings)
    except DatabaseError as error:
        if not error.retry:
            raise


async def _run(settings: AgentSettings) -> None:
    agent = Agent(settings)
    loop = asyncio.get_running_loop()
    stops: set[asyncio.Task[None]] = set()

    def stop() -> None:
        stops.add(asyncio.ensure_future(agent.stop()))

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    bar = asyncio.create_task(show_progress(lambda: agent.loading, sys.stderr)) if sys.stderr.isatty() else None
    try:
        await agent.run()
    finally:
        if bar is not None:
            bar.cancel()
            await asyncio.wait([bar])
