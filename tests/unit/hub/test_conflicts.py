"""The conflict log: bounded, read in pages, and made anew with what refused rows held."""

from __future__ import annotations

from support.stream_kit import LOG_ID, NOW_MS, HandDevice, open_stream, send, shape
from tidewire_hub.log.memory import MemoryLog
from tidewire_hub.stream import Conflict, Stream, StreamSettings
from tidewire_schemas.positions import Seq

LIMITS = StreamSettings(conflicts_max=5)


def test_only_the_newest_records_are_kept_and_their_ids_go_on() -> None:
    """Guarantee 12."""
    log = MemoryLog(LOG_ID)
    stream = open_stream(log, settings=LIMITS)
    stream.declare("a", [shape("t", "id INTEGER, n INTEGER")])
    device = HandDevice("a")
    for first in (0, 4, 8):
        send(stream, device.seal(device.set("t", "id n", *[[first + n, n] for n in range(4)])))
    assert [record.id for record in stream.conflicts()] == [8, 9, 10, 11, 12]
    assert [record.id for record in stream.conflicts(after_id=9, limit=2)] == [10, 11]
    assert Stream.open(log, None, settings=LIMITS).conflicts() == stream.conflicts()


def test_a_record_says_who_lost_what_to_whom() -> None:
    stream = open_stream()
    stream.declare("a", [shape("Person", "Id TEXT, Mail TEXT, n INTEGER", key="Id", unique=["Mail"])])
    a, b = HandDevice("a"), HandDevice("b")
    send(stream, a.seal(a.put("person", "id mail n", ["1", "ann@x", 1])))
    a.base = b.base = stream.head
    send(stream, a.seal(a.set("person", "id n", ["1", 2])))
    runs = b.set("person", "id n", ["1", 3]), b.put("person", "ID MAIL n", ["2", "ann@x", None])
    commit = send(stream, b.seal(*runs), at_ms=NOW_MS + 5)
    assert (commit.refused, commit.conflicts, commit.rows) == (1, 2, 2)
    assert stream.conflicts() == [
        Conflict(
            id=1,
            seq=Seq(3),
            at=NOW_MS + 5,
            device="b",
            table="Person",
            key=["1"],
            kind="overwritten",
            loser="a",
            lost={"n": 2},
        ),
        Conflict(
            id=2,
            seq=Seq(3),
            at=NOW_MS + 5,
            device="b",
            table="person",
            key=["2"],
            kind="unique",
            loser="b",
            lost={"MAIL": "ann@x", "n": None},
        ),
    ]


def test_values_of_several_losers_are_recorded_apart() -> None:
    stream = open_stream()
    stream.declare("a", [shape("t", "id TEXT, x INTEGER, y INTEGER")])
    a, b, c = (HandDevice(name) for name in "abc")
    send(stream, a.seal(a.put("t", "id x y", ["k", 0, 0])))
    a.base = b.base = c.base = stream.head
    send(stream, a.seal(a.set("t", "id x", ["k", 1])), b.seal(b.set("t", "id y", ["k", 2])))
    send(stream, c.seal(c.put("t", "id x y", ["k", 8, 9])))
    assert [(record.loser, record.lost) for record in stream.conflicts()] == [("a", {"x": 1}), ("b", {"y": 2})]
