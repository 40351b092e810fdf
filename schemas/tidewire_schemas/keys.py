"""When two keys are the same, and what a column makes of a value: as SQLite decides it.

Agent and hub must agree on this with every SQLite on the edge: a key is found by its collation, `1` and `1.0` are one
key, and a column's affinity changes what is written into it.
Source: https://sqlite.org/datatype3.html, sections 3 (affinity), 4.1 (comparison) and 7 (collation).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from pydantic_core import to_json

from tidewire_schemas.errors import ValueNotStorable
from tidewire_schemas.names import fold
from tidewire_schemas.values import INTEGER_MAX, INTEGER_MIN, RawText, Value, encode

Affinity: TypeAlias = Literal["INTEGER", "REAL", "TEXT", "BLOB", "NUMERIC"]
Collation: TypeAlias = Literal["BINARY", "NOCASE", "RTRIM"]

_INTEGER_TEXT: Final = re.compile(r"[ \t\n\v\f\r]*([+-]?)0*([0-9]+)[ \t\n\v\f\r]*")
_REAL_TEXT: Final = re.compile(r"[ \t\n\v\f\r]*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[ \t\n\v\f\r]*")
_RAW_FOLD: Final = bytes.maketrans(bytes(range(65, 91)), bytes(range(97, 123)))


def key_bytes(values: Sequence[Value], collations: Sequence[Collation]) -> bytes:
    """One byte string for all keys that SQLite holds equal: two keys are one row exactly if these are equal."""
    kinds = set(map(type, values))
    if kinds == {int}:
        return to_json(values)
    return to_json([_comparable(v, c) for v, c in zip(values, collations, strict=True)])


def unique_bytes(values: Sequence[Value], collations: Sequence[Collation]) -> bytes | None:
    """The same for a UNIQUE set; None where a NULL makes the row clash with nothing."""
    if None in values:
        return None
    return key_bytes(values, collations)


def apply_affinity(value: Value, affinity: Affinity) -> Value:
    """What a column of this affinity stores when `value` is written into it.

    Raises:
        ValueNotStorable: a real written into a TEXT column, whose text form differs between SQLite versions.
    """
    if value is None or affinity == "BLOB" or isinstance(value, bytes | RawText):
        return value
    if affinity == "TEXT":
        if isinstance(value, float):
            raise ValueNotStorable(f"the real {value!r} in a TEXT column", hint="send it as text")
        return str(value)
    if isinstance(value, str):
        value = _number_in(value)
    if affinity == "REAL":
        # A REAL column keeps whole numbers as integers on disk, and there the sign of -0.0 is lost.
        return value + 0.0 if isinstance(value, int | float) else value
    if isinstance(value, float) and INTEGER_MIN < value < INTEGER_MAX:
        return _as_integer(value)
    return value


def _comparable(value: Value, collation: Collation) -> object:
    if isinstance(value, float):
        return encode(_as_integer(value))
    if collation == "BINARY" or not isinstance(value, str | RawText):
        return encode(value)
    if collation == "NOCASE":
        return _without_case(value)
    return value.rstrip(" ") if isinstance(value, str) else encode(RawText(value.data.rstrip(b" ")))


def _without_case(value: str | RawText) -> object:
    if isinstance(value, str) and "\0" not in value:
        return fold(value)
    data = value.encode() if isinstance(value, str) else value.data
    before, zero, _ = data.partition(b"\0")
    if zero:
        # NOCASE compares up to the first NUL, and then the lengths.
        return [base64.b16encode(before.translate(_RAW_FOLD)).decode("ascii"), len(data)]
    return encode(RawText(data.translate(_RAW_FOLD)))


def _as_integer(value: float) -> int | float:
    """The integer equal to a real, where there is one that fits in 64 bits."""
    if value.is_integer() and INTEGER_MIN <= value <= INTEGER_MAX:
        return int(value)
    return value


def _number_in(text: str) -> Value:
    """The number that a whole text spells, or the text."""
    if whole := _INTEGER_TEXT.fullmatch(text):
        sign, digits = whole.groups()
        if len(digits) < 20 and INTEGER_MIN <= (number := int(sign + digits)) <= INTEGER_MAX:
            return number
        return float(text)
    if _REAL_TEXT.fullmatch(text):
        return float(text)
    return text
