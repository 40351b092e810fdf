"""Publishing: in parts where a message is large, no more at once than the link takes, and said where it is refused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from tidewire_agent.runtime.troubles import Troubles
from tidewire_link.errors import Disconnected as PublishCut
from tidewire_link.errors import LinkError, NotConnected, PayloadTooLarge, PublishDenied, WindowFull
from tidewire_link.port import Link
from tidewire_schemas.parts import split

_log = logging.getLogger("tidewire.agent")


class Publisher:
    """Sends messages through one link.

    Args:
        payload_bytes_max: the largest MQTT message that the settings allow.
        troubles: where it says what the broker refused.
    """

    def __init__(self, link: Link, payload_bytes_max: int, troubles: Troubles) -> None:
        self._link = link
        self._own_bytes_max = self._link_bytes_max = self._hub_bytes_max = payload_bytes_max
        self._troubles = troubles
        self._denied_topic: str | None = None

    def connected(self, payload_bytes_max: int) -> None:
        """The broker takes messages up to this."""
        self._link_bytes_max = min(payload_bytes_max, self._own_bytes_max)
        self._troubles.clear(PayloadTooLarge.code, PublishDenied.code)

    def heed(self, payload_bytes_max: int) -> None:
        """The hub takes messages up to this."""
        self._hub_bytes_max = payload_bytes_max

    async def publish(self, topic: str, payload: bytes, *, still: Callable[[], bool] = lambda: True) -> None:
        """Hand a message to the link; what is left of it is dropped once it is not wanted `still`.

        Raises:
            NotConnected: the connection is gone.
            LinkError: the link does not take it.
        """
        for piece in split(payload, min(self._link_bytes_max, self._hub_bytes_max)):
            while True:
                await self._link.room()
                if not still():
                    return
                try:
                    future = self._link.publish(topic, piece)
                except WindowFull:
                    continue
                break
            future.add_done_callback(partial(self._published, topic))

    def _published(self, topic: str, future: asyncio.Future[None]) -> None:
        if future.cancelled():
            return
        match future.exception():
            case None:
                if topic == self._denied_topic:
                    self._denied_topic = None
                    self._troubles.clear(PublishDenied.code)
            case NotConnected() | PublishCut():
                pass
            case PublishDenied() as error:
                self._denied_topic = topic
                self._troubles.say_error(error)
            case LinkError() as error:
                self._troubles.say_error(error)
            case error:
                _log.error("a publish failed: %r", error)
