"""Python imports this at its start where the folder is on its path: the wall clock is off by what a file says."""

import os
import time
from pathlib import Path

_file = Path(os.environ["TIDEWIRE_TEST_CLOCK"])
_true_ns = time.time_ns


def _wrong_ns() -> int:
    return _true_ns() + int(_file.read_text(encoding="ascii"))


def _wrong() -> float:
    return _wrong_ns() / 1e9


time.time_ns = _wrong_ns
time.time = _wrong
