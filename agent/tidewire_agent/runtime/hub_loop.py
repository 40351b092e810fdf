"""What is said to the hub: Hello, batches and questions, one after the other."""

from __future__ import annotations

import asyncio

from tidewire_agent.runtime import filework
from tidewire_agent.runtime.patient_database import PatientDatabase
from tidewire_agent.runtime.publisher import Publisher
from tidewire_agent.runtime.session_shell import SessionShell
from tidewire_agent.runtime.troubles import Troubles
from tidewire_agent.session.effects import AskFresh, RequestReplay, RequestSnapshot, SendBatches, SendHello
from tidewire_agent.session.window import SentBatch
from tidewire_agent.settings import AgentSettings
from tidewire_link.errors import LinkError, NotConnected
from tidewire_schemas import topics
from tidewire_schemas.base import Message
from tidewire_schemas.codec import encode
from tidewire_schemas.messages import FreshRequest, ReplayRequest
from tidewire_schemas.snapshots import SnapshotRequest
from tidewire_schemas.verification import VerifyReport, VerifyRequest


class HubLoop:
    """Performs the effects that speak to the hub, in order.

    Args:
        device: this device's name.
        troubles: where problems of the connection are said.
    """

    def __init__(
        self,
        settings: AgentSettings,
        shell: SessionShell,
        *,
        device: str,
        patient: PatientDatabase,
        publisher: Publisher,
        troubles: Troubles,
    ) -> None:
        self._shell = shell
        self._session = shell.session
        self._patient = patient
        self._publisher = publisher
        self._troubles = troubles
        self._loop = asyncio.get_running_loop()
        self._up_topic = topics.up(settings.stream, device)
        self._ask_topic = topics.ask(settings.stream, device)

    async def run(self) -> None:
        """Work until cancelled."""
        shell = self._shell
        while True:
            effect = await shell.to_hub.get()
            try:
                match effect:
                    case SendBatches():
                        await self._send_batches(effect)
                    case SendHello():
                        shell.hello_waits = False
                        hello, standing = await self._patient.run(filework.introduction, shell.boot)
                        shell.perform(self._session.introduced(standing, self._loop.time()))
                        await self._ask(hello.model_copy(update={"handshake": self._session.handshake}))
                    case RequestReplay(position, pages):
                        await self._ask(
                            ReplayRequest(
                                incarnation=shell.incarnation, boot=shell.boot, position=position, pages=pages
                            )
                        )
                    case RequestSnapshot(snapshot, tables, first, chunks, least, refused_after):
                        await self._ask(
                            SnapshotRequest(
                                incarnation=shell.incarnation,
                                boot=shell.boot,
                                snapshot=snapshot,
                                tables=tables,
                                first=first,
                                chunks=chunks,
                                least=least,
                                refused_after=refused_after,
                            )
                        )
                    case AskFresh(nonce):
                        await self._ask(FreshRequest(incarnation=shell.incarnation, boot=shell.boot, nonce=nonce))
                    case VerifyRequest() | VerifyReport():
                        await self._ask(effect)
            except NotConnected:
                pass  # the link says so by an event, and the handshake begins anew
            except LinkError as error:
                self._troubles.say_error(error)

    async def _ask(self, message: Message) -> None:
        await self._publisher.publish(self._ask_topic, encode(message))

    async def _send_batches(self, effect: SendBatches) -> None:
        shell, newest = self._shell, self._shell.newest
        if newest is not None and effect.after + 1 == newest.batch == effect.sealed:
            batches = [newest]
        else:
            batches = await self._patient.run(
                filework.outbox, effect.after, effect.sealed, effect.count_max, effect.bytes_max
            )
        sent = [SentBatch(batch.batch, batch.digest, len(batch.payload)) for batch in batches]
        # Told before it is published, as the ack may come before the broker's confirmation.
        shell.perform(self._session.sending(effect.turn, sent, self._loop.time()))
        for batch in batches:
            if shell.batch_bytes_max is not None and len(batch.payload) > shell.batch_bytes_max:
                await shell.reintroduce()  # it was sealed before the limit was heard of: it will be taken apart
                return
            await self._publisher.publish(
                self._up_topic, batch.payload, still=lambda: self._session.turn == effect.turn
            )
