"""How often the app's write lock may be taken: a budget of lock time. Pure."""

from __future__ import annotations


class LockBudget:
    """Keeps the share of time under the write lock below a limit, and lets short bursts through at once.

    A token bucket: it fills with `share_max` seconds of lock time per second, up to `burst_s`, and each sealing takes
    out what it used. So over any time t the lock is held for at most `share_max` × t + `burst_s`, and one hold more,
    as long as no single hold is above `share_max` × `pause_max_s`.

    Args:
        share_max: share of time in which the lock may be held.
        burst_s: lock time that may be used at once after a quiet time.
        pause_max_s: the longest pause, so that one slow hold (a machine that stalls) does not stop the sending.
        now: monotonic seconds.
    """

    def __init__(self, share_max: float, burst_s: float, pause_max_s: float, now: float) -> None:
        self._share_max = share_max
        self._burst_s = burst_s
        self._debt_max_s = pause_max_s * share_max
        self._left_s = burst_s
        self._at = now

    def spend(self, lock_s: float, now: float) -> None:
        """The lock was held so long."""
        left_s = min(self._burst_s, self._left_s + (now - self._at) * self._share_max) - lock_s
        self._left_s = max(left_s, -self._debt_max_s)
        self._at = now

    def wait_s(self, now: float) -> float:
        """How long the lock should be left alone from now on."""
        left_s = self._left_s + (now - self._at) * self._share_max
        return max(0.0, -left_s / self._share_max)
