"""Many keys in few statements: `IN` lists of a few fixed sizes, so that SQLite prepares each once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final

CHUNK: Final = 512
"""Values in the longest list."""

_SIZES: Final = (CHUNK, 64, 8, 1)


def select_in(
    connection: sqlite3.Connection, sql: str, fixed: Sequence[object], values: Sequence[bytes]
) -> Iterator[tuple[Any, ...]]:
    """Rows of `sql`, whose `{}` stands for the list of `values`, bound after `fixed`.

    A list that fills no size is filled up with its last value, which `IN` finds no second time.
    """
    start = 0
    while start < len(values):
        left = len(values) - start
        size = next((s for s in reversed(_SIZES) if s >= left), _SIZES[0])
        part = values[start : start + size]
        start += size
        padding = [part[-1]] * (size - len(part))
        statement = sql.format(",".join("?" * size))
        yield from connection.execute(statement, (*fixed, *part, *padding))
