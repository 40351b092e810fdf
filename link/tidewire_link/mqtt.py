"""Connections to a real broker through paho-mqtt: the only file that imports it.

paho's own thread and its own reconnecting are not used. Each connection gets a fresh client, so nothing it holds can
outlive a disconnect; a helper thread makes the connection (names, TCP, TLS, websocket upgrade block), then the event
loop reads and writes the socket. Any exception on the way ends this one connection with an error that people see.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, cast

from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY, Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from tidewire_link import reasons
from tidewire_link.connection import Handler
from tidewire_link.daemon_thread import in_daemon_thread
from tidewire_link.errors import (
    CannotReach,
    ConnectionLost,
    CredentialsRefused,
    LinkError,
    NoAnswer,
    ProtocolRefused,
    PublishDenied,
)
from tidewire_link.port import Received
from tidewire_link.progress import Progress
from tidewire_link.reconnecting import ReconnectingLink
from tidewire_link.settings import LinkSettings
from tidewire_link.sockets import BufferedSocket
from tidewire_link.tls import tls_context
from tidewire_schemas.errors import SettingError

logger = logging.getLogger(__name__)

_QOS: Final = 1
_HEADER_BYTES_MAX: Final = 300
"""What a PUBLISH takes around its payload; Tidewire's topics have at most 155 bytes."""
_READS_PER_TURN: Final = 64
"""Rounds of reading before other tasks of the event loop get their turn."""
_GOODBYE_S: Final = 1.0
"""Longest time a clean goodbye may take."""


class MqttLink(ReconnectingLink):
    """The `Link` port over a real broker."""

    def __init__(self, settings: LinkSettings, *, chance: Callable[[], float] = random.random) -> None:
        super().__init__(settings, dial, chance=chance)


async def dial(settings: LinkSettings, handler: Handler) -> MqttConnection:
    """Connect to the broker and wait for its welcome.

    Raises:
        LinkError: why it was not possible.
    """
    connection = MqttConnection(settings, handler)
    try:
        async with asyncio.timeout(settings.connect_timeout_s):
            await connection.connect()
    except TimeoutError:
        connection.tear_down()
        raise CannotReach(f"{settings.address} gave no answer within {settings.connect_timeout_s:g} s") from None
    except BaseException:
        connection.tear_down()
        raise
    return connection


class _Client(Client):
    """paho's client on a buffered socket: all that is overridden of paho, or known of what it hides."""

    buffered: BufferedSocket | None = None

    def _create_socket(self) -> Any:
        made = super()._create_socket()
        if self.transport == "websockets":
            # paho's websocket framing stays; the socket below it is ours.
            self.buffered = BufferedSocket(cast(Any, made)._socket)
            cast(Any, made)._socket = self.buffered
            return made
        self.buffered = BufferedSocket(cast(socket.socket, made))
        return self.buffered

    def expect_no_pong(self) -> None:
        """Go on pinging, and do not end the connection for want of an answer to the last ping."""
        self._ping_t = 0.0

    @property
    def incomplete(self) -> object | None:
        """The packet that has come in part, one object as long as it is the same; None where there is none."""
        return self._in_packet if self._in_packet["to_process"] else None


class MqttConnection:
    """One connection: one paho client, from CONNECT to its end."""

    def __init__(self, settings: LinkSettings, handler: Handler) -> None:
        self.protocol: str = settings.protocol
        self.payload_bytes_max = settings.payload_bytes_max
        self.inflight_max = settings.inflight_max
        self._settings = settings
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._welcome: asyncio.Future[None] = self._loop.create_future()
        self._client = self._make_client()
        self._socket: BufferedSocket | None = None
        self._unconfirmed: dict[int, tuple[str, int]] = {}  # number → topic and size
        self._retain_available = True
        self._paused = False
        self._over = False
        self._flush_is_due = False
        self._writing = False
        self._heard_at_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._progress = Progress()

    # ── beginning ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def connect(self) -> None:
        """Make the connection and wait for CONNACK.

        Raises:
            LinkError: why it was not possible.
        """
        settings, address = self._settings, self._settings.address
        self._set_credentials()
        if address.tls:
            self._client.tls_set_context(tls_context(settings))
        properties = None
        if settings.protocol == "5":
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho left it so
            properties.ReceiveMaximum = settings.unacked_max
            properties.MaximumPacketSize = settings.inbound_bytes_max
            properties.SessionExpiryInterval = 0

        def connect_and_say_hello() -> None:
            clean_start: bool | Literal[3] = True if settings.protocol == "5" else MQTT_CLEAN_START_FIRST_ONLY
            self._client.connect(
                address.host, address.port, settings.keepalive_s, clean_start=clean_start, properties=properties
            )

        try:
            # What is connected too late is let go.
            await in_daemon_thread(connect_and_say_hello, name="tidewire-link-connect", on_late=self.tear_down)
        except (OSError, ValueError) as error:
            raise reasons.connect_error(error, settings) from None
        self._attach()
        await self._welcome

    def _make_client(self) -> _Client:
        settings, address = self._settings, self._settings.address
        mqtt_5 = settings.protocol == "5"
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            clean_session=None if mqtt_5 else True,
            protocol=MQTTProtocolVersion.MQTTv5 if mqtt_5 else MQTTProtocolVersion.MQTTv311,
            transport="websockets" if address.websockets else "tcp",
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = settings.connect_timeout_s
        client.max_inflight_messages_set(0)  # the link above bounds what is in flight
        if address.websockets:
            client.ws_set_options(path=address.path)
        if settings.will is not None:
            client.will_set(settings.will.topic, settings.will.payload, _QOS, settings.will.retain)
        return client

    def _set_credentials(self) -> None:
        try:
            username, password = self._settings.credentials()
        except SettingError as error:
            raise CredentialsRefused(error.message, hint=error.hint) from None
        if username is not None or password is not None:
            self._client.username_pw_set(username or "", password)

    def _attach(self) -> None:
        """The socket is connected: from here on the event loop drives it."""
        client = self._client
        self._socket = client.buffered
        if self._socket is None:
            raise ConnectionLost("the connection ended while it was made")
        with socket.socket(fileno=os.dup(self._socket.fileno())) as tcp:
            tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_socket_register_write = self._on_write_wanted
        self._heard_at_s = self._loop.time()
        self._loop.add_reader(self._socket.fileno(), self._read)
        self._plan_flush()
        self._tick()

    # ── the Connection port ───────────────────────────────────────────────────────────────────────────────────────

    def publish(self, topic: str, payload: bytes, retain: bool) -> int:
        """See `Connection.publish`."""
        info = self._client.publish(topic, payload, _QOS, retain and self._retain_available)
        if info.rc not in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_NO_CONN):
            raise LinkError(f"paho refuses the publish to {topic}: {info.rc!r}")
        self._unconfirmed[info.mid] = (topic, len(payload))
        return info.mid

    def subscribe(self, filters: Sequence[str]) -> int:
        """See `Connection.subscribe`."""
        result, number = self._client.subscribe([(name, _QOS) for name in filters])
        if number is None:
            raise LinkError(f"paho refuses the subscription: {result!r}")
        return number

    def acknowledge(self, token: int) -> None:
        """See `Connection.acknowledge`."""
        self._client.ack(token, _QOS)

    def pause(self) -> None:
        """See `Connection.pause`."""
        self._paused = True
        if self._socket is not None:
            self._socket.paused = True
            self._loop.remove_reader(self._socket.fileno())

    def resume(self) -> None:
        """See `Connection.resume`."""
        self._paused = False
        self._heard_at_s = self._loop.time()
        if self._socket is not None and not self._over:
            self._socket.paused = False
            self._loop.add_reader(self._socket.fileno(), self._read)
            self._loop.call_soon(self._read)  # what is buffered is not announced by the kernel

    def abort(self, reason: LinkError) -> None:
        """See `Connection.abort`."""
        self._end(reason)

    def moving(self) -> bool:
        """See `Connection.moving`."""
        if self._over or self._socket is None:
            return False
        now = self._loop.time()
        self._progress.queued(self._socket.taken, self._socket.waiting(), now)
        return self._progress.moving(now)

    async def goodbye(self) -> None:
        """See `Connection.goodbye`."""
        if self._over or self._socket is None:
            return
        self._over = True  # whatever paho says of the end is no loss now
        buffered = self._socket
        self._loop.remove_reader(buffered.fileno())
        try:
            async with asyncio.timeout(_GOODBYE_S):
                self._client.disconnect()
                self._client.loop_write()
                while not buffered.flush():
                    await self._writable(buffered)
                with buffered.half_close() as bare:
                    while await self._loop.sock_recv(bare, 65536):
                        pass
        except (TimeoutError, OSError) as error:
            logger.debug("goodbye to the broker: %s", error)
        finally:
            self.tear_down()

    async def _writable(self, buffered: BufferedSocket) -> None:
        ready = asyncio.Event()
        self._loop.add_writer(buffered.fileno(), ready.set)
        try:
            await ready.wait()
        finally:
            self._loop.remove_writer(buffered.fileno())

    # ── the event loop's turns ────────────────────────────────────────────────────────────────────────────────────

    def _read(self) -> None:
        if self._over or self._paused or self._socket is None:
            return
        self._heard_at_s = self._loop.time()
        try:
            for _ in range(_READS_PER_TURN):
                self._client.loop_read()
                if self._over or self._paused:
                    return
                if not self._socket.pending:
                    return
        except Exception as error:
            self._end_on(error)
        else:
            self._loop.call_soon(self._read)
        finally:
            self._progress.came(self._client.incomplete, self._heard_at_s)

    def _on_write_wanted(self, _client: Client, _userdata: Any, _socket: Any) -> None:
        self._plan_flush()

    def _plan_flush(self) -> None:
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Hand everything that paho has to the kernel; what it does not take waits until the socket is writable."""
        self._flush_is_due = False
        if self._over or self._socket is None:
            return
        try:
            self._client.loop_write()
            if self._over:
                return
            all_out = self._socket.flush()
        except OSError:
            self._read()  # the broker, or TLS, may have said why before it hung up
            self._end(self._loss(None))
        except Exception as error:
            self._end_on(error)
        else:
            if not all_out and not self._writing:
                self._writing = True
                self._loop.add_writer(self._socket.fileno(), self._flush)
            elif all_out and self._writing:
                self._writing = False
                self._loop.remove_writer(self._socket.fileno())

    def _tick(self) -> None:
        """Ping when it is time, and notice a broker that has fallen silent."""
        if self._over:
            return
        keepalive_s = self._client.keepalive  # the broker may have changed it
        moving = self.moving()
        silence_s = self._loop.time() - self._heard_at_s
        if keepalive_s and not self._paused and not moving and silence_s > 1.5 * keepalive_s:
            self._end(NoAnswer(f"nothing came from {self._settings.address} for {silence_s:.1f} s"))
            return
        if self._paused or moving:
            self._client.expect_no_pong()  # it may be there, unread, or wait behind what is there
        try:
            self._client.loop_misc()
        except Exception as error:
            self._end_on(error)
        if not self._over:
            self._timer = self._loop.call_later(min(2.0, max(0.05, keepalive_s / 16)), self._tick)

    # ── paho's callbacks ──────────────────────────────────────────────────────────────────────────────────────────

    def _on_connect(
        self, _client: Client, _userdata: Any, _flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.value >= reasons.FAILURE:
            self._end(reasons.refusal(reason.value, str(reason), self._settings))
            return
        values = vars(properties) if properties is not None else {}
        if values.get("MaximumQoS", _QOS) < _QOS:
            self._end(ProtocolRefused("the broker offers QoS 0 only", hint="Tidewire needs QoS 1"))
            return
        packet_bytes_max = values.get("MaximumPacketSize")
        if packet_bytes_max is not None:
            self.payload_bytes_max = min(self.payload_bytes_max, max(0, packet_bytes_max - _HEADER_BYTES_MAX))
        self.inflight_max = min(self.inflight_max, values.get("ReceiveMaximum", self.inflight_max))
        self._retain_available = bool(values.get("RetainAvailable", 1))
        if not self._retain_available:
            logger.warning("%s keeps no retained messages: states are seen only while sent", self._settings.address)
        if not self._welcome.done():
            self._welcome.set_result(None)

    def _on_disconnect(
        self,
        _client: Client,
        _userdata: Any,
        flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._end(reasons.dismissal(reason.value, str(reason), self._settings))
        else:
            self._end(self._loss(reason))

    def _on_message(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        token = message.mid if message.qos else None
        try:
            topic = message.topic
        except UnicodeDecodeError:
            logger.warning("a message with a topic that is not UTF-8 was ignored")
            if token is not None:
                self.acknowledge(token)
            return
        self._handler.received(Received(topic, bytes(message.payload), message.retain), token)

    def _on_publish(
        self, _client: Client, _userdata: Any, number: int, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        topic, _ = self._unconfirmed.pop(number, ("", 0))
        self._handler.published(number, PublishDenied(topic, str(reason)) if reason.value >= reasons.FAILURE else None)

    def _on_subscribe(
        self, _client: Client, _userdata: Any, number: int, codes: list[ReasonCode], _properties: Properties | None
    ) -> None:
        self._handler.subscribed(number, [str(code) if code.value >= reasons.FAILURE else None for code in codes])

    # ── end ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def tear_down(self) -> None:
        """Let go of socket and timer; nothing is sent."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        buffered = self._socket or self._client.buffered
        if buffered is not None:
            if buffered.fileno() >= 0:
                self._loop.remove_reader(buffered.fileno())
                self._loop.remove_writer(buffered.fileno())
            buffered.release()

    def _end(self, reason: LinkError) -> None:
        if self._over:
            return
        self.tear_down()
        if self._welcome.done():
            self._handler.lost(reason)
        else:
            self._welcome.set_exception(reason)

    def _end_on(self, error: Exception) -> None:
        """Something unexpected was raised, by paho on bad bytes or by ourselves: this connection cannot be trusted."""
        logger.error("the connection to %s failed in an unexpected way", self._settings.address, exc_info=error)
        self._end(ProtocolRefused(f"the connection to {self._settings.address} failed: {error!r}", hint="see the log"))

    def _loss(self, reason: ReasonCode | None) -> LinkError:
        return reasons.loss(
            reason.value if reason is not None else None,
            self._settings,
            cause=self._socket.error if self._socket is not None else None,
            welcomed=self._welcome.done(),
            largest_bytes=max((size for _, size in self._unconfirmed.values()), default=0),
        )
