"""Looks now and then whether the disk has changed the state, and has it made anew. Pure."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from tidewire_hub.actions import CheckState, Effect, Now, RemakeState
from tidewire_hub.snapshot.service import SnapshotService

if TYPE_CHECKING:
    from tidewire_hub.settings import HubSettings
    from tidewire_hub.voice import Voice
    from tidewire_schemas.errors import TidewireError


class Upkeep:
    """The part of `HubCore` that keeps the state as the log says.

    Args:
        settings: how often.
        voice: takes the effects.
        snapshots: hears that the copy of the state beside one is lost.
    """

    def __init__(self, settings: HubSettings, voice: Voice, snapshots: SnapshotService) -> None:
        self._settings = settings
        self._voice = voice
        self._snapshots = snapshots
        self._begun = False
        self._check_at = inf
        self._remaking = False
        self._in_vain = False
        """Whether it could not be made anew: what it needs has to come back first."""

    @property
    def wake_at(self) -> float:
        """When `on_time` has something to do."""
        return self._check_at

    def begin(self, now: Now) -> None:
        """The hub serves devices: the first time, the state is looked at."""
        if not self._begun:
            self._begun, self._check_at = True, now.s

    def on_time(self, now: Now) -> None:
        """Time has passed."""
        if now.s >= self._check_at:
            self._check_at = inf  # one at a time
            self._voice.add(CheckState())

    def on_checked(self, spares_lost: int, now: Now) -> list[Effect]:
        """The state is as it was written; so many copies of it were not, and are removed."""
        self._check_at = now.s + self._settings.check_interval_s
        self._in_vain = False
        if spares_lost:
            self._voice.report("error", "a snapshot's copy of the state was not as it was written: check the disk")
            self._snapshots.spare_lost()
        return self._voice.take()

    def on_check_failed(self, error: TidewireError, now: Now) -> list[Effect]:
        """The state could not be read, or is not as it was written: of that `on_damaged` hears, too."""
        self._check_at = now.s + self._settings.check_interval_s
        return self._say(f"the check of the state failed: {error}")

    def on_damaged(self, error: TidewireError) -> list[Effect]:
        """Whoever read the state found that the disk has changed it."""
        if self._remaking or self._in_vain:
            return []
        self._remaking = True
        self._voice.add(RemakeState())
        return self._say(f"the state is made anew: {error}")

    def on_remade(self, _nothing: None, now: Now) -> list[Effect]:
        """The state is made anew."""
        self._remaking = False
        self._voice.report("info", "the state is as the log says again")
        return self._voice.take()

    def on_remake_failed(self, error: TidewireError, now: Now) -> list[Effect]:
        """It could not be: the hub goes on with the one it has, and makes no snapshot of it."""
        self._remaking, self._in_vain = False, True
        return self._say(f"cannot make the state anew: {error}")

    def _say(self, message: str) -> list[Effect]:
        self._voice.report("error", message)
        return self._voice.take()
