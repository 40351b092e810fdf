"""Work on the file that the session wants done: pages are applied and snapshots loaded, batches get new numbers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from tidewire_agent.errors import LogDiverged
from tidewire_agent.runtime import filework
from tidewire_agent.runtime.lock_share import LockShare
from tidewire_agent.runtime.patient_database import PatientDatabase
from tidewire_agent.runtime.session_shell import SessionShell
from tidewire_agent.runtime.table_watch import TableWatch
from tidewire_agent.runtime.troubles import Troubles
from tidewire_agent.session.effects import (
    AnswerFresh,
    ApplyPage,
    AwaitSnapshot,
    BeginLoad,
    FinishLoad,
    Follow,
    ForgetLoad,
    Heal,
    LoadChunk,
    Renumber,
)
from tidewire_agent.store.apply import Applied
from tidewire_agent.store.edge_store import EdgeStore

DIVERGED_PAUSE_S: Final = 5.0
"""After a page that contradicts the log applied so far, how long until the hub is asked again."""

_log = logging.getLogger("tidewire.agent")


class FileLoop:
    """Performs the effects that write the file, in order.

    Args:
        wake: called when there may be something to seal.
        on_change: called when something changed that status shows.
    """

    def __init__(
        self,
        shell: SessionShell,
        *,
        patient: PatientDatabase,
        lock: LockShare,
        tables: TableWatch,
        troubles: Troubles,
        wake: Callable[[], None],
        on_change: Callable[[bool], None],
    ) -> None:
        self._shell = shell
        self._session = shell.session
        self._patient = patient
        self._lock = lock
        self._tables = tables
        self._troubles = troubles
        self._wake = wake
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._parked = self._behind = 0
        """As they were said last."""

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            match await self._shell.to_file.get():
                case ApplyPage() as effect:
                    await self._apply(effect)
                case Follow(log, epoch, head, elsewhere):
                    await self._patient.run(EdgeStore.follow, log, epoch, head, elsewhere)
                    self._wake()  # tables that were waiting for a head may have seeds to offer now
                case AnswerFresh(nonce, head):
                    await self._patient.run(filework.answer_fresh, nonce, head)
                    if self._session.fresh_waits:
                        self._wake()
                case AwaitSnapshot():
                    await self._patient.run(EdgeStore.load_wait)
                    await self._shell.reintroduce()
                case BeginLoad() | LoadChunk() | FinishLoad() | ForgetLoad() as effect:
                    await self._load(effect)
                case Heal(common, points):
                    _log.warning("going back to entry %d, the last that the hub has, too", common.seq)
                    await self._patient.run(EdgeStore.heal, common, points)
                    await self._shell.reintroduce()
                case Renumber(after, digest, apart):
                    shared = "no batch" if after is None else f"batch {after} and those before it"
                    if apart is None:
                        text = "this database and the hub have %s in common; what follows gets new numbers"
                    else:
                        text = "the hub has %s; what it cannot take of the rest becomes smaller, with new numbers"
                    _log.warning(text, shared)
                    await self._patient.run(EdgeStore.renumber, after, digest, apart)
                    await self._shell.reintroduce()
            self._on_change(False)

    async def _apply(self, effect: ApplyPage) -> None:
        """Apply a page piece by piece, with rests for an app that writes."""
        try:
            more = True
            while more:
                await self._lock.leave(applying=True)
                done = await self._patient.run(filework.apply_some, effect)
                position = done.standing.position
                if done.shapes_changed:
                    self._shell.introduce(done.standing)
                    await self._tables.look()
                if done.applied is not None:
                    self._lock.held(done.applied.lock_s)
                    self._troubles.clear("log_diverged")
                    await self._say_applied(done.applied, done.behind)
                more, to_seal = done.applied is not None and done.applied.more, done.to_seal
        except LogDiverged as error:
            self._troubles.say_error(error)
            await asyncio.sleep(DIVERGED_PAUSE_S)
            await self._shell.reintroduce()
            position = self._session.position
            to_seal = True
        self._shell.perform(self._session.applied(position, self._loop.time()))
        if to_seal:
            self._wake()

    async def _load(self, effect: filework.LoadEffect) -> None:
        """Do what the session wants done with a snapshot, piece by piece, with rests for an app that writes."""
        while True:
            await self._lock.leave(applying=True)
            loaded = await self._patient.run(filework.load_some, effect)
            self._lock.held(loaded.lock_s)
            if loaded.done:
                break
            self._on_change(False)
        self._shell.perform(self._session.loaded(loaded.standing, self._loop.time()))
        if isinstance(effect, FinishLoad):
            _log.info("the snapshot is loaded: the log goes on after entry %d", loaded.standing.position.seq)
            await self._tables.look()
            self._wake()  # what waited for it may be sent now

    async def _say_applied(self, applied: Applied, behind: int) -> None:
        if applied.refused or applied.parked != self._parked:
            _log.info("entry %d: %d refused, %d parked", applied.position.seq, applied.refused, applied.parked)
        if (applied.parked, behind) != (self._parked, self._behind):
            self._parked, self._behind = applied.parked, behind
            await self._tables.look()
