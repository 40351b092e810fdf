"""The hub at its broker: what comes is given to the core, what goes waits in the outbox, what is wrong is known."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from tidewire_hub.actions import Effect, Now, Publish
from tidewire_hub.core import HubCore
from tidewire_hub.outbox import Outbox
from tidewire_hub.settings import HubSettings
from tidewire_link.errors import LinkError, PayloadTooLarge, PublishDenied, SubscriptionDenied
from tidewire_link.port import Connected, Disconnected, Link, Received
from tidewire_schemas import topics

logger = logging.getLogger(__name__)

_TURN_EVENTS: Final = 32
"""Events in a row before other tasks of the event loop get their turn."""

REFUSED_MAX: Final = 10
"""Topics whose publishes the broker refuses that are shown: a sample is enough to see what the access rules lack."""


class BrokerConnection:
    """The link of one hub, with its subscriptions and its outbox.

    Args:
        link: opened and closed by its owner.
        now: the time.
        perform: performs what the core says.
    """

    def __init__(
        self,
        settings: HubSettings,
        link: Link,
        core: HubCore,
        *,
        now: Callable[[], Now],
        perform: Callable[[Sequence[Effect]], None],
    ) -> None:
        self._settings = settings
        self._link = link
        self._core = core
        self._now = now
        self._perform = perform
        self.outbox = Outbox(
            link,
            bytes_max=settings.publish_bytes_max,
            on_full=lambda full: perform(core.on_outbox(now(), full=full)),
            on_done=self._published,
        )
        self._subscribing: asyncio.Task[None] | None = None
        self._subscribed = False
        self._payload_bytes_max = settings.payload_bytes_max
        self._problem = "not connected to the broker yet"
        self._refused: dict[str, str] = {}
        self._deaf = False

    @property
    def problem(self) -> str | None:
        """Why the hub is not reached by way of it; None when it is."""
        return None if self._link.connected and self._subscribed else self._problem

    @property
    def refused(self) -> list[str]:
        """What the broker does not let the hub publish."""
        return list(self._refused.values())

    async def run(self) -> None:
        """Read the link until it is closed."""
        in_a_row = 0
        async for event in self._link:
            match event:
                case Received():
                    self._received(event)
                case Connected():
                    self._connected(event)
                case Disconnected():
                    self._disconnected(event)
            in_a_row += 1
            if in_a_row % _TURN_EVENTS == 0:
                await asyncio.sleep(0)

    def serve(self) -> None:
        """Subscribe to what devices send: no other hub leads."""
        self._subscribe(topics.hub_filters(self._settings.stream), self._serving)

    def take_no_more(self) -> None:
        """Leave what comes from now on to be sent again."""
        self._deaf = True

    def stop_subscribing(self) -> None:
        """Give up a subscription that is not granted yet."""
        if self._subscribing is not None:
            self._subscribing.cancel()

    def _received(self, message: Received) -> None:
        if self._deaf:
            return  # not acked, so sent again
        try:
            effects = self._core.on_message(message.topic, message.payload, self._now(), retained=message.retained)
            self._perform(effects)
        except Exception:
            logger.exception("a message on %s could not be handled", message.topic)

    def _connected(self, event: Connected) -> None:
        self._refused.clear()
        self._payload_bytes_max = event.payload_bytes_max
        self._subscribe(topics.rival_filters(self._settings.stream), self._watching)

    def _watching(self) -> None:
        self._problem = "the hub looks whether another one leads the stream"
        self._perform(self._core.on_watching(self._now()))

    def _serving(self) -> None:
        self._subscribed = True
        self._perform(self._core.on_connected(self._payload_bytes_max, self._now()))

    def _subscribe(self, filters: Sequence[str], then: Callable[[], None]) -> None:
        self._problem = "the broker has not confirmed the subscriptions yet"
        self._subscribing = asyncio.create_task(self._subscribed_to(filters, then))

    async def _subscribed_to(self, filters: Sequence[str], then: Callable[[], None]) -> None:
        """Subscribe, then go on; where the broker forbids it, say so and try again."""
        while True:
            try:
                await self._link.subscribe(filters)
            except SubscriptionDenied as error:
                self._problem = str(error)
                logger.error("%s", error)
                await asyncio.sleep(self._settings.subscribe_retry_s)
                continue
            except LinkError:
                return  # lost again: the next Connected subscribes
            then()
            return

    def _disconnected(self, event: Disconnected) -> None:
        self.stop_subscribing()
        problem = str(event.reason) if event.reason is not None else "the connection to the broker was closed"
        if self._subscribed or problem != self._problem:
            logger.warning("%s", problem, extra={"retry_in_s": round(event.retry_in_s, 1)})
        self._subscribed = False
        self._problem = problem
        self.outbox.clear()
        self._perform(self._core.on_disconnected(self._now()))

    def _published(self, publish: Publish, error: BaseException | None) -> None:
        topic = publish.topic
        if error is None:
            self._refused.pop(topic, None)
        elif isinstance(error, PublishDenied | PayloadTooLarge):
            if topic not in self._refused:
                logger.error("%s", error)
            if len(self._refused) < REFUSED_MAX:
                self._refused[topic] = str(error)
        if publish.paced:
            self._perform(self._core.downloads.on_paced_sent(self._now()))
