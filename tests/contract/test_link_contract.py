"""What every link promises, on an in-memory broker and on a real one, with MQTT 5 and 3.1.1."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import pytest

from contract.link_benches import Bench, MemoryBench, MosquittoBench
from support.waiting import PATIENCE_S, wait_for_async
from tidewire_link.errors import (
    CannotReach,
    ConnectionLost,
    LinkClosed,
    NoAnswer,
    NotConnected,
    PayloadTooLarge,
    PublishDenied,
    TakenOver,
    WindowFull,
)
from tidewire_link.errors import Disconnected as DisconnectedError
from tidewire_link.port import Connected, Disconnected, Event, Link, Received
from tidewire_link.settings import Will

E = TypeVar("E", bound=Event)


@pytest.fixture(params=["memory-5", "memory-3.1.1", "mosquitto-5", "mosquitto-3.1.1"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    kind, protocol = request.param.split("-")
    made: Bench = MemoryBench(protocol) if kind == "memory" else MosquittoBench(protocol, tmp_path / "broker")
    try:
        yield made
    finally:
        await made.close()


async def expect(link: Link, kind: type[E], patience_s: float = PATIENCE_S) -> E:
    """The next event, which must be of this kind."""
    event = await asyncio.wait_for(link.next_event(), patience_s)
    assert isinstance(event, kind), event
    return event


async def opened(bench: Bench, client_id: str, *filters: str, **settings: object) -> Link:
    """A connected and subscribed link."""
    link = bench.link(client_id, **settings)
    await link.open()
    await expect(link, Connected)
    if filters:
        await link.subscribe(filters)
    return link


async def test_messages_arrive_once_and_in_the_order_of_publish(bench: Bench) -> None:
    sender, receiver = await opened(bench, "s"), await opened(bench, "r", "t/#")
    sent = [b"%d" % number for number in range(500)]
    for payload in sent:
        await sender.room()
        last = sender.publish("t/a", payload)
    await asyncio.wait_for(last, PATIENCE_S)
    assert [await expect(receiver, Received) for _ in sent] == [Received("t/a", payload) for payload in sent]


async def test_connected_tells_what_the_connection_is(bench: Bench) -> None:
    link = bench.link("a", payload_bytes_max=5000)
    await link.open()
    assert await expect(link, Connected) == Connected(payload_bytes_max=5000, protocol=bench.protocol)
    assert link.connected


async def test_a_confirmed_retained_message_is_there_for_whoever_subscribes_later(bench: Bench) -> None:
    sender = await opened(bench, "s")
    await sender.publish("state/s", b"up", retain=True)
    receiver = await opened(bench, "r", "state/#")
    assert await expect(receiver, Received) == Received("state/s", b"up", retained=True)
    await sender.publish("state/s", b"down", retain=True)
    assert await expect(receiver, Received) == Received("state/s", b"down", retained=False)


async def test_an_empty_payload_clears_the_retained_message(bench: Bench) -> None:
    sender = await opened(bench, "s")
    await sender.publish("state/s", b"up", retain=True)
    await sender.publish("state/s", b"", retain=True)
    await sender.publish("state/t", b"marker", retain=True)
    receiver = await opened(bench, "r", "state/#")
    assert (await expect(receiver, Received)).topic == "state/t"


async def test_wildcards_match_as_mqtt_says(bench: Bench) -> None:
    sender, receiver = await opened(bench, "s"), await opened(bench, "r", "a/+/c", "b/#")
    for topic in ("a/x/c", "a/x/y/c", "a/x", "b", "b/x/y", "c"):
        await sender.publish(topic, b"")
    assert [(await expect(receiver, Received)).topic for _ in range(3)] == ["a/x/c", "b", "b/x/y"]


async def test_the_will_is_published_and_kept_when_the_connection_breaks(bench: Bench) -> None:
    watcher = await opened(bench, "w", "state/#")
    await opened(bench, "d", will=Will(topic="state/d", payload=b"offline"))
    bench.cut("d")
    assert await expect(watcher, Received) == Received("state/d", b"offline")
    later = await opened(bench, "l", "state/#")
    assert await expect(later, Received) == Received("state/d", b"offline", retained=True)


async def test_the_will_is_not_published_after_a_goodbye(bench: Bench) -> None:
    watcher = await opened(bench, "w", "state/#")
    device = await opened(bench, "d", "noise", will=Will(topic="state/d", payload=b"offline"))
    for _ in range(50):  # unread bytes in our socket must not turn the goodbye into a broken connection
        await watcher.room()
        watcher.publish("noise", b"x" * 50_000)
    await device.close()
    await watcher.room()
    await watcher.publish("state/marker", b"")
    assert (await expect(watcher, Received)).topic == "state/marker"


async def test_without_a_connection_nothing_is_queued(bench: Bench) -> None:
    link = bench.link("a")
    with pytest.raises(NotConnected):
        await link.publish("t", b"")
    with pytest.raises(NotConnected):
        await link.subscribe(["t"])
    with pytest.raises(NotConnected):
        await link.room()
    assert not link.connected


async def test_a_payload_above_the_limit_fails_alone(bench: Bench) -> None:
    link = await opened(bench, "a", "t", payload_bytes_max=2000)
    with pytest.raises(PayloadTooLarge) as caught:
        await link.publish("t", b"x" * 2001)
    assert (caught.value.size, caught.value.limit) == (2001, 2000)
    await link.publish("t", b"x" * 2000)
    assert len((await expect(link, Received)).payload) == 2000


async def test_a_large_payload_arrives_whole(bench: Bench) -> None:
    link = await opened(bench, "a", "t", payload_bytes_max=3_000_000)
    payload = bytes(range(256)) * 10_000
    await link.publish("t", payload)
    assert (await expect(link, Received)).payload == payload


async def test_what_is_in_flight_is_bounded_and_room_waits(bench: Bench) -> None:
    """Guarantee 12."""
    link = await opened(bench, "a", inflight_max=5)
    bench.freeze()
    flying = [link.publish("t", b"") for _ in range(5)]
    with pytest.raises(WindowFull):
        await link.publish("t", b"")
    room = asyncio.ensure_future(link.room())
    await asyncio.sleep(0.05)
    assert not room.done()
    bench.thaw()
    await asyncio.wait_for(asyncio.gather(room, *flying), PATIENCE_S)


async def test_what_is_in_flight_is_bounded_by_bytes_but_one_message_always_goes(bench: Bench) -> None:
    """Guarantee 12."""
    link = await opened(bench, "a", inflight_bytes_max=10)
    bench.freeze()
    flying = link.publish("t", b"x" * 1000)
    with pytest.raises(WindowFull):
        await link.publish("t", b"")
    bench.thaw()
    await asyncio.wait_for(flying, PATIENCE_S)
    await link.publish("t", b"x" * 1000)


async def test_a_lost_connection_is_told_and_made_again(bench: Bench) -> None:
    link = await opened(bench, "a", "t")
    bench.cut("a")
    lost = await expect(link, Disconnected)
    assert isinstance(lost.reason, ConnectionLost)
    assert 0 <= lost.retry_in_s <= 0.1
    assert not link.connected
    await expect(link, Connected)


async def test_subscriptions_end_with_their_connection(bench: Bench) -> None:
    link, sender = await opened(bench, "a", "t"), await opened(bench, "s")
    bench.cut("a")
    await expect(link, Disconnected)
    await expect(link, Connected)
    await sender.publish("t", b"unheard")
    await link.subscribe(["t"])
    await sender.publish("t", b"heard")
    assert await expect(link, Received) == Received("t", b"heard")


async def test_publishes_under_way_fail_when_the_connection_ends(bench: Bench) -> None:
    link = await opened(bench, "a", inflight_max=3)
    bench.freeze()
    flying = [link.publish("t", b"") for _ in range(3)]
    room = asyncio.ensure_future(link.room())
    subscription = asyncio.ensure_future(link.subscribe(["t"]))
    await asyncio.sleep(0.05)
    bench.cut("a")
    results = await asyncio.wait_for(asyncio.gather(*flying, subscription, return_exceptions=True), PATIENCE_S)
    assert [type(result) for result in results] == [DisconnectedError] * 4
    with pytest.raises(NotConnected):
        await room
    bench.thaw()


async def test_the_next_attempt_waits_until_the_loss_was_heard(bench: Bench) -> None:
    """Guarantee 12: a stuck consumer does not gather losses without end."""
    link = await opened(bench, "a")
    bench.cut("a")
    await wait_for_async(lambda: not link.connected)
    await asyncio.sleep(0.3)  # three times the longest delay
    assert not link.connected
    await expect(link, Disconnected)
    await expect(link, Connected)


async def test_a_client_with_the_same_id_takes_over(bench: Bench) -> None:
    first = await opened(bench, "a", reconnect_delay_max_s=60)
    second = await opened(bench, "a")
    lost = await expect(first, Disconnected)
    assert isinstance(lost.reason, TakenOver | ConnectionLost)  # many brokers close without a word
    if isinstance(lost.reason, TakenOver):
        assert lost.retry_in_s >= 30
    await second.publish("t", b"")


@pytest.mark.fault("a slow consumer of messages")
async def test_a_slow_consumer_holds_the_broker_back_and_loses_nothing(bench: Bench) -> None:
    """Guarantee 12."""
    slow = await opened(bench, "slow", "t", inbound_messages_max=10, unacked_max=30)
    fast = await opened(bench, "fast")
    for number in range(300):
        await fast.room()
        last = fast.publish("t", b"%d" % number)
    await asyncio.wait_for(last, PATIENCE_S)
    # Their answers may stand behind messages that are not read yet: brokers may send more than they are asked to.
    subscribed = asyncio.create_task(slow.subscribe(["u"]))
    published = slow.publish("v", b"")
    got = [int((await expect(slow, Received)).payload) for _ in range(300)]
    assert got == list(range(300))
    await asyncio.wait_for(subscribed, PATIENCE_S)
    await asyncio.wait_for(published, PATIENCE_S)


async def test_a_socket_that_is_no_longer_read_loses_nothing(bench: Bench) -> None:
    """Guarantee 12: more unconfirmed messages than allowed come in, as a 3.1.1 broker may send."""
    slow = await opened(bench, "slow", "t", inbound_messages_max=2, unacked_max=1)
    fast = await opened(bench, "fast")
    for number in range(100):
        await fast.room()
        last = fast.publish("t", b"%d" % number)
    await asyncio.wait_for(last, PATIENCE_S)
    await asyncio.sleep(0.1)
    assert [int((await expect(slow, Received)).payload) for _ in range(100)] == list(range(100))
    await slow.publish("t", b"100")


async def test_a_consumer_slow_in_bytes_loses_nothing(bench: Bench) -> None:
    """Guarantee 12."""
    slow = await opened(bench, "slow", "t", inbound_bytes_max=200_000, unacked_max=3)
    fast = await opened(bench, "fast")
    for number in range(60):
        await fast.room()
        last = fast.publish("t", b"%d " % number + b"x" * 50_000)
    await asyncio.wait_for(last, PATIENCE_S)
    got = [int((await expect(slow, Received)).payload.split()[0]) for _ in range(60)]
    assert got == list(range(60))


async def test_a_broker_that_falls_silent_is_noticed_by_keepalive(bench: Bench) -> None:
    link = await opened(bench, "a", keepalive_s=1)
    loop = asyncio.get_running_loop()
    began = loop.time()
    bench.freeze()
    lost = await expect(link, Disconnected)
    assert isinstance(lost.reason, NoAnswer)
    assert loop.time() - began < 60
    bench.thaw()
    await wait_until_connected(link)


async def test_an_idle_connection_outlives_its_keepalive(bench: Bench) -> None:
    link = await opened(bench, "a", keepalive_s=1)
    for _attempt in range(5):  # a machine that stalls for more than a second ends a connection as well
        try:
            await expect(link, Disconnected, patience_s=3.5)
        except TimeoutError:
            assert link.connected
            return
        await wait_until_connected(link)
    raise AssertionError("no connection outlived its keepalive")


async def test_a_broker_that_confirms_nothing_is_noticed_before_keepalive(bench: Bench) -> None:
    link = await opened(bench, "a", keepalive_s=600, puback_timeout_s=0.4)
    bench.freeze()
    with pytest.raises(DisconnectedError):
        await asyncio.wait_for(link.publish("t", b""), PATIENCE_S)
    assert isinstance((await expect(link, Disconnected)).reason, NoAnswer)
    bench.thaw()
    await wait_until_connected(link)


async def test_a_stopped_broker_is_told_again_and_again_until_it_is_back(bench: Bench) -> None:
    link = await opened(bench, "a", "t")
    await link.publish("state", b"kept", retain=True)
    bench.stop()
    assert isinstance((await expect(link, Disconnected)).reason, ConnectionLost)
    bench.wipe()
    for _ in range(2):
        lost = await expect(link, Disconnected)
        assert lost.reason is not None
        assert lost.reason.retry
    bench.start()
    await wait_until_connected(link)
    await link.subscribe(["state", "t"])
    await link.publish("t", b"")
    assert (await expect(link, Received)).topic == "t"  # the retained message went with the store


async def test_a_forbidden_publish_is_told_where_the_protocol_can(bench: Bench) -> None:
    link = await opened(bench, "a", "forbidden/x", "t")
    flying = link.publish("forbidden/x", b"secret")
    if bench.protocol == "5":
        with pytest.raises(PublishDenied, match="forbidden/x"):
            await flying
    else:
        await flying
    await link.publish("t", b"")
    assert (await expect(link, Received)).topic == "t"
    assert link.connected


async def test_after_close_everything_says_so(bench: Bench) -> None:
    link = await opened(bench, "a", "t")
    waiting = asyncio.ensure_future(link.next_event())
    await asyncio.sleep(0)
    await link.close()
    await link.close()
    with pytest.raises(LinkClosed):
        await waiting
    with pytest.raises(LinkClosed):
        await link.next_event()
    with pytest.raises(LinkClosed):
        await link.publish("t", b"")
    with pytest.raises(LinkClosed):
        await link.open()
    assert [event async for event in link] == []


async def test_close_while_connecting_leaves_nothing_behind(bench: Bench) -> None:
    bench.freeze()
    link = bench.link("a")
    before = asyncio.all_tasks()
    await link.open()
    await asyncio.sleep(0.05)
    assert asyncio.all_tasks() > before  # it is trying
    await asyncio.wait_for(link.close(), PATIENCE_S)
    assert not link.connected
    assert asyncio.all_tasks() <= before
    bench.thaw()


async def test_a_publish_whose_waiter_gave_up_disturbs_nothing(bench: Bench) -> None:
    link = await opened(bench, "a", inflight_max=2)
    bench.freeze()
    given_up = [link.publish("t", b""), link.publish("t", b"")]
    room = asyncio.ensure_future(link.room())
    await asyncio.sleep(0)
    given_up[0].cancel()
    room.cancel()
    bench.thaw()
    await asyncio.wait_for(given_up[1], PATIENCE_S)
    await asyncio.wait_for(link.room(), PATIENCE_S)
    await link.publish("t", b"")


async def test_only_one_task_may_wait_for_events(bench: Bench) -> None:
    link = await opened(bench, "a")
    first = asyncio.ensure_future(link.next_event())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="two tasks"):
        await link.next_event()
    first.cancel()


async def wait_until_connected(link: Link) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not isinstance(await link.next_event(), Connected):
            pass


async def test_nothing_can_reach_an_unknown_place(bench: Bench) -> None:
    bench.stop()
    link = bench.link("a")
    await link.open()
    lost = await expect(link, Disconnected)
    assert lost.reason is not None
    assert lost.reason.hint
    if isinstance(bench, MemoryBench):
        assert isinstance(lost.reason, CannotReach)
