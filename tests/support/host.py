"""Where the processes of a test run: on this machine as it is, or in a network of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

T = TypeVar("T")


class Host:
    """Where a process runs: on this machine as it is, or (`support.networks`) in a network of its own."""

    address = "127.0.0.1"
    """Where others reach it."""

    def command(self, words: Sequence[str]) -> list[str]:
        """The command that runs these words there."""
        return list(words)

    def call(self, function: Callable[[], T]) -> T:
        """What the function returns that is run there."""
        return function()


HERE: Final = Host()
"""No network of its own."""
