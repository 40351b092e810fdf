"""Hosts whose wall clock is wrong."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from support.host import Host

DAY_S = 86_400

_CUSTOM = Path(__file__).with_name("wrong_clock")


class Clock(Host):
    """A host whose programs, if they are Python's, see another wall clock; what measures durations is the machine's.

    Args:
        file: how far the clock is off; programs look at it each time.
        ahead_s: so many seconds ahead of the truth, or behind it if negative.
    """

    def __init__(self, file: Path, ahead_s: int) -> None:
        self._file = file
        self.set_ahead(ahead_s)

    def set_ahead(self, seconds: int) -> None:
        """Set the clock, for programs that run as well."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds * 10**9}", encoding="ascii")
        os.replace(new, self._file)

    def command(self, words: Sequence[str]) -> list[str]:
        """With a start of Python's that replaces its wall clock."""
        return ["env", f"PYTHONPATH={_CUSTOM}", f"TIDEWIRE_TEST_CLOCK={self._file}", *words]


def ahead_in_1970_s() -> int:
    """Of a clock that shows the start of 1970, as that of a device without a battery does: years behind."""
    return 10 - int(time.time())
