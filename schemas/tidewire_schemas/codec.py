"""Bytes to messages and back, with the limits that hold before and while anything is parsed.

Parsing is pydantic-core's JSON parser (jiter): it refuses invalid UTF-8, lone surrogates, numbers of more than 4,300
digits and more than 200 levels of nesting. What it lets through (NaN, integers of more than 64 bits) the value checks
in `messages.Run` refuse.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from typing import Annotated, Any, Final, NamedTuple

from pydantic import BaseModel, FailFast, TypeAdapter, ValidationError
from pydantic_core import to_json

from tidewire_schemas.base import VERSION, Message
from tidewire_schemas.digest import NO_DIGEST, message_digest
from tidewire_schemas.errors import MalformedMessage, MessageError, MessageTooLarge, UnsupportedVersion
from tidewire_schemas.messages import ON_TOPIC, Batch, Parent, Run
from tidewire_schemas.positions import SAFE_INTEGER_MAX, Position
from tidewire_schemas.topics import Kind
from tidewire_schemas.values import WireRow

PAYLOAD_BYTES_MAX: Final = 100_000
"""Default limit of one MQTT message: every known broker takes it (AWS IoT, the smallest, takes 128 KiB)."""

BATCH_BYTES_MAX: Final = 16 * 1024 * 1024
"""Default limit of one batch, put together from parts."""

_COMPLAINT_CHARS_MAX: Final = 160
"""How much of a complaint's place and of its text is shown."""

_COMPLAINTS_MAX: Final = 1000
"""A message with more mistakes than this is not worth the memory of looking at the first."""

_RUNS: Final = TypeAdapter(Annotated[list[Run], FailFast()])

_BATCH_HEADER: Final = re.compile(
    rb'\{"v":1,"type":"batch","incarnation":"([0-9a-f]{32})","batch":([1-9][0-9]{0,15}),'
    rb'"prev_digest":"([0-9a-f]{32})","sealed_at":(0|-?[1-9][0-9]{0,15}),"changes":'
)


@cache
def _adapter(kind: Kind) -> TypeAdapter[Any]:
    """Made when the first message of its kind comes: who reads few kinds starts sooner."""
    return TypeAdapter(ON_TOPIC[kind])


_VERSION: Final = re.compile(rb'\s*\{\s*"v"\s*:\s*([0-9]{1,9})\s*[,}]')


class ParsedBatch(NamedTuple):
    """A batch, and its changes as they stood on the wire, for a log entry that repeats them."""

    batch: Batch
    changes_json: bytes


def parse(
    kind: Kind, payload: bytes, *, bytes_max: int = PAYLOAD_BYTES_MAX, limit_name: str = "payload_bytes_max"
) -> Message:
    """The message that a payload on a topic of this kind holds; `limit_name` is the setting behind `bytes_max`.

    Raises:
        MessageTooLarge: more than `bytes_max` bytes; nothing was parsed.
        UnsupportedVersion: `v` is not this version.
        MalformedMessage: anything else about its form.
        ValueNotStorable: a cell holds what SQLite cannot.
    """
    _check_size(payload, bytes_max, limit_name)
    try:
        message: Message = _adapter(kind).validate_json(payload)
    except ValidationError as error:
        raise _explained(error, payload) from None
    return message


def parse_batch(payload: bytes, *, bytes_max: int = BATCH_BYTES_MAX) -> ParsedBatch:
    """A whole batch (not a part), and the bytes of its changes; raises as `parse`."""
    _check_size(payload, bytes_max, "batch_bytes_max")
    header = _BATCH_HEADER.match(payload)
    if header is not None and payload.endswith(b"}"):
        with suppress(ValidationError):  # the other way decides, and explains
            return _parse_usual_spelling(header, payload)
    try:
        batch = Batch.model_validate_json(payload)
    except ValidationError as error:
        raise _explained(error, payload) from None
    return ParsedBatch(batch, encode_runs(batch.changes))


def encode(message: BaseModel) -> bytes:
    """A message as compact JSON in UTF-8."""
    # `pydantic_core.to_json` knows no model whose serializer was not made yet.
    return message.__pydantic_serializer__.to_json(message)


def encode_runs(runs: Iterable[Run]) -> bytes:
    """Changes as they stand in a batch or an entry; `ties` only where there are any."""
    return to_json(list(runs), exclude_none=True)


def encode_batch(
    *,
    incarnation: str,
    batch: int,
    prev_digest: str,
    sealed_at: int,
    changes_json: bytes,
    was: Position | None = None,
) -> bytes:
    """A batch around its encoded changes, in the spelling that `parse_batch` reads fastest (unless it `was`)."""
    return b'{"v":1,"type":"batch","incarnation":"%s","batch":%d,"prev_digest":"%s","sealed_at":%d,%s"changes":%s}' % (
        incarnation.encode(),
        batch,
        prev_digest.encode(),
        sealed_at,
        b"" if was is None else b'"was":[%d,%d],' % was,
        changes_json,
    )


BATCH_FRAME_BYTES_MAX: Final = len(
    encode_batch(
        incarnation=NO_DIGEST,
        batch=SAFE_INTEGER_MAX,
        prev_digest=NO_DIGEST,
        sealed_at=-SAFE_INTEGER_MAX,
        changes_json=b"",
        was=Position(SAFE_INTEGER_MAX, SAFE_INTEGER_MAX),
    )
)
"""What a batch has besides its changes, at most: what is numbered anew, or offered again, is no larger."""


def encode_page(log: str, prev: Position, entries: Iterable[bytes]) -> bytes:
    """A page around entries that are encoded already."""
    return b'{"v":1,"type":"page","log":"%s","prev":[%d,%d],"entries":[%s]}' % (
        log.encode(),
        prev.epoch,
        prev.seq,
        b",".join(entries),
    )


def encode_replay(incarnation: str, boot: str, page: bytes, *, last: bool) -> bytes:
    """A replay answer around a page that is encoded already."""
    return b'{"v":1,"type":"replay","incarnation":"%s","boot":"%s","last":%s,"page":%s}' % (
        incarnation.encode(),
        boot.encode(),
        b"true" if last else b"false",
        page,
    )


def encode_chunk_body(
    *, snapshot: str, chunk: int, table: str, key: int, columns: Iterable[str], rows_json: bytes
) -> bytes:
    """What a snapshot chunk says to every device, around its encoded rows: sent by `encode_snapshot_chunk`."""
    return b'"snapshot":"%s","chunk":%d,"table":%s,"key":%d,"columns":%s,"digest":"%s","rows":%s}' % (
        snapshot.encode(),
        chunk,
        to_json(table),
        key,
        to_json(list(columns)),
        message_digest(rows_json).encode(),
        rows_json,
    )


def encode_snapshot_chunk(incarnation: str, boot: str, body: bytes) -> bytes:
    """A snapshot chunk for one device around a body that is encoded already."""
    return b'{"v":1,"type":"snapshot_chunk","incarnation":"%s","boot":"%s",%s' % (
        incarnation.encode(),
        boot.encode(),
        body,
    )


def rows_digest(rows: list[WireRow]) -> str:
    """The checksum of a snapshot chunk's rows, to be compared with its `digest`."""
    return message_digest(to_json(rows))


def encode_entry(
    *,
    seq: int,
    epoch: int,
    device: str,
    incarnation: str,
    batch: int,
    digest: str,
    at: int,
    refused_json: bytes,
    changes_json: bytes,
    parent: Parent | None = None,
    was: Position | None = None,
) -> bytes:
    """A log entry around its encoded refusals and changes."""
    more = b"" if parent is None else b'"parent":%s,' % encode(parent)
    more += b"" if was is None else b'"was":[%d,%d],' % was
    return (
        b'{"seq":%d,"epoch":%d,"device":"%s","incarnation":"%s","batch":%d,"digest":"%s","at":%d,'
        b'%s"refused":%s,"changes":%s}'
        % (
            seq,
            epoch,
            device.encode(),
            incarnation.encode(),
            batch,
            digest.encode(),
            at,
            more,
            refused_json,
            changes_json,
        )
    )


def _parse_usual_spelling(header: re.Match[bytes], payload: bytes) -> ParsedBatch:
    """The slice between header and brace is parsed as one JSON value, so nothing else can hide in it."""
    changes_json = payload[header.end() : -1]
    frame = Batch(
        incarnation=header[1].decode(),
        batch=int(header[2]),
        prev_digest=header[3].decode(),
        sealed_at=int(header[4]),
        changes=[],
    )
    runs = _RUNS.validate_json(changes_json)
    # Copied in: passed to the constructor, every row would be checked a second time.
    return ParsedBatch(frame.model_copy(update={"changes": runs}), changes_json)


def _check_size(payload: bytes, bytes_max: int, limit_name: str) -> None:
    if len(payload) > bytes_max:
        raise MessageTooLarge(size=len(payload), limit=bytes_max, limit_name=limit_name)


def _explained(error: ValidationError, payload: bytes) -> MessageError:
    """The first complaint, in one line: what the sender wrote is cut and cleaned, so that a log line stays a line."""
    version = _VERSION.match(payload)
    if version is not None and int(version[1]) != VERSION:
        return UnsupportedVersion(f"the message is of protocol version {int(version[1])}")
    if error.error_count() > _COMPLAINTS_MAX:
        return MalformedMessage(f"{error.error_count()} things are wrong with its form")
    first = error.errors(include_url=False, include_input=False)[0]
    if first["loc"][-1:] == ("v",) and first["type"] != "extra_forbidden":
        return UnsupportedVersion(f"the message is not of protocol version {VERSION}")
    where = _one_line(".".join(str(part) for part in first["loc"]))
    what = _one_line(first["msg"])
    return MalformedMessage(f"{where}: {what}" if where else what)


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:_COMPLAINT_CHARS_MAX])
