"""How long to wait before connecting again: exponential with full jitter. Pure: time and chance are arguments.

After "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015): a delay drawn evenly from [0, cap] spreads a
fleet whose broker restarted better than any fixed share of the cap does.
"""

from __future__ import annotations

_DOUBLINGS_MAX = 32
"""More would only overflow: the cap is reached long before."""


class Backoff:
    """Delays between attempts to connect.

    Args:
        delay_min_s: upper end of the first delay; it doubles with every failure.
        delay_max_s: upper end of all delays.
        stable_after_s: how long a connection must have held for delays to begin small again.
    """

    def __init__(self, *, delay_min_s: float, delay_max_s: float, stable_after_s: float) -> None:
        self._delay_min_s = delay_min_s
        self._delay_max_s = delay_max_s
        self._stable_after_s = stable_after_s
        self._failures = 0
        self._connected_at_s: float | None = None

    def connected(self, now_s: float) -> None:
        """A connection was made."""
        self._connected_at_s = now_s

    def failed(self, now_s: float, chance: float, *, slow: bool = False) -> float:
        """The connection was lost, or could not be made: seconds to wait before the next attempt.

        Args:
            now_s: any monotonic clock, the same as for `connected`.
            chance: a random number in [0, 1).
            slow: trying soon does harm; wait between half the longest delay and all of it.
        """
        if self._connected_at_s is not None and now_s - self._connected_at_s >= self._stable_after_s:
            self._failures = 0
        self._connected_at_s = None
        cap_s = min(self._delay_max_s, self._delay_min_s * 2.0 ** min(self._failures, _DOUBLINGS_MAX))
        self._failures += 1
        if slow:
            return self._delay_max_s * (1 + chance) / 2
        return cap_s * chance
