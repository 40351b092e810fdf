"""What can be wrong between this side and the broker.

    LinkError
    ├── CannotReach             name, route or port: nothing answers at the broker's address
    ├── TlsFailed               a certificate: theirs, ours, or what signs them
    ├── CredentialsRefused      the broker does not know this user, password or certificate
    ├── ProtocolRefused         the broker does not speak this protocol version, or not as it should
    ├── BrokerRefused           the broker is busy, shutting down, or forbids this client
    ├── TakenOver               another client connected with the same client id
    ├── ConnectionLost          it was up and ended: the network, or the broker went away
    │   └── NoAnswer            it looks up, and nothing comes back in time (half-open)
    ├── NotConnected            asked for while there is no connection
    │   └── LinkClosed          asked for after `close()`
    ├── WindowFull              more publishes in flight than allowed; wait with `room()`
    ├── Disconnected            a publish or subscribe was under way when the connection ended
    ├── PublishDenied           the broker's access rules forbid this topic
    ├── SubscriptionDenied      the broker's access rules forbid this filter
    └── PayloadTooLarge         above what this side or the broker takes in one message

`retry` says whether the same again may succeed by itself; `slow` whether trying again soon does harm, so that the link
waits about its longest delay. A wrong password is not slow: the person who corrects it waits for the next attempt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tidewire_schemas.errors import TidewireError


class LinkError(TidewireError):
    """The broker, or the way to it."""

    code = "link"
    retry = True
    slow: ClassVar[bool] = False


class CannotReach(LinkError):
    """Nothing answers at the broker's address."""

    code = "broker_unreachable"
    hint = "is the broker running, are host and port right, does the network let this machine through?"
    retry = True


class TlsFailed(LinkError):
    """TLS could not be agreed: an untrusted or missing certificate, or a listener that speaks no TLS."""

    code = "broker_tls"
    hint = "check ca_file, cert_file and key_file, the certificate's host name and dates, and that the port speaks TLS"
    retry = True


class CredentialsRefused(LinkError):
    """The broker refuses user name, password or client certificate."""

    code = "broker_credentials"
    hint = "check username and password (or password_file) against the broker's"
    retry = True  # a person may correct the broker's side while we wait


class ProtocolRefused(LinkError):
    """The broker does not speak this version of MQTT, or broke its rules."""

    code = "broker_protocol"
    hint = 'try protocol = "3.1.1", and check that the port speaks MQTT (or websockets for ws://)'
    retry = True


class BrokerRefused(LinkError):
    """The broker turns this client away: busy, shutting down, banned, a client id it does not like."""

    code = "broker_refused"
    hint = "see the broker's log"
    retry = True


class TakenOver(LinkError):
    """Another client connected with the same client id, and the broker ended this one."""

    code = "broker_taken_over"
    hint = "two clients have the same id: give every device its own name"
    retry = True
    slow = True


class ConnectionLost(LinkError):
    """The connection ended without being asked to."""

    code = "broker_lost"
    retry = True


class NoAnswer(ConnectionLost):
    """The connection looks open, and the broker does not answer in time."""

    code = "broker_silent"


class NotConnected(LinkError):
    """There is no connection now."""

    code = "not_connected"
    retry = True


class LinkClosed(NotConnected):
    """The link was closed by this side."""

    code = "link_closed"
    retry = False


class WindowFull(LinkError):
    """`inflight_max` publishes, or `inflight_bytes_max` bytes, wait for the broker already."""

    code = "window_full"
    hint = "await link.room() before publishing"
    retry = True


class Disconnected(LinkError):
    """The connection ended before the broker confirmed; it may or may not have the message."""

    code = "disconnected"
    retry = True


class PublishDenied(LinkError):
    """The broker refuses a publish (MQTT 5 only: under 3.1.1 it says yes and drops the message)."""

    code = "publish_denied"
    hint = "check the broker's access rules (ACL) for this user and topic"

    def __init__(self, topic: str, reason: str) -> None:
        super().__init__(f"the broker refuses the publish to {topic}: {reason}")
        self.topic = topic


class SubscriptionDenied(LinkError):
    """The broker refuses one or more subscriptions."""

    code = "subscription_denied"
    hint = "check the broker's access rules (ACL) for this user and these filters"

    def __init__(self, filters: Sequence[str], reason: str) -> None:
        super().__init__(f"the broker refuses to subscribe to {', '.join(filters)}: {reason}")
        self.filters = tuple(filters)


class PayloadTooLarge(LinkError):
    """A message is larger than this side or the broker takes."""

    code = "payload_too_large"
    hint = "lower payload_bytes_max to what the broker takes; larger messages then travel in parts"

    def __init__(self, message: str, *, size: int, limit: int | None = None) -> None:
        super().__init__(message)
        self.size = size
        self.limit = limit
