"""Why a connection was refused or ended, in words for people: from MQTT reason codes, TLS and the operating system.

Codes are those of MQTT 5, section 2.4; paho translates the few of 3.1.1 into them.
"""

from __future__ import annotations

import socket
import ssl
from typing import Final

from tidewire_link.errors import (
    BrokerRefused,
    CannotReach,
    ConnectionLost,
    CredentialsRefused,
    LinkError,
    NoAnswer,
    PayloadTooLarge,
    ProtocolRefused,
    TakenOver,
    TlsFailed,
)
from tidewire_link.settings import LinkSettings

FAILURE: Final = 128
"""MQTT reason codes from here on are failures."""

_SUSPICIOUS_BYTES: Final = 16 * 1024
"""A message from this size on may be what made a broker hang up."""
_CREDENTIALS = {0x86, 0x87, 0x8C}
"""Bad user name or password, not authorized, bad authentication method."""
_PROTOCOL = {0x80, 0x81, 0x82, 0x84, 0x9A, 0x9B}
"""Unspecified, malformed packet, protocol error, unsupported version, no retain, QoS not supported."""
_UNSPECIFIED = 0x80
"""Also what paho says of any connection that ended."""
_TAKEN_OVER = 0x8E
_PACKET_TOO_LARGE = 0x95
_KEEPALIVE_TIMEOUT = 0x8D
_SERVER_SHUTTING_DOWN = 0x8B


_NO_TLS_THERE: Final = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNEXPECTED_EOF_WHILE_READING"}
"""What OpenSSL says of a port that answers in plain words, or hangs up on the first byte of TLS."""


def connect_error(error: Exception, settings: LinkSettings) -> LinkError:
    """What failed before the broker could be asked."""
    address = settings.address
    if isinstance(error, ssl.SSLCertVerificationError):
        return TlsFailed(f"the certificate of {address} is not trusted: {error.verify_message}")
    if isinstance(error, ssl.SSLError):
        hint = _plain_hint(settings) if error.reason in _NO_TLS_THERE else None
        return TlsFailed(f"TLS with {address} failed: {error.reason or error}", hint=hint)
    if address.tls and isinstance(error, ConnectionResetError):
        # Perhaps only for now, so this is tried again soon.
        return CannotReach(f"{address} hung up at the first byte of TLS", hint=_plain_hint(settings))
    if type(error).__name__ == "WebsocketConnectionError":
        return ProtocolRefused(f"{address} does not take the websocket: {error}")
    if isinstance(error, socket.gaierror):
        return CannotReach(f"the name {address.host!r} is not known: {error.strerror}")
    return CannotReach(f"{address} cannot be reached: {error}")


def refusal(code: int, text: str, settings: LinkSettings) -> LinkError:
    """What a failed CONNACK means."""
    address = settings.address
    if code in _CREDENTIALS:
        return CredentialsRefused(f"{address} refuses user, password or certificate: {text}")
    if code in _PROTOCOL:
        return ProtocolRefused(f"{address} refuses MQTT {settings.protocol}: {text}")
    return BrokerRefused(f"{address} refuses the connection: {text}")


def dismissal(code: int, text: str, settings: LinkSettings) -> LinkError:
    """What a DISCONNECT from the broker means."""
    message = f"{settings.address} ended the connection: {text}"
    if code == _TAKEN_OVER:
        return TakenOver(f"another client connected to {settings.address} as {settings.client_id!r}")
    if code == _PACKET_TOO_LARGE:
        return PayloadTooLarge(message, size=0)
    if code in _CREDENTIALS:
        return CredentialsRefused(message)
    if code in (_SERVER_SHUTTING_DOWN, 0, _KEEPALIVE_TIMEOUT):
        return ConnectionLost(message)
    if code in _PROTOCOL:
        return ProtocolRefused(message)
    return BrokerRefused(message)


def loss(
    code: int | None, settings: LinkSettings, *, cause: OSError | None, welcomed: bool, largest_bytes: int
) -> LinkError:
    """Why a connection ended that nobody ended.

    Args:
        code: how paho classifies it, if it noticed.
        settings: of the connection.
        cause: what TLS or the operating system said.
        welcomed: whether the broker had taken us in before.
        largest_bytes: the largest message that was under way.
    """
    address = settings.address
    # Many brokers hang up on a message that is too large for them, without a word.
    size_hint = None
    if largest_bytes >= _SUSPICIOUS_BYTES:
        size_hint = f"a message of {largest_bytes} bytes was under way: if this repeats, lower payload_bytes_max"
    if isinstance(cause, ssl.SSLError) and not (welcomed and isinstance(cause, ssl.SSLEOFError)):
        return TlsFailed(f"TLS with {address} ended: {cause.reason or cause}")
    if code == _KEEPALIVE_TIMEOUT:
        return NoAnswer(f"{address} does not answer pings")
    if code in _PROTOCOL and code != _UNSPECIFIED:
        hint = size_hint if welcomed else _other_port_hint(settings)
        return ProtocolRefused(f"what {address} sends is not MQTT {settings.protocol}", hint=hint)
    if not welcomed:
        return BrokerRefused(
            f"{address} ended the connection before its welcome: {cause or 'closed by the broker'}",
            hint=_other_port_hint(settings),
        )
    return ConnectionLost(f"the connection to {address} was lost: {cause or 'closed by the broker'}", hint=size_hint)


def _plain_hint(settings: LinkSettings) -> str:
    address = settings.address
    plain, usual = ("ws", "8883 or 443") if address.websockets else ("mqtt", "8883")
    return (
        f"port {address.port} seems to speak no TLS: give the broker's TLS port (often {usual}), or {plain}:// if the"
        " connection is to be without TLS"
    )


def _other_port_hint(settings: LinkSettings) -> str:
    address = settings.address
    if address.tls:
        return "is this an MQTT port, and does it speak this protocol version? See the broker's log"
    safe = "wss" if address.websockets else "mqtts"
    return (
        f"if port {address.port} speaks TLS say {safe}://, if it speaks websockets ws://, and if it speaks another"
        ' version of MQTT try protocol = "3.1.1". See the broker\'s log'
    )
