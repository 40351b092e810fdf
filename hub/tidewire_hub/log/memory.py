"""A log in memory: for tests and trials. It forgets everything when the process ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tidewire_hub.log.port import EntriesTrimmed, StaleLeader, StoredEntry, check_append, fitting
from tidewire_schemas.positions import START, Epoch, Position, Seq


class MemoryLog:
    """`HubLog` in memory. `log_id` is the caller's choice, so that a simulation is repeatable."""

    def __init__(self, log_id: str) -> None:
        self._log_id: Final = log_id
        self._epoch = Epoch(0)
        self._entries: list[StoredEntry] = []
        self._trimmed: list[Position] = []
        self._documents: dict[str, bytes] = {}

    @property
    def log_id(self) -> str:
        """See `HubLog`."""
        return self._log_id

    def epoch(self) -> Epoch:
        """See `HubLog`."""
        return self._epoch

    def head(self) -> Position:
        """See `HubLog`."""
        return self._entries[-1].position if self._entries else START

    def oldest(self) -> Seq:
        """See `HubLog`."""
        return Seq(self._entries[0].position.seq if self._entries else 1)

    def acquire(self, epoch: Epoch) -> None:
        """See `HubLog`."""
        if epoch <= self._epoch:
            raise StaleLeader(ours=epoch, stored=self._epoch)
        self._epoch = epoch

    def append(self, epoch: Epoch, after: Seq, entries: Sequence[StoredEntry]) -> None:
        """See `HubLog`."""
        check_append(epoch, after, entries, stored=self._epoch, head=Seq(self.head().seq))
        self._entries.extend(entries)

    def read(self, after: Seq, *, bytes_max: int, entries_max: int) -> list[StoredEntry]:
        """See `HubLog`."""
        oldest = self.oldest()
        if after + 1 < oldest:
            raise EntriesTrimmed(after=after, oldest=oldest)
        start = after + 1 - oldest
        page: list[StoredEntry] = []
        size = 0
        for entry in self._entries[start : start + entries_max]:
            size += len(entry.data)
            if page and size > bytes_max:
                break
            page.append(entry)
        return page

    def position_at(self, seq: Seq) -> Position | None:
        """See `HubLog`."""
        if seq == 0:
            return START
        if 0 < seq <= len(self._trimmed):
            return self._trimmed[seq - 1]
        index = seq - self.oldest()
        return self._entries[index].position if 0 <= index < len(self._entries) else None

    def size_bytes(self) -> int:
        """See `HubLog`."""
        return sum(len(entry.data) + len(entry.lost) for entry in self._entries)

    def trim(self, before: Seq, *, bytes_max: int, entries_max: int) -> int:
        """See `HubLog`."""
        may_go = self._entries[: max(0, min(before - self.oldest(), len(self._entries) - 1))]
        count = len(list(fitting(((e.position.seq, len(e.data)) for e in may_go), bytes_max, entries_max)))
        self._trimmed.extend(entry.position for entry in self._entries[:count])
        del self._entries[:count]
        return count

    def save_document(self, name: str, data: bytes) -> None:
        """See `HubLog`."""
        self._documents[name] = data

    def load_document(self, name: str) -> bytes | None:
        """See `HubLog`."""
        return self._documents.get(name)

    def rest(self) -> None:
        """See `HubLog`."""

    def close(self) -> None:
        """See `HubLog`. What it holds stays, so that a test can open a stream on it again."""
