"""Commands for a person who keeps the demo running."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from tidewire_hub.demo.brokers import Broker
from tidewire_hub.demo.processes import Child


def commands_to_try(directory: Path, broker: Broker, till_2: Child) -> Iterator[str]:
    """Lines to print: what a command does, and the command as it works in another terminal.

    Args:
        directory: where the files till-1.db, till-2.db and the hub's data are.
        till_2: the agent of till-2.db.
    """
    agent, hub = _installed("tidewire-agent"), _installed("tidewire-hub")
    yield "All of it goes on running until Ctrl-C. In another terminal:"
    yield ""
    yield f"cd {shlex.quote(str(directory))}"
    to_broker = f"--broker mqtt://127.0.0.1:{broker.port} --protocol {broker.protocol}"
    sale = "INSERT INTO orders VALUES ('x', 'me', 'tea', 99)"
    look = "SELECT * FROM orders WHERE till = 'me'"
    for what, command in {
        "all that travels": f"mosquitto_sub -p {broker.port} -v -t 'tidewire/v1/#'",
        "write one file": f'sqlite3 -cmd ".timeout 5000" till-1.db "{sale}"',
        "read another": f'sqlite3 till-2.db "{look}"',
        "an agent": f"{agent} status --db till-2.db",
        "all devices": f"{hub} devices --data hub",
        "the log": f"{hub} log --data hub --follow",
        "what lost": f"{hub} conflicts --data hub",
        "stop an agent": f"kill {till_2.process.pid}",
        "start it again": f"{agent} run --db till-2.db {to_broker}",
    }.items():
        yield f"# {what}"
        yield command


def _installed(command: str) -> str:
    """A command by its path beside this Python: another terminal may not have this environment on its PATH."""
    beside = Path(sys.executable).with_name(command)
    return shlex.quote(str(beside)) if beside.exists() else command
