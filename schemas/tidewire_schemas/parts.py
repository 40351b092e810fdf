"""Messages larger than one MQTT payload: cut into parts and put together again, within a limit.

A sender publishes all parts of a message one after another on the message's topic, in order, and nothing between them.
A receiver holds at most one unfinished message per sender; anything unexpected drops it, is reported once, and the
protocol's own resend (no `Ack`, or a gap in the log) brings the whole message again.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic_core import to_json

from tidewire_schemas.base import PAYLOAD_BYTES_MIN
from tidewire_schemas.codec import encode
from tidewire_schemas.digest import message_digest
from tidewire_schemas.errors import MalformedMessage, MessageTooLarge, SequenceGap, SettingError
from tidewire_schemas.messages import Part

_OVERHEAD_BYTES = 300
"""More than a part's JSON takes around its text."""


def split(payload: bytes, payload_bytes_max: int) -> Iterator[bytes]:
    """The payload (JSON text) itself if it fits, else its parts as payloads of at most `payload_bytes_max` bytes each.

    Raises:
        SettingError: `payload_bytes_max` is too small to hold parts.
    """
    if payload_bytes_max < PAYLOAD_BYTES_MIN:
        raise SettingError(f"payload_bytes_max={payload_bytes_max} is below {PAYLOAD_BYTES_MIN}")
    if len(payload) <= payload_bytes_max:
        yield payload
        return
    slices = list(_text_slices(payload, payload_bytes_max - _OVERHEAD_BYTES))
    digest = message_digest(payload)
    for number, text in enumerate(slices):
        yield encode(Part(digest=digest, part=number, parts=len(slices), size=len(payload), text=text))


class Assembler:
    """Puts the parts of one sender's messages together.

    Args:
        bytes_max: the largest whole message it will hold.
        limit_name: the setting behind `bytes_max`.
    """

    def __init__(self, bytes_max: int, *, limit_name: str = "batch_bytes_max") -> None:
        self._bytes_max = bytes_max
        self._limit_name = limit_name
        self._digest = ""
        self._closed = ""  # the message last finished or given up: more parts of it are stragglers
        self._texts: list[bytes] = []
        self._size = 0

    @property
    def bytes_held(self) -> int:
        """How much of an unfinished message it holds now."""
        return self._size

    def feed(self, part: Part) -> bytes | None:
        """Take a part; the whole message's bytes when it was the last one, else None.

        A repeated part (MQTT may deliver twice) is ignored, and so are the further parts of a message that was
        reported as lost, until it begins anew.

        Raises:
            MessageTooLarge: the whole message would be above `bytes_max`.
            SequenceGap: a part is missing; what was held is dropped.
            MalformedMessage: the parts do not make the message they say they make.
        """
        begins = part.part == 0 and part.digest != self._digest
        if not begins and part.digest == self._closed:
            return None
        if part.size > self._bytes_max:
            self._close(part.digest)
            raise MessageTooLarge(size=part.size, limit=self._bytes_max, limit_name=self._limit_name)
        if begins:
            self.drop()
            self._digest = part.digest
        expected = len(self._texts) if part.digest == self._digest else 0
        if part.digest == self._digest and part.part < expected:
            return None
        if part.part != expected:
            self._close(part.digest)
            raise SequenceGap(what="part", expected=expected, got=part.part)
        text = part.text.encode()
        self._texts.append(text)
        self._size += len(text)
        last = part.part + 1 == part.parts
        if self._size > part.size or (last and self._size != part.size):
            held = self._size
            self._close(part.digest)
            raise MalformedMessage(f"the parts hold {held} bytes where they announce {part.size}")
        if not last:
            return None
        whole = b"".join(self._texts)
        self._close(part.digest)
        if message_digest(whole) != part.digest:
            raise MalformedMessage("the parts do not have the digest they announce")
        return whole

    def drop(self) -> None:
        """Forget all that is held and remembered, as after a lost connection."""
        self._digest = self._closed = ""
        self._texts = []
        self._size = 0

    def _close(self, digest: str) -> None:
        self.drop()
        self._closed = digest


def _text_slices(payload: bytes, bytes_max: int) -> Iterator[str]:
    """Slices of the text, none of which is above `bytes_max` once it is a JSON string again."""
    start = 0
    while start < len(payload):
        end = min(start + bytes_max, len(payload))
        while True:
            while end < len(payload) and payload[end] & 0xC0 == 0x80:
                end -= 1  # not inside a character
            text = payload[start:end].decode()
            as_json = len(to_json(text))  # quotes, backslashes and line ends take more bytes than they are
            if as_json <= bytes_max:
                break
            end = start + (end - start) * bytes_max // as_json
        yield text
        start = end
