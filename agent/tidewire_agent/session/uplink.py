"""Batches going up: in order, a window of them unacked, from where the hub says. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from tidewire_agent.session import complaints
from tidewire_agent.session.conversation import Conversation
from tidewire_agent.session.effects import SendBatches
from tidewire_agent.session.limits import SessionLimits
from tidewire_agent.session.window import SendWindow, SentBatch
from tidewire_schemas.messages import Ack


class Uplink:
    """Sends what is sealed.

    Args:
        conversation: says what is sealed, and whether to send.
        limits: of which these matter: the window, and how long to wait for acks.
    """

    def __init__(self, conversation: Conversation, limits: SessionLimits) -> None:
        self._conversation = conversation
        self._limits = limits
        self.window = SendWindow(limits.window_batches, limits.window_bytes)
        self.turn = 0
        """Of sending: what was read for an earlier turn must not be published any more."""
        self.deadline = inf
        """When the next ack is overdue."""
        self._next_batch = 1
        self._reading = False
        self._resent: tuple[int, float] = (0, -inf)

    @property
    def has_room(self) -> bool:
        """Whether one more batch could be sent, or would be the only one that waits for it."""
        conversation = self._conversation
        return conversation.follows and (self._next_batch > conversation.sealed or self.window.room[0] > 0)

    def go_on_after(self, accepted: int) -> None:
        """The hub has batches up to this one."""
        self._next_batch = accepted + 1
        if self._next_batch > self._conversation.sealed:
            self._conversation.clear(complaints.NO_ACK.code)

    def send(self, now: float) -> None:
        """Send what there is, as far as the window has room."""
        if not self._conversation.follows or self._reading or self._next_batch > self._conversation.sealed:
            return
        count, size = self.window.room
        if count:
            self._reading = True
            self._conversation.do(SendBatches(self.turn, self._next_batch - 1, self._conversation.sealed, count, size))

    def sending(self, turn: int, batches: Sequence[SentBatch], now: float) -> None:
        """The batches that `SendBatches` asked for were read, and are published from now on."""
        if turn != self.turn:
            return
        self._reading = False
        if not batches:
            self._conversation.sealed = self._next_batch - 1  # there are none after all
            return
        self.window.add(batches)
        self._next_batch = batches[-1].batch + 1
        if self.deadline == inf:
            self.deadline = now + self._limits.ack_timeout_s
        self.send(now)

    def acked(self, ack: Ack, now: float) -> None:
        """Batches are durable at the hub."""
        if not self.window.ack(ack.batch, ack.digest):
            return
        self._conversation.clear(complaints.NO_ACK.code)
        self._conversation.clear("hub_problem")
        self.deadline = now + self._limits.ack_timeout_s if len(self.window) else inf
        self.send(now)

    def resend(self, batch: int, now: float) -> None:
        """Go on from `batch`. The hub says so for each batch that was in flight: only the first time counts."""
        again_from, until = self._resent
        if not self._conversation.follows or batch > self._next_batch or (batch == again_from and now < until):
            return
        self._resent = (batch, now + self._limits.hello_pause_s)
        self.stop()
        self._next_batch = batch
        self.send(now)

    def wait_longer(self, now: float) -> None:
        """The hub says that its answers take long."""
        if self.deadline != inf:
            self.deadline = max(self.deadline, now + self._limits.ack_timeout_s)

    def stop(self) -> None:
        """What is on its way does not count any more."""
        self.turn += 1
        self._reading = False
        self.window.clear()
        self.deadline = inf
