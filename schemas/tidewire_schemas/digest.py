"""Digests: of a batch's bytes, and of a table's rows in any order.

A batch's digest chains a device's batches. A table's digest is a sum over its rows, so that the hub keeps it up to date
row by row and an edge computes it by one scan; equal digests at equal positions prove equal rows.
Source of the sum: Bellare and Micciancio, "A New Paradigm for Collision-free Hashing: Incrementality at Reduced Cost"
(AdHash). It guards against mistakes, not against a device that wants to deceive.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final

from pydantic_core import to_json

from tidewire_schemas.values import Value, encode_row

NO_DIGEST: Final = "0" * 32
"""`prev_digest` of a device's first batch."""

_MODULUS_MASK: Final = 2**128 - 1


def message_digest(payload: bytes) -> str:
    """BLAKE2b-128 of a batch's bytes exactly as they travel, as 32 hexadecimal digits."""
    return blake2b(payload, digest_size=16).hexdigest()


def column_order(names: Sequence[str]) -> tuple[int, ...]:
    """The order in which a row's values enter its digest: by folded column name, so that edges may differ in theirs."""
    return tuple(sorted(range(len(names)), key=lambda i: names[i]))


def row_digest(names: Sequence[str], values: Sequence[Value]) -> int:
    """Digest of one row, 128 bits.

    `names` are folded and sorted, `values` in the same order. NULL cells count as absent: a device that has just
    added a nullable column holds the same rows as one that has not.
    """
    pairs = [pair for pair in zip(names, encode_row(values), strict=True) if pair[1] is not None]
    return int.from_bytes(blake2b(to_json(pairs), digest_size=16).digest(), "big")


def table_digest(row_digests: Iterable[int]) -> int:
    """Digest of a set of rows: their digests' sum modulo 2¹²⁸. Add a row by adding, remove it by subtracting."""
    return sum(row_digests) & _MODULUS_MASK


def add(total: int, row: int) -> int:
    """`total` with one row more."""
    return (total + row) & _MODULUS_MASK


def subtract(total: int, row: int) -> int:
    """`total` with one row less."""
    return (total - row) & _MODULUS_MASK


def key_hash(key: bytes) -> str:
    """The place of a row among the ranges of its table: a hash of `keys.key_bytes`, as 32 hexadecimal digits."""
    return blake2b(key, digest_size=16).hexdigest()


def as_hex(digest: int) -> str:
    """32 hexadecimal digits, as people compare them."""
    return f"{digest:032x}"
