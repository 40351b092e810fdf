"""What runs on the stream's own thread: the blocking side of the core's effects."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from secrets import randbits
from typing import Self

from tidewire_hub import handshake
from tidewire_hub.actions import EntriesRead, Greet, QueuedBatch, ReadPage, Standing, Trim
from tidewire_hub.database import check_reserve
from tidewire_hub.layout import DataDirectory
from tidewire_hub.log.retention import Kept, Retention
from tidewire_hub.log.sqlite import SqliteLog
from tidewire_hub.settings import HubSettings
from tidewire_hub.snapshot.shelf import Shelf
from tidewire_hub.stream import Commit, Incoming, SpareState, Stream, StreamSettings
from tidewire_schemas import codec
from tidewire_schemas.errors import DatabaseError, LedElsewhere, TidewireError
from tidewire_schemas.messages import ChainPoint, Head, LastSealed
from tidewire_schemas.positions import Seq

logger = logging.getLogger(__name__)


class InternalError(TidewireError):
    """A mistake in Tidewire itself."""

    code = "internal"
    hint = "please report it, with the hub's log"


def wall_ms() -> int:
    """Milliseconds since 1970 by this machine's clock."""
    return time.time_ns() // 1_000_000


def open_stream(data: DataDirectory, settings: HubSettings, *, snapshots: Path | None = None) -> Stream:
    """The stream in a data directory; `snapshots` is another folder with them than its own."""
    limits = StreamSettings(
        batch_bytes_max=settings.batch_bytes_max,
        conflicts_max=settings.conflicts_max,
        chain_points_max=settings.chain_points_max,
        columns_kept_days=settings.columns_kept_days,
        state_cache_bytes=settings.state_cache_bytes,
        wal_bytes_max=settings.wal_bytes_max,
    )
    log = SqliteLog.open(data.log, wal_bytes_max=settings.wal_bytes_max)
    shelf = Shelf(snapshots or data.snapshots, log.log_id)
    try:
        return Stream.open(log, data.state, settings=limits, spares=_spares(shelf))
    except BaseException:
        log.close()
        raise


def _spares(shelf: Shelf) -> list[SpareState]:
    return [SpareState(kept.position, path, kept.state_digest) for kept, path in shelf.state_copies()]


class StreamHost:
    """A stream that this process leads. Every method runs on the stream's thread."""

    def __init__(self, stream: Stream, settings: HubSettings) -> None:
        self.stream = stream
        self._settings = settings
        self._greeted: set[str] = set()
        """Devices that have told this leader their tables."""
        self._retention = Retention(
            entries=settings.retention_entries,
            bytes=settings.retention_bytes,
            days=settings.retention_days,
            step_entries_max=settings.retention_step_entries,
            step_bytes_max=settings.retention_step_bytes,
        )
        self.shelf = Shelf(DataDirectory(settings.data, settings.stream).snapshots, stream.log_id)
        self.snapshots = self.shelf.load(stream.checkpoint_known)
        """Those on the disk when the stream was opened."""
        self.spare = any(stream.can_follow(kept.position) for kept, _ in self.shelf.state_copies())
        """Whether beside one of them was a copy of the state that the log can bring to its head."""

    @classmethod
    def open(cls, settings: HubSettings, *, take_over: bool = False) -> Self:
        """Open the stream of the data directory and acquire an epoch for it.

        Raises:
            LedElsewhere: another hub took this log over, and nobody said `take_over`.
        """
        host = cls(open_stream(DataDirectory(settings.data, settings.stream), settings), settings)
        try:
            mark = host.stream.stands_aside()
            if mark and not take_over:
                raise _taken_over(settings, mark)
            host.lead(0)
        except BaseException:
            host.close()
            raise
        return host

    def lead(self, heard_epoch: int) -> int:
        """An epoch above everything stored and heard; the present one if it is that already."""
        if heard_epoch and self.stream.epoch > heard_epoch:
            return self.stream.epoch
        self._greeted.clear()
        return self.stream.lead(wall_ms(), randbits(20), heard_epoch)

    def remember_replaced(self, head: Head) -> None:
        """This log goes on elsewhere: this copy of it must not lead again by itself."""
        self.stream.stand_aside(codec.encode(head))

    def forget_replaced(self) -> None:
        """This copy leads."""
        if self.stream.stands_aside():
            self.stream.stand_aside(b"")

    def append(self, group: Sequence[QueuedBatch]) -> Commit:
        """One group commit of as many of these as there is time for.

        Raises:
            DatabaseError: nothing was stored, such as where too little space is free.
        """
        check_reserve(self._settings.data, self._settings.disk_reserve_bytes)
        until_s = time.monotonic() + self._settings.commit_time_max_s
        return self.stream.sequence(
            [Incoming(*batch, greeted=batch.device in self._greeted) for batch in group],
            wall_ms(),
            lambda: time.monotonic() >= until_s,
        )

    def greet(self, greet: Greet) -> Standing:
        """Take a device's tables, and look up where it stands."""
        device, hello = greet.device, greet.hello
        if len(self._greeted) >= self._settings.devices_max:
            self._greeted.clear()  # they are asked to say Hello where it matters
        self._greeted.add(device)
        accepted = self.stream.accepted(device, hello.incarnation)
        sealed = hello.last_sealed
        parted = _parted(accepted, sealed)
        if accepted is not None and parted and not self.stream.is_in_log(device, hello.incarnation, accepted):
            # The device would take itself for a copy that was put back, and send again what the log has.
            logger.error("the state does not know the batches of %s as the log does: it is made anew", device)
            self.remake_state()
            accepted = self.stream.accepted(device, hello.incarnation)
            parted = _parted(accepted, sealed)
        recent = self.stream.recent(device, hello.incarnation, self._settings.chain_points_max) if parted else ()
        begins = accepted is None and hello.parent is not None
        parent_known = not begins or self.stream.parent(device, hello.parent or "") is not None
        if not parent_known:
            recent = self.stream.recent_of_all(device, handshake.RECENT_MAX)
        on_log = self.stream.checkpoint_known(hello.position)
        if not on_log:
            recent = self.stream.recent_of_all(device, handshake.RECENT_MAX)
        problems = self.stream.declare(
            device, hello.tables, at_ms=wall_ms(), connected=greet.connected, agents=greet.agents
        )
        return Standing(
            table_problems=tuple(problems),
            whole_since=self.stream.whole_since,
            columns_elsewhere=tuple(self.stream.columns_elsewhere(hello.tables)),
            on_log=on_log,
            common=None if on_log else self.stream.common([hello.position, *hello.history]),
            accepted=accepted,
            recent=tuple(recent),
            parent_known=parent_known,
        )

    def read(self, page: ReadPage) -> EntriesRead:
        """Entries for replay."""
        if not self.stream.checkpoint_known(page.after):
            return EntriesRead(known=False, entries=())
        entries = self.stream.read(Seq(page.after.seq), bytes_max=page.bytes_max, entries_max=page.entries_max)
        return EntriesRead(known=True, entries=[(entry.position, entry.data) for entry in entries])

    def remake_state(self) -> None:
        """Make the state anew, as the disk has changed it."""
        self.stream.remake_state(_spares(self.shelf))

    def trim(self, trim: Trim) -> Kept:
        """A step of removing what retention does not keep."""
        return self.stream.trim(self._retention, Seq(trim.needed_from), wall_ms())

    def close(self) -> None:
        """Close log and state."""
        self.stream.close()


def _parted(accepted: ChainPoint | None, sealed: LastSealed | None) -> bool:
    """Whether the log's newest batch of a device is not the device's newest one."""
    if accepted is None or sealed is None:
        return False
    return (accepted.batch, accepted.digest) != (sealed.batch, sealed.digest)


def _taken_over(settings: HubSettings, mark: bytes) -> LedElsewhere:
    head = codec.parse("head", mark)
    assert isinstance(head, Head)
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(head.at / 1000))
    return LedElsewhere(
        f"hub {head.leader} took stream {settings.stream} over from this copy of its log, at {at} UTC",
        hint="what that hub has put into the log since is not here: use its data directory; or, to go on with this "
        "copy without it, start once with --take-over",
    )


def is_storage_fault(error: BaseException) -> bool:
    """Whether an error is the disk's or the file's, so that the same again may succeed once a person helped."""
    return isinstance(error, DatabaseError | sqlite3.OperationalError | OSError | MemoryError)


def as_tidewire_error(error: BaseException) -> TidewireError:
    """Any error as one of ours."""
    if isinstance(error, TidewireError):
        return error
    if is_storage_fault(error):
        return DatabaseError(str(error) or type(error).__name__)
    return InternalError(f"{type(error).__name__}: {error}")
