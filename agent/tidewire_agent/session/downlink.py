"""Pages coming down: applied in order, whatever order they come in; what is missing is asked for. Pure.

A method that says True has met what does not fit the last `Welcome`: doubt.
"""

from __future__ import annotations

from math import inf
from typing import Final

from tidewire_agent.session import complaints
from tidewire_agent.session.conversation import Conversation
from tidewire_agent.session.effects import ApplyPage, RequestReplay
from tidewire_agent.session.limits import SessionLimits
from tidewire_agent.session.pages import Next, PageBuffer, belongs
from tidewire_agent.session.states import Cause, State
from tidewire_schemas.messages import Page, Replay
from tidewire_schemas.positions import START, Position

STALLS_MAX: Final = 2
"""So many times in a row entries had to be asked for after a stall, until that is a problem and not a lost message."""

FRUITLESS_MAX: Final = 2
"""So many replays may end before a place that was heard of, until that place is no longer believed in."""


class Downlink:
    """Follows the log.

    Args:
        conversation: says where the device stands.
        limits: of which these matter: what the buffer holds, the credit of a replay, and how long to wait for pages.
    """

    def __init__(self, conversation: Conversation, limits: SessionLimits) -> None:
        self._conversation = conversation
        self._limits = limits
        self.pages = PageBuffer(limits.pages_held_max, limits.pages_held_bytes_max)
        self.heard = 0
        """The highest place in the log that was heard of."""
        self.deadline = inf
        """When pages are overdue."""
        self._welcome_head = START
        self._applying: Position | None = None
        self._set_back = False
        """Whether the page that is being applied no longer continues what the file holds."""
        self._credit = 0
        self._asked_from = START
        self._replay_end: Position | None = None
        self._fruitless = 0
        self._stalls = 0

    @property
    def tail(self) -> Position:
        """Where the device is once the page that is being applied is done (unless the file was set back meanwhile)."""
        return self._conversation.position if self._applying is None or self._set_back else self._applying

    # ── handshakes ────────────────────────────────────────────────────────────────────────────────────────────────

    def keep(self, page: Page, size: int) -> None:
        """A page came before the `Welcome`, which will judge it."""
        self.pages.add(page, size)

    def welcomed(self, head: Position) -> bool:
        """The log goes up to `head`; whether entries are missing."""
        conversation = self._conversation
        self._welcome_head = head
        self.pages.keep(lambda page: belongs(page, conversation.log, conversation.epoch, head))
        self.heard = max(head.seq, self.pages.last_seq)
        return self.tail.seq < head.seq

    def stop(self) -> None:
        """Drop what holds only within one handshake. A page that is being applied goes on."""
        self.pages.clear()
        self._credit = 0
        self._replay_end = None
        self._fruitless = 0
        self.deadline = inf

    # ── the file ──────────────────────────────────────────────────────────────────────────────────────────────────

    def applied(self, position: Position, now: float) -> None:
        """A page was applied; the next must go on after `position`."""
        self._applying = None
        self._set_back = False
        self._conversation.position = position
        self._conversation.clear(complaints.NO_PAGES.code)
        if self.deadline != inf:
            self.deadline = now + self._limits.stall_timeout_s

    def stands_at(self, position: Position) -> None:
        """The file is about to stand here: perhaps before where it did."""
        back = self._set_back or position.seq < self._conversation.position.seq
        self._set_back = self._applying is not None and back

    # ── the hub ───────────────────────────────────────────────────────────────────────────────────────────────────

    def take_page(self, page: Page, size: int, now: float) -> bool:
        """A live page of the present epoch came."""
        if not self._belongs(page):
            return True
        self._stalls = 0
        self._conversation.clear(complaints.NO_LIVE_PAGES.code)
        self.heard = max(self.heard, page.end.seq)
        self.pages.add(page, size)
        return self.advance(now)

    def take_replay(self, replay: Replay, size: int, now: float) -> bool:
        """A page that was asked for came."""
        page = replay.page
        if not self._belongs(page):
            return False
        self._credit = max(0, self._credit - 1)
        if self._conversation.state is State.CATCHING_UP:
            self.deadline = now + self._limits.stall_timeout_s
            if replay.last and page.prev.seq >= self._asked_from.seq:
                self._replay_end = page.end
        self.heard = max(self.heard, page.end.seq)
        if page.entries:
            self.pages.add(page, size)
        return self.advance(now)

    def take_head(self, seq: int, now: float) -> bool:
        """The log goes up to here."""
        self.heard = max(self.heard, seq)
        return self.advance(now)

    def _belongs(self, page: Page) -> bool:
        return belongs(page, self._conversation.log, self._conversation.epoch, self._welcome_head)

    # ── what to do next ───────────────────────────────────────────────────────────────────────────────────────────

    def advance(self, now: float) -> bool:
        """Apply what continues the position, ask for what is missing, notice what is overdue."""
        conversation = self._conversation
        if not conversation.follows or conversation.state is State.LOADING:
            return False
        found = Next.NOTHING if self._applying else self.pages.take(conversation.position)
        if isinstance(found, Page):
            self._applying = found.end
            conversation.do(ApplyPage(found, conversation.told))
        elif found is Next.FORK:
            return True
        if conversation.state is State.CATCHING_UP:
            return self._catch_up(now)
        if found is Next.GAP and not self._fruitless:
            conversation.enter(Cause.GAP)
            self.request_replay(now)
        elif self.heard <= self.tail.seq or self._applying:
            self.deadline = inf
        elif self.deadline == inf:
            self.deadline = now + self._limits.stall_timeout_s
        return False

    def _catch_up(self, now: float) -> bool:
        end = self._replay_end
        if end is not None and self._conversation.position.seq >= end.seq:
            self._conversation.enter(Cause.CAUGHT_UP)
            self._replay_end = None
            self._credit = 0
            self.deadline = inf
            self._conversation.clear(complaints.NO_PAGES.code)
            self._judge_what_was_heard()
            return self.advance(now)
        reach = self.pages.reach(self.tail)
        all_asked_for = end is not None and reach.seq >= end.seq
        waiting = self.pages.ready(self.tail)
        if not self._credit and not all_asked_for and waiting <= self._limits.replay_pages // 2:
            self.request_replay(now)
        return False

    def _judge_what_was_heard(self) -> None:
        """A replay has ended before a place that was heard of.

        Once, that can be as it crossed with a lost page: it is asked for again after a while. Twice, there is no such
        place in the log, whoever said so: it is forgotten, rather than asked for without end.
        """
        position = self._conversation.position
        if self.heard <= position.seq:
            self._fruitless = 0
            return
        self._fruitless += 1
        if self._fruitless == FRUITLESS_MAX:
            self._fruitless = 0
            self.pages.clear()
            self.heard = position.seq

    def request_replay(self, now: float) -> None:
        """Ask for entries."""
        self._asked_from = self.pages.reach(self.tail)
        self._replay_end = None
        self._credit = self._limits.replay_pages
        self.deadline = now + self._limits.stall_timeout_s
        self._conversation.do(RequestReplay(self._asked_from, self._credit))

    def overdue(self, now: float) -> bool:
        """Pages should have come."""
        if self._applying:  # a large page takes its time
            self.deadline = now + self._limits.stall_timeout_s
        elif self._conversation.state is State.LIVE:
            self._stalls += 1
            if self._stalls == STALLS_MAX:
                self._conversation.say(complaints.NO_LIVE_PAGES)
            self._conversation.enter(Cause.GAP)
            self.request_replay(now)
        else:
            self._conversation.say(complaints.NO_PAGES)
            return True
        return False

    def wait_longer(self, now: float) -> None:
        """The hub says that its answers take long."""
        if self.deadline != inf:
            self.deadline = max(self.deadline, now + self._limits.stall_timeout_s)
