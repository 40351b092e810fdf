"""The state, kept where the log is: what the log has beyond it is folded before anything else is done.

That is after a crash, a failed commit of the state, another leader's append, or a new catalogue.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, Self

from pydantic import TypeAdapter
from pydantic_core import from_json

from tidewire_hub.catalogue import Catalogue
from tidewire_hub.database import LogDamaged, StorageDamaged, storage_errors
from tidewire_hub.log.port import HubLog
from tidewire_hub.state.check import StateDamaged
from tidewire_hub.state.opening import SpareState, StateLost, make_anew, open_state
from tidewire_hub.state.store import Limits, State
from tidewire_schemas.errors import DatabaseError
from tidewire_schemas.messages import Entry
from tidewire_schemas.positions import START, Position, Seq

logger = logging.getLogger(__name__)

CATALOGUE: Final = "catalogue"
"""Name of the document beside the log."""

FOLD_BYTES_MAX: Final = 4 * 1024 * 1024
"""Log bytes read at a time while the state catches up."""

FOLD_ENTRIES_MAX: Final = 1_000
"""Entries read at a time, and folded in one transaction, while the state catches up."""

_ENTRY: Final = TypeAdapter(Entry)


class StateFollower:
    """The state of one log.

    Args:
        state: open; it may be behind.
        path: its file, None in memory.
        limits: with which it is opened again.
        commit_rows: see `StreamSettings.state_commit_rows`.
    """

    def __init__(self, log: HubLog, state: State, path: Path | None, limits: Limits, *, commit_rows: int) -> None:
        self._log: Final = log
        self._path: Final = path
        self._name: Final = str(path or "state in memory")
        self._limits: Final = limits
        self._commit_rows: Final = commit_rows
        self._head = START
        self._rows_uncommitted = 0
        self._behind = True
        self.state = state
        """As it is now, which may be behind: see `ready`."""

    @classmethod
    def open(
        cls, log: HubLog, path: Path | None, limits: Limits, spares: Sequence[SpareState], *, commit_rows: int
    ) -> Self:
        """Open the state beside `log` and fold into it what the log has beyond it: see `Stream.open`."""
        try:
            return cls._opened(log, path, limits, spares, commit_rows)
        except StorageDamaged as error:
            if path is None or not path.exists() or isinstance(error, StateLost | LogDamaged):
                raise
            logger.warning("%s is damaged and made anew: %s", path, error)
            make_anew(log, path, limits, spares).close()
            return cls._opened(log, path, limits, spares, commit_rows)

    @classmethod
    def _opened(
        cls, log: HubLog, path: Path | None, limits: Limits, spares: Sequence[SpareState], commit_rows: int
    ) -> Self:
        state = open_state(log, path, limits, spares)
        if state.has_dropped(Catalogue.from_json(log.load_document(CATALOGUE))):
            logger.warning("%s lacks values of columns that the log has: it is made anew", path)
            state.close()
            state = make_anew(log, path, limits, spares)
        follower = cls(log, state, path, limits, commit_rows=commit_rows)
        try:
            follower.ready()
        except BaseException:
            state.close()
            raise
        return follower

    @property
    def head(self) -> Position:
        """Position of the newest entry of the log, `START` while there is none."""
        return self._log.head() if self._behind else self._head

    def fall_behind(self) -> None:
        """The log, or what counts of it, may not be as the state says: `ready` finds out."""
        self._behind = True

    def moved_to(self, head: Position) -> None:
        """The state has folded what the log has got."""
        self._head = head

    def ready(self) -> State:
        """The state, brought to where the log is, unless it is there."""
        if not self._behind:
            return self.state
        with self.errors():
            self.state.rollback()
            self._rows_uncommitted = 0
            document = self._log.load_document(CATALOGUE)
            catalogue = Catalogue.from_json(document)
            if catalogue.to_json() != self.state.catalogue.to_json():
                self.state.align(catalogue)
            head = self._log.head()
            while self.state.position.seq < head.seq:
                self._fold_some()
        self._head = head
        self._behind = False
        return self.state

    @contextmanager
    def reading(self) -> Iterator[State]:
        """The state where the log is; what goes wrong with its file is said as `errors` does."""
        state = self.ready()
        with self.errors():
            yield state

    def errors(self) -> AbstractContextManager[None]:
        """While inside, sqlite3's errors are said as ours."""
        return storage_errors(self._name, damaged=StateDamaged)

    def commit(self, rows: int) -> None:
        """Commit the state now, or later when the rows of a large group add up to less than is worth it."""
        limit = self._commit_rows
        self._rows_uncommitted += rows
        if rows < limit // 50 or self._rows_uncommitted >= limit:
            self._commit()

    def settle(self) -> None:
        """Commit what the state holds open."""
        if self.state.uncommitted and not self._behind:
            self._commit()

    def rest(self) -> None:
        """No more is folded for a moment: give space back."""
        if self._path is not None and not self.state.uncommitted:
            with self.errors():
                self.state.rest(self._path)

    def remake(self, spares: Sequence[SpareState]) -> None:
        """Make the state anew, as the disk has changed it: from the log, or where that was trimmed from a spare.

        Raises:
            StateLost: no spare will do; the state is as it was.
        """
        self._behind = True
        with self.errors():
            self.state.close()
            try:
                self.state = make_anew(self._log, self._path, self._limits, spares)
            except StateLost:
                self.state = open_state(self._log, self._path, self._limits, spares)
                raise
        self.ready()

    def close(self) -> None:
        """Commit what the state holds open, and close it."""
        self.settle()
        with self.errors():
            self.state.close()

    def _commit(self) -> None:
        try:
            with self.errors():
                self.state.commit()
            self._rows_uncommitted = 0
        except DatabaseError as error:
            # The entries are in the log, so their acks are true. The state folds them before the next group.
            logger.warning("the state is not stored, it will be folded again: %s", error)
            self._behind = True

    def _fold_some(self) -> None:
        """Fold the next entries of the log in one transaction."""
        after = Seq(self.state.position.seq)
        stored = self._log.read(after, bytes_max=FOLD_BYTES_MAX, entries_max=FOLD_ENTRIES_MAX)
        if not stored:
            raise StorageDamaged(f"the log has no entry after {after}, though its head is beyond")
        self.state.begin()
        for entry in stored:
            lost = from_json(entry.lost) if entry.lost else ()
            self.state.fold(_ENTRY.validate_json(entry.data), lost)
        self.state.commit()
