"""What the hub tells everybody, retained: how it is, and how far the log goes."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Literal

from tidewire_schemas import codec, topics
from tidewire_schemas.messages import Head, HubState

if TYPE_CHECKING:
    from tidewire_hub.actions import Now
    from tidewire_hub.settings import HubSettings
    from tidewire_hub.voice import Voice
    from tidewire_schemas.positions import Position

State = Literal["leading", "halted", "replaced", "stopped"]


class Announcer:
    """Says state and head. Heads are spaced while the log grows, as brokers store them, and go on while it does not,
    as devices notice by them that pages did not reach them.

    Args:
        voice: through which it speaks.
        settings: names and intervals.
        log: id of the log.
        boot: random id of this process.
        version: of the software.
    """

    def __init__(self, voice: Voice, settings: HubSettings, *, log: str, boot: str, version: str) -> None:
        self._voice = voice
        self._settings = settings
        self._log = log
        self._boot = boot
        self._version = version
        self._said_at = -inf
        self.replaces: str | None = None
        """The other log that this hub took the stream over from."""
        self.said_busy = False
        """Whether the last head says that the hub is busy."""
        self.head_at = inf
        """When the next head is due; infinite while there is no connection."""

    def say_state(self, state: State, epoch: int, problem: str | None) -> None:
        """Say how the hub is."""
        topic = topics.hub_state(self._settings.node)
        self._voice.publish(topic, self.hub_state(state, epoch, problem), retain=True)

    def ask_who_leads(self, epoch: int) -> None:
        """Ask, and hear the question back behind all that the broker kept. It is not kept itself."""
        self._voice.publish(topics.hub_state(self._settings.node), self.hub_state("starting", epoch, None))

    def hub_state(self, state: State | Literal["starting", "offline"], epoch: int, problem: str | None) -> bytes:
        """The message that says how the hub is."""
        node = self._settings.node
        return codec.encode(
            HubState(state=state, node=node, boot=self._boot, epoch=epoch, problem=problem, version=self._version)
        )

    def head_moved(self, now: Now) -> bool:
        """Entries were appended; whether a head is due now. If not, it is due soon."""
        due = self._said_at + self._settings.head_interval_s
        self.head_at = min(self.head_at, due)
        return now.s >= due

    def say_head(self, head: Position, epoch: int, oldest: int, now: Now, *, busy: str | None = None) -> None:
        """Say how far the log goes, and what holds the hub up."""
        self.said_busy = busy is not None
        self._said_at = now.s
        self.head_at = now.s + (self._settings.head_period_s if busy is None else self._settings.commit_busy_s)
        message = Head(
            log=self._log,
            epoch=epoch,
            head=head,
            oldest=oldest,
            leader=self._settings.node,
            boot=self._boot,
            replaces=self.replaces,
            at=now.ms,
            busy=busy,
        )
        self._voice.publish(topics.head(self._settings.stream), codec.encode(message), retain=True)

    def silence(self) -> None:
        """There is nobody to say it to."""
        self.head_at = inf
