"""One stream: its durable log, and the state that is the log's fold. Everything the hub decides about data is here.

    incoming batches → parse → dedupe → resolve + fold (open state transaction) → durable append → Commit
                                                                                → commit the state, at the latest later

The log is the truth. The state is a cache of its fold: if the append fails the state is rolled back and nothing is
acked; what the log has beyond the state (after a crash, or a failed commit of the state) is folded before anything else
is done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from tidewire_hub.clones import Agents
from tidewire_hub.commit import Acked, BatchProblem, Commit, Incoming, TableDigest
from tidewire_hub.database import WAL_BYTES_MAX
from tidewire_hub.declare import Declaration
from tidewire_hub.declared import DAY_MS, Declared
from tidewire_hub.log.branches import common, is_in_log
from tidewire_hub.log.port import HEARD_EPOCH_MAX, HubLog, StoredEntry
from tidewire_hub.log.retention import Kept, Retention
from tidewire_hub.sequencer import Poisoned, Sequencer
from tidewire_hub.state.chains import DeviceChain
from tidewire_hub.state.conflicts import Conflict
from tidewire_hub.state.follower import CATALOGUE, StateFollower
from tidewire_hub.state.opening import SpareState, can_follow
from tidewire_hub.state.store import Limits, State
from tidewire_schemas.messages import ChainPoint, ColumnsElsewhere, Parent, TableProblem
from tidewire_schemas.names import fold
from tidewire_schemas.positions import Epoch, Position, Seq
from tidewire_schemas.shapes import TableShape
from tidewire_schemas.snapshots import RefusedRow

__all__ = [
    "Acked",
    "BatchProblem",
    "Commit",
    "Conflict",
    "DeviceChain",
    "Incoming",
    "SpareState",
    "Stream",
    "StreamSettings",
    "TableDigest",
]

logger = logging.getLogger(__name__)

DECLARED: Final = "declared"
"""Name of the document that says which columns each device has."""

REPLACED: Final = "replaced"
"""Name of the document that says which hub took this log over, while this copy of it stood aside."""

PAGE_FRAME_BYTES_MAX: Final = 64 * 1024
"""More than a page or replay message takes around an entry."""


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Limits of one stream."""

    batch_bytes_max: int = 16 * 1024 * 1024
    """A larger batch is a problem of its sender; as in the protocol."""
    conflicts_max: int = 100_000
    """Conflict records kept; the oldest go first. About 300 bytes each."""
    chain_points_max: int = 1_000
    """Batches of each (device, incarnation) whose digest is remembered, to find where a restored copy branched off."""
    columns_kept_days: float = 90
    """A device that was not heard of for so long does not keep the hub from forgetting columns that it alone has."""
    state_cache_bytes: int = 16 * 1024 * 1024
    """Page cache of the state database."""
    wal_bytes_max: int = WAL_BYTES_MAX
    """Write-ahead log of the state that gathers before it is copied into the file."""
    state_commit_rows: int = 20_000
    """While large groups come in, the state is committed once per so many rows: its pages change again and again, and
    what a crash undoes is folded again from the log. Groups of less than a fiftieth of this are committed at once."""

    @property
    def entry_bytes_max(self) -> int:
        """A batch whose entry would be larger (refused rows travel with the hub's rows) is a problem of its sender.

        Devices take messages of twice a batch, less what a page puts around its entries; one that none of them could
        take would stop them all.
        """
        return max(self.batch_bytes_max, 2 * self.batch_bytes_max - PAGE_FRAME_BYTES_MAX)


class Stream:
    """A stream's log and state. Synchronous, used from one thread; every method may raise a `DatabaseError`."""

    def __init__(self, log: HubLog, follower: StateFollower, settings: StreamSettings) -> None:
        self._log: Final = log
        self._follower: Final = follower
        self._settings: Final = settings
        self._declaration: Final = Declaration()
        self._declared: Final = Declared(log.load_document(DECLARED), keep_ms=int(settings.columns_kept_days * DAY_MS))
        self._epoch = Epoch(0)

    @classmethod
    def open(
        cls,
        log: HubLog,
        state_path: Path | None,
        *,
        settings: StreamSettings | None = None,
        spares: Sequence[SpareState] = (),
    ) -> Self:
        """Open the state beside `log` and fold into it what the log has beyond it.

        A state that is missing, damaged, of another log, or too old for what the log still has is made anew: from the
        log, or, where that was trimmed, from the first of `spares` that fits. `state_path` None keeps it in memory.
        """
        settings = settings or StreamSettings()
        follower = StateFollower.open(
            log, state_path, _limits(settings), spares, commit_rows=settings.state_commit_rows
        )
        return cls(log, follower, settings)

    @property
    def log_id(self) -> str:
        """Identity of the log: what devices follow."""
        return self._log.log_id

    @property
    def head(self) -> Position:
        """Position of the newest entry, `START` while there is none."""
        return self._follower.head

    @property
    def oldest(self) -> Seq:
        """The lowest seq that `read` can give."""
        return self._log.oldest()

    @property
    def epoch(self) -> Epoch:
        """This leadership's epoch; 0 before `lead`."""
        return self._epoch

    def lead(self, now_ms: int, random_20_bits: int, heard_epoch: int = 0) -> Epoch:
        """Acquire leadership: a new epoch above all that were stored or heard. May be called again to raise it.

        An epoch must never be given out twice, also not by two hubs that go on from copies of one log while their
        clocks stand still: chance keeps them apart.
        """
        heard = heard_epoch if heard_epoch < HEARD_EPOCH_MAX else 0
        epoch = Epoch(max(now_ms * 1024 + random_20_bits % 1024, max(self._log.epoch(), heard) + 1 + random_20_bits))
        self._log.acquire(epoch)
        self._epoch = epoch
        self._follower.fall_behind()  # another leader may have appended
        self._follower.ready()
        return epoch

    def stand_aside(self, mark: bytes) -> None:
        """Remember, durably, who took this log over elsewhere; empty to forget it."""
        self._log.save_document(REPLACED, mark)

    def stands_aside(self) -> bytes:
        """Who took this log over elsewhere; empty if nobody did."""
        return self._log.load_document(REPLACED) or b""

    def sequence(self, incoming: Sequence[Incoming], at_ms: int, enough: Callable[[], bool] = lambda: False) -> Commit:
        """One group commit: dedupe, resolve, number, append durably, fold.

        A batch that cannot be used gives a problem and holds up no other. Once `enough` says so, after at least one,
        the others are left (`Commit.left`).

        Raises:
            StaleLeader: another hub leads; nothing was stored, nothing may be acked.
            DatabaseError: the storage failed; nothing may be acked. The stream stays usable: the same call may
                succeed once the cause (a full disk) is gone.
        """
        poisoned: dict[int, BatchProblem] = {}
        while True:
            state = self._follower.ready()
            try:
                commit = self._attempt(state, incoming, at_ms, poisoned, enough)
            except Poisoned as error:
                logger.exception("a batch of %s is left out: %s", error.problem.device, error)
                poisoned[error.index] = error.problem
                continue
            self._follower.commit(commit.rows)
            return commit

    def settle(self) -> None:
        """Commit what the state holds open."""
        self._follower.settle()

    def remake_state(self, spares: Sequence[SpareState]) -> None:
        """Make the state anew, as the disk has changed it: from the log, or where that was trimmed from a spare.

        Raises:
            StateLost: no spare will do; the state is as it was.
        """
        self._follower.remake(spares)

    def is_in_log(self, device: str, incarnation: str, point: ChainPoint) -> bool:
        """Whether the log says the same of a batch as the state does, or cannot say, as it lacks the entry."""
        return is_in_log(self._log, device, incarnation, point)

    def rest(self) -> None:
        """No more groups come in for a moment: commit what the state holds open, and give space back."""
        self.settle()
        self._log.rest()
        self._follower.rest()

    def read(self, after: Seq, *, bytes_max: int, entries_max: int) -> list[StoredEntry]:
        """Entries after `after` within both limits, at least one if there is one; as `HubLog.read`."""
        return self._log.read(after, bytes_max=bytes_max, entries_max=entries_max)

    def trim(self, retention: Retention, needed_from: Seq, now_ms: int) -> Kept:
        """Take one small step of removing old entries, none from `needed_from` on: see `Retention.step`."""
        return retention.step(self._log, needed_from, now_ms)

    @property
    def log_bytes(self) -> int:
        """About how many bytes the log takes."""
        return self._log.size_bytes()

    def checkpoint_known(self, position: Position) -> bool:
        """Whether a device's checkpoint is an entry of this log; `START` always is."""
        return self._log.position_at(Seq(position.seq)) == position

    def can_follow(self, position: Position) -> bool:
        """Whether a copy of the state at this position can be brought to the log's head."""
        return can_follow(self._log, position)

    def common(self, history: Sequence[Position]) -> Position:
        """The newest entry that this log has in common with another branch of it.

        Args:
            history: the last entry of each epoch on that branch, newest first.

        An epoch is one leadership's alone, so two branches that both have entries of an epoch are equal up to where the
        shorter one's entries of it end.
        """
        return common(self._log, self.head, history)

    def accepted(self, device: str, incarnation: str) -> ChainPoint | None:
        """The newest batch of this incarnation in the log."""
        newest = self.recent(device, incarnation, 1)
        return newest[0] if newest else None

    def recent(self, device: str, incarnation: str, count: int) -> list[ChainPoint]:
        """Up to `count` of its newest batches, newest first."""
        with self._follower.reading() as state:
            return state.chains.newest(device, incarnation, count)

    def parent(self, device: str, digest: str) -> Parent | None:
        """The batch of one of the device's incarnations that has this digest, as far as it is remembered."""
        with self._follower.reading() as state:
            return state.chains.find(device, digest)

    def recent_of_all(self, device: str, count: int) -> list[ChainPoint]:
        """Up to `count` of its newest batches of all incarnations, the latest in the log first."""
        with self._follower.reading() as state:
            return state.chains.newest_of_all(device, count)

    def declare(
        self,
        device: str,
        shapes: Sequence[TableShape],
        *,
        at_ms: int = 0,
        connected: Collection[str] = (),
        agents: Agents = "one",
    ) -> list[TableProblem]:
        """Merge the tables a device declares into the catalogue, durably; what of them cannot be taken, and why.

        Columns that it does not have, and no other device that counts either, are forgotten: those count that declared
        in the last `columns_kept_days`, or are in `connected`; and what another of the `agents` under its name has
        declared. Declaring what is known already costs no write.
        """
        state = self._follower.ready()
        if self._declared.says(device, shapes, at_ms, agents=agents):
            self._log.save_document(DECLARED, self._declared.to_json())
        with self._follower.errors():
            catalogue, problems = self._declaration.merge_all(
                state, shapes, lambda table: self._declared.held(table, at_ms, connected)
            )
        if catalogue is not state.catalogue:
            self.settle()
            self._log.save_document(CATALOGUE, catalogue.to_json())
            logger.info("%s declared %s", device, ", ".join(shape.name for shape in shapes))
            self._follower.fall_behind()  # until rows and unique values are in line with it
            self._follower.ready()
        return problems

    def columns_elsewhere(self, shapes: Sequence[TableShape]) -> Iterator[ColumnsElsewhere]:
        """Of each table, the columns that it does not have as it is declared here."""
        for shape in shapes:
            known = self._follower.state.catalogue.find(shape.name)
            here = {fold(column.name) for column in shape.columns}
            others = () if known is None else tuple(known.shown(name) for name in known.columns if name not in here)
            if others:
                yield ColumnsElsewhere(table=shape.name, columns=others)

    @property
    def whole_since(self) -> Seq:
        """The newest entry before which the log says of columns what does not count any more."""
        since = (seq for table in self._follower.state.catalogue.tables for seq in table.shape.since.values())
        return Seq(max(since, default=0))

    def tables(self) -> list[TableShape]:
        """The catalogue: for each table the union of what devices declared and what is in force."""
        return [table.shape.declared for table in self._follower.ready().catalogue.tables]

    def digests(self) -> list[TableDigest]:
        """Rows and digest of each table at the head, in order of table name."""
        state = self._follower.ready()
        tables = sorted(state.catalogue.tables, key=lambda table: table.name)
        totals = [(table.shape.name, state.rows.total(table)) for table in tables]
        return [TableDigest(name, total.rows, total.hex) for name, total in totals]

    def rows(self, table: str) -> Iterator[dict[str, Any]]:
        """Rows of a table at the head as wire values by column, in key order; NULL columns are left out."""
        with self._follower.reading() as state:
            known = state.catalogue.find(table)
            if known is None:
                return
            for _, cells in state.rows.scan(known):
                yield {known.shown(name): value for name, value in cells.items()}

    def conflicts(self, after_id: int = 0, limit: int = 100) -> list[Conflict]:
        """Conflict records after `after_id`, oldest first."""
        with self._follower.reading() as state:
            return state.conflicts.read(after_id, limit)

    def refused(self) -> list[tuple[str, RefusedRow]]:
        """Rows that were refused, as far as their records are kept, each with its device: the newest first."""
        with self._follower.reading() as state:
            return list(state.conflicts.refused())

    def devices(self) -> list[DeviceChain]:
        """Every (device, incarnation) that has a batch in the log, by name."""
        with self._follower.reading() as state:
            return state.chains.devices()

    def close(self) -> None:
        """Commit what the state holds open, and close state and log."""
        self._follower.close()
        self._log.close()

    def _attempt(
        self,
        state: State,
        incoming: Sequence[Incoming],
        at_ms: int,
        poisoned: dict[int, BatchProblem],
        enough: Callable[[], bool],
    ) -> Commit:
        """Resolve and append one group; whatever fails, the state is rolled back and nothing was acked."""
        sequencer = Sequencer(
            state,
            epoch=self._epoch,
            head=self.head,
            at_ms=at_ms,
            batch_bytes_max=self._settings.batch_bytes_max,
            entry_bytes_max=self._settings.entry_bytes_max,
            position_at=self._log.position_at,
        )
        try:
            with self._follower.errors():
                state.begin()
                commit = sequencer.take_all(incoming, poisoned, enough)
            if commit.entries:
                self._log.append(self._epoch, Seq(commit.prev.seq), commit.entries)
        except BaseException:
            self._follower.fall_behind()
            raise
        self._follower.moved_to(commit.head)
        return commit


def _limits(settings: StreamSettings) -> Limits:
    return Limits(settings.state_cache_bytes, settings.chain_points_max, settings.conflicts_max, settings.wal_bytes_max)
