"""Whether the hub is heard at all: a device that writes nothing has no ack to miss. Pure."""

from __future__ import annotations

from math import inf


class Silence:
    """Looks now and then whether the hub has said anything; it says its head regularly when nothing happens.

    Args:
        longest_s: after so long without a word there is doubt; 0 for never.
    """

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s or inf
        self._heard_at = -inf
        self._excused_until = -inf
        self.deadline = inf
        """When to look. Not moved by each word: it is a timer."""

    def heard(self, now: float) -> None:
        """The hub that leads has said something."""
        self._heard_at = now
        if self.deadline == inf:
            self.deadline = now + self._longest_s

    def wait_longer(self, now: float) -> None:
        """Something large is on its way: what the hub says comes behind it."""
        self._excused_until = now + self._longest_s

    def stop(self) -> None:
        """The conversation is over: the next begins with a word of the hub."""
        self.deadline = inf

    def since(self, now: float) -> float | None:
        """When the hub was heard last, if that is too long ago; else the next look is put off."""
        due = max(self._heard_at + self._longest_s, self._excused_until)
        if now >= due:
            return self._heard_at
        self.deadline = due
        return None
