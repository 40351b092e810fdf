"""What the link's contract suite runs on: an in-memory broker and a real Mosquitto, with the same levers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from support.broker import Mosquitto
from support.proxy import TcpProxy
from tidewire_link.memory import InMemoryBroker, InMemoryLink
from tidewire_link.mqtt import MqttLink
from tidewire_link.port import Link
from tidewire_link.settings import LinkSettings

FORBIDDEN = "forbidden/#"
"""Nobody may publish there."""

FAST: dict[str, Any] = {"reconnect_delay_min_s": 0.02, "reconnect_delay_max_s": 0.1, "connect_timeout_s": 5}


class Bench(Protocol):
    """A broker and links to it."""

    protocol: str

    def link(self, client_id: str, **settings: Any) -> Link: ...
    def cut(self, client_id: str) -> None: ...
    def stop(self) -> None: ...
    def start(self) -> None: ...
    def wipe(self) -> None: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...
    async def close(self) -> None: ...


class MemoryBench:
    """On `InMemoryBroker`."""

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self.broker = InMemoryBroker(queued_messages_max=100_000)
        self.broker.deny_publish(FORBIDDEN)
        self.links: list[Link] = []

    def link(self, client_id: str, **settings: Any) -> Link:
        values = {"client_id": client_id, "protocol": self.protocol, **FAST, **settings}
        self.links.append(InMemoryLink(LinkSettings.of(**values), self.broker))
        return self.links[-1]

    def cut(self, client_id: str) -> None:
        self.broker.cut(client_id)

    def stop(self) -> None:
        self.broker.stop()

    def start(self) -> None:
        self.broker.start()

    def wipe(self) -> None:
        self.broker.wipe()

    def freeze(self) -> None:
        self.broker.freeze()

    def thaw(self) -> None:
        self.broker.thaw()

    async def close(self) -> None:
        for link in self.links:
            await link.close()


class MosquittoBench:
    """On a real Mosquitto; each link has a network of its own to be cut."""

    def __init__(self, protocol: str, directory: Path) -> None:
        self.protocol = protocol
        acl = f"topic deny {FORBIDDEN}\ntopic readwrite #\n"
        # Not 0 ("unlimited"): Mosquitto 2.0.11 then ends the connection after each publish that it denied.
        self.broker = Mosquitto(directory, persistence=True, acl=acl, config=["max_queued_messages 100000"])
        self.broker.start()
        self.links: list[Link] = []
        self.networks: dict[str, list[TcpProxy]] = {}

    def link(self, client_id: str, **settings: Any) -> Link:
        network = TcpProxy(self.broker.port)
        self.networks.setdefault(client_id, []).append(network)
        values = {"client_id": client_id, "protocol": self.protocol, "url": network.url, **FAST, **settings}
        self.links.append(MqttLink(LinkSettings.of(**values)))
        return self.links[-1]

    def cut(self, client_id: str) -> None:
        for network in self.networks[client_id]:
            network.cut()

    def stop(self) -> None:
        self.broker.stop()

    def start(self) -> None:
        self.broker.start()

    def wipe(self) -> None:
        self.broker.wipe()

    def freeze(self) -> None:
        self.broker.freeze()

    def thaw(self) -> None:
        self.broker.thaw()

    async def close(self) -> None:
        if self.broker.running:
            self.broker.thaw()
        for link in self.links:
            await link.close()
        for networks in self.networks.values():
            for network in networks:
                network.close()
        self.broker.stop()
