"""The way down for who is behind: replayed pages and chunks of snapshots, in turns, through one window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidewire_hub.actions import Effect, EntriesRead, Now, ReadPage
from tidewire_hub.paced import Window
from tidewire_hub.replay import Cursor, Replayer
from tidewire_hub.snapshot.service import SnapshotService
from tidewire_schemas import topics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidewire_hub.actions import ReadChunk
    from tidewire_hub.log.retention import Kept
    from tidewire_hub.sessions import Session, Sessions
    from tidewire_hub.settings import HubSettings
    from tidewire_hub.situation import Situation
    from tidewire_hub.snapshot.manifest import KeptSnapshot
    from tidewire_hub.voice import Voice
    from tidewire_schemas.errors import TidewireError
    from tidewire_schemas.messages import ReplayRequest
    from tidewire_schemas.positions import Position
    from tidewire_schemas.snapshots import SnapshotRequest


class Downloads:
    """Sends devices what they ask for, as far as there is room.

    Args:
        settings: limits and names.
        log: id of the log.
        voice: through which it speaks.
        sessions: who asks.
        situation: how far the log goes.
        snapshots: those on disk.
        spare: see `SnapshotService`.
        log_bytes: size of the log.
    """

    def __init__(
        self,
        settings: HubSettings,
        log: str,
        *,
        voice: Voice,
        sessions: Sessions,
        situation: Situation,
        snapshots: Sequence[KeptSnapshot],
        spare: bool,
        log_bytes: int,
    ) -> None:
        self._settings = settings
        self._voice = voice
        self._sessions = sessions
        self._situation = situation
        self._window = Window(settings.replay_in_flight_max)
        self._replayer = Replayer(
            log,
            payload_bytes_max=settings.payload_bytes_max,
            block_entries=settings.replay_block_entries,
            cache_bytes_max=settings.replay_cache_bytes_max,
            window=self._window,
        )
        entries = max(0, situation.head.seq - situation.oldest + 1)
        self.snapshots = SnapshotService(
            settings, voice, self._window, snapshots, spare=spare, log_bytes=log_bytes, entries=entries
        )
        self._snapshots_turn = False

    def set_payload_bytes_max(self, payload_bytes_max: int) -> None:
        """What the broker takes in one message."""
        self._replayer.set_payload_bytes_max(payload_bytes_max)

    def forget_all(self) -> None:
        """The connection is lost: devices ask again."""
        self._replayer.forget_all()
        self.snapshots.forget_all()

    # ── what devices ask ──────────────────────────────────────────────────────────────────────────────────────────

    def ask_replay(self, session: Session, request: ReplayRequest) -> None:
        """A device asks for entries."""
        incarnation, boot, position = request.incarnation, request.boot, request.position
        oldest = self._situation.oldest_whole
        if position.seq + 1 < oldest:
            text = f"entries can be replayed from {oldest} on, not from {position.seq + 1}"
            hint = "the device takes a snapshot"
            self._voice.complain(session, "replay_too_old", text, hint=hint, incarnation=incarnation, boot=boot)
            return
        self._replayer.request(Cursor(session.device, incarnation, boot, position, request.pages))
        self._send()

    def ask_snapshot(self, session: Session, request: SnapshotRequest, now: Now) -> None:
        """A device asks for a manifest or for chunks."""
        self.snapshots.ask(session.device, request, self._situation.head, self._situation.oldest_whole, now)
        self._send()

    def snapshot_advised(self, position: Position) -> bool:
        """Whether a device at this position does better with a snapshot than with replay."""
        return self.snapshots.advised(position, self._situation.head, self._situation.oldest_whole)

    # ── what became of effects ────────────────────────────────────────────────────────────────────────────────────

    def on_paced_sent(self, now: Now) -> list[Effect]:
        """A paced publish is with the broker, or failed."""
        self._window.sent()
        self._send()
        return self._voice.take()

    def on_page_read(self, after: Position, read: EntriesRead, now: Now) -> list[Effect]:
        """Entries for replay came."""
        text = f"the checkpoint {list(after)} is not an entry of this log"
        for cursor in self._replayer.page_read(after, read):
            session = self._sessions.of(cursor.device)
            self._voice.complain(session, "hello_needed", text, incarnation=cursor.incarnation, boot=cursor.boot)
        self._send()
        return self._voice.take()

    def on_read_failed(self, after: Position, error: TidewireError, now: Now) -> list[Effect]:
        """Entries for replay could not be read: the devices ask again."""
        self._voice.report("error", f"cannot read the log: {error}", after=after.seq)
        for cursor in self._replayer.read_failed(after):
            session = self._sessions.of(cursor.device)
            self._voice.complain(
                session, error.code, error.message, hint=error.hint, incarnation=cursor.incarnation, boot=cursor.boot
            )
        self._send()
        return self._voice.take()

    def on_snapshot_made(self, snapshot: KeptSnapshot, now: Now) -> list[Effect]:
        """A snapshot is on the disk."""
        self.snapshots.made(snapshot, now)
        return self._voice.take()

    def on_snapshot_failed(self, error: TidewireError, now: Now) -> list[Effect]:
        """A snapshot could not be made."""
        self.snapshots.make_failed(error, now)
        return self._voice.take()

    def on_chunk_read(self, chunk: ReadChunk, body: bytes, now: Now) -> list[Effect]:
        """A chunk of a snapshot came."""
        self.snapshots.chunk_read(chunk.snapshot.snapshot, chunk.chunk, body)
        self._send()
        return self._voice.take()

    def on_chunk_failed(self, chunk: ReadChunk, error: TidewireError, now: Now, *, damaged: bool) -> list[Effect]:
        """A chunk of a snapshot could not be read; `damaged` says that it never will be."""
        self.snapshots.chunk_failed(chunk.snapshot.snapshot, error, damaged=damaged)
        self._send()
        return self._voice.take()

    def on_trimmed(self, kept: Kept, now: Now) -> list[Effect]:
        """A step of trimming the log was taken."""
        self._situation.oldest = kept.oldest
        self.snapshots.trimmed(kept, self._situation.head, now)
        return self._voice.take()

    def on_trim_failed(self, error: TidewireError, now: Now) -> list[Effect]:
        """The log could not be trimmed."""
        self.snapshots.trim_failed(error)
        return self._voice.take()

    # ── turns ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _send(self) -> None:
        """Send what fits in the window: pages and chunks in turns, so that neither waits for all of the other."""
        idle = 0
        while idle < 2:
            self._snapshots_turn = not self._snapshots_turn
            found = self.snapshots.send_next() if self._snapshots_turn else self._replay_next()
            idle = 0 if found else idle + 1

    def _replay_next(self) -> bool:
        step = self._replayer.next(self._situation.head)
        if isinstance(step, ReadPage):
            self._voice.add(step)
        elif step is not None:
            self._voice.publish(topics.inbox(step.device, self._settings.stream), step.payload, paced=True)
        return step is not None
