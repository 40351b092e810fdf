"""Whose turn it is to do what takes Python long: one thread of this process at a time.

Python's sqlite3 lets other threads run at each row of a statement. One that is busy just then keeps the interpreter
until its time slice is over, each time: beside a thread that parses messages, a write transaction of 2,000 rows holds
the app's lock for half a second instead of ten milliseconds. So whoever parses, reads or writes many rows takes the
turn; whoever waits for something else gives it back.
"""

from __future__ import annotations

import threading
from typing import Final

TURN: Final = threading.Lock()
"""Taken before the app's write lock, and never while waiting for it."""
