"""`tidewire-agent run`."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Any

import click

from tidewire_agent.cli.common import EPILOG
from tidewire_agent.runtime.agent import Agent
from tidewire_agent.settings import ENV_PREFIX, AgentSettings
from tidewire_link.command_line import load_settings, set_up_logging, settings_options


@click.command(epilog=EPILOG)
@settings_options(AgentSettings)
def run(**options: Any) -> None:
    """Keep a database in step with its stream, until stopped (Ctrl-C or SIGTERM)."""
    settings = load_settings(AgentSettings, options, options["config"], ENV_PREFIX)
    set_up_logging(settings)
    asyncio.run(_run(settings))


async def _run(settings: AgentSettings) -> None:
    agent = Agent(settings)
    loop = asyncio.get_running_loop()
    stops: set[asyncio.Task[None]] = set()

    def stop() -> None:
        stops.add(asyncio.ensure_future(agent.stop()))

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    logging.getLogger("tidewire.agent").info("starting on %s", settings.db)
    await agent.run()
