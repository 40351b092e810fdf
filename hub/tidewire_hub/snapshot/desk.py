"""Who gets which snapshot: when one is made, which are kept, which device gets which chunk next. Pure.

Devices that load a snapshot together read the same chunks: each is read from the disk once while it is in the cache.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tidewire_hub.actions import Effect, MakeSnapshot, ReadChunk, RemoveSnapshot
from tidewire_hub.paced import Cache, Window
from tidewire_hub.snapshot.manifest import KeptSnapshot, newest_first
from tidewire_schemas.codec import encode_snapshot_chunk
from tidewire_schemas.messages import Problem
from tidewire_schemas.positions import Position
from tidewire_schemas.snapshots import Snapshot, SnapshotRequest


@dataclass(frozen=True, slots=True)
class SnapshotLimits:
    """See `HubSettings`."""

    reuse_entries: int
    kept: int
    keep_s: float
    hold_s: float
    interval_s: float
    cache_bytes_max: int


@dataclass(slots=True)
class Fetch:
    """The chunks that one device asked for and has not been sent."""

    device: str
    incarnation: str
    boot: str
    snapshot: KeptSnapshot
    next: int
    end: int


class ChunkMessage(NamedTuple):
    """A `SnapshotChunk` for one device, ready to be sent."""

    device: str
    payload: bytes


class Answer(NamedTuple):
    """A manifest, or why there is none."""

    device: str
    message: Snapshot | Problem


@dataclass(slots=True)
class _OnShelf:
    snapshot: KeptSnapshot
    asked_at_s: float | None
    """When a device last asked for it, or it was made; None from a restart to the first look at the clock."""


class SnapshotDesk:
    """Decides about snapshots.

    Args:
        limits: see `HubSettings`.
        window: paced messages that may be on their way; shared with replay.
        snapshots: those on disk.
    """

    def __init__(self, limits: SnapshotLimits, window: Window, snapshots: Sequence[KeptSnapshot] = ()) -> None:
        self._limits = limits
        self._window = window
        self._shelf = {kept.snapshot: _OnShelf(kept, None) for kept in newest_first(snapshots)}
        self._cache: Cache[tuple[str, int], bytes] = Cache(limits.cache_bytes_max, len)
        self._waiting: dict[str, SnapshotRequest] = {}
        self._making = False
        self._made_at_s = -limits.interval_s
        self._turns: deque[Fetch] = deque()
        self._by_device: dict[str, Fetch] = {}
        self._reading: tuple[str, int] | None = None
        self.bytes_known = max((kept.bytes for kept in snapshots), default=0)
        """Size of the newest snapshot ever seen, 0 while none was."""

    @property
    def newest(self) -> KeptSnapshot | None:
        """The snapshot that reaches furthest."""
        return next(iter(newest_first([on.snapshot for on in self._shelf.values()])), None)

    def needed_from(self, now_s: float) -> int:
        """The lowest seq that the log must keep, so that a device which loads a snapshot can go on from it by replay.

        That is the entry after the newest one, or after one that is being loaded; 1 while there is none.
        """
        newest = self.newest
        if newest is None:
            return 1
        self._hold_waiting(now_s)
        held = [on.snapshot for on in self._shelf.values() if self._held(on, now_s)]
        return min(kept.position.seq for kept in (newest, *held)) + 1

    # ── questions ─────────────────────────────────────────────────────────────────────────────────────────────────

    def ask(
        self, device: str, request: SnapshotRequest, *, head: Position, oldest: int, now_s: float
    ) -> list[Effect | Answer]:
        """A device asks; what it asked before is over. Chunks come out of `next`."""
        self._forget(device)
        if request.snapshot is None:
            newest = self.newest
            least = max(oldest - 1, request.least)
            reaches = newest is not None and newest.position.seq >= least
            if newest is not None and reaches and self._may_serve(newest, head, now_s):
                return [self._manifest(newest, device, request, now_s)]
            self._waiting[device] = request.model_copy(update={"least": min(least, head.seq)})
            building = _problem(request, "snapshot_building", "a snapshot is being made: its manifest follows")
            return [Answer(device, building), *self.make()]
        on = self._shelf.get(request.snapshot)
        if on is None:
            return [Answer(device, _gone(request, "the hub does not have this snapshot"))]
        if request.chunks == 0:
            return [self._manifest(on.snapshot, device, request, now_s)]
        chunks = len(on.snapshot.sizes)
        if request.first >= chunks:
            return [Answer(device, _gone(request, f"there is no chunk {request.first}: it has {chunks}"))]
        on.asked_at_s = now_s
        end = min(request.first + request.chunks, chunks)
        fetch = Fetch(device, request.incarnation, request.boot, on.snapshot, request.first, end)
        self._by_device[device] = fetch
        self._turns.append(fetch)
        return []

    def forget_all(self) -> None:
        """The connection is lost: devices ask again."""
        self._turns.clear()
        self._by_device.clear()
        self._waiting.clear()

    # ── making and removing ───────────────────────────────────────────────────────────────────────────────────────

    def wanted_for_trimming(self, head: Position, now_s: float, *, spare: bool) -> list[Effect]:
        """The log could be shorter if there were a newer snapshot: make one, unless the last is too recent.

        None is made where it would not help: the newest reaches the head, or an older one, which a device is loading,
        is what the log is kept for. Where it has no `spare`, a copy of the state beside it, it does not count.
        """
        newest = self.newest
        if newest is not None and spare:
            reached = newest.position.seq
            if reached >= head.seq or self.needed_from(now_s) <= reached:
                return []
        recent = now_s < self._made_at_s + self._limits.interval_s
        return [] if recent or self._full(now_s) else self.make()

    def make(self) -> list[Effect]:
        """Make one, unless one is being made."""
        if self._making:
            return []
        self._making = True
        return [MakeSnapshot()]

    def made(self, snapshot: KeptSnapshot, now_s: float) -> list[Effect | Answer]:
        """A snapshot is there: those who wait for it hear of it, and older ones may go."""
        self._making = False
        self._made_at_s = now_s
        self.bytes_known = snapshot.bytes
        self._shelf[snapshot.snapshot] = _OnShelf(snapshot, now_s)
        served = {d: request for d, request in self._waiting.items() if snapshot.position.seq >= request.least}
        self._waiting = {d: request for d, request in self._waiting.items() if d not in served}
        answers = [self._manifest(snapshot, device, request, now_s) for device, request in served.items()]
        again = self.make() if self._waiting else []  # it was begun before these had come so far
        return [*answers, *self.tidy(now_s, trimmed=True), *again]

    def failed(self, message: str, hint: str, now_s: float) -> list[Answer]:
        """A snapshot could not be made."""
        self._making = False
        self._made_at_s = now_s
        waiting, self._waiting = self._waiting, {}
        return [
            Answer(device, _problem(request, "snapshot_failed", message, hint=hint))
            for device, request in waiting.items()
        ]

    def tidy(self, now_s: float, *, trimmed: bool) -> list[Effect]:
        """Remove snapshots that are too many or too old, but none that is being loaded.

        `trimmed` says that the newest must stay however old it is: the log alone does not hold everything any more.
        """
        self._hold_waiting(now_s)
        order = newest_first([on.snapshot for on in self._shelf.values()])
        effects: list[Effect] = []
        for place, kept in enumerate(order):
            on = self._shelf[kept.snapshot]
            if on.asked_at_s is None:
                on.asked_at_s = now_s
            too_many = place >= self._limits.kept
            too_old = now_s >= on.asked_at_s + self._limits.keep_s and not (place == 0 and trimmed)
            if (too_many or too_old) and not self._held(on, now_s):
                effects += self._remove(kept.snapshot)
        return effects

    # ── chunks ────────────────────────────────────────────────────────────────────────────────────────────────────

    def next(self) -> ChunkMessage | ReadChunk | None:
        """What to send or read now: one chunk per device and turn, and one read at a time."""
        if self._window.full:
            return None
        for place, fetch in enumerate(self._turns):
            body = self._cache.get((fetch.snapshot.snapshot, fetch.next))
            if body is not None:
                del self._turns[place]
                return self._send(fetch, body)
            if self._reading is None:
                self._reading = (fetch.snapshot.snapshot, fetch.next)
                return ReadChunk(fetch.snapshot, fetch.next)
        return None

    def chunk_read(self, snapshot: str, chunk: int, body: bytes) -> None:
        """A chunk came from the disk."""
        self._reading = None
        self._cache.put((snapshot, chunk), body)

    def chunk_failed(self, snapshot: str, message: str, hint: str, *, damaged: bool) -> list[Effect | Answer]:
        """A chunk could not be read; if the file is `damaged` the whole snapshot goes."""
        self._reading = None
        concerned = [fetch for fetch in self._turns if fetch.snapshot.snapshot == snapshot]
        code = "snapshot_gone" if damaged else "snapshot_failed"
        answers: list[Effect | Answer] = []
        for fetch in concerned:
            self._forget(fetch.device)
            answers.append(Answer(fetch.device, _problem(fetch, code, message, hint=hint)))
        return [*answers, *(self._remove(snapshot) if damaged else ())]

    # ── helpers ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _manifest(self, kept: KeptSnapshot, device: str, request: SnapshotRequest, now_s: float) -> Answer:
        self._shelf[kept.snapshot].asked_at_s = now_s
        return Answer(device, kept.manifest_for(device, request))

    def _may_serve(self, kept: KeptSnapshot, head: Position, now_s: float) -> bool:
        """Whether a snapshot is young enough, or must do as there is no room for a younger one."""
        return head.seq - kept.position.seq <= self._limits.reuse_entries or self._full(now_s)

    def _full(self, now_s: float) -> bool:
        """Whether devices are loading as many snapshots as may be kept."""
        return sum(self._held(on, now_s) for on in self._shelf.values()) >= self._limits.kept

    def _held(self, on: _OnShelf, now_s: float) -> bool:
        return on.asked_at_s is None or now_s < on.asked_at_s + self._limits.hold_s

    def _hold_waiting(self, now_s: float) -> None:
        """Devices that wait for chunks are loading, however long ago they asked: once these are sent they ask again."""
        for fetch in self._turns:
            self._shelf[fetch.snapshot.snapshot].asked_at_s = now_s

    def _remove(self, snapshot: str) -> list[Effect]:
        if self._shelf.pop(snapshot, None) is None:
            return []
        self._cache.drop(lambda key: key[0] == snapshot)
        for fetch in [fetch for fetch in self._turns if fetch.snapshot.snapshot == snapshot]:
            self._forget(fetch.device)
        return [RemoveSnapshot(snapshot)]

    def _send(self, fetch: Fetch, body: bytes) -> ChunkMessage:
        fetch.next += 1
        if fetch.next == fetch.end:
            del self._by_device[fetch.device]
        else:
            self._turns.append(fetch)
        self._window.sending()
        return ChunkMessage(fetch.device, encode_snapshot_chunk(fetch.incarnation, fetch.boot, body))

    def _forget(self, device: str) -> None:
        self._waiting.pop(device, None)
        fetch = self._by_device.pop(device, None)
        if fetch is not None:
            self._turns.remove(fetch)


def _problem(asked: SnapshotRequest | Fetch, code: str, message: str, *, hint: str = "") -> Problem:
    return Problem(incarnation=asked.incarnation, boot=asked.boot, code=code, message=message, hint=hint, retry=True)


def _gone(request: SnapshotRequest, message: str) -> Problem:
    hint = "the device takes another one; if that goes on, snapshot_hold_s is too short for how slowly it loads"
    return _problem(request, "snapshot_gone", message, hint=hint)
