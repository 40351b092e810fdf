"""YAML out of plain data, without a dependency: block style, strings quoted as JSON where YAML could misread them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*(?: [A-Za-z0-9_(][A-Za-z0-9_./(),→-]*)*")
_NOT_TEXT: Final = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})


def dump(data: Mapping[str, Any]) -> str:
    """A document whose YAML reading is `data`: mappings, sequences, text, numbers, booleans and None."""
    return "\n".join(_block(data) if data else ["{}"]) + "\n"


def _block(data: Any) -> Iterator[str]:
    """The lines of a mapping or sequence that is not empty."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _entry(f"{_scalar(key)}:", value)
        return
    for value in data:
        first, *others = _block(value) if _is_nested(value) else [_flat(value)]
        yield f"- {first}"
        yield from (f"  {line}" for line in others)


def _entry(head: str, value: Any) -> Iterator[str]:
    if not _is_nested(value):
        yield f"{head} {_flat(value)}"
        return
    yield head
    yield from (f"  {line}" for line in _block(value))


def _is_nested(value: Any) -> bool:
    return isinstance(value, Mapping | Sequence) and not isinstance(value, str) and len(value) > 0


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXT:
        return value
    quoted = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted)
