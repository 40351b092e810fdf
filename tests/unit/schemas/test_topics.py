from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidewire_schemas import topics
from tidewire_schemas.errors import InvalidName
from tidewire_schemas.names import check_topic_name
from tidewire_schemas.topics import Topic
from unit.schemas.strategies import topic_names

NOT_NAMES = ["", "+", "#", "a/b", "a+", "#a", "A", "é", "a.b", "a b", "-a", "_a", "a\0", "a\n", "a" * 64, "$sys"]


@settings(max_examples=60)
@given(topic_names, topic_names)
def test_what_is_built_is_parsed_to_the_same(stream: str, name: str) -> None:
    built = {
        topics.up(stream, name): Topic("up", stream=stream, device=name),
        topics.ask(stream, name): Topic("ask", stream=stream, device=name),
        topics.log(stream): Topic("log", stream=stream),
        topics.head(stream): Topic("head", stream=stream),
        topics.inbox(name, stream): Topic("in", stream=stream, device=name),
        topics.device_state(name): Topic("device_state", device=name),
        topics.hub_state(name): Topic("hub_state", node=name),
    }
    assert len(built) == 7
    for topic, parsed in built.items():
        assert topics.parse(topic) == parsed
        assert topic.count("/") <= 7
        assert not set("+#") & set(topic)


@settings(max_examples=60)
@given(st.text(max_size=80) | st.lists(topic_names | st.sampled_from(NOT_NAMES), max_size=8).map("/".join))
def test_no_text_makes_the_parser_fail_and_what_it_takes_is_built_the_same(text: str) -> None:
    for topic in (text, f"tidewire/v1/{text}", f"tidewire/v1/stream/{text}", f"tidewire/v1/device/{text}"):
        parsed = topics.parse(topic)
        if parsed is not None:
            for name in (parsed.stream, parsed.device, parsed.node):
                assert name is None or check_topic_name(name, "name") == name


@pytest.mark.parametrize("name", NOT_NAMES)
def test_a_name_that_is_no_topic_level_is_refused_everywhere(name: str) -> None:
    for build in (
        lambda: topics.up(name, "d"),
        lambda: topics.up("s", name),
        lambda: topics.ask("s", name),
        lambda: topics.log(name),
        lambda: topics.head(name),
        lambda: topics.inbox(name, "s"),
        lambda: topics.inbox("d", name),
        lambda: topics.device_state(name),
        lambda: topics.hub_state(name),
        lambda: topics.hub_filters(name),
        lambda: topics.agent_filters(name, "d"),
    ):
        with pytest.raises(InvalidName) as caught:
            build()
        assert str(caught.value).isprintable()
    assert topics.parse(f"tidewire/v1/stream/{name}/log") is None
    assert topics.parse(f"tidewire/v1/device/{name}/state") is None


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "tidewire",
        "tidewire/v2/stream/main/log",
        "tidewire/v1/stream/main/log/",
        "/tidewire/v1/stream/main/log",
        "tidewire/v1/stream/main/up",
        "tidewire/v1/stream/main/up/a/b",
        "tidewire/v1/hub/a",
        "$SYS/broker/uptime",
    ],
)
def test_another_topic_is_nothing_of_ours(topic: str) -> None:
    assert topics.parse(topic) is None


def test_an_agent_subscribes_to_its_inbox_first_and_to_nothing_of_others() -> None:
    assert topics.agent_filters("main", "till-7") == (
        "tidewire/v1/device/till-7/in/main",
        "tidewire/v1/stream/main/log",
        "tidewire/v1/stream/main/head",
    )


def test_a_hub_subscribes_to_one_stream() -> None:
    assert topics.hub_filters("main") == (
        "tidewire/v1/stream/main/ask/+",
        "tidewire/v1/stream/main/up/+",
        "tidewire/v1/device/+/state",
    )
