from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidewire_schemas import codec
from tidewire_schemas.digest import message_digest
from tidewire_schemas.errors import MalformedMessage, MessageError, MessageTooLarge, SequenceGap, SettingError
from tidewire_schemas.messages import Part
from tidewire_schemas.parts import Assembler, split

LIMIT = 2**20

# Text that grows when it is quoted (quotes, backslashes, control characters) and characters of several bytes.
payloads = st.builds(
    lambda pieces, times: ("".join(pieces) * times).encode(),
    st.lists(
        st.text(min_size=1, max_size=8) | st.sampled_from(['"', "\\", '{"a":"\\"é🌊"}', "\x01\n", "日本"]), min_size=1
    ),
    st.integers(1, 400),
)


def cut(payload: bytes, limit: int = 1024) -> list[Part]:
    parts = [codec.parse("up", text) for text in split(payload, limit)]
    return [part for part in parts if isinstance(part, Part)]


def feed(assembler: Assembler, parts: list[Part]) -> list[bytes | type[Exception]]:
    """What came of each part: whole messages and errors."""
    out: list[bytes | type[Exception]] = []
    for part in parts:
        try:
            whole = assembler.feed(part)
        except (MessageError, SequenceGap) as error:
            out.append(type(error))
        else:
            out.extend([whole] if whole is not None else [])
    return out


@settings(max_examples=80, deadline=None)
@given(payloads, st.integers(1024, 4000))
def test_any_message_is_cut_within_the_limit_and_put_together_again(payload: bytes, limit: int) -> None:
    texts = list(split(payload, limit))
    assert all(len(text) <= limit for text in texts)
    if len(payload) <= limit:
        assert texts == [payload]
        return
    assembler = Assembler(LIMIT)
    assert feed(assembler, cut(payload, limit)) == [payload]
    assert assembler.bytes_held == 0


@settings(max_examples=80)
@given(st.data())
def test_repeated_lost_and_swapped_parts_never_make_a_wrong_message(data: st.DataObject) -> None:
    message, other = b'"' + b"a" * 5000 + b'"', b'"' + b"b" * 4000 + b'"'
    parts = [*cut(message), *cut(other)]
    order = data.draw(st.lists(st.sampled_from(parts), max_size=25))
    assembler = Assembler(LIMIT)
    outcome = feed(assembler, order)
    assert all(item in (message, other, SequenceGap) for item in outcome)
    assert assembler.bytes_held <= 5002
    assert feed(assembler, cut(message))[-1:] == [message]  # sent again whole, it comes through


def test_a_message_delivered_again_in_full_or_in_its_last_parts_does_no_harm() -> None:
    message = b"x" * 3000
    parts = cut(message)
    assert feed(Assembler(LIMIT), [*parts, *parts]) == [message, message]
    assert feed(Assembler(LIMIT), [*parts, *parts[1:]]) == [message]
    assert feed(Assembler(LIMIT), [part for part in parts for _ in range(2)]) == [message]
    assert feed(Assembler(LIMIT), [*parts[:2], *parts]) == [message]


def test_a_lost_part_is_reported_once_and_the_message_comes_whole_the_next_time() -> None:
    message = b"x" * 6000
    parts = cut(message)
    assembler = Assembler(LIMIT)
    assert feed(assembler, [parts[0], *parts[2:]]) == [SequenceGap]
    assert assembler.bytes_held == 0
    assert feed(assembler, parts) == [message]
    assert feed(Assembler(LIMIT), parts[3:]) == [SequenceGap]


def test_another_message_takes_the_place_of_an_unfinished_one() -> None:
    first, second = b"x" * 3000, b"y" * 3000
    assembler = Assembler(LIMIT)
    assert feed(assembler, [*cut(first)[:2], *cut(second)]) == [second]


def test_a_message_above_the_limit_is_refused_at_its_first_part_and_nothing_is_held() -> None:
    """Guarantee 12."""
    parts = cut(b"x" * 3000)
    assembler = Assembler(2999)
    with pytest.raises(MessageTooLarge, match="3000 bytes are above batch_bytes_max=2999"):
        assembler.feed(parts[0])
    assert feed(assembler, parts[1:]) == []
    assert assembler.bytes_held == 0


def test_parts_that_hold_more_or_less_or_other_bytes_than_announced_are_malformed() -> None:
    digest = message_digest(b"abcd")

    def part(number: int, text: str, size: int = 4) -> Part:
        return Part(digest=digest, part=number, parts=2, size=size, text=text)

    assert feed(Assembler(LIMIT), [part(0, "abcde")]) == [MalformedMessage]
    assert feed(Assembler(LIMIT), [part(0, "ab"), part(1, "c")]) == [MalformedMessage]
    assert feed(Assembler(LIMIT), [part(0, "ab"), part(1, "cX")]) == [MalformedMessage]
    assert feed(Assembler(LIMIT), [part(0, "ab"), part(1, "cd")]) == [b"abcd"]


@pytest.mark.parametrize("numbers", ['"part":2,"parts":2', '"part":0,"parts":1', '"part":-1,"parts":2'])
def test_a_part_that_cannot_exist_is_refused(numbers: str) -> None:
    text = f'{{"v":1,"type":"part","digest":"{"d" * 32}",{numbers},"size":4,"text":"ab"}}'
    with pytest.raises(MalformedMessage):
        codec.parse("up", text.encode())


def test_a_limit_too_small_for_parts_is_a_wrong_setting() -> None:
    with pytest.raises(SettingError, match="payload_bytes_max=1023"):
        list(split(b"", 1023))


def test_a_lost_connection_forgets_everything() -> None:
    parts = cut(b"x" * 3000)
    assembler = Assembler(LIMIT)
    feed(assembler, parts[:1])
    assembler.drop()
    assert assembler.bytes_held == 0
    assert feed(assembler, parts) == [b"x" * 3000]
