"""What a stream needs of a durable log: acquire leadership, append, read, trim, and a few small documents.

Kept this small so that a distributed engine can stand behind it: `append` is compare-and-set on (epoch, seq), which
fences a stale leader without any clock or lease. `tests/contract/test_hub_log.py` is the port's definition; every
backend passes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from tidewire_schemas.errors import DatabaseError
from tidewire_schemas.positions import Epoch, Position, Seq

HEARD_EPOCH_MAX: Final = 2**52
"""An epoch above this (the year 2109) is no clock's but somebody's mistake, and must not use up the numbers."""


class StoredEntry(NamedTuple):
    """An entry as the log holds it."""

    position: Position
    data: bytes
    """JSON of the `Entry`, byte for byte as it was appended and as it travels."""
    lost: bytes = b""
    """JSON of what the entry's refused rows held, for the conflict log: stays at the hub, empty when nothing."""


class StaleLeader(DatabaseError):
    """Another leader has acquired this log: nothing of this one is stored any more."""

    code = "stale_leader"
    hint = "another hub leads this stream: stop one of the two"

    def __init__(self, *, ours: int, stored: int) -> None:
        super().__init__(f"epoch {ours} is no longer the leader's: the log has epoch {stored}")
        self.ours = ours
        self.stored = stored


class LogOutOfStep(DatabaseError):
    """An append did not start where the log ends: the leader's view of the log is wrong, nothing was stored."""

    code = "log_out_of_step"
    hint = "restart the hub; if it stays, run tidewire-hub doctor"
    retry = True

    def __init__(self, *, expected: Seq, got: Seq) -> None:
        super().__init__(f"an append after seq {got} came where the log ends at {expected}")
        self.expected = expected
        self.got = got


class EntriesTrimmed(DatabaseError):
    """Entries were asked for that retention has removed: to go on would skip them silently."""

    code = "entries_trimmed"
    hint = "the device takes a snapshot, or begins anew"

    def __init__(self, *, after: Seq, oldest: Seq) -> None:
        super().__init__(f"entries after seq {after} were asked for, the oldest kept is {oldest}")
        self.after = after
        self.oldest = oldest


class HubLog(Protocol):
    """The ordered, durable log of one stream. Synchronous, used from one thread.

    Every method may raise a `DatabaseError` when the storage fails; what raised left nothing half done.
    """

    @property
    def log_id(self) -> str:
        """32 hexadecimal digits, random, made together with the log and never changed."""
        ...

    def epoch(self) -> Epoch:
        """The epoch of the leader that acquired the log last; 0 when none has."""
        ...

    def head(self) -> Position:
        """Position of the newest entry; `START` while there is none."""
        ...

    def oldest(self) -> Seq:
        """The lowest seq that `read` can give; 1 while there is none."""
        ...

    def acquire(self, epoch: Epoch) -> None:
        """Make `epoch` the only one whose appends are stored, durably.

        Raises:
            StaleLeader: the log has this epoch or a later one already.
        """
        ...

    def append(self, epoch: Epoch, after: Seq, entries: Sequence[StoredEntry]) -> None:
        """Store entries numbered from `after + 1`, all or none; they are durable when this returns.

        Raises:
            StaleLeader: the log was acquired under another epoch.
            LogOutOfStep: the log does not end at `after`.
        """
        ...

    def read(self, after: Seq, *, bytes_max: int, entries_max: int) -> list[StoredEntry]:
        """Consecutive entries after `after`, as many as fit both limits, but at least one if there is one.

        Raises:
            EntriesTrimmed: `after + 1` is no longer kept, so entries would be skipped.
        """
        ...

    def position_at(self, seq: Seq) -> Position | None:
        """Position of the entry with this seq, kept or trimmed; None where the log never had one. Seq 0 is `START`."""
        ...

    def size_bytes(self) -> int:
        """About how many bytes the log takes; trimming makes it less."""
        ...

    def trim(self, before: Seq, *, bytes_max: int, entries_max: int) -> int:
        """Remove the oldest entries with a seq below `before`, never the newest entry; how many were removed.

        No more than fit both limits, but at least one if there is one: whoever trims much comes again and again, and
        appends go on between.
        """
        ...

    def save_document(self, name: str, data: bytes) -> None:
        """Store a small document beside the log, durably, in place of the one of that name."""
        ...

    def load_document(self, name: str) -> bytes | None:
        """The document of that name, None if none was stored."""
        ...

    def rest(self) -> None:
        """Nothing more comes for a moment: give back space that is held to be quick."""
        ...

    def close(self) -> None:
        """Release the storage. Nothing may be called after."""
        ...


def check_append(epoch: Epoch, after: Seq, entries: Sequence[StoredEntry], *, stored: Epoch, head: Seq) -> None:
    """Refuse an append by a stale leader, or one that would leave a gap or number an entry twice."""
    if epoch != stored or not epoch:
        raise StaleLeader(ours=epoch, stored=stored)
    if after != head:
        raise LogOutOfStep(expected=head, got=after)
    for offset, entry in enumerate(entries, 1):
        if entry.position != (epoch, after + offset):
            raise LogOutOfStep(expected=Seq(after + offset - 1), got=Seq(entry.position.seq - 1))


def fitting(sizes: Iterable[tuple[int, int]], bytes_max: int, entries_max: int) -> Iterator[int]:
    """The seqs of (seq, bytes) pairs from the first on that fit both limits, but at least one."""
    total = 0
    for count, (seq, size) in enumerate(sizes):
        total += size
        if count == entries_max or (count and total > bytes_max):
            return
        yield seq
