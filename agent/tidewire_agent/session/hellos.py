"""When to say `Hello`: at once, again while no `Welcome` comes, and not all devices at the same time. Pure."""

from __future__ import annotations

from math import inf

from tidewire_agent.session import complaints
from tidewire_agent.session.conversation import Conversation
from tidewire_agent.session.effects import SendHello
from tidewire_agent.session.limits import SessionLimits
from tidewire_agent.session.states import ASKING, State
from tidewire_schemas.messages import Welcome


class Hellos:
    """The device's half of handshakes.

    Args:
        conversation: whose state says whether a `Welcome` is awaited.
        limits: of which these matter: how long to wait for it, and how long between two hellos.
    """

    def __init__(self, conversation: Conversation, limits: SessionLimits) -> None:
        self._conversation = conversation
        self._limits = limits
        self._at = inf
        self._last = -inf
        self._asking_since = -inf
        self._said = 0
        """In this handshake."""
        self.number = 0
        """Of this handshake, since the agent was started. Only a `Welcome` with it is an answer to what was said."""
        self._head_epoch = 0
        self._heard_nothing_since: float | None = None
        self.renumbering = False
        """Whether the file gets new numbers: until then there is nothing to say."""

    @property
    def wake_at(self) -> float:
        """When the next is due."""
        return self._at if self._conversation.state in ASKING else inf

    def expects(self, welcome: Welcome) -> bool:
        """Whether this is the answer to what was said last."""
        here = self._conversation
        asks = here.state in ASKING and self._said > 0 and not self.renumbering
        return asks and here.is_mine(welcome) and welcome.handshake == self.number

    def begin(self, now: float) -> None:
        """There is a connection."""
        self._said = 0
        self.number += 1
        if not self.renumbering:
            self._say(now, 0.0)

    def begin_anew(self, now: float, *, at_once: bool, delay_s: float) -> None:
        """There is doubt: never more often than `hello_pause_s`, unless our own file asks for it (`at_once`)."""
        self._said = 0
        self.number += 1
        due = now + delay_s
        self._at = due if at_once else max(due, self._last + self._limits.hello_pause_s)
        if self.renumbering:
            self._at = inf
        elif self._at <= now:
            self._say(now, 0.0)

    def tells_other_tables(self) -> None:
        """What is about to be said is not what was said before in this handshake: the answer to that does not count."""
        self.number += 1

    def await_numbers(self) -> None:
        """The file gets new numbers."""
        self.renumbering = True
        self._at = inf

    def stop(self) -> None:
        """There is no connection."""
        self._at = inf

    def heard_leader(self, epoch: int, now: float, random: float) -> None:
        """A head came: of a leader that was not heard before, there is no need to wait out the backoff."""
        if self._conversation.state is State.HANDSHAKING and epoch != self._head_epoch:
            self._head_epoch = epoch
            # But not everyone at once.
            soon = max(now + random * self._limits.hello_spread_s, self._last + self._limits.hello_pause_s)
            self._at = min(self._at, soon)

    def heard_nothing_since(self, since: float | None) -> None:
        """The hub was heard last then, and the next Hello asks whether it is there at all; None once it has said so."""
        self._heard_nothing_since = since
        if since is not None:
            self._head_epoch = 0  # its next head is news, though it may be the same leader's

    def wait_longer(self, now: float) -> None:
        """The hub says that its answers take long."""
        if self._conversation.state is State.HANDSHAKING and self._said:
            self._asking_since = now
            self._at = max(self._at, now + self._limits.welcome_timeout_s)

    def tick(self, now: float, random: float) -> None:
        """Time has passed."""
        conversation = self._conversation
        if now < self.wake_at:
            return
        overdue = self._said > 0 and now >= self._asking_since + self._limits.welcome_timeout_s
        if conversation.state is State.HANDSHAKING and overdue:
            conversation.clear(complaints.HUB_BUSY)
            if self._heard_nothing_since is None:
                conversation.say(complaints.NO_WELCOME)
            else:
                conversation.say_since(complaints.HUB_SILENT, self._heard_nothing_since)
        self._say(now, random)

    def _say(self, now: float, random: float) -> None:
        limits = self._limits
        self._conversation.do(SendHello())
        self._last = now
        if self._said == 0:
            self._asking_since = now
        backoff = min(limits.hello_backoff_max_s, limits.welcome_timeout_s * 2.0 ** min(self._said, 30))
        if self._conversation.state is State.HALTED:
            backoff = limits.hello_backoff_max_s
        self._said += 1
        self._at = now + limits.welcome_timeout_s + random * backoff
