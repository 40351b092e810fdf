"""How much is done under the app's write lock at once: learned from how long it took. Pure."""

from __future__ import annotations

from typing import Final

_FIRST: Final = 100
"""Rows of the first piece: a few milliseconds on the slowest of machines."""

_ROWS_MAX: Final = 20_000
"""Above it a larger piece saves nothing more."""

_GROWTH_MAX: Final = 2.0
"""A piece that was quick by luck must not be followed by one that is far too large."""


class PieceSize:
    """So many rows that a piece takes half of what it may: the other half is for rows that cost more.

    Args:
        lock_ms_max: how long a piece may hold the lock.
    """

    def __init__(self, lock_ms_max: float) -> None:
        self._target_s = lock_ms_max / 1000 / 2
        self.rows = _FIRST

    def took(self, rows: int, seconds: float) -> None:
        """A piece of so many rows held the lock so long."""
        if rows == 0:
            return
        fitting = rows * self._target_s / max(seconds, 1e-6)
        self.rows = max(1, int(min(fitting, self.rows * _GROWTH_MAX, _ROWS_MAX)))
