"""When the app's write lock may be taken: the agent's manners towards an app that writes. Pure."""

from __future__ import annotations

from math import inf
from typing import Final

GAP_S: Final = 0.03
"""An app that has not committed for so long has paused: more than a busy machine, or an fsync, stops it for."""

RUSH_AFTER_S: Final = 0.02
"""An app that has committed for so long without pausing is in a rush."""

SMALL_CHANGES_PER_S: Final = 1_000
"""An app that writes less pauses between its commits, however often the agent looks: it meets the lock by chance, for
the lock's share of time, and not in every moment."""

LARGE_CHANGES_PER_S: Final = 30_000
"""What single-row transactions never reach: an app that writes more writes large transactions, in which a moment of a
locked database stops one of many rows, and whose rows should not gather."""

LARGE_TRANSACTION: Final = 200
"""So many changes are never seen at once of an app that commits single rows: it makes a hundred while nobody looks. An
app whose transactions are larger is such a one also where it writes less, as a busy machine lets it."""

ACTIVE_S: Final = 0.1
"""An app that has not committed for so long hardly meets the lock of a sealing, which is over in a moment."""

APPLY_ACTIVE_S: Final = 2.0
"""The same of applying, where one hold may follow the other while the app waits and so does not commit."""

REST_S: Final = 0.03
"""A device that catches up, or has a backlog, while its app writes still gets ahead with pauses of this length, and in
each of them a waiting app finds the lock free: SQLite looks for it every 25 ms or more often in the first tenth of a
second of waiting."""

LONG_HOLD_S: Final = 0.005
"""After a hold as long as this a rest is left whatever the budget says: two that follow closely would be one wait."""


class LockBudget:
    """Keeps the share of time under the write lock below a limit, and lets short bursts through at once.

    A token bucket: it fills with `share_max` seconds of lock time per second, up to `burst_s`, and each hold takes
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


class Rush:
    """Whether an app commits without a pause, so that each moment of a locked database stops it.

    It is told of every look at the database. A rush is over only when a look finds no new commit: while the agent
    itself waits for the lock, it cannot look.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._last = -inf

    def looked(self, changed: bool, now: float) -> None:
        """A look at the database found commits of others, or none."""
        if changed:
            self._last = now
            if self._since is None:
                self._since = now
        elif now - self._last > GAP_S:
            self._since = None

    def lasts_s(self) -> float:
        """For how long the app has committed without a pause."""
        return 0.0 if self._since is None else self._last - self._since

    def quiet_s(self, now: float) -> float:
        """How long ago the app has committed last."""
        return now - self._last


class Pace:
    """Says how long to leave the lock alone, from what the app does and what the agent has used.

    - An app that does not write just now, or pauses after each commit, in which sealing is over long before the next:
      not at all.
    - An app that writes: the lock is held for no more than `lock_share_max` of the time. Where there is much to do, as
      a backlog to seal or a log to catch up with, for as much as rests of `REST_S` allow.
    - An app that commits one small transaction after the other: `rush_lock_share_max`, as it tries for the lock in
      every moment; one that may not wait fails many times in one short hold.

    Args:
        share_max, burst_s, pause_max_s: see `LockBudget`.
        rush_share_max, rush_pause_max_s: the same in a rush.
    """

    def __init__(
        self,
        *,
        share_max: float,
        burst_s: float,
        pause_max_s: float,
        rush_share_max: float,
        rush_pause_max_s: float,
        now: float,
    ) -> None:
        self.rush = Rush()
        self._budget = LockBudget(share_max, burst_s, pause_max_s, now)
        self._strict = LockBudget(rush_share_max, 0.0, rush_pause_max_s, now)
        self._held_at = -inf
        self._held_s = 0.0
        self._sealed_at = now
        self._small = False
        """Whether it commits small transactions, one after the other."""
        self._left = 0
        self._backlog = False

    def held(self, lock_s: float, now: float) -> None:
        """The lock was held so long."""
        self._budget.spend(lock_s, now)
        self._strict.spend(lock_s, now)
        self._held_at = now
        self._held_s = lock_s

    def sealed(self, changes: int, left: int, now: float, *, step: int = 0) -> None:
        """So many changes of the app were taken from the change log, and so many are left there.

        `step` is the fewest that it was lately seen to commit at once, 0 where that is not known.
        """
        began_at = max(self._sealed_at, now - max(self.rush.lasts_s(), 0.001))
        changes_per_s = max(0, changes + left - self._left) / max(now - began_at, 0.001)
        self._small = step < LARGE_TRANSACTION and SMALL_CHANGES_PER_S <= changes_per_s < LARGE_CHANGES_PER_S
        self._sealed_at = now
        self._left = left
        self._backlog = changes > 0 and left > 0

    def wait_s(self, now: float, *, applying: bool = False) -> float:
        """How long sealing or applying should leave the lock alone; ask again soon, as the app may pause."""
        if self.rush.quiet_s(now) > (APPLY_ACTIVE_S if applying else ACTIVE_S):
            return 0.0
        rushes = self.rush.lasts_s() >= RUSH_AFTER_S
        if rushes and self._small:
            return self._strict.wait_s(now)
        if not rushes and not applying:
            return 0.0
        wait_s = self._budget.wait_s(now)
        if not applying and not self._backlog:
            return wait_s
        rest_s = max(0.0, self._held_at + REST_S - now)
        return rest_s if self._held_s >= LONG_HOLD_S else min(wait_s, rest_s)
