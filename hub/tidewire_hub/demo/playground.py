"""Commands for a person who keeps the demo running."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tidewire_hub.demo.brokers import Broker
from tidewire_hub.demo.processes import Child
from tidewire_hub.demo.tills import Till


def commands_to_try(broker: Broker, tills: Sequence[Till], hub_data: Path, agent: Child) -> Iterator[str]:
    """Lines to print; each command works as it stands in another terminal. `agent` is the second till's."""
    first, second, *_ = tills
    hub = _installed("tidewire-hub")
    data = shlex.quote(str(hub_data))
    sell = "INSERT INTO orders VALUES ('mine-1', 'me', 'espresso', 99)"
    yield "All of it goes on running until Ctrl-C. Try in another terminal:"
    yield ""
    yield "what travels      " + f"mosquitto_sub -p {broker.port} -v -t 'tidewire/v1/#'"
    yield "write on one      " + _sqlite(first, sell)
    yield "read on another   " + _sqlite(second, "SELECT * FROM orders WHERE till = 'me'")
    yield "one agent         " + f"{_installed('tidewire-agent')} status --db {shlex.quote(str(second.path))}"
    yield "all devices       " + f"{hub} devices --data {data}"
    yield "the log           " + f"{hub} log --data {data} --follow"
    yield "the conflicts     " + f"{hub} conflicts --data {data}"
    yield f"stop {second.name}       " + f"kill {agent.process.pid}"
    yield "start it again    " + shlex.join(agent.command)


def _sqlite(till: Till, statement: str) -> str:
    return f"sqlite3 -cmd '.timeout 5000' {shlex.quote(str(till.path))} {shlex.quote(statement)}"


def _installed(command: str) -> str:
    """A command by its name where the shell finds it, else by its path beside this Python."""
    return command if shutil.which(command) else shlex.quote(str(Path(sys.executable).with_name(command)))
