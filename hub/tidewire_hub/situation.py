"""How the hub is and how far its log goes: what all of its parts look at, and everybody is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidewire_hub.actions import Now
    from tidewire_hub.announcer import Announcer, State
    from tidewire_hub.commits import GroupCommits
    from tidewire_schemas.positions import Position


class Situation:
    """The hub's situation.

    Args:
        announcer: says it.
        commits: of which heads say when they take long.
        epoch: the epoch acquired at start.
        head: position of the newest entry.
        oldest: the lowest seq that replay can serve.
    """

    def __init__(self, announcer: Announcer, commits: GroupCommits, *, epoch: int, head: Position, oldest: int) -> None:
        self._announcer = announcer
        self._commits = commits
        self.epoch = epoch
        self.head = head
        self.oldest = oldest
        self.whole_since = 0
        """The newest entry before which the log says of columns what does not count any more."""
        self.state: State = "leading"
        self.problem: str | None = None
        """What keeps the hub from committing, None when nothing does."""

    @property
    def oldest_whole(self) -> int:
        """The lowest seq from which on replay gives what the state holds: columns that came back began anew there."""
        return max(self.oldest, self.whole_since + 1)

    def say_state(self) -> None:
        """Say how the hub is."""
        self._announcer.say_state(self.state, self.epoch, self.problem)

    def say_head(self, now: Now) -> None:
        """Say how far the log goes, and what holds the hub up."""
        busy = self._commits.busy(now.s)
        if self.state == "halted":
            busy = f"it cannot commit now: {self.problem}"
        self._announcer.say_head(self.head, self.epoch, self.oldest, now, busy=busy)

    def is_now(self, state: State, problem: str | None) -> None:
        """It has changed: say so."""
        self.state, self.problem = state, problem
        self.say_state()
