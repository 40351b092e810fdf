"""What all parts of a session share: where the device stands, its state, what is wrong, what is to be done. Pure."""

from __future__ import annotations

from tidewire_agent.session.effects import ClearProblem, Effect, PublishState, SayProblem, Trouble
from tidewire_agent.session.standing import Standing
from tidewire_agent.session.states import FOLLOWING, TRANSITIONS, Cause, State
from tidewire_schemas.messages import FreshAnswer, Replay, Welcome
from tidewire_schemas.positions import Position
from tidewire_schemas.snapshots import Snapshot, SnapshotChunk


class Conversation:
    """Gathers effects until the session gives them out.

    Args:
        boot: random, of this start of the agent.
        standing: what the file says.
    """

    def __init__(self, boot: str, standing: Standing) -> None:
        self.boot = boot
        self.state = State.OFFLINE
        self.incarnation: str
        self.log: str | None
        self.epoch: int
        """The epoch of the last `Welcome`."""
        self.position: Position
        """After which entry the next page must go on."""
        self.checkpoint: Position
        self.sealed: int
        """The newest batch that is sealed and durable."""
        self.told: int
        """Which tables the hub was told last, see `Standing`."""
        self._effects: list[Effect] = []
        self._troubles: set[str] = set()
        self.stand(standing)

    def stand(self, standing: Standing) -> None:
        """What the file says now."""
        self.incarnation = standing.incarnation
        self.log = standing.log
        self.epoch = standing.epoch
        self.position = standing.position
        self.checkpoint = standing.checkpoint or standing.position
        self.sealed = standing.sealed
        self.told = standing.told

    @property
    def follows(self) -> bool:
        """Whether the handshake is done."""
        return self.state in FOLLOWING

    def is_mine(self, message: Welcome | Replay | Snapshot | SnapshotChunk | FreshAnswer) -> bool:
        """Whether an answer is to this agent's question."""
        return message.incarnation == self.incarnation and message.boot == self.boot

    def enter(self, cause: Cause) -> None:
        """Go on to the next state."""
        before, self.state = self.state, TRANSITIONS[self.state, cause]
        if self.state is not before:
            self.do(PublishState(self.state))

    def do(self, *effects: Effect) -> None:
        """Have these performed."""
        self._effects += effects

    def say(self, trouble: Trouble) -> None:
        """Something is wrong."""
        self._troubles.add(trouble.code)
        self.do(SayProblem(trouble))

    def say_since(self, trouble: Trouble, since: float) -> None:
        """Something is wrong since then; said once, until it is no longer."""
        if trouble.code not in self._troubles:
            self._troubles.add(trouble.code)
            self.do(SayProblem(trouble, since))

    def clear(self, code: str) -> None:
        """It is no longer."""
        if code in self._troubles:
            self._troubles.discard(code)
            self.do(ClearProblem(code))

    def take(self) -> list[Effect]:
        """What has gathered."""
        effects, self._effects = self._effects, []
        return effects
