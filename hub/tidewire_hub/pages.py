"""Entries to pages: how the log goes out, live and in replay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tidewire_schemas.codec import encode_page
from tidewire_schemas.positions import Position

ENVELOPE_BYTES = 512
"""More than what stands around the entries of a page, and around the page in a replay message."""


class PageBytes(NamedTuple):
    """A page as it travels."""

    prev: Position
    end: Position
    payload: bytes


def pages(
    log: str, prev: Position, entries: Sequence[tuple[Position, bytes]], payload_bytes_max: int
) -> Iterator[PageBytes]:
    """Pages that fit in one payload; an entry that is larger than that has a page of its own, to be sent in parts."""
    room = payload_bytes_max - ENVELOPE_BYTES
    held: list[bytes] = []
    size = 0
    end = prev
    for position, entry in entries:
        if held and size + len(entry) + 1 > room:
            yield PageBytes(prev, end, encode_page(log, prev, held))
            prev, held, size = end, [], 0
        held.append(entry)
        size += len(entry) + 1
        end = position
    if held:
        yield PageBytes(prev, end, encode_page(log, prev, held))
