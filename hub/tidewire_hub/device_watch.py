"""What the hub notices of devices and keeps: who was here, how each is, whether two agents run under one name."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from tidewire_hub.actions import Now, SaveDevices
from tidewire_hub.clones import CLONED_HINT
from tidewire_hub.devices import DeviceRecord, DeviceRegistry, DevicesDocument
from tidewire_schemas import codec
from tidewire_schemas.messages import DeviceState, Hello

if TYPE_CHECKING:
    from tidewire_hub.sessions import Session
    from tidewire_hub.settings import HubSettings
    from tidewire_hub.situation import Situation
    from tidewire_hub.stream import Acked
    from tidewire_hub.voice import Voice


NEWS_S: Final = 0.5
"""What a person looks for, such as a device that was never seen, is saved after this. What comes together is saved
together."""

NEWS_DEVICES: Final = 500
"""Where the hub knows so many devices this takes twice as long, and so on: they have more news, and each costs more."""


class DeviceWatch:
    """Keeps the registry of devices, and has it saved some time after it changed.

    Args:
        settings: limits and intervals.
        voice: through which it speaks.
        situation: is saved with the devices.
    """

    def __init__(self, settings: HubSettings, voice: Voice, situation: Situation) -> None:
        self._settings = settings
        self._voice = voice
        self._situation = situation
        self.registry = DeviceRegistry(settings.devices_max)
        self.save_at = inf

    def restore(self, document: DevicesDocument) -> None:
        """Begin with what an earlier hub process knew."""
        self.registry.load(document.devices)
        self._voice.rejected.load(document.rejected, document.rejected_total)

    def said_state(self, session: Session, payload: bytes, now: Now, *, retained: bool) -> None:
        """A device's state topic holds this."""
        before = self.registry.get(session.device)
        if not payload:  # a person removed the retained message
            self.registry.forget(session.device)
        else:
            message = codec.parse("device_state", payload, bytes_max=len(payload))
            if isinstance(message, DeviceState):
                self._take_state(session, message, now, retained=retained)
        self.save_soon(now, is_news=_looked_for(before) != _looked_for(self.registry.get(session.device)))

    def _take_state(self, session: Session, message: DeviceState, now: Now, *, retained: bool) -> None:
        ended = message.state in ("offline", "stopped")
        if ended:
            session.clones.ended(message.boot)
        if not ended or not session.clones.others_live(message.boot):
            # Of two agents under one name the one that goes on is shown.
            self.registry.said_state(session.device, message, None if retained else now.ms)
        if ended:
            self._say_clones(session, now)
        elif not retained:
            session.met(message.incarnation, message.boot)
            self.heard(session, message.boot, message.incarnation, now)

    def said_hello(self, session: Session, hello: Hello, now: Now) -> None:
        """A device said Hello."""
        is_new = self.registry.get(session.device) is None
        self.registry.said_hello(session.device, hello, now.ms)
        self.heard(session, hello.boot, hello.incarnation, now)
        self.save_soon(now, is_news=is_new)

    def was_accepted(self, session: Session, ack: Acked, now: Now) -> str | None:
        """A batch of a device is in the log; the boot that sent it, as far as that is known."""
        session.was_accepted(ack.incarnation, ack.batch)
        self.registry.was_accepted(session.device, ack.batch, ack.seq, now.ms)
        boot = session.boots.get(ack.incarnation)
        if boot is not None and session.clones.is_alive(boot):
            self.heard(session, boot, ack.incarnation, now)
        return boot

    def heard(self, session: Session, boot: str, incarnation: str, now: Now) -> None:
        """Notice when more than one agent speaks under this name."""
        session.clones.heard(boot, incarnation, now.s, memory_s=self._settings.clone_memory_s)
        self._say_clones(session, now)

    def _say_clones(self, session: Session, now: Now) -> None:
        found = session.clones.clones(session.device)
        record = self.registry.get(session.device)
        known = record.clone if record is not None else None
        if found == known:
            return
        self.registry.is_run_by(session.device, found)
        self.save_soon(now, is_news=True)
        if found is None:
            over = "one agent runs under this name again"
            self._voice.report("info", over, device=session.device)
            self._voice.complain(session, "hello_needed", over)  # the Welcome tells it so
        else:
            self._voice.report("warning", found, device=session.device)
            self._voice.complain(session, "hello_needed", found)  # each tells the tables that it has
            self._voice.complain(session, "cloned", found, hint=CLONED_HINT, retry=False)

    def save_soon(self, now: Now, *, is_news: bool = False) -> None:
        """Something changed that is to be known after a restart; `is_news` that a person looks for perhaps."""
        wait_s = self._settings.devices_save_interval_s
        if is_news:
            wait_s = min(wait_s, NEWS_S * (1 + len(self.registry) // NEWS_DEVICES))
        self.save_at = min(self.save_at, now.s + wait_s)

    def save(self, now: Now) -> None:
        """Have all of it saved."""
        self.save_at = inf
        document = DevicesDocument(
            saved_at=now.ms,
            head=self._situation.head,
            epoch=self._situation.epoch,
            oldest=self._situation.oldest,
            devices=self.registry.records(),
            rejected_total=self._voice.rejected.total,
            rejected=self._voice.rejected.newest_first(),
        )
        self._voice.add(SaveDevices(codec.encode(document)))


def _looked_for(record: DeviceRecord | None) -> object:
    """What a person looks for in the list of devices: not how far each is, which changes all the time."""
    return record and (record.state, record.problem, record.dead_letters, record.dead_letters_dropped)
