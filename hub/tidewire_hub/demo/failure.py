"""What ends the demo before its time."""

from __future__ import annotations


class DemoFailed(Exception):
    """Something is not as it should be; the message says what."""
