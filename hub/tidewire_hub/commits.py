"""Which batches are committed together, and when: one group at a time, at once when idle, again after a failure. Pure.

A group is bounded by its bytes and, while it is committed, by its time (`Commit.left`); a batch is never cut. So a
device with little to say waits for the group under way and at most for one batch of each other device, whatever they
have queued. One huge batch may still take seconds: that is said aloud (`busy`), as acks and greetings wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Literal

from tidewire_hub.actions import Append, QueuedBatch
from tidewire_hub.ingest import IngestQueue

Failure = Literal["retry", "alone", "set_aside"]


class GroupCommits:
    """While one group commits the next gathers in the queue: the slower the disk, the larger the groups.

    Args:
        queue: where batches wait.
        busy_s: a commit that takes longer than this is to be told.
        batches_max, bytes_max: limits of one group.
        retry_min_s, retry_max_s: first and longest pause after the storage failed.
    """

    def __init__(
        self,
        queue: IngestQueue,
        *,
        batches_max: int,
        bytes_max: int,
        busy_s: float,
        retry_min_s: float,
        retry_max_s: float,
    ) -> None:
        self.queue = queue
        self.held_back = False
        """Something downstream must catch up first."""
        self.retry_at = inf
        self.retry_delay_s = retry_min_s
        self.busy_at = inf
        """When the commit under way is to be told, again and again; infinite while there is none."""
        self._began_s = inf
        self._busy_s = busy_s
        self._under_way: tuple[QueuedBatch, ...] = ()
        self._batches_max = batches_max
        self._bytes_max = bytes_max
        self._retry_min_s = retry_min_s
        self._retry_max_s = retry_max_s
        self._failed: tuple[QueuedBatch, ...] = ()
        self._suspects: list[tuple[QueuedBatch, ...]] = []

    def next(self, now_s: float) -> list[Append]:
        """The next group as an effect; nothing if one is under way, none waits, or something holds it back."""
        if self._under_way or self.held_back or self.retry_at != inf:
            return []
        if self._failed:
            group, self._failed = self._failed, ()
        elif self._suspects:
            group = self._suspects.pop(0)
        else:
            group = self.queue.take(batches_max=self._batches_max, bytes_max=self._bytes_max)
        if not group:
            return []
        self._under_way = group
        self._began_s = now_s
        self.busy_at = now_s + self._busy_s
        return [Append(group)]

    def busy(self, now_s: float) -> str | None:
        """What the hub has been doing for so long that devices must be told; None while they need not."""
        if now_s < self._began_s + self._busy_s:  # as `busy_at` was made: rounded otherwise, it could stay due for ever
            return None
        under_way_s = now_s - self._began_s
        self.busy_at = now_s + self._busy_s
        size = sum(len(batch.payload) for batch in self._under_way) / 1e6
        return f"a commit of {size:.1f} MB has been under way for {under_way_s:.0f} s, {len(self.queue)} batches wait"

    def succeeded(self, left: Sequence[QueuedBatch] = ()) -> None:
        """The group that was under way is durable, but for what is `left` of it."""
        served = {batch.device for batch in self._under_way[: len(self._under_way) - len(left)]}
        self.queue.put_back(left, served=served)
        self._over()
        self.retry_delay_s = self._retry_min_s

    def failed(self, group: Sequence[QueuedBatch], now_s: float, *, storage: bool) -> Failure:
        """Nothing of the group was stored; what is done about it.

        The storage's fault: the same group is tried again later (`retry`, at `retry_at`). Else it is the fault of one
        batch: each is tried `alone`, and one that fails alone is to be `set_aside`.
        """
        self._over()
        if storage:
            self._failed = tuple(group)
            self.retry_at = now_s + self.retry_delay_s
            self.retry_delay_s = min(2 * self.retry_delay_s, self._retry_max_s)
            return "retry"
        if len(group) == 1:
            return "set_aside"
        self._suspects = [(batch,) for batch in group]
        return "alone"

    def _over(self) -> None:
        self._under_way = ()
        self._began_s = self.busy_at = inf
