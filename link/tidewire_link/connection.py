"""One connection to a broker, from its welcome to its end: what `ReconnectingLink` stands on.

`mqtt.py` makes them over sockets, `memory.py` within the process. All calls happen on one event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from tidewire_link.errors import LinkError
from tidewire_link.port import Received
from tidewire_link.settings import LinkSettings


class Handler(Protocol):
    """What a connection tells the link above it. Nothing is called after `lost`."""

    def received(self, message: Received, token: int | None) -> None:
        """A message came in; the broker holds it as delivered once `Connection.acknowledge(token)` is called."""

    def published(self, number: int, error: LinkError | None) -> None:
        """The broker answered the publish of this number."""

    def subscribed(self, number: int, refusals: Sequence[str | None]) -> None:
        """The broker answered the subscription of this number: per filter, why it is refused."""

    def lost(self, reason: LinkError | None) -> None:
        """The connection is over. Called exactly once, unless `goodbye` ended it."""


class Connection(Protocol):
    """A live connection. `payload_bytes_max` and `inflight_max` are what the broker takes, as far as it says."""

    protocol: str
    payload_bytes_max: int
    inflight_max: int

    def publish(self, topic: str, payload: bytes, retain: bool) -> int:
        """Send; the number comes back in `Handler.published`."""
        ...

    def subscribe(self, filters: Sequence[str]) -> int:
        """Ask for a subscription; the number comes back in `Handler.subscribed`."""
        ...

    def acknowledge(self, token: int) -> None:
        """Confirm a received message, in the order in which they came."""
        ...

    def pause(self) -> None:
        """Read no more from the socket."""
        ...

    def resume(self) -> None:
        """Read on."""
        ...

    def abort(self, reason: LinkError) -> None:
        """End it without a goodbye; the handler is told."""
        ...

    def moving(self) -> bool:
        """Whether something large is under way, in or out, and gets on: answers wait behind it."""
        ...

    async def goodbye(self) -> None:
        """End it by agreement: the broker does not publish the will. The handler is not told."""
        ...


Dial = Callable[[LinkSettings, Handler], Awaitable[Connection]]
"""Makes a connection, up to the broker's welcome; raises a `LinkError`, and leaves nothing behind when cancelled."""
