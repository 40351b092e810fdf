from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic_core import to_json

from tidewire_schemas import codec
from tidewire_schemas.digest import NO_DIGEST
from tidewire_schemas.errors import (
    MalformedMessage,
    MessageError,
    MessageTooLarge,
    UnsupportedVersion,
    ValueNotStorable,
)
from tidewire_schemas.json_schema import message_types, type_name
from tidewire_schemas.messages import Batch, Entry, Page, Replay, Run
from tidewire_schemas.snapshots import SnapshotChunk, SnapshotRequest
from tidewire_schemas.topics import Kind
from unit.schemas.strategies import batches, messages, millis, ordinals, pages, runs, snapshot_chunks

KINDS: tuple[Kind, ...] = get_args(Kind)
CARRIED = [(kind, type_name(message)) for kind in KINDS for message in message_types(kind)]

RUN = '{"op":"put","table":"t","base":[0,0],"key":1,"columns":["id","v"],"rows":[[1,%s]]}'


def batch_json(value: str = "2", run: str = RUN, **fields: str) -> bytes:
    """A batch by hand: `fields` are JSON texts that replace, or with `None` drop, the usual ones."""
    usual = {
        "v": "1",
        "type": '"batch"',
        "incarnation": f'"{"a" * 32}"',
        "batch": "1",
        "prev_digest": f'"{NO_DIGEST}"',
        "sealed_at": "1795390012345",
        "changes": f"[{run.replace('%s', value)}]",
    } | fields
    return ("{" + ",".join(f'"{name}":{text}' for name, text in usual.items()) + "}").encode()


def assert_one_line(error: MessageError) -> None:
    text = str(error)
    assert text.isprintable()
    assert len(text) < 500


# ── both ways ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("kind", "name"), CARRIED)
@settings(max_examples=15)
@given(st.data())
def test_every_message_survives_its_encoding(kind: Kind, name: str, data: st.DataObject) -> None:
    message = data.draw(messages[name])
    assert codec.parse(kind, codec.encode(message), bytes_max=10**7) == message


@settings(max_examples=50)
@given(batches)
def test_the_fast_and_the_general_way_of_reading_a_batch_agree(batch: Batch) -> None:
    changes_json = codec.encode_runs(batch.changes)
    usual = codec.encode_batch(
        incarnation=batch.incarnation,
        batch=batch.batch,
        prev_digest=batch.prev_digest,
        sealed_at=batch.sealed_at,
        changes_json=changes_json,
    )
    spaced = json.dumps(json.loads(usual), indent=1).encode()
    for payload in (usual, spaced, b" " + usual + b"\n"):
        parsed = codec.parse_batch(payload)
        assert parsed.batch == batch
        assert parsed.changes_json == changes_json


@settings(max_examples=15)
@given(pages(), st.booleans())
def test_pages_are_put_together_from_encoded_entries_as_from_models(page: Page, last: bool) -> None:
    entries = [
        codec.encode_entry(
            seq=entry.seq,
            epoch=entry.epoch,
            device=entry.device,
            incarnation=entry.incarnation,
            batch=entry.batch,
            digest=entry.digest,
            at=entry.at,
            refused_json=json.dumps([refusal.model_dump(mode="json") for refusal in entry.refused]).encode(),
            changes_json=codec.encode_runs(entry.changes),
        )
        for entry in page.entries
    ]
    for entry, encoded in zip(page.entries, entries, strict=True):
        assert Entry.model_validate_json(encoded) == entry
    payload = codec.encode_page(page.log, page.prev, entries)
    assert codec.parse("log", payload, bytes_max=10**7) == page
    incarnation, boot = "b" * 32, "c" * 32
    replay = codec.encode_replay(incarnation, boot, payload, last=last)
    assert codec.parse("in", replay, bytes_max=10**7) == Replay(
        incarnation=incarnation, boot=boot, last=last, page=page
    )


# ── hostile batches ───────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=200)
@given(st.data(), ordinals, millis, runs())
def test_whatever_bytes_are_changed_both_ways_say_the_same(data: st.DataObject, number: int, at: int, run: Run) -> None:
    payload = bytearray(batch_json(run=codec.encode_runs([run]).decode()[1:-1], batch=str(number), sealed_at=str(at)))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(payload) - 1))
        end = start + data.draw(st.integers(0, 3))
        payload[start:end] = data.draw(
            st.sampled_from([b"", b'"', b"}", b"]}", b",", b"0", b"-", b'],"v":2', b"\xff", b" "])
        )
    try:
        expected: Batch | None = Batch.model_validate_json(bytes(payload))
    except (ValidationError, ValueNotStorable):
        expected = None
    if expected is None:
        with pytest.raises(MessageError) as caught:
            codec.parse_batch(bytes(payload))
        assert_one_line(caught.value)
    else:
        parsed = codec.parse_batch(bytes(payload))
        assert parsed.batch == expected
        assert codec.parse_batch(batch_json(changes=parsed.changes_json.decode())).batch.changes == expected.changes


@pytest.mark.parametrize(
    "tail",
    [
        b'],"batch":7}',
        b'],"changes":[]}',
        b'],"device":"till-9"}',
        b"]}}",
        b"]}[]",
        b"]} {}",
        b"],[]}",
        b"]",
        b"",
        b"]}\0",
    ],
)
def test_what_follows_the_changes_cannot_add_or_replace_a_field(tail: bytes) -> None:
    payload = batch_json().removesuffix(b"]}") + tail
    try:
        parsed = codec.parse_batch(payload)
    except MalformedMessage:
        return
    assert parsed.batch == Batch.model_validate_json(payload)
    assert json.loads(b'{"changes":%s}' % parsed.changes_json).keys() == {"changes"}


def test_reordered_fields_are_read_and_the_changes_encoded_anew() -> None:
    payload = json.dumps(dict(reversed(json.loads(batch_json()).items()))).encode()
    parsed = codec.parse_batch(payload)
    assert parsed == codec.parse_batch(batch_json())


@pytest.mark.parametrize("number", ["0", "-1", "01", "1.0", "1e0", "true", '"1"', str(2**53), "9" * 5000])
def test_a_batch_number_must_be_an_exact_positive_integer(number: str) -> None:
    for way in (batch_json(batch=number), b" " + batch_json(batch=number)):
        with pytest.raises(MalformedMessage):
            codec.parse_batch(way)


# ── bad input on every kind of topic ──────────────────────────────────────────────────────────────────────────────

GARBAGE: dict[str, tuple[bytes, type[MessageError]]] = {
    "empty": (b"", MalformedMessage),
    "not JSON": (b"hello", MalformedMessage),
    "not UTF-8": (b'{"v":1,"type":"\xff"}', MalformedMessage),
    "truncated": (b'{"v":1,"type":"batch","incarn', MalformedMessage),
    "an array": (b"[]", MalformedMessage),
    "null": (b"null", MalformedMessage),
    "no type": (b'{"v":1}', MalformedMessage),
    "unknown type": (b'{"v":1,"type":"\\u001b[31m\\nevil"}', MalformedMessage),
    "type is an object": (b'{"v":1,"type":{}}', MalformedMessage),
    "later version": (b'{"v":2,"type":"something_new","x":1}', UnsupportedVersion),
    "1,000 deep": (b'{"v":1,"type":' + b"[" * 1000 + b"]" * 1000 + b"}", MalformedMessage),
    "1,000 deep objects": (b'{"a":' * 1000 + b"1" + b"}" * 1000, MalformedMessage),
    "a lone surrogate": (b'{"v":1,"type":"\\ud800"}', MalformedMessage),
    "an unknown field with a hostile name": (
        b'{"v":1,"type":"x","\\n\\u0000' + b"a" * 3000 + b'":1}',
        MalformedMessage,
    ),
    "a number of 5,000 digits": (b'{"v":1,"type":' + b"7" * 5000 + b"}", MalformedMessage),
    "many unknown fields": (b"{" + b",".join(b'"%d":1' % n for n in range(5000)) + b"}", MalformedMessage),
}


@pytest.mark.parametrize("what", GARBAGE)
@pytest.mark.parametrize("kind", KINDS)
def test_garbage_is_named_in_one_line(kind: Kind, what: str) -> None:
    """Guarantee 10."""
    payload, expected = GARBAGE[what]
    with pytest.raises(expected) as caught:
        codec.parse(kind, payload)
    assert_one_line(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_random_bytes_are_never_more_than_a_message_error(kind: Kind, payload: bytes) -> None:
    """Guarantee 10."""
    with pytest.raises(MessageError):
        codec.parse(kind, payload)


@pytest.mark.parametrize("kind", KINDS)
def test_a_payload_above_the_limit_is_refused_before_it_is_parsed(kind: Kind) -> None:
    """Guarantee 12."""
    with pytest.raises(MessageTooLarge, match="101 bytes are above payload_bytes_max=100"):
        codec.parse(kind, b"\xff" * 101, bytes_max=100)


@pytest.mark.parametrize(("kind", "name"), CARRIED)
@settings(max_examples=5)
@given(st.data())
def test_no_message_takes_an_unknown_field_or_lacks_version_or_type(kind: Kind, name: str, data: st.DataObject) -> None:
    fields = json.loads(codec.encode(data.draw(messages[name])))
    for wrong in (
        fields | {"extra": 1},
        {key: value for key, value in fields.items() if key != "v"},
        {key: value for key, value in fields.items() if key != "type"},
    ):
        with pytest.raises(MalformedMessage):
            codec.parse(kind, json.dumps(wrong).encode(), bytes_max=10**7)
    for version in (0, 2, True, "1", 1.0, None):
        with pytest.raises(UnsupportedVersion):
            codec.parse(kind, json.dumps(fields | {"v": version}).encode(), bytes_max=10**7)


def test_a_batch_above_its_limit_is_refused() -> None:
    """Guarantee 12."""
    payload = batch_json()
    with pytest.raises(MessageTooLarge):
        codec.parse_batch(payload, bytes_max=len(payload) - 1)
    assert codec.parse_batch(payload, bytes_max=len(payload)).batch.batch == 1


@pytest.mark.parametrize(
    "cell",
    [
        "NaN",
        "Infinity",
        "-Infinity",
        "1e400",
        str(2**63),
        "9" * 4000,
        "true",
        "[]",
        "{}",
        '{"real":[]}',
        '{"blob":"*"}',
    ],
)
def test_a_cell_that_sqlite_cannot_hold_is_named_as_such(cell: str) -> None:
    for payload in (batch_json(cell), b" " + batch_json(cell)):
        with pytest.raises(ValueNotStorable) as caught:
            codec.parse_batch(payload)
        assert_one_line(caught.value)


@pytest.mark.parametrize("cell", ["9" * 5000, "nul", '"\\ud800"', '"\\x"', "1.", "+1", "[" * 300 + "]" * 300])
def test_a_cell_that_is_not_json_makes_the_message_malformed(cell: str) -> None:
    for payload in (batch_json(cell), b" " + batch_json(cell)):
        with pytest.raises(MalformedMessage) as caught:
            codec.parse_batch(payload)
        assert_one_line(caught.value)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"key": 3}, "3 of them as key"),
        ({"key": 0}, "greater than or equal to 1"),
        ({"op": "delete"}, "as key"),
        ({"op": "set", "key": 2}, "no column besides the key"),
        ({"op": "upsert"}, "op"),
        ({"columns": ["id", "ID"]}, "names a column twice"),
        ({"columns": []}, "columns"),
        ({"columns": ["id", "a\0b"]}, "columns"),
        ({"columns": ["id", "x" * 256]}, "columns"),
        ({"table": ""}, "table"),
        ({"rows": []}, "rows"),
        ({"rows": 7}, "rows"),
        ({"rows": [7]}, "rows"),
        ({"ties": [1, 2]}, "a number for each row"),
        ({"ties": [-1]}, "ties"),
        ({"base": {"epoch": 0, "seq": 0}}, "base"),
        ({"base": [0]}, "base"),
        ({"base": [0, 0, 0]}, "base"),
        ({"base": [0, -1]}, "base"),
        ({"base": [0, 2**53]}, "base"),
        ({"surplus": 1}, "surplus"),
    ],
)
def test_a_run_that_does_not_fit_together_is_refused_with_its_reason(fields: dict[str, Any], complaint: str) -> None:
    run = json.dumps(json.loads(RUN % "2") | fields)
    for payload in (batch_json(run=run), b" " + batch_json(run=run)):
        with pytest.raises(MalformedMessage) as caught:
            codec.parse_batch(payload)
        assert complaint in str(caught.value)
        assert_one_line(caught.value)


def test_a_page_whose_entries_do_not_follow_each_other_is_refused() -> None:
    entry = codec.encode_entry(
        seq=3,
        epoch=1,
        device="till-7",
        incarnation="a" * 32,
        batch=1,
        digest="d" * 32,
        at=0,
        refused_json=b"[]",
        changes_json=b"[]",
    )
    page = b'{"v":1,"type":"page","log":"%s","prev":[1,1],"entries":[%s]}' % (b"e" * 32, entry)
    with pytest.raises(MalformedMessage, match="entry 3 stands where 2 belongs"):
        codec.parse("log", page)


# ── snapshots ─────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=25)
@given(snapshot_chunks())
def test_a_chunk_is_put_together_from_its_stored_body_as_from_the_model(chunk: SnapshotChunk) -> None:
    body = codec.encode_chunk_body(
        snapshot=chunk.snapshot,
        chunk=chunk.chunk,
        table=chunk.table,
        key=chunk.key,
        columns=chunk.columns,
        rows_json=to_json(chunk.rows),
    )
    payload = codec.encode_snapshot_chunk(chunk.incarnation, chunk.boot, body)
    assert payload == codec.encode(chunk)
    received = codec.parse("in", payload, bytes_max=10**7)
    assert isinstance(received, SnapshotChunk)
    assert codec.rows_digest(received.rows) == received.digest == chunk.digest


def test_chunks_are_asked_for_of_a_named_snapshot_alone() -> None:
    with pytest.raises(ValidationError, match="named snapshot"):
        SnapshotRequest(incarnation="a" * 32, boot="b" * 32, snapshot=None, chunks=1)
    assert SnapshotRequest(incarnation="a" * 32, boot="b" * 32, snapshot=None).tables is None


@pytest.mark.parametrize(("key", "row"), [(3, [1, 2]), (1, [1]), (1, [1, {"blob": 7}])])
def test_a_chunk_that_does_not_fit_together_is_refused(key: int, row: list[Any]) -> None:
    with pytest.raises((ValidationError, ValueNotStorable)):
        SnapshotChunk(
            incarnation="a" * 32,
            boot="b" * 32,
            snapshot="c" * 32,
            chunk=0,
            table="t",
            key=key,
            columns=("id", "v"),
            digest="d" * 32,
            rows=[row],
        )
