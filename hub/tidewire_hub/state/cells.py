"""How rows stand in the state's file, and their digests."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final, TypeAlias

from pydantic_core import from_json, to_json

from tidewire_hub.resolve_view import Cells, Row, Writer
from tidewire_schemas.digest import add, as_hex, subtract

DIGEST_BYTES: Final = 16

StoredRow: TypeAlias = tuple[bytes, bytes | None, int, str, int | None, str | None, bytes | None]
"""key, cells, born_seq, born_by, seq, by, cells_by; writers as `life_of` names them."""


def cells_json(cells: Cells) -> bytes:
    """A row's cells as stored: exactly the bytes whose hash `digest.row_digest` is."""
    return to_json(sorted(cells.items()))


def cells_digest(stored: bytes) -> int:
    """The row's digest, as `digest.row_digest` computes it from the values."""
    return int.from_bytes(blake2b(stored, digest_size=DIGEST_BYTES).digest(), "big")


def digest_sum(stored: Iterable[bytes]) -> int:
    """The sum of many rows' digests, not reduced."""
    digests = [blake2b(row, digest_size=DIGEST_BYTES).digest() for row in stored]
    return sum([int.from_bytes(digest, "big") for digest in digests])


def cells_of(stored: bytes) -> Cells:
    """The row's cells out of what was stored."""
    return dict(from_json(stored))


def row_of(stored: StoredRow) -> Row:
    """A row or tombstone as resolution sees it."""
    _, cells, born_seq, born_by, seq, by, cells_by = stored
    born = Writer(born_seq, born_by)
    written = born if seq is None or by is None else Writer(seq, by)
    apart = {} if cells_by is None else {name: Writer(*writer) for name, writer in from_json(cells_by).items()}
    return Row(None if cells is None else cells_of(cells), born, written, apart)


class Total:
    """How many rows a table has, and the sum of their digests."""

    __slots__ = ("digest", "rows")

    def __init__(self, rows: int = 0, digest: int = 0) -> None:
        self.rows = rows
        self.digest = digest

    @property
    def hex(self) -> str:
        """The digest as people compare it."""
        return as_hex(self.digest)

    def add(self, rows: int, digest: int) -> None:
        """Some rows more, or less where negative; `digest` is by how much the sum of theirs grows."""
        self.rows += rows
        self.digest = add(self.digest, digest)

    def remove(self, digest: int) -> None:
        """One row less."""
        self.rows -= 1
        self.digest = subtract(self.digest, digest)
