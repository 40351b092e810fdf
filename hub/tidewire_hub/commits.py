"""Which batches are committed together, and when: one group at a time, at once when idle, again after a failure."""

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
        batches_max, bytes_max: limits of one group.
        retry_min_s, retry_max_s: first and longest pause after the storage failed.
    """

    def __init__(
        self, queue: IngestQueue, *, batches_max: int, bytes_max: int, retry_min_s: float, retry_max_s: float
    ) -> None:
        self.queue = queue
        self.held_back = False
        """Something downstream must catch up first."""
        self.retry_at = inf
        self.retry_delay_s = retry_min_s
        self._batches_max = batches_max
        self._bytes_max = bytes_max
        self._retry_min_s = retry_min_s
        self._retry_max_s = retry_max_s
        self._appending = False
        self._failed: tuple[QueuedBatch, ...] = ()
        self._suspects: list[tuple[QueuedBatch, ...]] = []

    def next(self) -> list[Append]:
        """The next group as an effect; nothing if one is under way, none waits, or something holds it back."""
        if self._appending or self.held_back or self.retry_at != inf:
            return []
        if self._failed:
            group, self._failed = self._failed, ()
        elif self._suspects:
            group = self._suspects.pop(0)
        else:
            group = self.queue.take(batches_max=self._batches_max, bytes_max=self._bytes_max)
        self._appending = bool(group)
        return [Append(group)] if group else []

    def succeeded(self) -> None:
        """The group that was under way is durable."""
        self._appending = False
        self.retry_delay_s = self._retry_min_s

    def failed(self, group: Sequence[QueuedBatch], now_s: float, *, storage: bool) -> Failure:
        """Nothing of the group was stored; what is done about it.

        The storage's fault: the same group is tried again later (`retry`, at `retry_at`). Else it is the fault of one
        batch: each is tried `alone`, and one that fails alone is to be `set_aside`.
        """
        self._appending = False
        if storage:
            self._failed = tuple(group)
            self.retry_at = now_s + self.retry_delay_s
            self.retry_delay_s = min(2 * self.retry_delay_s, self._retry_max_s)
            return "retry"
        if len(group) == 1:
            return "set_aside"
        self._suspects = [(batch,) for batch in group]
        return "alone"
