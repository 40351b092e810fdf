"""Hello and Welcome: one greeting of each device at a time, and of those that came meanwhile the newest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidewire_hub import handshake
from tidewire_hub.actions import Effect, Greet, Lead, Now, Standing

if TYPE_CHECKING:
    from tidewire_hub.device_watch import DeviceWatch
    from tidewire_hub.downloads import Downloads
    from tidewire_hub.sessions import Session, Sessions
    from tidewire_hub.settings import HubSettings
    from tidewire_hub.situation import Situation
    from tidewire_hub.voice import Voice
    from tidewire_schemas.errors import TidewireError
    from tidewire_schemas.messages import Hello


class Greetings:
    """Answers Hello.

    Args:
        settings: limits.
        log: id of the log.
        voice: through which it speaks.
        sessions, devices: who is greeted.
        situation: what they are told.
        downloads: knows for whom a snapshot is better than replay.
    """

    def __init__(
        self,
        settings: HubSettings,
        log: str,
        *,
        voice: Voice,
        sessions: Sessions,
        devices: DeviceWatch,
        situation: Situation,
        downloads: Downloads,
    ) -> None:
        self._settings = settings
        self._log = log
        self._voice = voice
        self._sessions = sessions
        self._devices = devices
        self._situation = situation
        self._downloads = downloads

    def take(self, session: Session, hello: Hello, now: Now) -> None:
        """A device says Hello: the stream is asked where it stands."""
        problem = handshake.objection(hello, self._log)
        if problem is not None:
            self._voice.report("warning", problem.message, device=session.device, code=problem.code)
            self._voice.tell(session.device, problem)
            return
        session.met(hello.incarnation, hello.boot)
        self._devices.said_hello(session, hello, now)
        if session.greeting:
            session.next_hello = hello
        else:
            self._greet(session, hello)

    def on_greeted(self, device: str, hello: Hello, standing: Standing, now: Now) -> list[Effect]:
        """The stream says where a device stands."""
        session = self._over(device)
        if standing.accepted is not None:
            session.was_accepted(hello.incarnation, standing.accepted.batch)
        handshake.report(self._voice, device, hello, standing)
        self._situation.whole_since = standing.whole_since
        answer = handshake.welcome(
            hello,
            standing,
            log=self._log,
            epoch=self._situation.epoch,
            head=self._situation.head,
            oldest=self._situation.oldest_whole,
            snapshot_advised=self._downloads.snapshot_advised(hello.position),
            cloned=session.clones.clones(device),
            payload_bytes_max=self._voice.payload_bytes_max,
            batch_bytes_max=self._settings.batch_bytes_max,
        )
        self._voice.tell(device, answer)
        return self._voice.take()

    def on_greet_failed(self, device: str, hello: Hello, error: TidewireError, now: Now) -> list[Effect]:
        """The stream could not answer (a full disk, a bug): the device says Hello again."""
        session = self._over(device)
        self._voice.report("error", f"cannot answer Hello: {error}", device=device)
        self._voice.complain(
            session, error.code, error.message, hint=error.hint, incarnation=hello.incarnation, boot=hello.boot
        )
        return self._voice.take()

    def _greet(self, session: Session, hello: Hello) -> None:
        if hello.epoch > self._situation.epoch:
            self._voice.add(Lead(hello.epoch))
        session.greeting = True
        connected = self._devices.registry.connected()
        self._voice.add(Greet(session.device, hello, connected, session.clones.agents(hello.boot)))

    def _over(self, device: str) -> Session:
        session = self._sessions.of(device)
        session.greeting = False
        if session.next_hello is not None:
            hello, session.next_hello = session.next_hello, None
            self._greet(session, hello)
        return session
