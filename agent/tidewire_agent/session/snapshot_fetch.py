"""Taking a snapshot: its manifest, then its chunks, a few ahead of the one that is being loaded. Pure.

The file says what is needed next, so a fetch goes on after a cut of either side. One piece of work is with the file at
a time (`busy`); until it has said `loaded`, nothing else is decided for it.
"""

from __future__ import annotations

import enum
from math import inf
from typing import Final

from tidewire_agent.load_standing import LoadStanding
from tidewire_agent.session.complaints import BROKEN_CHUNK, NO_CHUNKS, snapshot_gone
from tidewire_agent.session.effects import (
    BeginLoad,
    ClearProblem,
    Effect,
    FinishLoad,
    ForgetLoad,
    LoadChunk,
    RequestSnapshot,
    SayProblem,
    Trouble,
)
from tidewire_agent.session.limits import SessionLimits
from tidewire_schemas.codec import rows_digest
from tidewire_schemas.messages import Welcome
from tidewire_schemas.positions import Position
from tidewire_schemas.snapshots import Snapshot, SnapshotChunk

OVERDUE_MAX: Final = 2
"""So many times what was asked for may not come, until that is a problem and not a lost message."""


class Plan(enum.Enum):
    """How a device gets what it is missing."""

    REPLAY = enum.auto()
    """Entries."""
    SNAPSHOT = enum.auto()
    """A snapshot of all tables, and entries after it."""
    WAIT = enum.auto()
    """Some tables are too far behind the others for entries: they are to wait for a snapshot."""
    TABLES = enum.auto()
    """Entries, and beside them a snapshot of the tables that wait for one."""


class SnapshotFetch:
    """Takes one snapshot.

    Args:
        limits: of which these matter: how many chunks to ask for at once, and to hold; after which time what does not
            come is asked for again; and how many entries a table may lie behind before it takes a snapshot.
    """

    def __init__(self, limits: SessionLimits) -> None:
        self._chunks_ahead = limits.snapshot_chunks_ahead_max
        self._oldest = 0
        self._timeout_s = limits.stall_timeout_s
        self._table_replay_entries_max = limits.table_replay_entries_max
        self._standing: LoadStanding | None = None
        self._manifest: Snapshot | None = None
        self._chunks: dict[int, SnapshotChunk] = {}
        self._complaints: set[str] = set()
        self._in_hand = -1
        """The chunk that the file is at work on, while it is busy."""
        self._credit = 0
        self._overdue = 0
        self._gone = False
        """Whether the hub does not have it any more, and that is to be told to the file."""
        self._beginning = False
        """Whether the file is told to begin: it does not where a handshake must come first."""
        self.wanted = False
        """Whether a snapshot is to be taken in the present conversation."""
        self.whole = False
        """Whether it is of all tables."""
        self.busy = False
        """Whether the file is at work on it."""
        self.is_over = False
        """Whether the snapshot that was to be loaded is, or cannot be: the next handshake tells how to go on."""
        self.deadline = inf

    @property
    def standing(self) -> LoadStanding | None:
        """How far the load is, as the file said last."""
        return self._standing

    def stand(self, standing: LoadStanding | None) -> None:
        """What the file says."""
        self._standing = standing

    def plan(self, welcome: Welcome, position: Position, checkpoint: Position) -> Plan:
        """What to do after this `Welcome`: tables stand at `checkpoint`, or some of them before it, at `position`."""
        self._oldest = welcome.oldest
        here = max(position.seq, checkpoint.seq)
        if (self._standing is not None and self._standing.whole) or here + 1 < self._oldest:
            return Plan.SNAPSHOT
        return Plan.SNAPSHOT if welcome.snapshot_advised else self.plan_by_entries(position, checkpoint)

    def plan_by_entries(self, position: Position, checkpoint: Position) -> Plan:
        """The same where entries are better, as the newest snapshot brings the device no further."""
        late = max(position.seq, checkpoint.seq) - position.seq
        if late and (position.seq + 1 < self._oldest or late > self._table_replay_entries_max):
            return Plan.WAIT
        return Plan.REPLAY if self._standing is None else Plan.TABLES

    def is_needed(self, manifest: Snapshot, checkpoint: Position) -> bool:
        """Whether a snapshot that came for all tables brings the device further, or is being loaded already."""
        return not self.whole or self._snapshot is not None or manifest.position.seq > checkpoint.seq

    def is_outdated(self, manifest: Snapshot) -> bool:
        """Whether entries that follow this snapshot cannot be replayed: it was asked for in an earlier conversation."""
        return manifest.position.seq + 1 < self._oldest

    def pause(self) -> None:
        """The conversation is over: what was asked for does not come any more."""
        self.wanted = False
        self._manifest = None
        self._chunks.clear()
        self._credit = 0
        self._gone = False
        self.deadline = inf

    def start(self, *, whole: bool, position: Position, now: float) -> list[Effect]:
        """Begin, or go on where the file stands."""
        self.wanted, self.whole, self._overdue = True, whole, 0
        return self._go_on(position, now)

    def loaded(self, standing: LoadStanding | None, position: Position, now: float) -> list[Effect]:
        """The file has done what it was told."""
        self.busy = False
        was_under_way, self._beginning = self._snapshot is not None or self._beginning, False
        self.is_over = was_under_way and (standing is None or standing.snapshot is None)
        self._standing = standing
        self._gone = self._gone and self._snapshot is not None
        return self._go_on(position, now) if self.wanted and not self.is_over else []

    def moved(self, position: Position, now: float) -> list[Effect]:
        """Entries were applied: a snapshot that lay ahead may be loaded now."""
        return self._go_on(position, now) if self.wanted and self._manifest is not None else []

    def take_manifest(self, manifest: Snapshot, position: Position, now: float) -> list[Effect]:
        """A manifest came."""
        if not self.wanted or self.busy or self._snapshot is not None or manifest.position.seq < self._least:
            return []
        self._manifest = manifest
        self._overdue = 0
        self.deadline = inf
        return [*self._well(), *self._go_on(position, now)]

    def take_chunk(self, chunk: SnapshotChunk, position: Position, now: float) -> list[Effect]:
        """A chunk came."""
        if not self.wanted or chunk.snapshot != self._snapshot or not self._is_missing(chunk.chunk):
            return []
        if rows_digest(chunk.rows) != chunk.digest:
            self._credit = 0
            self.deadline = now + self._timeout_s  # asked for again then, as the next may be no better
            return self._complain(BROKEN_CHUNK)
        self._chunks[chunk.chunk] = chunk
        self._credit = max(0, self._credit - 1)
        self._overdue = 0
        self.deadline = now + self._timeout_s if self._credit else inf
        return [*self._well(), *self._go_on(position, now)]

    def wait(self, now: float) -> None:
        """The hub says that it takes its time: the snapshot is being made, or it has much to do."""
        if self.deadline != inf:
            self._overdue = 0
            self.deadline = now + self._timeout_s

    def gone(self, position: Position, now: float) -> list[Effect]:
        """The hub does not have it any more."""
        if not self.wanted or self._beginning:
            return []  # it is found out again when more is asked for
        self._credit = 0
        self.deadline = inf
        self._gone = self._snapshot is not None
        self._manifest = None
        return self._go_on(position, now)

    def overdue(self, position: Position, now: float) -> list[Effect]:
        """Time is up: ask again."""
        self._overdue += 1
        self._credit = 0
        self.deadline = inf
        said = self._complain(NO_CHUNKS) if self._overdue == OVERDUE_MAX else []
        return [*said, *self._go_on(position, now)]

    # ── what to do next ───────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _least(self) -> int:
        return 0 if self._standing is None else self._standing.least

    @property
    def _snapshot(self) -> str | None:
        return None if self._standing is None else self._standing.snapshot

    def _go_on(self, position: Position, now: float) -> list[Effect]:
        if self._snapshot is None:
            return self._begin(position, now)
        assert self._standing is not None  # it names the snapshot
        if not self._standing.missing:
            if self.busy:
                return []
            self.busy = True
            return [FinishLoad()]
        if self._gone and self._next_needed()[1]:
            return self._forget()
        effects: list[Effect] = []
        due = self._chunks.pop(self._standing.missing[0].start, None) if not self.busy else None
        if due is not None:
            self.busy = True
            self._in_hand = due.chunk
            effects.append(LoadChunk(due))
        return [*effects, *self._ask_more(now)]

    def _forget(self) -> list[Effect]:
        """What is missing does not come; what is loaded stays in the tables until the next snapshot says otherwise."""
        assert self._standing is not None  # it names the snapshot
        if self.busy:
            return []
        self.busy, self._gone = True, False
        return [*self._complain(snapshot_gone(self._standing.loaded, self._standing.chunks)), ForgetLoad()]

    def _begin(self, position: Position, now: float) -> list[Effect]:
        if self.busy:
            return []
        if self._manifest is not None and self._manifest.position.seq < self._least:
            self._manifest = None
        if self._manifest is None:
            if self.deadline != inf:
                return []
            self.deadline = now + self._timeout_s
            # Of all tables: the answer may come so late that others are wanted by then.
            return [RequestSnapshot(None, None, 0, 0, self._least, position.seq)]
        if not self.whole and self._manifest.position.seq > position.seq:
            return []  # the log leads there
        manifest, self._manifest = self._manifest, None
        self.busy = self._beginning = True
        return [BeginLoad(manifest, self.whole)]

    def _ask_more(self, now: float) -> list[Effect]:
        if self._credit or len(self._chunks) > self._chunks_ahead // 2:
            return []
        first, count = self._next_needed()
        if not count:
            return []
        self._credit = count
        self.deadline = now + self._timeout_s
        return [RequestSnapshot(self._snapshot, None, first, count)]

    def _next_needed(self) -> tuple[int, int]:
        """First chunk that is neither here nor at work, and how many to ask for from there on."""
        assert self._standing is not None  # only while a snapshot is being loaded
        for numbers in self._standing.missing:
            for number in numbers:
                if number not in self._chunks and not (self.busy and number == self._in_hand):
                    return number, min(self._chunks_ahead, numbers.stop - number)
        return 0, 0

    def _is_missing(self, number: int) -> bool:
        if self._standing is None or (self.busy and number == self._in_hand):
            return False
        return any(number in numbers for numbers in self._standing.missing)

    def _complain(self, trouble: Trouble) -> list[Effect]:
        self._complaints.add(trouble.code)
        return [SayProblem(trouble)]

    def _well(self) -> list[Effect]:
        over, self._complaints = self._complaints, set()
        return [ClearProblem(code) for code in sorted(over)]
