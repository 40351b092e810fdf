"""Payloads that come in, as messages for the session; what cannot be used is set aside where a person sees it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

from tidewire_agent.session.session import Incoming
from tidewire_agent.status import RejectedMessage
from tidewire_agent.turn import TURN
from tidewire_schemas import codec, topics
from tidewire_schemas.errors import MessageError, SequenceGap
from tidewire_schemas.messages import Part
from tidewire_schemas.parts import Assembler
from tidewire_schemas.verification import VerifyAnswer, VerifyNow

REJECTED_KEPT_MAX: Final = 10
"""Messages that could not be used are counted; the last ones are kept for `status`."""

EXCERPT_BYTES: Final = 200

_LIMIT: Final = "message_bytes_max"

_log = logging.getLogger("tidewire.agent")


class Received(NamedTuple):
    """A message and its size on the wire, in bytes."""

    message: Incoming | VerifyAnswer | VerifyNow
    size: int


class Inbox:
    """Turns what arrives on the agent's topics into messages.

    Args:
        stream, device: whose topics.
        message_bytes_max: the largest message, put together from parts or not.
        clock_ms: milliseconds since 1970, for the record of what was set aside.
    """

    def __init__(self, stream: str, device: str, message_bytes_max: int, clock_ms: Callable[[], int]) -> None:
        self._topics: dict[str, tuple[topics.Kind, Assembler]] = {
            topics.inbox(device, stream): ("in", Assembler(message_bytes_max, limit_name=_LIMIT)),
            topics.log(stream): ("log", Assembler(message_bytes_max, limit_name=_LIMIT)),
            topics.head(stream): ("head", Assembler(message_bytes_max, limit_name=_LIMIT)),
        }
        self._message_bytes_max = message_bytes_max
        self.thread: Final = ThreadPoolExecutor(1, "inbox")
        """For `open_in_turn`: messages come one after the other, and each thread more keeps memory of its own."""
        self._clock_ms = clock_ms
        self.rejected: deque[RejectedMessage] = deque(maxlen=REJECTED_KEPT_MAX)
        self.rejected_count = 0

    def open(self, topic: str, payload: bytes) -> Received | None:
        """The message, once it is whole; None for a part, and for what was not asked for or cannot be used."""
        if topic not in self._topics:
            return None  # some brokers deliver what nobody subscribed to
        kind, assembler = self._topics[topic]
        try:
            message = codec.parse(kind, payload, bytes_max=self._message_bytes_max, limit_name=_LIMIT)
            if isinstance(message, Part):
                whole = assembler.feed(message)
                if whole is None:
                    return None
                payload = whole
                message = codec.parse(kind, whole, bytes_max=self._message_bytes_max, limit_name=_LIMIT)
        except SequenceGap as gap:
            _log.debug("on %s: %s", topic, gap)  # it is sent again
            return None
        except MessageError as error:
            self._reject(topic, payload, error)
            return None
        if isinstance(message, Part):
            self._reject(topic, payload, MessageError("a part inside a part"))
            return None
        return Received(message, len(payload))  # type: ignore[arg-type]  # the kinds above carry nothing else

    def open_in_turn(self, topic: str, payload: bytes) -> Received | None:
        """The same, for a thread beside the database's."""
        with TURN:
            return self.open(topic, payload)

    def drop_parts(self) -> None:
        """Forget unfinished messages, as after a lost connection."""
        for _, assembler in self._topics.values():
            assembler.drop()

    def _reject(self, topic: str, payload: bytes, error: MessageError) -> None:
        self.rejected_count += 1
        excerpt = payload[:EXCERPT_BYTES].decode("utf-8", "replace")
        self.rejected.append(
            RejectedMessage(
                at=self._clock_ms(),
                topic=topic,
                code=error.code,
                reason=str(error),
                size=len(payload),
                excerpt=excerpt,
            )
        )
        if (
            self.rejected_count <= REJECTED_KEPT_MAX or self.rejected_count % 1000 == 0
        ):  # a flood is counted, not logged
            _log.warning("set aside message %d on %s: %s", self.rejected_count, topic, error)
