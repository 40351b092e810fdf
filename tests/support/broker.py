"""A real Mosquitto for one test: own port, own directory, killed, frozen, emptied and restarted at will.

with Mosquitto(tmp_path, persistence=True) as broker:
    broker.url            # mqtt://127.0.0.1:34567
    broker.kill()         # SIGKILL
    broker.wipe()         # its store is gone
    broker.start()        # same port as before
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from support.host import HERE, Host
from support.ports import free_port
from support.waiting import wait_for

_START_S = 60.0
_STOP_S = 30.0
_START_ATTEMPTS = 3
_STOP_ATTEMPTS = 15
"""Mosquitto forgets a signal that comes after it listens and before it serves."""


@dataclass(frozen=True, slots=True)
class BrokerTls:
    """Certificate files of a TLS listener; with `require_certificate` clients must show one signed by `ca_file`."""

    ca_file: Path
    cert_file: Path
    key_file: Path
    require_certificate: bool = False


class Mosquitto:
    """A Mosquitto process.

    Args:
        directory: where configuration, store and log go; a temporary one, removed on exit, when None.
        persistence: keep retained messages and sessions over a restart (the store is written on a clean stop).
        websockets: a second listener speaks MQTT over websockets on `websockets_port`.
        passwords: user → password; anonymous clients are refused then.
        acl: the text of an ACL file.
        tls: the listener speaks TLS.
        config: further lines for mosquitto.conf (global options, e.g. ["max_packet_size 20000"]).
        port: a fixed port; a free one when None. It stays the same over restarts.
        log_messages: log each packet, and each publish that the ACL denied.
        host: where it runs; not on this machine's own network, it listens on all addresses that it has there.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        persistence: bool = False,
        websockets: bool = False,
        passwords: Mapping[str, str] | None = None,
        acl: str | None = None,
        tls: BrokerTls | None = None,
        config: Sequence[str] = (),
        port: int | None = None,
        log_messages: bool = False,
        host: Host = HERE,
    ) -> None:
        self._temporary = directory is None
        self.directory = Path(tempfile.mkdtemp(prefix="tidewire-broker-")) if directory is None else directory
        self.directory.mkdir(parents=True, exist_ok=True)
        self.persistence = persistence
        self.passwords = passwords
        self.acl = acl
        self.tls = tls
        self.config = list(config)
        self.log_messages = log_messages
        self.host = host
        self._port_is_fixed = port is not None
        self.port = port or free_port()
        self.websockets_port = free_port() if websockets else None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The listener's address as a Tidewire broker URL."""
        scheme = "mqtt" if self.tls is None else "mqtts"
        return f"{scheme}://{self.host.address}:{self.port}"

    @property
    def websockets_url(self) -> str:
        """The websockets listener's address."""
        assert self.websockets_port is not None, "this broker was made without websockets=True"
        return f"ws://127.0.0.1:{self.websockets_port}/"

    @property
    def store(self) -> Path:
        """Where its persistence file is."""
        return self.directory / "store"

    @property
    def log(self) -> str:
        """What it logged so far, over all restarts."""
        path = self.directory / "mosquitto.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def pid(self) -> int:
        """The process that runs now."""
        assert self._process is not None, "the broker is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there (frozen counts as running)."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and return once it accepts connections."""
        assert not self.running, "the broker runs already"
        for attempt in range(1, _START_ATTEMPTS + 1):
            self._write_files()
            if self._try_start():
                return
            if attempt == _START_ATTEMPTS or self._port_is_fixed:
                break
            self.port = free_port()  # a program that has nothing to do with the tests took it
            self.websockets_port = self.websockets_port and free_port()
        raise RuntimeError(f"mosquitto did not start:\n{self.log[-2000:]}")

    def stop(self) -> None:
        """Stop it cleanly (SIGTERM): it writes its store and says goodbye to MQTT 5 clients."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it (SIGKILL): whatever it had not written is lost."""
        self._end(signal.SIGKILL)

    def restart(self, *, kill: bool = False) -> None:
        """Stop (or kill) it and start it again on the same port."""
        if kill:
            self.kill()
        else:
            self.stop()
        self.start()

    def freeze(self) -> None:
        """Stop its clock (SIGSTOP): connections stay open and nothing answers, as when a network goes away."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen broker go on."""
        os.kill(self.pid, signal.SIGCONT)

    def wipe(self) -> None:
        """Delete its store; only while it is stopped or killed."""
        assert not self.running, "stop or kill the broker before its store is deleted"
        shutil.rmtree(self.store, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.running:
            self.thaw()
        self.stop()
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _try_start(self) -> bool:
        binary = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        command = self.host.command([binary, "-c", str(self.directory / "mosquitto.conf")])
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._process = process
        ports = [port for port in (self.port, self.websockets_port) if port is not None]
        wait_for(
            lambda: process.poll() is not None or self.host.call(lambda: all(map(_accepts, ports))),
            _START_S,
            what="mosquitto accepts connections",
        )
        return process.poll() is None

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        for _ in range(_STOP_ATTEMPTS):
            self._process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S / _STOP_ATTEMPTS)
                break
        else:
            self._process.kill()
            self._process.wait(_STOP_S)
        self._process = None

    def _write_files(self) -> None:
        self.store.mkdir(exist_ok=True)
        lines = [
            "per_listener_settings false",
            f"log_dest file {self.directory}/mosquitto.log",
            *(f"log_type {kind}" for kind in ("error", "warning", "notice", "information")),
            *(["log_type all"] if self.log_messages else []),
            f"persistence {str(self.persistence).lower()}",
            f"persistence_location {self.store}/",
            f"allow_anonymous {str(self.passwords is None).lower()}",
            "set_tcp_nodelay true",
        ]
        if os.geteuid() == 0:
            lines.append("user root")  # else it becomes `mosquitto`, which may not read a test's directory
        if self.passwords is not None:
            lines.append(f"password_file {self._write('passwords', _password_file(self.passwords))}")
        if self.acl is not None:
            lines.append(f"acl_file {self._write('acl', self.acl)}")
        lines += self.config
        lines.append(f"listener {self.port}{' 127.0.0.1' if self.host is HERE else ''}")
        if self.tls is not None:
            lines += [
                f"cafile {self.tls.ca_file}",
                f"certfile {self.tls.cert_file}",
                f"keyfile {self.tls.key_file}",
                f"require_certificate {str(self.tls.require_certificate).lower()}",
            ]
        if self.websockets_port is not None:
            lines += [f"listener {self.websockets_port} 127.0.0.1", "protocol websockets"]
        self._write("mosquitto.conf", "\n".join(lines) + "\n")

    def _write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o600)
        return path


def _password_file(passwords: Mapping[str, str]) -> str:
    """Mosquitto's own format 7: PBKDF2-HMAC-SHA512, few rounds as tests connect often."""
    lines = []
    for user, password in passwords.items():
        salt = os.urandom(12)
        key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
        lines.append(f"{user}:$7$101${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}\n")
    return "".join(lines)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0
