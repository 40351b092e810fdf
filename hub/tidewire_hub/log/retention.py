"""How much of the log is kept: by count, by bytes and by age, whichever keeps least. Trimmed in small steps."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from tidewire_hub.log.port import HubLog
from tidewire_schemas.positions import Seq

DAY_MS: Final = 86_400_000

_AT: Final = re.compile(rb'"at":(-?[0-9]{1,16})')
"""The first field of that name in an entry is the entry's own: before it stand only names and numbers."""


class Kept(NamedTuple):
    """What a step of trimming left."""

    oldest: Seq
    """The lowest seq that is kept."""
    log_bytes: int
    removed: int
    """Entries that the step removed. If any, there may be more to remove."""
    held_up: bool
    """More would go, but a device that begins with a snapshot still needs it."""


@dataclass(frozen=True, slots=True)
class Retention:
    """What of the log is kept. 0 keeps all."""

    entries: int = 0
    bytes: int = 0
    days: float = 0
    step_entries_max: int = 256
    """Entries removed in one transaction: some milliseconds, during which no commit begins."""
    step_bytes_max: int = 4 * 1024 * 1024
    """Bytes of these."""

    def step(self, log: HubLog, needed_from: Seq, now_ms: int) -> Kept:
        """Remove some of the oldest entries that need not be kept, but none from `needed_from` on."""
        oldest = log.oldest()
        keep_from = self._keep_from(log, oldest, now_ms)
        removed = 0
        if keep_from > oldest and needed_from > oldest:
            removed = log.trim(
                Seq(min(keep_from, needed_from)), bytes_max=self.step_bytes_max, entries_max=self.step_entries_max
            )
        return Kept(log.oldest(), log.size_bytes(), removed, held_up=keep_from > needed_from)

    def _keep_from(self, log: HubLog, oldest: Seq, now_ms: int) -> Seq:
        """The lowest seq to keep after a step; exact where that is near, else as far as a step may go."""
        head = log.head().seq
        candidates = [oldest]
        if self.entries:
            candidates.append(Seq(head - self.entries + 1))
        if self.bytes and log.size_bytes() > self.bytes:
            candidates.append(Seq(min(oldest + self.step_entries_max, head)))
        if self.days:
            candidates.append(self._young_from(log, oldest, Seq(head), now_ms))
        return max(candidates)

    def _young_from(self, log: HubLog, oldest: Seq, head: Seq, now_ms: int) -> Seq:
        """The first of the next step's entries that is younger than `days`, found by bisection."""
        before_ms = now_ms - self.days * DAY_MS
        low, high = int(oldest), int(min(oldest + self.step_entries_max, head))
        while low < high:
            middle = (low + high) // 2
            if _at_ms(log, Seq(middle)) < before_ms:
                low = middle + 1
            else:
                high = middle
        return Seq(low)


def _at_ms(log: HubLog, seq: Seq) -> float:
    """When the entry was committed, by the hub's clock; never where it does not say."""
    (entry,) = log.read(Seq(seq - 1), bytes_max=1, entries_max=1)
    found = _AT.search(entry.data, 0, 1024)
    return float(found[1]) if found else float("inf")
