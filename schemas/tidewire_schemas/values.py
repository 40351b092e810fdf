"""SQLite's values as JSON, both ways, bit for bit.

    NULL, text, 64-bit integers, finite reals     as they are (`1` is an integer, `1.0` a real)
    a blob                                        {"blob": "<base64>"}
    ±infinity                                     {"real": "inf"} or {"real": "-inf"}
    text that is not valid UTF-8                  {"text": "<base64 of its bytes>"}

SQLite stores no NaN (it becomes NULL), so none travels. Most rows hold nothing but plain values: the functions here
look at a row's types first and touch it only when they must.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite, isnan
from typing import Annotated, Any, Final, TypeAlias

from pydantic import WithJsonSchema

from tidewire_schemas.errors import ValueNotStorable


@dataclass(frozen=True, slots=True)
class RawText:
    """A TEXT value whose bytes are not valid UTF-8."""

    data: bytes


Value: TypeAlias = int | float | str | bytes | RawText | None
"""What SQLite holds in a cell."""

WireValue: TypeAlias = int | float | str | dict[str, str] | None
"""The same as it stands in JSON."""

INTEGER_MIN: Final = -(2**63)
INTEGER_MAX: Final = 2**63 - 1

_PLAIN: Final = frozenset({int, str, type(None)})
_TEXT_OR_NULL: Final = frozenset({str, type(None)})
_NUMBERS_AND_PLAIN: Final = _PLAIN | {float}
_REALS: Final = {"inf": inf, "-inf": -inf}

VALUE_SCHEMA: Final[dict[str, Any]] = {
    "description": "A SQLite value.",
    "anyOf": [
        {"type": "null"},
        {"type": "string"},
        {"type": "number"},
        *(
            {
                "type": "object",
                "properties": {tag: schema},
                "required": [tag],
                "additionalProperties": False,
            }
            for tag, schema in (
                ("blob", {"type": "string", "contentEncoding": "base64"}),
                ("real", {"enum": ["inf", "-inf"]}),
                ("text", {"type": "string", "contentEncoding": "base64"}),
            )
        ),
    ],
}

WireRow: TypeAlias = Annotated[list[Any], WithJsonSchema({"type": "array", "items": VALUE_SCHEMA})]
"""One row on the wire. Checked by `check_row`, which is several times faster than a union per cell."""


def encode(value: Value) -> WireValue:
    """One SQLite value as JSON holds it."""
    if isinstance(value, float) and not isfinite(value):
        if isnan(value):
            return None  # SQLite turns NaN into NULL when it stores it
        return {"real": "inf" if value > 0 else "-inf"}
    if isinstance(value, bytes):
        return {"blob": base64.b64encode(value).decode("ascii")}
    if isinstance(value, RawText):
        return {"text": base64.b64encode(value.data).decode("ascii")}
    return value


def decode(value: Any) -> Value:
    """One value out of parsed JSON.

    Raises:
        ValueNotStorable: SQLite cannot hold it, or its object form is unknown.
    """
    kind = type(value)
    if kind is str or value is None:
        return value  # type: ignore[no-any-return]
    if kind is int:
        if INTEGER_MIN <= value <= INTEGER_MAX:
            return value  # type: ignore[no-any-return]
        raise ValueNotStorable(f"an integer of {value.bit_length()} bits does not fit in 64")
    if kind is float:
        if isfinite(value):
            return value  # type: ignore[no-any-return]
        raise ValueNotStorable(f"{value} is not a JSON number")
    if kind is dict and len(value) == 1:
        return _decode_tagged(*next(iter(value.items())))
    raise ValueNotStorable(f"a value of type {kind.__name__} is not one of the allowed forms")


def encode_row(row: Sequence[Value]) -> Sequence[WireValue]:
    """A row as JSON holds it; the row itself where nothing in it needs a change."""
    if _PLAIN.issuperset(map(type, row)):
        return row  # type: ignore[return-value]
    return [encode(value) for value in row]


def decode_row(row: Sequence[Any]) -> Sequence[Value]:
    """A checked wire row as SQLite binds it; the row itself where nothing in it needs a change."""
    if _NUMBERS_AND_PLAIN.issuperset(map(type, row)):
        return row
    return [decode(value) for value in row]


def check_rows(rows: Sequence[Sequence[Any]], width: int) -> None:
    """Check that every row has `width` values and that SQLite can hold each.

    Raises:
        ValueNotStorable: one that does not fit.
    """
    for count in set(map(len, rows)):
        if count != width:
            raise ValueNotStorable(f"a row has {count} values where {width} columns are named")
    for column in zip(*rows, strict=True):
        types = set(map(type, column))
        if types <= _TEXT_OR_NULL:
            continue
        if types == {int} and min(column) >= INTEGER_MIN and max(column) <= INTEGER_MAX:
            continue
        if types == {float} and all(map(isfinite, column)):
            continue
        for value in column:
            decode(value)


def _decode_tagged(tag: str, data: Any) -> Value:
    if not isinstance(data, str) or (tag == "real" and data not in _REALS) or tag not in ("blob", "real", "text"):
        raise ValueNotStorable(f"an object with {tag[:20]!r} is not one of the allowed forms")
    if tag == "real":
        return _REALS[data]
    try:
        raw = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueNotStorable(f"{tag}: not base64: {error}") from None
    if tag == "blob":
        return raw
    try:
        return raw.decode("utf-8")  # valid after all: one form for one value
    except UnicodeDecodeError:
        return RawText(raw)
