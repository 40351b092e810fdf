"""`tidewire-hub verify`: has a device compare its rows with the hub's now, by way of the broker; what it found."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from tidewire_hub.rivals import GONE
from tidewire_link.mqtt import MqttLink
from tidewire_link.port import Connected, Disconnected, Received
from tidewire_link.settings import LinkSettings
from tidewire_schemas import codec, topics
from tidewire_schemas.errors import MessageError, SequenceGap, TidewireError
from tidewire_schemas.messages import DeviceState, Head, HubState, Part
from tidewire_schemas.parts import Assembler
from tidewire_schemas.verification import ComparedTable, VerifyNow, VerifyReport

if TYPE_CHECKING:
    from tidewire_hub.settings import HubSettings
    from tidewire_link.port import Link

AWAY: Final = ("offline", "stopped")
"""States in which a device answers nothing."""


class DeviceAway(TidewireError):
    """The device is not connected."""

    code = "device_away"
    hint = "start its agent, or wait until it is back: `tidewire-hub devices` tells when it was seen last"
    retry = True


class HubAway(TidewireError):
    """No hub runs that could answer the device's questions."""

    code = "hub_away"
    hint = "a device compares its rows with what the hub answers: start the hub, then ask again"
    retry = True


class NoReport(TidewireError):
    """No report came in time."""

    code = "no_report"
    retry = True


async def verify_device(
    settings: HubSettings, device: str, tables: tuple[str, ...], *, timeout_s: float
) -> VerifyReport:
    """Ask, and wait for the report.

    Raises:
        LinkError: the broker cannot be reached, or refuses.
        DeviceAway, HubAway, NoReport: there is none.
    """
    link = MqttLink(
        LinkSettings.of(
            url=settings.broker,
            client_id=f"tidewire-verify-{secrets.token_hex(8)}",
            payload_bytes_max=settings.payload_bytes_max,
            will=None,
            **settings.broker_values(),
        )
    )
    conversation = _Conversation(link, settings, device, tables)
    await link.open()
    try:
        async with asyncio.timeout(timeout_s):
            return await conversation.report()
    except TimeoutError:
        raise conversation.no_report(timeout_s) from None
    finally:
        await link.close()


class _Conversation:
    def __init__(self, link: Link, settings: HubSettings, device: str, tables: tuple[str, ...]) -> None:
        self._link = link
        self._device = device
        self._question = VerifyNow(nonce=secrets.token_hex(16), tables=tables)
        self._inbox = topics.inbox(device, settings.stream)
        self._ask = topics.ask(settings.stream, device)
        self._state = topics.device_state(device)
        self._bytes_max = settings.hello_bytes_max
        self._assembler = Assembler(settings.hello_bytes_max, limit_name="hello_bytes_max")
        self._said: str | None = None
        """The device's state, once it was heard."""
        self._stream = settings.stream
        self._head = topics.head(settings.stream)
        self._leader: Head | None = None
        """What the hub that leads, or has led, said last."""
        self._hubs: dict[str, HubState] = {}
        """How each hub is, by its name."""

    async def report(self) -> VerifyReport:
        asking: asyncio.Task[None] | None = None
        try:
            async for event in self._link:
                match event:
                    case Connected():
                        asking = asyncio.create_task(self._put())
                    case Disconnected(reason) if reason is not None:
                        raise reason
                    case Received(topic, payload):
                        found = self._take(topic, payload)
                        if found is not None:
                            return found
        finally:
            if asking is not None:
                asking.cancel()
        raise DeviceAway("the connection was closed")

    async def _put(self) -> None:
        await self._link.subscribe([self._state, self._ask, *topics.rival_filters(self._stream)])
        await self._link.publish(self._inbox, codec.encode(self._question))

    def _take(self, topic: str, payload: bytes) -> VerifyReport | None:
        try:
            if topic == self._state and payload:
                state = codec.parse("device_state", payload, bytes_max=self._bytes_max)
                assert isinstance(state, DeviceState)
                self._said = state.state
                if state.state in AWAY:
                    raise DeviceAway(f"device {self._device} is {state.state}")
            elif topic == self._head:
                head = codec.parse("head", payload, bytes_max=self._bytes_max)
                assert isinstance(head, Head)
                self._leader = head
                self._look_for_hub()
            elif (parsed := topics.parse(topic)) is not None and parsed.kind == "hub_state" and payload:
                hub = codec.parse("hub_state", payload, bytes_max=self._bytes_max)
                assert isinstance(hub, HubState)
                self._hubs[hub.node] = hub
                self._look_for_hub()
            elif topic == self._ask:
                return self._taken(codec.parse("ask", payload, bytes_max=self._bytes_max))
        except (MessageError, SequenceGap):
            pass  # the hub names what cannot be used
        return None

    def _look_for_hub(self) -> None:
        leader = self._leader
        state = None if leader is None else self._hubs.get(leader.leader)
        if leader is not None and state is not None and state.state in GONE and state.boot == leader.boot:
            raise HubAway(f"the hub {state.node} of stream {self._stream} is {state.state}, so nothing can be compared")

    def _taken(self, message: object) -> VerifyReport | None:
        if isinstance(message, Part):
            whole = self._assembler.feed(message)
            message = None if whole is None else codec.parse("ask", whole, bytes_max=self._bytes_max)
        if isinstance(message, VerifyReport) and message.nonce == self._question.nonce:
            return message
        return None

    def no_report(self, timeout_s: float) -> NoReport:
        if self._said is None:
            text = f"no device {self._device} has said anything on this broker"
            return NoReport(
                text, hint="is that its name, and does its agent use this broker? see `tidewire-hub devices`"
            )
        if self._leader is None:
            return NoReport(f"no hub has said anything of stream {self._stream} on this broker", hint=HubAway.hint)
        text = f"no report within {timeout_s:g} s; device {self._device} is {self._said}"
        return NoReport(text, hint="give a longer --timeout; does the device follow this --stream?")


def lines(report: VerifyReport) -> Iterator[str]:
    """The report for people."""
    for table in report.tables:
        if table.problem != report.problem or not table.problem:
            yield from _of_table(table)


def _of_table(table: ComparedTable) -> Iterator[str]:
    counts = [f"{table.rows} rows", f"{table.differing} differ"]
    if table.pending:
        counts.append(f"{table.pending} not compared: a change of them is on its way")
    if table.too_large:
        counts.append(f"{table.too_large} there as they are only, too large to be sent")
    if table.unsettled:
        counts.append(f"{table.unsettled} not compared: they are written all the time")
    said = f" ({table.problem})" if table.problem else ""
    yield f"{table.table}: {table.problem}" if said and not table.rows else f"{table.table}: {', '.join(counts)}{said}"
    for row in table.listed:
        yield f"  {_text(row.key)}"
        yield f"    device: {'no such row' if row.here is None else _text(row.here)}"
        yield f"    hub:    {'no such row' if row.hub is None else _text(row.hub)}"
    if len(table.listed) < table.differing:
        yield f"  and {table.differing - len(table.listed)} more"


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
