"""What only the broker in memory can do: the levers that tests and simulations pull."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import pytest

from support.waiting import PATIENCE_S
from tidewire_link.errors import CredentialsRefused, PayloadTooLarge, SubscriptionDenied, TakenOver
from tidewire_link.memory import InMemoryBroker, InMemoryLink, matches
from tidewire_link.port import Connected, Disconnected, Event, Received
from tidewire_link.settings import LinkSettings

E = TypeVar("E", bound=Event)


@pytest.fixture
def broker() -> InMemoryBroker:
    return InMemoryBroker()


@pytest.fixture
async def links() -> AsyncIterator[list[InMemoryLink]]:
    made: list[InMemoryLink] = []
    yield made
    for link in made:
        await link.close()


def make(links: list[InMemoryLink], broker: InMemoryBroker, client_id: str = "a", **values: Any) -> InMemoryLink:
    settings = {"client_id": client_id, "reconnect_delay_min_s": 0.01, "reconnect_delay_max_s": 0.02, **values}
    links.append(InMemoryLink(LinkSettings.of(**settings), broker))
    return links[-1]


async def expect(link: InMemoryLink, kind: type[E]) -> E:
    event = await asyncio.wait_for(link.next_event(), PATIENCE_S)
    assert isinstance(event, kind), event
    return event


async def opened(
    links: list[InMemoryLink], broker: InMemoryBroker, client_id: str = "a", **values: Any
) -> InMemoryLink:
    link = make(links, broker, client_id, **values)
    await link.open()
    await expect(link, Connected)
    return link


async def test_messages_can_be_lost_after_they_were_confirmed(
    broker: InMemoryBroker, links: list[InMemoryLink]
) -> None:
    link = await opened(links, broker)
    await link.subscribe(["t"])
    broker.lose("t", count=2)
    for number in range(4):
        await link.publish("t", b"%d" % number)
    assert [(await expect(link, Received)).payload for _ in range(2)] == [b"2", b"3"]
    assert broker.messages_lost == 2


async def test_a_full_queue_for_a_client_loses_messages_as_brokers_do(links: list[InMemoryLink]) -> None:
    broker = InMemoryBroker(queued_messages_max=10)
    slow = await opened(links, broker, "slow", inbound_messages_max=1, unacked_max=1)
    fast = await opened(links, broker, "fast")
    await slow.subscribe(["t"])
    for _ in range(30):
        await fast.publish("t", b"")
    assert broker.messages_lost == 30 - 10 - 2


async def test_subscriptions_can_be_denied_one_by_one(broker: InMemoryBroker, links: list[InMemoryLink]) -> None:
    broker.deny_subscribe("others/#")
    link = await opened(links, broker)
    with pytest.raises(SubscriptionDenied) as caught:
        await link.subscribe(["mine", "others/x"])
    assert caught.value.filters == ("others/x",)
    await link.publish("mine", b"")
    assert (await expect(link, Received)).topic == "mine"
    broker.allow_everything()
    await link.subscribe(["others/x"])


async def test_connections_can_be_refused_for_a_reason(broker: InMemoryBroker, links: list[InMemoryLink]) -> None:
    broker.refuse_connections(CredentialsRefused("no"))
    link = make(links, broker)
    await link.open()
    assert isinstance((await expect(link, Disconnected)).reason, CredentialsRefused)
    broker.refuse_connections(None)
    await expect(link, Connected)


async def test_an_mqtt_5_client_is_told_that_it_was_taken_over(
    broker: InMemoryBroker, links: list[InMemoryLink]
) -> None:
    first = await opened(links, broker, reconnect_delay_max_s=60)
    await opened(links, broker)
    lost = await expect(first, Disconnected)
    assert isinstance(lost.reason, TakenOver)
    assert lost.retry_in_s >= 30


async def test_the_broker_s_largest_payload_is_told_to_mqtt_5_clients_and_ends_others(
    links: list[InMemoryLink],
) -> None:
    broker = InMemoryBroker(payload_bytes_max=2000)
    told = make(links, broker, "told")
    await told.open()
    assert (await expect(told, Connected)).payload_bytes_max == 2000
    with pytest.raises(PayloadTooLarge):
        await told.publish("t", b"x" * 2001)
    untold = await opened(links, broker, "untold", protocol="3.1.1")
    untold.publish("t", b"x" * 2001)
    await expect(untold, Disconnected)


@pytest.mark.parametrize(
    ("topic_filter", "topic", "is_match"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("+/+", "/a", True),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("#", "a/b", True),
        ("a/+/c", "a/b/d", False),
    ],
)
def test_filters_match_as_mqtt_says(topic_filter: str, topic: str, is_match: bool) -> None:
    assert matches(topic_filter, topic) is is_match
