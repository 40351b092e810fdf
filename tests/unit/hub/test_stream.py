"""Dedupe, numbering, leadership, bad batches, failures of the disk: the stream as its users see it."""

from __future__ import annotations

import resource
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.stream_kit import (
    LOG_ID,
    NOW_MS,
    HandDevice,
    entry_of,
    only_entry,
    open_stream,
    picture,
    rows_of,
    send,
    shape,
)
from tidewire_hub import resolve, sequencer
from tidewire_hub.log.memory import MemoryLog
from tidewire_hub.log.port import StaleLeader, StoredEntry
from tidewire_hub.log.sqlite import SqliteLog
from tidewire_hub.resolve_view import Life, life_of
from tidewire_hub.stream import Acked, Incoming, Stream, StreamSettings
from tidewire_schemas.digest import message_digest
from tidewire_schemas.errors import DatabaseError
from tidewire_schemas.positions import START, Epoch, Position, Seq

TABLE = shape("t", "id INTEGER, text TEXT")


@pytest.fixture
def stream() -> Stream:
    opened = open_stream()
    opened.declare("a", [TABLE])
    return opened


def batches(device: HandDevice, count: int) -> list[Incoming]:
    return [device.seal(device.put("t", "id text", [device.batch * 100, f"{device.name} {n}"])) for n in range(count)]


# ── dedupe and order ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_repeated_batch_is_acked_again_with_its_old_seq_and_makes_no_entry(stream: Stream) -> None:
    """Guarantee 2."""
    one, two = batches(HandDevice("a"), 2)
    first = send(stream, one, two)
    again = send(stream, two, one, one)
    assert again.entries == []
    assert again.acks == [first.acks[1], first.acks[0], first.acks[0]]
    assert send(stream, *[one] * 3).head == Position(stream.epoch, 2)


def test_a_batch_repeated_within_one_group_is_taken_once(stream: Stream) -> None:
    """Guarantee 2."""
    (one,) = batches(HandDevice("a"), 1)
    commit = send(stream, one, one)
    assert len(commit.entries) == 1
    assert commit.acks[0] == commit.acks[1]


def test_batches_of_one_device_keep_their_order_and_a_gap_is_asked_for_once(stream: Stream) -> None:
    """Guarantee 5."""
    one, two, three, four = batches(HandDevice("a"), 4)
    commit = send(stream, one, three, four, two)
    assert [ack.batch for ack in commit.acks] == [1, 2]
    assert [(p.code, p.batch, p.retry) for p in commit.problems] == [("resend", 2, True)]
    assert [ack.batch for ack in send(stream, three, four).acks] == [3, 4]


def test_a_group_whose_time_is_up_leaves_the_rest_for_the_next(stream: Stream) -> None:
    device = HandDevice("a")
    sent = [device.seal(device.put("t", "id", [n])) for n in range(5)]
    calls = iter([False, True])
    commit = stream.sequence(sent, NOW_MS, lambda: next(calls))
    assert (commit.left, len(commit.entries), len(commit.acks)) == (3, 2, 2)
    commit = stream.sequence(sent[2:], NOW_MS, lambda: True)
    assert (commit.left, commit.acks[0].batch) == (2, 3)
    commit = stream.sequence(sent[3:], NOW_MS)
    assert (commit.left, len(commit.entries), commit.problems) == (0, 2, [])


def test_a_first_batch_must_be_number_one(stream: Stream) -> None:
    _, two = batches(HandDevice("a"), 2)
    assert [(p.code, p.batch) for p in send(stream, two).problems] == [("resend", 1)]


def test_an_incarnation_that_follows_a_batch_unknown_here_is_a_fork(stream: Stream) -> None:
    headless = HandDevice("b")
    headless.digest = "ef" * 16
    assert [(p.code, p.batch) for p in send(stream, headless.seal()).problems] == [("fork", 1)]
    stranger = HandDevice("a")
    (one,) = batches(stranger, 1)
    send(stream, one)
    headless = HandDevice("b")
    headless.digest = stranger.digest
    assert [p.code for p in send(stream, headless.seal()).problems] == ["fork"]


def test_another_batch_under_a_known_number_is_a_fork(stream: Stream) -> None:
    original, clone = HandDevice("a"), HandDevice("a")
    send(stream, *batches(original, 3))
    clone.seal(clone.put("t", "id text", [7, "other"]))
    commit = send(stream, clone.seal())
    assert [(p.code, p.batch) for p in commit.problems] == [("fork", 2)]


def test_a_next_batch_that_follows_another_one_is_a_fork(stream: Stream) -> None:
    original, clone = HandDevice("a"), HandDevice("a")
    send(stream, *batches(original, 1))
    clone.seal(clone.put("t", "id text", [7, "other"]))
    commit = send(stream, clone.seal())
    assert [(p.code, p.batch, p.incarnation) for p in commit.problems] == [("fork", 2, clone.incarnation)]
    assert stream.head.seq == 1


def test_a_batch_older_than_what_is_remembered_acks_the_newest() -> None:
    stream = open_stream(settings=StreamSettings(chain_points_max=2))
    sent = batches(HandDevice("a"), 5)
    send(stream, *sent)
    assert [ack.batch for ack in send(stream, sent[0], sent[3]).acks] == [5, 4]
    assert [point.batch for point in stream.recent("a", HandDevice("a").incarnation, 9)] == [5, 4]


def test_a_new_incarnation_begins_its_own_chain(stream: Stream) -> None:
    send(stream, *batches(HandDevice("a"), 2))
    anew = HandDevice("a", incarnation="ab" * 16)
    commit = send(stream, anew.seal())
    assert [ack.seq for ack in commit.acks] == [3]
    assert [(c.device, c.accepted.batch, c.accepted.seq) for c in stream.devices()] == [("a", 2, 2), ("a", 1, 3)]


def test_the_device_is_the_topics_not_the_payloads(stream: Stream) -> None:
    (one,) = batches(HandDevice("a"), 1)
    entry = only_entry(send(stream, Incoming("b", one.payload)))
    assert entry.device == "b"
    assert stream.accepted("a", HandDevice("a").incarnation) is None


def test_an_ack_carries_what_the_device_sent(stream: Stream) -> None:
    (one,) = batches(HandDevice("a"), 1)
    commit = send(stream, one)
    digest = message_digest(one.payload)
    assert commit.acks == [Acked("a", HandDevice("a").incarnation, 1, digest, Seq(1))]
    assert only_entry(commit).digest == digest


def test_a_batch_with_a_table_that_nobody_told_of_waits_for_the_hello_of_its_device() -> None:
    """A new leader may get batches before the Hello that tells of their tables: to refuse rows is for good."""
    stream = open_stream()
    one, two = batches(HandDevice("a"), 2)
    commit = send(stream, one._replace(greeted=False), two._replace(greeted=False))
    assert not commit.entries
    assert [(p.code, p.batch) for p in commit.problems] == [("hello_needed", 1), ("resend", 1)]
    stream.declare("a", [TABLE])
    assert [ack.batch for ack in send(stream, one, two).acks] == [1, 2]


def test_so_does_one_with_a_column_that_nobody_told_of() -> None:
    stream = open_stream()
    stream.declare("a", [TABLE])
    device = HandDevice("a")
    batch = device.seal(device.put("t", "id text later", [1, "x", "y"]))
    assert [p.code for p in send(stream, batch._replace(greeted=False)).problems] == ["hello_needed"]


# ── bad batches ───────────────────────────────────────────────────────────────────────────────────────────────────

DEEP = b'{"v":1,"type":"batch","changes":' + b"[" * 5000 + b"]" * 5000 + b"}"


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", "message_malformed"),
        (b"\xff\xfe", "message_malformed"),
        (b'{"v":1,"type":"batch"', "message_malformed"),
        (b'{"v":2,"type":"batch","incarnation":"x"}', "message_version"),
        (DEEP, "message_malformed"),
        (b" " * 2_000_000, "message_too_large"),
    ],
)
def test_a_bad_batch_is_a_problem_of_its_sender_and_holds_up_nobody(payload: bytes, code: str) -> None:
    """Guarantee 10."""
    stream = open_stream(settings=StreamSettings(batch_bytes_max=1_000_000))
    stream.declare("a", [TABLE])
    one, two = batches(HandDevice("a"), 2)
    commit = send(stream, one, Incoming("b", payload), two)
    assert [(p.device, p.code) for p in commit.problems] == [("b", code)]
    assert [ack.batch for ack in commit.acks] == [1, 2]


def test_a_batch_that_breaks_the_resolution_is_left_out_and_the_group_goes_on(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guarantee 10."""
    poison, good = HandDevice("a"), HandDevice("b")

    def breaks_on_poison(*args: object) -> resolve.Resolution:
        if isinstance(args[1], Life) and args[1].name == life_of("a", poison.incarnation):
            raise RecursionError("too deep")
        return resolve.resolve(*args)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(sequencer, "resolve", breaks_on_poison)
    bad = poison.seal(poison.delete("t", "id", [1]))
    commit = send(stream, *batches(good, 1), bad, good.seal(good.set("t", "id text", [0, "x"])))
    assert [(p.device, p.code, p.batch) for p in commit.problems] == [("a", "internal", 1)]
    assert [(ack.device, ack.seq) for ack in commit.acks] == [("b", 1), ("b", 2)]
    assert rows_of(stream, "t") == [{"id": 0, "text": "x"}]


def test_a_batch_whose_entry_no_device_could_take_is_its_senders_problem() -> None:
    """Guarantees 10 and 12: an old copy's seeds, each refused with the hub's row, are more than the batch was."""
    stream = open_stream(settings=StreamSettings(batch_bytes_max=10_000))
    stream.declare("a", [TABLE])
    a, b = HandDevice("a"), HandDevice("b")
    send(stream, a.seal(a.put("t", "id text", *[[n, "of the hub"] for n in range(100)])))
    old = b.seal(b.seed("t", "id text", *[[n, "old"] for n in range(100)]))
    commit = send(stream, old, a.seal(a.set("t", "id text", [1, "new"])))
    assert [(p.device, p.code, p.batch) for p in commit.problems] == [("b", "entry_too_large", 1)]
    assert [(ack.device, ack.seq) for ack in commit.acks] == [("a", 2)]
    assert len(stream.conflicts()) == 0


# ── leadership ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_epoch_is_above_the_clock_the_stored_and_the_heard() -> None:
    log = MemoryLog(LOG_ID)
    stream = Stream.open(log, None)
    assert stream.lead(1000, 3) == 1000 * 1024 + 3
    assert stream.lead(0, 0) == 1000 * 1024 + 4
    assert stream.lead(0, 0, heard_epoch=5_000_000) == 5_000_001
    assert log.epoch() == stream.epoch == 5_000_001


def test_an_absurd_heard_epoch_does_not_use_up_the_numbers() -> None:
    stream = Stream.open(MemoryLog(LOG_ID), None)
    assert stream.lead(1, 0, heard_epoch=2**53 - 1) == 1024


def test_nothing_is_sequenced_before_leading() -> None:
    stream = Stream.open(MemoryLog(LOG_ID), None)
    with pytest.raises(StaleLeader):
        send(stream, *batches(HandDevice("a"), 1))
    assert stream.head == START


def test_a_stale_leader_stores_and_acks_nothing_and_sees_the_new_leaders_entries(tmp_path: Path) -> None:
    """Guarantee 8."""
    old = open_stream(SqliteLog.open(tmp_path / "log.db"))
    old.declare("a", [TABLE])
    new = open_stream(SqliteLog.open(tmp_path / "log.db"))
    one, two = batches(HandDevice("a"), 2)
    with pytest.raises(StaleLeader):
        send(old, one)
    send(new, one, two)
    assert picture(old) == picture(new)
    assert old.head == Position(new.epoch, 2)


def test_a_checkpoint_is_known_only_with_its_epoch(stream: Stream) -> None:
    send(stream, *batches(HandDevice("a"), 2))
    epoch = stream.epoch
    known = [START, Position(epoch, 1), Position(epoch, 2)]
    unknown = [Position(epoch, 3), Position(epoch - 1, 2), Position(0, 1), Position(epoch, 0)]
    assert [stream.checkpoint_known(position) for position in [*known, *unknown]] == [True] * 3 + [False] * 4


def test_reading_gives_the_stored_bytes(stream: Stream) -> None:
    commit = send(stream, *batches(HandDevice("a"), 3))
    assert stream.read(Seq(0), bytes_max=10**6, entries_max=100) == commit.entries
    assert stream.read(Seq(1), bytes_max=1, entries_max=100) == commit.entries[1:2]
    assert [entry_of(stored).at for stored in commit.entries] == [NOW_MS] * 3


# ── failures ──────────────────────────────────────────────────────────────────────────────────────────────────────


class FullLog(MemoryLog):
    """A log on a disk that is full while a test says so."""

    full = False

    def append(self, epoch: Epoch, after: Seq, entries: Sequence[StoredEntry]) -> None:
        if self.full:
            raise DatabaseError("no space left")
        super().append(epoch, after, entries)


@pytest.mark.parametrize("commit_rows", [0, 1_000_000])
def test_an_append_that_fails_leaves_the_state_as_it_was_and_succeeds_when_there_is_space(commit_rows: int) -> None:
    """Guarantee 11."""
    log = FullLog(LOG_ID)
    stream = open_stream(log, settings=StreamSettings(state_commit_rows=commit_rows))
    stream.declare("a", [TABLE])
    device = HandDevice("a")
    send(stream, *batches(device, 3))
    before = picture(stream)
    more = batches(device, 2)
    log.full = True
    with pytest.raises(DatabaseError):
        send(stream, *more)
    assert picture(stream) == before
    log.full = False
    assert [ack.batch for ack in send(stream, *more).acks] == [4, 5]
    assert len(rows_of(stream, "t")) == 5


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process may grow above `size` bytes: as a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_state_that_cannot_be_stored_takes_no_ack_back_and_is_folded_later(tmp_path: Path) -> None:
    """Guarantee 11: the entries are durable, so they are acked though the state's disk is full."""
    settings = StreamSettings(state_commit_rows=0)
    stream = open_stream(MemoryLog(LOG_ID), tmp_path / "state.db", settings=settings)
    stream.declare("a", [TABLE])
    device = HandDevice("a")
    with file_size_limit(200_000):
        commit = send(stream, device.seal(device.put("t", "id text", *[[n, "x" * 500] for n in range(1000)])))
    assert [ack.batch for ack in commit.acks] == [1]
    assert stream.digests()[0].rows == 1000
    assert [ack.batch for ack in send(stream, device.seal()).acks] == [2]


def test_a_log_whose_disk_is_full_acks_nothing_and_nothing_is_lost(tmp_path: Path) -> None:
    """Guarantee 11."""
    stream = open_stream(SqliteLog.open(tmp_path / "log.db"), tmp_path / "state.db")
    stream.declare("a", [TABLE])
    device = HandDevice("a")
    send(stream, *batches(device, 1))
    big = device.seal(device.put("t", "id text", [5, "x" * 3_000_000]))
    with file_size_limit(1_000_000), pytest.raises(DatabaseError):
        send(stream, big)
    assert stream.head.seq == 1
    assert [ack.seq for ack in send(stream, big).acks] == [2]
    stream.close()


def test_an_unexpected_error_of_the_state_is_a_database_error(tmp_path: Path) -> None:
    stream = open_stream(MemoryLog(LOG_ID), tmp_path / "state.db")
    stream.declare("a", [TABLE])
    other = sqlite3.connect(tmp_path / "state.db")
    other.execute("DROP TABLE conflict")
    other.close()
    with pytest.raises(DatabaseError, match=r"state\.db"):
        stream.conflicts()
