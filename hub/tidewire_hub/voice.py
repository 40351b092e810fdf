"""What the hub says: effects gathered in order, messages cut into parts where they must be, complaints in measure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from tidewire_hub.actions import Effect, Now, Publish, Report
from tidewire_hub.rejected import RejectedList
from tidewire_schemas import codec, topics
from tidewire_schemas.messages import Problem
from tidewire_schemas.parts import split

if TYPE_CHECKING:
    from tidewire_hub.sessions import Session
    from tidewire_hub.settings import HubSettings
    from tidewire_schemas.errors import TidewireError


class Voice:
    """Gathers effects until the core gives them out."""

    def __init__(self, settings: HubSettings) -> None:
        self._settings = settings
        self._effects: list[Effect] = []
        self.payload_bytes_max = settings.payload_bytes_max
        """What the broker takes in one message, at most the setting."""
        self.muted = False
        """Another hub leads: whatever this one would still publish is no longer true."""
        self.rejected = RejectedList(settings.rejected_max)

    def add(self, *effects: Effect) -> None:
        """Add effects of any kind."""
        self._effects.extend(effects)

    def take(self) -> list[Effect]:
        """What has gathered."""
        effects, self._effects = self._effects, []
        return effects

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, paced: bool = False) -> None:
        """Send a message, in parts if it is large. Retained messages are small; of paced ones the last part counts."""
        if self.muted:
            return
        *first, last = split(payload, self.payload_bytes_max)
        for part in first:
            self._effects.append(Publish(topic, part))
        self._effects.append(Publish(topic, last, retain, paced))

    def tell(self, device: str, message: BaseModel) -> None:
        """Send a message to one device."""
        self.publish(topics.inbox(device, self._settings.stream), codec.encode(message))

    def up_topic(self, device: str) -> str:
        """Where a device sends its batches."""
        return topics.up(self._settings.stream, device)

    def report(self, level: Literal["info", "warning", "error"], message: str, **fields: object) -> None:
        """Say something in the hub's log."""
        self._effects.append(Report(level, message, fields))

    # ── problems ──────────────────────────────────────────────────────────────────────────────────────────────────

    def complain(
        self,
        session: Session,
        code: str,
        message: str,
        *,
        hint: str = "",
        incarnation: str | None = None,
        boot: str | None = None,
        retry: bool = True,
        batch: int | None = None,
    ) -> None:
        """Tell a device what could not be done."""
        self.tell(
            session.device,
            Problem(
                incarnation=incarnation,
                boot=boot or session.boots.get(incarnation or ""),
                code=code,
                message=message,
                hint=hint,
                retry=retry,
                batch=batch,
            ),
        )

    def ask_to_resend(self, session: Session, message: str) -> None:
        """Ask for all after the newest batch in the log. An incarnation not known here notices the missing ack."""
        for incarnation, batch in session.accepted.items():
            self.complain(session, "resend", message, incarnation=incarnation, batch=batch + 1)

    def reject(
        self,
        session: Session,
        topic: str,
        payload: bytes,
        error: TidewireError,
        now: Now,
        *,
        code: str | None = None,
    ) -> None:
        """Set a message aside: keep it for people, tell its device unless it was told often enough just now."""
        device = session.device
        code = code or error.code
        self.rejected.add(at=now.ms, device=device, topic=topic, code=code, message=error.message, payload=payload)
        settings = self._settings
        if not session.may_be_told(now.s, interval_s=settings.problem_interval_s, burst=settings.problem_burst):
            return
        self.report("warning", f"a message cannot be used: {error.message}", device=device, topic=topic, code=code)
        self.complain(session, code, error.message, hint=error.hint, retry=error.retry)
