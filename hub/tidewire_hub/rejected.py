"""Messages the hub could not use: kept, with their reason, where a person sees them."""

from __future__ import annotations

from collections import deque
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

SAMPLE_CHARS_MAX = 200
"""Enough to recognize a message, too little to fill a screen or to leak a row."""


class RejectedMessage(BaseModel):
    """One message that was set aside."""

    model_config = ConfigDict(frozen=True)

    at: int
    """Milliseconds since 1970 by the hub's clock."""
    device: str
    topic: str
    code: str
    message: str
    size: Annotated[int, Field(ge=0)]
    sample: str


class RejectedList:
    """The newest `count_max` messages that were set aside, and how many there were in all."""

    def __init__(self, count_max: int) -> None:
        self._messages: deque[RejectedMessage] = deque(maxlen=count_max)
        self.total = 0

    def add(self, *, at: int, device: str, topic: str, code: str, message: str, payload: bytes) -> RejectedMessage:
        """Keep a message; the oldest goes when the list is full."""
        rejected = RejectedMessage(
            at=at,
            device=device,
            topic=topic,
            code=code,
            message=message,
            size=len(payload),
            sample=payload[:SAMPLE_CHARS_MAX].decode("utf-8", "backslashreplace").replace("\x00", "\\x00"),
        )
        self._messages.append(rejected)
        self.total += 1
        return rejected

    def load(self, newest_first: list[RejectedMessage], total: int) -> None:
        """Begin with what was saved."""
        self._messages.extend(reversed(newest_first))
        self.total = total

    def newest_first(self) -> list[RejectedMessage]:
        """What is kept."""
        return list(reversed(self._messages))
