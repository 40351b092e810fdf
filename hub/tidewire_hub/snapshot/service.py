"""The core's side of snapshots and retention: questions, results and time come in, effects go out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from typing import TYPE_CHECKING, Final

from tidewire_hub.actions import Effect, Now, Trim
from tidewire_hub.snapshot.desk import Answer, ChunkMessage, SnapshotDesk, SnapshotLimits
from tidewire_schemas import topics
from tidewire_schemas.snapshots import SnapshotRequest

if TYPE_CHECKING:
    from tidewire_hub.log.retention import Kept
    from tidewire_hub.paced import Window
    from tidewire_hub.settings import HubSettings
    from tidewire_hub.snapshot.manifest import KeptSnapshot
    from tidewire_hub.voice import Voice
    from tidewire_schemas.errors import TidewireError
    from tidewire_schemas.positions import Position

REPLAY_WORTH: Final = 2
"""A snapshot is advised where replay is so many times its size: a device also looks for rows that are gone."""


class SnapshotService:
    """Snapshots and retention of one stream.

    Args:
        settings: limits.
        voice: takes the effects.
        window: of paced messages.
        snapshots: those on disk.
        spare: whether beside one of them is a copy of the state that this log can follow.
        log_bytes: size of the log.
        entries: how many the log has.
    """

    def __init__(
        self,
        settings: HubSettings,
        voice: Voice,
        window: Window,
        snapshots: Sequence[KeptSnapshot],
        *,
        spare: bool,
        log_bytes: int,
        entries: int,
    ) -> None:
        self._settings = settings
        self._voice = voice
        self._desk = SnapshotDesk(
            SnapshotLimits(
                reuse_entries=settings.snapshot_reuse_entries,
                kept=settings.snapshots_kept,
                keep_s=settings.snapshot_keep_s,
                hold_s=settings.snapshot_hold_s,
                interval_s=settings.snapshot_interval_s,
                cache_bytes_max=settings.snapshot_cache_bytes_max,
            ),
            window,
            snapshots,
        )
        self._log_bytes = log_bytes
        self._entries = entries
        self._retains = bool(settings.retention_entries or settings.retention_bytes or settings.retention_days)
        self._spare = spare
        self._look_at = 0.0 if self._retains or snapshots or not spare else inf
        self._trimming = False
        self._removed = 0

    # ── devices ───────────────────────────────────────────────────────────────────────────────────────────────────

    def ask(self, device: str, request: SnapshotRequest, head: Position, oldest: int, now: Now) -> None:
        """A device asks for a manifest or for chunks."""
        self._do(self._desk.ask(device, request, head=head, oldest=oldest, now_s=now.s))

    def advised(self, position: Position, head: Position, oldest: int) -> bool:
        """Whether a device at this position does better with a snapshot than with replay."""
        if position.seq + 1 < oldest:
            return True
        behind = head.seq - position.seq
        if behind <= self._settings.snapshot_advised_entries:
            return False
        replay_bytes = behind * self._log_bytes // max(self._entries, 1)
        return self._desk.bytes_known == 0 or replay_bytes > REPLAY_WORTH * self._desk.bytes_known

    def forget_all(self) -> None:
        """The connection is lost: devices ask again."""
        self._desk.forget_all()

    def send_next(self) -> bool:
        """Send or read a chunk, if any waits and there is room; whether there was one."""
        step = self._desk.next()
        if isinstance(step, ChunkMessage):
            self._voice.publish(topics.inbox(step.device, self._settings.stream), step.payload, paced=True)
        elif step is not None:
            self._voice.add(step)
        return step is not None

    # ── what became of effects ────────────────────────────────────────────────────────────────────────────────────

    def appended(self, sizes: Iterable[int]) -> None:
        """Entries came into the log."""
        for size in sizes:
            self._entries += 1
            self._log_bytes += size

    def made(self, snapshot: KeptSnapshot, now: Now) -> None:
        """A snapshot is there."""
        self._voice.report(
            "info",
            "a snapshot is made",
            snapshot=snapshot.snapshot,
            seq=snapshot.position.seq,
            chunks=len(snapshot.sizes),
            bytes=snapshot.bytes,
        )
        self._spare = True
        self._do(self._desk.made(snapshot, now.s))
        self._look_at = now.s

    def make_failed(self, error: TidewireError, now: Now) -> None:
        """A snapshot could not be made."""
        self._voice.report("error", f"cannot make a snapshot: {error}")
        self._do(self._desk.failed(error.message, error.hint, now.s))

    def spare_lost(self) -> None:
        """The copy of the state beside the newest snapshot is gone."""
        self._spare = False
        self._look_at = 0.0

    def chunk_read(self, snapshot: str, chunk: int, body: bytes) -> None:
        """A chunk came from the disk."""
        self._desk.chunk_read(snapshot, chunk, body)

    def chunk_failed(self, snapshot: str, error: TidewireError, *, damaged: bool) -> None:
        """A chunk could not be read; with a damaged snapshot its copy of the state goes."""
        self._voice.report("error", f"cannot read a snapshot: {error}", snapshot=snapshot, removed=damaged)
        newest = self._desk.newest
        if damaged and newest is not None and newest.snapshot == snapshot:
            self.spare_lost()
        self._do(self._desk.chunk_failed(snapshot, error.message, error.hint, damaged=damaged))

    def trimmed(self, kept: Kept, head: Position, now: Now) -> None:
        """A step of trimming was taken."""
        self._trimming = False
        self._removed += kept.removed
        self._log_bytes = kept.log_bytes
        self._entries = max(1, self._entries - kept.removed)
        if kept.removed:
            self._trim(now)
            return
        if self._removed:
            self._voice.report("info", "the log was trimmed", oldest=kept.oldest, removed=self._removed)
            self._removed = 0
        if kept.held_up:
            self._do(self._desk.wanted_for_trimming(head, now.s, spare=self._spare))

    def trim_failed(self, error: TidewireError) -> None:
        """The storage failed: the next look tries again."""
        self._trimming = False
        self._voice.report("error", f"cannot trim the log: {error}")

    # ── time ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def wake_at(self) -> float:
        """When `on_time` has something to do."""
        return self._look_at

    def on_time(self, now: Now, oldest: int) -> None:
        """Time has passed."""
        if now.s < self._look_at:
            return
        self._look_at = now.s + self._settings.retention_interval_s
        if oldest > 1 and not self._spare:
            self._do(self._desk.make())  # what is left of the oldest entries must not be in one file alone
        self._do(self._desk.tidy(now.s, trimmed=self._retains or oldest > 1))
        self._trim(now)

    def _trim(self, now: Now) -> None:
        if self._retains and not self._trimming:
            self._trimming = True
            self._voice.add(Trim(self._desk.needed_from(now.s) if self._spare else 1))

    def _do(self, steps: Sequence[Effect | Answer]) -> None:
        for step in steps:
            if isinstance(step, Answer):
                self._voice.tell(step.device, step.message)
            else:
                self._voice.add(step)
