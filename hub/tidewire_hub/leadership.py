"""When this hub begins to lead, and when it gives way: what it does about what `Rivals` knows."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from tidewire_hub.actions import Lead, Now, Serve, StepDown
from tidewire_hub.rivals import GONE, Rivals, Verdict
from tidewire_schemas.errors import LedElsewhere
from tidewire_schemas.messages import Head, HubState

if TYPE_CHECKING:
    from tidewire_hub.announcer import Announcer
    from tidewire_hub.settings import HubSettings
    from tidewire_hub.situation import Situation
    from tidewire_hub.voice import Voice


class Leadership:
    """Looks for other hubs at each connection, leads, and gives way to another leader.

    Args:
        hub: how this one is.
        rivals: what is known of other hubs.
        voice, announcer: through which it speaks.
        settings: names.
        log: id of the hub's log.
        boot: of this process.
    """

    def __init__(
        self,
        hub: Situation,
        rivals: Rivals,
        *,
        voice: Voice,
        announcer: Announcer,
        settings: HubSettings,
        log: str,
        boot: str,
    ) -> None:
        self._hub = hub
        self._rivals = rivals
        self._voice = voice
        self._announcer = announcer
        self._settings = settings
        self._log = log
        self._boot = boot
        self.serving = False
        """Whether devices are served on this connection."""
        self._waits_for_epoch = False
        self._warned_of: str | None = None

    @property
    def wake_at(self) -> float:
        """When the look ends at the latest, infinite when there is none."""
        return self._rivals.look_until

    @property
    def waits_for(self) -> Head | None:
        """The head of another hub that may still answer, while this hub looks."""
        return None if self.serving else self._rivals.unanswered

    def look(self, now: Now) -> None:
        """A connection began: see who leads before saying anything."""
        self.serving = self._waits_for_epoch = False
        self._rivals.look(now.s)
        self._announcer.ask_who_leads(self._hub.epoch)

    def lost(self) -> None:
        """The connection is lost."""
        self.serving = self._waits_for_epoch = False
        self._rivals.lost()

    def heard_state(self, state: HubState, now: Now, *, retained: bool) -> None:
        """A hub, this one included, said how it is."""
        self._rivals.heard_state(state, retained=retained)
        if not self.serving:
            self._see(now)
        elif state.boot != self._boot and not retained:
            if state.state == "starting":
                self._hub.say_head(now)
            elif state.node == self._settings.node and state.state in GONE:
                self._hub.say_state()  # the last word of another process stands where ours belongs

    def heard_head(self, head: Head, now: Now, *, retained: bool) -> None:
        """A hub, this one included, said how far the log goes."""
        if not self._rivals.heard_head(head, retained=retained):
            return
        if not self.serving:
            self._see(now)
        elif self._rivals.verdict_of(head, self._hub.epoch) is Verdict.GIVE_WAY:
            self._give_way(head)
        elif not retained:
            self._stand_against(head, now)

    def on_time(self, now: Now) -> None:
        """Time has passed."""
        if now.s >= self.wake_at:
            self._see(now)

    def led(self) -> None:
        """A higher epoch was acquired."""
        if self._waits_for_epoch:
            self._serve()

    def not_led(self, now: Now) -> None:
        """A higher epoch could not be acquired: look again."""
        if self._waits_for_epoch:
            self.look(now)

    def fenced(self, problem: str) -> None:
        """The log says that another hub has acquired it."""
        hint = "stop one of the two: a log has one hub"
        self._step_down(LedElsewhere(f"replaced: {problem}", hint=hint), mark=None)

    def _see(self, now: Now) -> None:
        if self._waits_for_epoch:
            return
        match self._rivals.verdict_of_look(self._hub.epoch, now.s):
            case Verdict.WAIT:
                self._say_for_whom_it_waits()
            case Verdict.LEAD:
                self._begin()
            case Verdict.GIVE_WAY if self._rivals.has_led and self._rivals.head is not None:
                self._give_way(self._rivals.head)
            case Verdict.GIVE_WAY if self._rivals.head is not None:
                self._refuse(self._rivals.head)

    def _say_for_whom_it_waits(self) -> None:
        rival = self._rivals.unanswered
        if rival is not None and rival.boot != self._warned_of:
            self._warned_of = rival.boot
            text = f"hub {rival.leader} seems to lead stream {self._settings.stream}: waiting for its answer"
            self._voice.report("info", text, up_to_s=self._settings.rival_wait_s)

    def _begin(self) -> None:
        self._rivals.look_until = inf
        rival = self._rivals.head
        if rival is not None and rival.epoch >= self._hub.epoch:
            self._waits_for_epoch = True
            self._voice.add(Lead(rival.epoch))
        else:
            self._serve()

    def _serve(self) -> None:
        self._waits_for_epoch = False
        if not self._rivals.has_led:
            text = f"leading stream {self._settings.stream}"
            self._voice.report("info", text, log=self._log, epoch=self._hub.epoch)
        self.serving = self._rivals.has_led = True
        self._announcer.replaces = self._rivals.replaces
        self._voice.add(Serve())

    def _stand_against(self, head: Head, now: Now) -> None:
        if self._warned_of != head.boot:
            self._warned_of = head.boot
            text = f"hub {head.leader} still speaks on stream {self._settings.stream}: it hears our head and gives way"
            self._voice.report("warning", text, its_log=head.log, its_epoch=head.epoch, epoch=self._hub.epoch)
        self._hub.say_head(now)

    def _refuse(self, head: Head) -> None:
        """Another hub leads already: end before anything was said."""
        stream = self._settings.stream
        if head.log == self._log:
            message = f"hub {head.leader} leads stream {stream} already, with this same log: one of the two is a copy"
            hint = "stop that hub first; or, to replace it by this one, start once with --take-over"
        else:
            message = (
                f"hub {head.leader} leads stream {stream} already, with log {head.log}; --data has log {self._log}"
            )
            hint = (
                "wrong --data, --stream or --broker? To replace that hub and its log by this one, stop it, "
                "or start once with --take-over"
            )
        self._step_down(LedElsewhere(message, hint=hint), mark=None)

    def _give_way(self, head: Head) -> None:
        """Another hub has taken over: a log that went on elsewhere must not go on here as well."""
        stream = self._settings.stream
        if head.log == self._log:
            message = f"replaced: hub {head.leader} has taken over stream {stream} (epoch {head.epoch})"
            hint = "what it has put into the log since is not here: use its data, or start once with --take-over"
            self._step_down(LedElsewhere(message, hint=hint), mark=head)
        else:
            message = f"replaced: hub {head.leader} leads stream {stream} with log {head.log}, this hub has {self._log}"
            hint = "stop the one that should not lead; a stream has one log"
            self._step_down(LedElsewhere(message, hint=hint), mark=None)

    def _step_down(self, error: LedElsewhere, *, mark: Head | None) -> None:
        hub, led = self._hub, self._rivals.has_led
        self._rivals.lost()
        hub.state, hub.problem = "replaced", error.message
        self._voice.report("error", error.message, hint=error.hint, epoch=hub.epoch)
        if led:
            hub.say_state()
        self._voice.muted = True
        self._announcer.silence()
        self._voice.add(StepDown(error, mark))
