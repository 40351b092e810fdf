"""Other hubs on the stream, as their heads and states tell, and whether this one may lead beside them. Pure.

One stream has one leader. A hub that connects first *looks*: the broker hands it the head that it kept, and a question
(`HubState` with `starting`) that comes back to its sender behind all that was kept says when that is all. A kept head
proves nothing (its hub may be long dead, the broker's store may be old), so it counts only when its hub answers:

    nothing kept, or by a hub that is known to be gone      lead
    kept, and no answer within `wait_s`                     lead, above its epoch
    answered                                                give way, unless a person said to take over

After that it *leads*, and whatever it hears of another leader is judged the same way by both of them:

    the same log, a higher epoch        give way: the other led later (it went above all that it had heard)
    the same log, a lower epoch         go on: the other is stale, and hears our head
    another log                         the elder goes on, unless the younger took over on a person's word

A hub that gives way ends, so that a person sees it. Whoever restarts it finds the other one alive, and it gives way
again before it has said anything: two supervised hubs never take the stream from each other in turn.
"""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import Final

from tidewire_hub.log.port import HEARD_EPOCH_MAX
from tidewire_schemas.messages import Head, HubState

NODES_MAX: Final = 1_000
"""Hub nodes whose state is remembered; streams have a few."""

GONE: Final = frozenset({"stopped", "replaced", "offline"})
"""States after which a process says nothing any more."""


class Verdict(Enum):
    """Whether this hub may lead."""

    WAIT = "wait"
    LEAD = "lead"
    GIVE_WAY = "give way"


class Rivals:
    """What is known of other hubs on this stream.

    Args:
        log: id of this hub's log.
        boot: of this process.
        previous: boot of the process that had this data directory before, which is surely gone.
        take_over: a person said to lead even if another hub does.
        wait_s: how long a hub whose head was kept may take to answer.
    """

    def __init__(self, *, log: str, boot: str, previous: str | None, take_over: bool, wait_s: float) -> None:
        self._log = log
        self._boot = boot
        self._previous = previous
        self._take_over = take_over
        self._wait_s = wait_s
        self._gone: dict[str, str] = {}
        """Boot of each node whose process has ended."""
        self._answered = False
        self._echoed = False
        self.has_led = False
        """Whether this process led the stream at any time."""
        self.head: Head | None = None
        """The newest head of another hub, since the last look began."""
        self.look_until = inf
        """When the look ends at the latest; infinite while this hub is not looking."""
        self.replaces: str | None = None
        """The other log that this hub took the stream over from."""

    @property
    def unanswered(self) -> Head | None:
        """The head of another hub that may still answer, once all that the broker kept was heard."""
        return None if self._answered or not self._echoed else self.head

    def look(self, now_s: float) -> None:
        """A connection began: nothing that was heard before counts."""
        self.head, self._answered, self._echoed = None, False, False
        self._gone.clear()
        self.look_until = now_s + self._wait_s

    def lost(self) -> None:
        """The connection is lost."""
        self.look_until = inf

    def heard_state(self, state: HubState, *, retained: bool) -> None:
        """A hub said how it is, or its last will did."""
        if state.boot == self._boot:
            self._echoed = self._echoed or not retained
        elif state.state not in GONE:
            self._gone.pop(state.node, None)
        elif len(self._gone) < NODES_MAX:
            self._gone[state.node] = state.boot

    def heard_head(self, head: Head, *, retained: bool) -> bool:
        """Somebody said how far the log goes; whether it was another hub."""
        if head.boot == self._boot or head.epoch >= HEARD_EPOCH_MAX:
            return False
        self.head = head
        self._answered = self._answered or not retained
        return True

    def verdict_of_look(self, epoch: int, now_s: float) -> Verdict:
        """Whether to lead, as far as this connection's look has come."""
        over = now_s >= self.look_until
        rival = self.head
        if rival is None:
            return Verdict.LEAD if self._echoed or over else Verdict.WAIT
        if self.has_led:
            # It goes on with what it has led before; a log that went on elsewhere meanwhile is not ours any more.
            if self._answered or rival.log == self._log:
                return self.verdict_of(rival, epoch)
        elif self._take_over and (self._echoed or over):
            return self._leads_instead_of(rival)
        elif self._answered:
            return Verdict.WAIT if self._take_over else Verdict.GIVE_WAY
        return Verdict.LEAD if over or (self._echoed and self._is_gone(rival)) else Verdict.WAIT

    def verdict_of(self, rival: Head, epoch: int) -> Verdict:
        """Whether to go on leading beside another leader; that one comes to the opposite verdict."""
        later = (rival.epoch, rival.boot or "") > (epoch, self._boot)
        if rival.log == self._log:
            gives_way = later
        elif rival.replaces == self._log or self.replaces == rival.log:
            both = rival.replaces == self._log and self.replaces == rival.log
            gives_way = later if both else self.replaces != rival.log
        else:
            gives_way = not later
        return Verdict.GIVE_WAY if gives_way else Verdict.LEAD

    def _leads_instead_of(self, rival: Head) -> Verdict:
        if rival.log != self._log:
            self.replaces = rival.log
        return Verdict.LEAD

    def _is_gone(self, rival: Head) -> bool:
        if rival.boot is None:
            return False
        return rival.boot == self._previous or self._gone.get(rival.leader) == rival.boot
