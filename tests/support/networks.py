"""Networks of a test's own, in network namespaces: what is cut, slow or lossy there concerns nobody else.

    with Network() as network:
        till = network.client()
        broker = Mosquitto(folder, host=network.server)
        agent = AgentProcess(db, "till", f"mqtt://{till.server_address}:{broker.port}", host=till)
        till.cut(up=True)       # what the till sends is lost on the way
        till.heal()

All addresses are alike in every network, as none sees another. Names carry the pid of the process that made them, and
what tests that were killed left behind is removed by the next that makes a network.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from support.host import Host
from support.mounts import is_alive
from support.rights import CommandFailed, right, run

T = TypeVar("T")

_NAME: Final = "tidewire-test-{pid}-{number}"
_NAMESPACES: Final = Path("/run/netns")
_CLONE_NEWNET: Final = 0x40000000
_numbers = count(1)


class NamespaceHost(Host):
    """A network namespace, with `lo`."""

    def __init__(self, address: str) -> None:
        self.name = _NAME.format(pid=os.getpid(), number=next(_numbers))
        self.address = address
        run("ip", "netns", "add", self.name)
        self.run("ip", "link", "set", "lo", "up")

    def run(self, *command: str) -> str:
        """Run a command of the system there to its end."""
        return run(*self.command(command))

    def command(self, words: Sequence[str]) -> list[str]:
        """See `Host`. The process gets no other pid by it."""
        return ["nsenter", f"--net={_NAMESPACES / self.name}", "--", *words]

    def call(self, function: Callable[[], T]) -> T:
        """See `Host`: in a thread of its own, as a thread is in one network at a time."""
        results: list[T] = []
        errors: list[BaseException] = []

        def enter_and_call() -> None:
            try:
                _enter(_NAMESPACES / self.name)
                results.append(function())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=enter_and_call, name=f"in {self.name}")
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def remove(self) -> None:
        """Remove it with all its links, and end what runs there still."""
        _remove(self.name)


class Client(NamespaceHost):
    """A host with one link to the server; what happens to this link is the test's to say."""

    def __init__(self, server: NamespaceHost, number: int) -> None:
        super().__init__(f"10.0.{number}.2")
        self._server = server
        self.server_address = f"10.0.{number}.1"
        """Under which the server is reached from here."""
        self._far_end = f"client{number}"
        self._rules: list[tuple[NamespaceHost, list[str]]] = []
        run(
            *("ip", "link", "add", "uplink", "netns", self.name, "type", "veth"),
            *("peer", "name", self._far_end, "netns", server.name),
        )
        for host, link, address in ((self, "uplink", self.address), (server, self._far_end, self.server_address)):
            host.run("ip", "address", "add", f"{address}/24", "dev", link)
            host.run("ip", "link", "set", link, "up")

    def cut(self, *, up: bool = False, down: bool = False) -> None:
        """From now on all that it sends (`up`), or all that is sent to it (`down`), is lost on the way."""
        self.lose(up=float(up), down=float(down))

    def lose(self, *, up: float = 0.0, down: float = 0.0) -> None:
        """From now on this share of the packets is lost on the way, at random."""
        self.heal()
        for host, link, share in ((self._server, self._far_end, up), (self, "uplink", down)):
            chance = [] if share == 1 else ["-m", "statistic", "--mode", "random", "--probability", str(share)]
            if share:
                rule = ["INPUT", "-i", link, *chance, "-j", "DROP"]
                host.run("iptables", "-w", "-A", *rule)
                self._rules.append((host, rule))

    def heal(self) -> None:
        """Nothing is lost from now on."""
        while self._rules:
            host, rule = self._rules.pop()
            host.run("iptables", "-w", "-D", *rule)

    def limit(self, kbit_s: int) -> None:
        """From now on no more than this goes through in a second, each way; up to half a second of it may wait."""
        for host, link in ((self._server, self._far_end), (self, "uplink")):
            rate = ["rate", f"{kbit_s}kbit", "burst", "4kb", "latency", "500ms"]
            host.run("tc", "qdisc", "replace", "dev", link, "root", "tbf", *rate)

    def unlimit(self) -> None:
        """As fast as it was."""
        for host, link in ((self._server, self._far_end), (self, "uplink")):
            host.run("tc", "qdisc", "delete", "dev", link, "root")

    def bytes_sent(self) -> int:
        """All bytes that it has put on its link, with TCP's own."""
        (link,) = json.loads(self.run("ip", "-json", "-statistics", "link", "show", "uplink"))
        return int(link["stats64"]["tx"]["bytes"])


class Network:
    """A server and clients around it, each with a link of its own to the server."""

    def __init__(self) -> None:
        _remove_what_dead_processes_left()
        self._made = ExitStack()
        self._clients = count(1)
        self.server = NamespaceHost("127.0.0.1")
        self._made.callback(self.server.remove)

    def client(self) -> Client:
        """One more."""
        client = Client(self.server, next(self._clients))
        self._made.callback(client.remove)
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._made.close()


def _remove(name: str) -> None:
    for pid in run("ip", "netns", "pids", name).split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    run("ip", "netns", "delete", name)


def _enter(namespace: Path) -> None:
    """Take this thread into a network namespace (`os.setns` is there from Python 3.12)."""
    libc = ctypes.CDLL(None, use_errno=True)
    with namespace.open("rb") as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(namespace))


@cache
def _remove_what_dead_processes_left() -> None:
    if not _NAMESPACES.is_dir():
        return
    pattern = re.compile(_NAME.format(pid=r"(\d+)", number=r"\d+"))
    for entry in _NAMESPACES.iterdir():
        owner = pattern.fullmatch(entry.name)
        if owner and not is_alive(int(owner[1])):
            with suppress(CommandFailed):  # a neighbour removes it as well
                _remove(entry.name)


# ── rights ────────────────────────────────────────────────────────────────────────────────────────────────────────


@right("networks", needs="root (CAP_SYS_ADMIN and CAP_NET_ADMIN in a container), iproute2 and iptables")
def _try_networks(_folder: Path) -> None:
    with Network() as network:
        client = network.client()
        client.cut(up=True, down=True)
        client.lose(up=0.5, down=0.5)


@right("slow networks", needs="the same as networks, and the kernel's tbf queue (sch_tbf)")
def _try_slow_networks(_folder: Path) -> None:
    with Network() as network:
        network.client().limit(64)
