"""What only a link over a real network meets: TLS, websockets, passwords, limits, bad bytes, killed brokers."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.broker import BrokerTls, Mosquitto
from support.proxy import TcpProxy
from support.scripted_broker import CONNACK_5, CONNACK_311, ScriptedBroker
from support.waiting import PATIENCE_S, wait_for_async
from tidewire_link.errors import (
    BrokerRefused,
    CannotReach,
    ConnectionLost,
    CredentialsRefused,
    PayloadTooLarge,
    ProtocolRefused,
    SubscriptionDenied,
    TakenOver,
    TlsFailed,
)
from tidewire_link.mqtt import MqttLink
from tidewire_link.port import Connected, Disconnected, Event, Received
from tidewire_link.settings import LinkSettings


@pytest.fixture(params=["5", "3.1.1"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def links() -> AsyncIterator[list[MqttLink]]:
    made: list[MqttLink] = []
    yield made
    for link in made:
        await link.close()


async def first_event(links: list[MqttLink], url: str, **settings: Any) -> Event:
    """Open a link; what it says first."""
    fast = {"reconnect_delay_min_s": 0.02, "reconnect_delay_max_s": 0.1, "connect_timeout_s": 5, "client_id": "a"}
    link = MqttLink(LinkSettings.of(**{**fast, "url": url, **settings}))
    links.append(link)
    await link.open()
    return await asyncio.wait_for(link.next_event(), PATIENCE_S)


async def refusal(links: list[MqttLink], url: str, **settings: Any) -> Disconnected:
    """Open a link that does not come up; why."""
    event = await first_event(links, url, **settings)
    assert isinstance(event, Disconnected), event
    assert event.reason is not None
    assert event.reason.hint
    return event


class Certificates:
    """A certificate authority and what it signed, made with openssl."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.ca = directory / "ca.pem"
        self._openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca "
                      "-keyout ca.key -out ca.pem")  # fmt: skip

    def issue(self, name: str) -> tuple[Path, Path]:
        """A certificate and its key; valid for 127.0.0.1."""
        (self.directory / "san").write_text("subjectAltName=IP:127.0.0.1")
        self._openssl("req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes "
                      f"-subj /CN={name} -keyout {name}.key -out {name}.csr")  # fmt: skip
        self._openssl(f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 "
                      f"-extfile san -out {name}.pem")  # fmt: skip
        return self.directory / f"{name}.pem", self.directory / f"{name}.key"

    def _openssl(self, arguments: str) -> None:
        subprocess.run(["openssl", *arguments.split()], cwd=self.directory, check=True, capture_output=True)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "certificates")


async def echo(link: MqttLink, size: int = 10) -> None:
    """A message goes out and comes back."""
    await link.subscribe(["echo"])
    await asyncio.wait_for(link.publish("echo", b"x" * size), PATIENCE_S)
    event = await asyncio.wait_for(link.next_event(), PATIENCE_S)
    assert event == Received("echo", b"x" * size)


async def test_tls_with_client_certificates(
    certificates: Certificates, tmp_path: Path, links: list[MqttLink], protocol: str
) -> None:
    cert, key = certificates.issue("broker")
    tls = BrokerTls(certificates.ca, cert, key, require_certificate=True)
    client_cert, client_key = certificates.issue("device")
    with Mosquitto(tmp_path / "broker", tls=tls) as broker:
        files = {"ca_file": certificates.ca, "cert_file": client_cert, "key_file": client_key}
        assert isinstance(await first_event(links, broker.url, protocol=protocol, **files), Connected)
        await echo(links[0])
        await echo_many(links[0], count=100, size=90_000)
        without = await refusal(links, broker.url, client_id="b", protocol=protocol, ca_file=certificates.ca)
        assert isinstance(without.reason, TlsFailed), without
        untrusting = await refusal(links, broker.url, client_id="c", protocol=protocol)
        assert isinstance(untrusting.reason, TlsFailed)
        assert "not trusted" in str(untrusting.reason)
        plain = await refusal(links, f"mqtt://127.0.0.1:{broker.port}", client_id="d", protocol=protocol)
        assert isinstance(plain.reason, BrokerRefused | ProtocolRefused)
        assert "mqtts://" in plain.reason.hint


async def echo_many(link: MqttLink, *, count: int, size: int) -> None:
    """A stream of large messages, both ways at once."""

    async def send() -> None:
        for number in range(count):
            await link.room()
            last = link.publish("echo", b"%d " % number + b"x" * size)
        await last

    sending = asyncio.create_task(send())
    for number in range(count):
        event = await asyncio.wait_for(link.next_event(), PATIENCE_S)
        assert isinstance(event, Received)
        assert event.payload == b"%d " % number + b"x" * size
    await sending


async def test_tls_to_a_port_without_tls_is_told(broker: Mosquitto, links: list[MqttLink]) -> None:
    lost = await refusal(links, f"mqtts://127.0.0.1:{broker.port}", connect_timeout_s=1)
    assert isinstance(lost.reason, TlsFailed | CannotReach)
    assert "mqtt://" in lost.reason.hint


async def test_certificate_files_that_cannot_be_used_are_told(tmp_path: Path, links: list[MqttLink]) -> None:
    (tmp_path / "ca.pem").write_text("garbage")
    lost = await refusal(links, "mqtts://127.0.0.1:1", ca_file=tmp_path / "ca.pem")
    assert isinstance(lost.reason, TlsFailed)
    assert "ca.pem" in str(lost.reason)


async def test_websockets_carry_the_same(tmp_path: Path, links: list[MqttLink], protocol: str) -> None:
    with Mosquitto(tmp_path / "broker", websockets=True) as broker:
        assert isinstance(await first_event(links, broker.websockets_url, protocol=protocol), Connected)
        await echo(links[0])
        await echo(links[0], size=20_000)


async def test_websockets_to_a_plain_port_are_told(broker: Mosquitto, links: list[MqttLink]) -> None:
    lost = await refusal(links, f"ws://127.0.0.1:{broker.port}/")
    assert isinstance(lost.reason, ProtocolRefused)


async def test_a_wrong_password_is_told_and_tried_again_soon_at_first(
    tmp_path: Path, links: list[MqttLink], protocol: str
) -> None:
    with Mosquitto(tmp_path / "broker", passwords={"till": "right"}) as broker:
        settings = {"username": "till", "protocol": protocol, "reconnect_delay_max_s": 60}
        lost = await refusal(links, broker.url, password="wrong", **settings)
        assert isinstance(lost.reason, CredentialsRefused)
        assert lost.retry_in_s <= links[0].settings.reconnect_delay_min_s
        assert isinstance(await first_event(links, broker.url, password="right", **settings), Connected)
        with_user = broker.url.replace("mqtt://", "mqtt://till:right@")
        assert isinstance(await first_event(links, with_user, client_id="b", protocol=protocol), Connected)


async def test_a_password_file_is_read_at_each_connection(tmp_path: Path, links: list[MqttLink]) -> None:
    secret = tmp_path / "secret"
    with Mosquitto(tmp_path / "broker", passwords={"till": "right"}) as broker:
        missing = await refusal(links, broker.url, username="till", password_file=secret)
        assert isinstance(missing.reason, CredentialsRefused)
        assert "secret" in str(missing.reason)
        secret.write_text("right\n")
        assert isinstance(await asyncio.wait_for(links[0].next_event(), PATIENCE_S), Connected)


async def test_the_broker_s_largest_packet_is_honoured(tmp_path: Path, links: list[MqttLink]) -> None:
    with Mosquitto(tmp_path / "broker", config=["max_packet_size 20000"]) as broker:
        connected = await first_event(links, broker.url)
        assert isinstance(connected, Connected)
        assert 19_000 < connected.payload_bytes_max < 20_000
        with pytest.raises(PayloadTooLarge):
            await links[0].publish("t", b"x" * (connected.payload_bytes_max + 1))
        await echo(links[0], size=connected.payload_bytes_max)


async def test_a_broker_that_hangs_up_on_a_large_message_gets_a_hint_about_size(
    tmp_path: Path, links: list[MqttLink], protocol: str
) -> None:
    with Mosquitto(tmp_path / "broker", config=["message_size_limit 30000"]) as broker:
        assert isinstance(await first_event(links, broker.url, protocol=protocol), Connected)
        flying = links[0].publish("t", b"x" * 40_000)
        if protocol == "5":
            lost = await asyncio.wait_for(links[0].next_event(), PATIENCE_S)
            assert isinstance(lost, Disconnected)
            assert lost.reason is not None
            assert "payload_bytes_max" in lost.reason.hint
            await until_connected(links[0])
        else:
            await flying  # the broker says yes and drops it
        await echo(links[0], size=30_000)


async def test_a_broker_killed_and_restarted_empty_is_found_again(tmp_path: Path, links: list[MqttLink]) -> None:
    with Mosquitto(tmp_path / "broker", persistence=True) as broker:
        assert isinstance(await first_event(links, broker.url), Connected)
        for _ in range(3):
            broker.kill()
            broker.wipe()
            lost = await asyncio.wait_for(links[0].next_event(), PATIENCE_S)
            assert isinstance(lost, Disconnected)
            assert isinstance(lost.reason, ConnectionLost)
            broker.start()
            await until_connected(links[0])
        await echo(links[0])


async def until_connected(link: MqttLink) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not isinstance(await link.next_event(), Connected):
            pass


async def test_a_clean_stop_of_the_broker_is_no_mystery(broker: Mosquitto, links: list[MqttLink]) -> None:
    assert isinstance(await first_event(links, broker.url), Connected)
    broker.stop()
    lost = await asyncio.wait_for(links[0].next_event(), PATIENCE_S)
    assert isinstance(lost, Disconnected)
    assert isinstance(lost.reason, ConnectionLost)


DYNAMIC_SECURITY = next(Path("/usr/lib").glob("*/mosquitto_dynamic_security.so"))
"""Mosquitto's own plugin: an ACL file alone never refuses a subscription."""


async def test_a_refused_subscription_is_told(tmp_path: Path, links: list[MqttLink], protocol: str) -> None:
    rules = tmp_path / "rules.json"
    rules.write_text(
        '{"defaultACLAccess": {"publishClientSend": true, "publishClientReceive": true, "subscribe": false, '
        '"unsubscribe": true}, "clients": [], "groups": [{"groupname": "all", "roles": [{"rolename": "some"}]}], '
        '"roles": [{"rolename": "some", "acls": [{"acltype": "subscribePattern", "topic": "mine/#", "allow": true}]}], '
        '"anonymousGroup": "all"}'
    )
    config = [f"plugin {DYNAMIC_SECURITY}", f"plugin_opt_config_file {rules}"]
    with Mosquitto(tmp_path / "broker", config=config) as broker:
        assert isinstance(await first_event(links, broker.url, protocol=protocol), Connected)
        with pytest.raises(SubscriptionDenied) as caught:
            await links[0].subscribe(["mine/a", "others/b"])
        assert caught.value.filters == ("others/b",)
        await links[0].publish("mine/a", b"")
        assert await asyncio.wait_for(links[0].next_event(), PATIENCE_S) == Received("mine/a", b"")


async def test_unknown_names_and_closed_ports_are_told(links: list[MqttLink]) -> None:
    unknown = await refusal(links, "mqtt://no-such-host.invalid")
    assert isinstance(unknown.reason, CannotReach)
    assert "no-such-host.invalid" in str(unknown.reason)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        closed = await refusal(links, f"mqtt://127.0.0.1:{bound.getsockname()[1]}")
    assert isinstance(closed.reason, CannotReach)


@pytest.mark.parametrize("scheme", ["mqtt", "mqtts", "ws"])
async def test_a_server_that_never_answers_does_not_block_the_loop(links: list[MqttLink], scheme: str) -> None:
    loop = asyncio.get_running_loop()
    async with ScriptedBroker() as silent:
        blocked: list[float] = []
        while not blocked or (min(blocked) >= 0.4 and len(blocked) < 5):  # a machine that stalls stops the loop as well
            waiting = asyncio.create_task(refusal(links, silent.url.replace("mqtt", scheme), connect_timeout_s=0.5))
            longest = 0.0
            while not waiting.done():
                before = loop.time()
                await asyncio.sleep(0.01)
                longest = max(longest, loop.time() - before)
            assert isinstance((await waiting).reason, CannotReach)
            blocked.append(longest)
        assert min(blocked) < 0.4


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00" * 50, b"\xff" * 50, b"\x20\x01\x00"])
async def test_a_server_that_speaks_no_mqtt_is_told(links: list[MqttLink], garbage: bytes, protocol: str) -> None:
    async with ScriptedBroker(garbage) as server:
        lost = await refusal(links, server.url, protocol=protocol, connect_timeout_s=1)
        assert isinstance(lost.reason, ProtocolRefused | BrokerRefused | CannotReach), lost


@pytest.mark.parametrize(
    "garbage", [b"\x40\x01\x00", b"\x00" * 50, b"\xff" * 50, b"\x30\x01\x00", b"\x32\x03\x00\x05a"]
)
async def test_bad_bytes_end_one_connection_and_the_link_goes_on(
    links: list[MqttLink], garbage: bytes, protocol: str
) -> None:
    connack = CONNACK_5 if protocol == "5" else CONNACK_311
    async with ScriptedBroker(connack, garbage) as server:
        assert isinstance(await first_event(links, server.url, protocol=protocol), Connected)
        flying = links[0].publish("t", b"")
        lost = await asyncio.wait_for(links[0].next_event(), PATIENCE_S)
        assert isinstance(lost, Disconnected)
        assert isinstance(lost.reason, ProtocolRefused)
        assert flying.exception() is not None
        assert isinstance(await asyncio.wait_for(links[0].next_event(), PATIENCE_S), Connected)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (0x8E, TakenOver),
        (0x95, PayloadTooLarge),
        (0x87, CredentialsRefused),
        (0x8B, ConnectionLost),
        (0x9C, BrokerRefused),
    ],
)
async def test_the_reason_of_a_dismissal_is_understood(links: list[MqttLink], code: int, error: type) -> None:
    async with ScriptedBroker(CONNACK_5, bytes([0xE0, 2, code, 0])) as server:
        assert isinstance(await first_event(links, server.url), Connected)
        links[0].publish("t", b"")
        lost = await asyncio.wait_for(links[0].next_event(), PATIENCE_S)
        assert isinstance(lost, Disconnected)
        assert isinstance(lost.reason, error)


@pytest.mark.parametrize(
    ("protocol", "connack", "error"),
    [
        ("5", "200300 86 00", CredentialsRefused),
        ("5", "200300 84 00", ProtocolRefused),
        ("5", "20020001", ProtocolRefused),  # a 3.1.1 broker's answer to an MQTT 5 client
        ("5", "200300 89 00", BrokerRefused),
        ("5", "200500 00 02 24 00", ProtocolRefused),  # QoS 0 only
        ("3.1.1", "20020001", ProtocolRefused),
        ("3.1.1", "20020002", BrokerRefused),
        ("3.1.1", "20020004", CredentialsRefused),
        ("3.1.1", "20020005", CredentialsRefused),
    ],
)
async def test_the_reason_of_a_refusal_is_understood(
    links: list[MqttLink], protocol: str, connack: str, error: type
) -> None:
    async with ScriptedBroker(bytes.fromhex(connack)) as server:
        lost = await refusal(links, server.url, protocol=protocol)
        assert isinstance(lost.reason, error), lost


async def test_the_broker_s_receive_maximum_bounds_what_is_in_flight(links: list[MqttLink]) -> None:
    async with ScriptedBroker(bytes.fromhex("2006000003210003")) as server:
        assert isinstance(await first_event(links, server.url), Connected)
        flying = [links[0].publish("t", b"") for _ in range(4)]
        assert [one.done() for one in flying] == [False, False, False, True]


async def test_answers_come_through_while_the_consumer_holds_back_what_it_allowed(links: list[MqttLink]) -> None:
    """Guarantee 12: a broker that keeps to ReceiveMaximum is read on, so nothing waits behind its messages."""
    messages = b"".join(bytes.fromhex("3206000174") + number.to_bytes(2) + b"\0" for number in range(1, 41))
    suback = bytes.fromhex("900400010001")
    async with ScriptedBroker(CONNACK_5, messages + suback) as broker:
        assert isinstance(
            await first_event(links, broker.url, protocol="5", inbound_messages_max=10, unacked_max=30), Connected
        )
        await asyncio.wait_for(links[0].subscribe(["t"]), PATIENCE_S)


async def test_a_connection_that_is_not_read_is_kept_alive(
    tmp_path: Path, links: list[MqttLink], protocol: str
) -> None:
    """Guarantee 12: the broker's answers to pings may be there, unread; its silence says nothing then."""
    with Mosquitto(tmp_path / "broker", log_messages=True) as broker:
        assert isinstance(await first_event(links, broker.url, protocol=protocol, client_id="fast"), Connected)
        for attempt in range(5):  # a machine that stalls for more than a second ends a connection as well
            if await lives_unread(links, broker, f"slow-{attempt}", protocol):
                return
        raise AssertionError("no connection outlived its keepalive")


async def lives_unread(links: list[MqttLink], broker: Mosquitto, client: str, protocol: str) -> bool:
    """Whether a connection that holds back what it is sent outlives its keepalive, and then gives all of it."""
    settings = {"inbound_messages_max": 1, "unacked_max": 1, "keepalive_s": 1, "client_id": client}
    assert isinstance(await first_event(links, broker.url, protocol=protocol, **settings), Connected)
    fast, slow = links[0], links[-1]
    await slow.subscribe([client])
    for number in range(50):
        await fast.publish(client, b"%d" % number)
    pings = broker.log.count(f"PINGREQ from {client}")
    await wait_for_async(
        lambda: broker.log.count(f"PINGREQ from {client}") >= pings + 4 or not slow.connected, every_s=0.05
    )
    for number in range(50):
        event = await asyncio.wait_for(slow.next_event(), PATIENCE_S)
        if isinstance(event, Disconnected):
            return False
        assert event == Received(client, b"%d" % number)
    return True


async def test_messages_leave_at_once(broker: Mosquitto, links: list[MqttLink]) -> None:
    assert isinstance(await first_event(links, broker.url), Connected)
    loop = asyncio.get_running_loop()
    times: list[float] = []
    while sum(time < 0.03 for time in times) < 10:  # whatever else the machine does only adds time
        assert len(times) < 500, times
        began = loop.time()
        await links[0].publish("t", b"x")
        times.append(loop.time() - began)


async def test_a_network_that_comes_and_goes_loses_only_what_was_in_flight(
    broker: Mosquitto, links: list[MqttLink], protocol: str
) -> None:
    with TcpProxy(broker.port) as network:
        assert isinstance(await first_event(links, network.url, protocol=protocol), Connected)
        network.refuse()
        await wait_for_async(lambda: not links[0].connected)
        for _ in range(3):
            assert isinstance(await asyncio.wait_for(links[0].next_event(), PATIENCE_S), Disconnected)
        network.allow()
        await until_connected(links[0])
        await echo(links[0])


async def test_an_exception_in_a_callers_callback_is_seen_and_harms_nothing(
    broker: Mosquitto, links: list[MqttLink]
) -> None:
    assert isinstance(await first_event(links, broker.url), Connected)
    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: seen.append(context))

    def fail(_future: object) -> None:
        raise RuntimeError("on purpose")

    flying = links[0].publish("t", b"")
    flying.add_done_callback(fail)
    await flying
    await echo(links[0])
    assert [str(context["exception"]) for context in seen] == ["on purpose"]


async def test_an_exception_inside_ends_one_connection_with_an_error_that_is_seen(
    broker: Mosquitto, links: list[MqttLink], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(await first_event(links, broker.url), Connected)

    def fail(*_: object) -> None:
        raise RuntimeError("on purpose")

    with monkeypatch.context() as broken:
        broken.setattr(links[0], "published", fail)
        flying = links[0].publish("t", b"")
        lost = await asyncio.wait_for(links[0].next_event(), PATIENCE_S)
    assert isinstance(lost, Disconnected)
    assert "on purpose" in str(lost.reason)
    assert "on purpose" in caplog.text
    assert flying.exception() is not None
    await until_connected(links[0])
    await echo(links[0])


async def test_connections_leave_no_descriptor_and_no_thread_behind(broker: Mosquitto, links: list[MqttLink]) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with TcpProxy(broker.port) as network:
        assert isinstance(await first_event(links, f"mqtt://127.0.0.1:{broker.port}"), Connected)
        before = descriptors()
        for _ in range(10):
            other = MqttLink(LinkSettings.of(url=network.url, client_id="other", reconnect_delay_min_s=0.01))
            await other.open()
            await until_connected(other)
            network.cut()
            await until_connected(other)
            await other.close()
        network.cut()
        await wait_for_async(lambda: descriptors() <= before, what="all descriptors are closed")
        await wait_for_async(
            lambda: not [one for one in threading.enumerate() if one.name == "tidewire-link-connect"],
            what="all helper threads have ended",
        )
