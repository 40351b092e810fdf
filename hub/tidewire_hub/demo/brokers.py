"""Which broker the demo uses, and how it is started: Mosquitto where there is one or one can be had, else amqtt."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Final, Literal, NamedTuple

from tidewire_hub.demo.failure import DemoFailed
from tidewire_hub.demo.processes import Child, Processes

Choice = Literal["auto", "mosquitto", "embedded"]

START_TIMEOUT_S: Final = 15.0
START_ATTEMPTS: Final = 3
INSTALL_TIMEOUT_S: Final = 120.0
SUDO_TIMEOUT_S: Final = 5.0

_CONFIG: Final = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
set_tcp_nodelay true
max_queued_messages 10000
log_dest stderr
connection_messages true
"""


class Broker(NamedTuple):
    """A broker that runs."""

    name: str
    port: int
    protocol: Literal["5", "3.1.1"]


def find_mosquitto() -> str | None:
    """Mosquitto's path; Debian installs it where a user's PATH does not look."""
    return shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin")


def can_install() -> bool:
    """Whether apt-get can install Mosquitto without asking anybody."""
    return shutil.which("apt-get") is not None and _as_root() is not None


def install() -> str | None:
    """Install Mosquitto by apt-get and return its path, None if that does not work."""
    as_root = _as_root()
    if as_root is None:
        return None
    apt = [*as_root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    steps = (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "mosquitto"])
    try:
        for step in steps:
            subprocess.run([*apt, *step], timeout=INSTALL_TIMEOUT_S, capture_output=True, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return find_mosquitto()


def start(processes: Processes, directory: Path, mosquitto: str | None) -> Broker:
    """Start Mosquitto at this path, or the embedded broker, on a free port of 127.0.0.1."""
    for _attempt in range(START_ATTEMPTS):
        port = _free_port()
        if mosquitto is None:
            broker = Broker("amqtt (embedded)", port, "3.1.1")
            command = [sys.executable, "-m", "tidewire_hub.demo.broker", str(port)]
        else:
            broker = Broker("Mosquitto", port, "5")
            command = [mosquitto, "-c", str(_write_config(directory, port))]
        child = processes.start("broker", command)
        processes.wait_for(partial(_answers_or_ended, child, port), START_TIMEOUT_S, "the broker accepts connections")
        if child.process.poll() is None:
            return broker
        said = child.log.read_text(encoding="utf-8", errors="replace")
        processes.drop(child)  # somebody took the port between our look and the broker's
    raise DemoFailed(f"the broker does not start:\n{said[-1000:]}")


def _write_config(directory: Path, port: int) -> Path:
    path = directory / "mosquitto.conf"
    user = "user root\n" if os.geteuid() == 0 else ""  # else it becomes `mosquitto`, which may not read our directory
    path.write_text(user + _CONFIG.format(port=port), encoding="utf-8")
    return path


def _as_root() -> list[str] | None:
    """What to put before a command so that it runs as root, None where that needs a password."""
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo is None:
        return None
    try:
        asked = subprocess.run([sudo, "-n", "true"], timeout=SUDO_TIMEOUT_S, capture_output=True, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return [sudo, "-n"] if asked.returncode == 0 else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers_or_ended(child: Child, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return child.process.poll() is not None or probe.connect_ex(("127.0.0.1", port)) == 0
