"""`flush` and `fresh` through the file: a real store does the agent's part step by step, a list is the log."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from support.waiting import wait_for
from tidewire_agent import DataSync
from tidewire_agent.datasync.errors import FlushTimeout, FreshTimeout, TransactionOpen
from tidewire_agent.datasync.waiting import ABANDONED_AFTER_MS, FlushWait
from tidewire_agent.store.edge_store import EdgeStore
from tidewire_schemas.codec import encode_entry, encode_page, parse, parse_batch
from tidewire_schemas.messages import Page
from tidewire_schemas.positions import START, Position

LOG_ID = "a" * 32
CHANGE = b'[{"op":"put","table":"tidewire_kv","base":[0,0],"key":1,"columns":["key","value"],"rows":[["k","%d"]]}]'


class Device:
    """An agent without a network: its steps are calls, and the log repeats what it is sent."""

    def __init__(self, path: Path) -> None:
        self.store = EdgeStore.open(path, device="till-7")
        self.store.attach(["tidewire_kv"])
        self.head = START
        self._sent = 0

    def welcome(self) -> None:
        """What the handshake does."""
        self.store.follow(LOG_ID, 1, self.head)

    def seal(self) -> None:
        """Until nothing is left to seal."""
        while self.store.seal(0).batch:
            pass

    def append(self, seq: int, changes_json: bytes, *, device: str, batch: int, digest: str) -> None:
        """One entry comes in."""
        entry = encode_entry(
            seq=seq,
            epoch=1,
            device=device,
            incarnation=self.store.incarnation,
            batch=batch,
            digest=digest,
            at=0,
            refused_json=b"[]",
            changes_json=changes_json,
        )
        page = parse("log", encode_page(LOG_ID, self.head, [entry]))
        assert isinstance(page, Page)
        self.store.apply(page)
        self.head = Position(1, seq)

    def send(self) -> None:
        """All sealed batches are sequenced and come back."""
        for sealed in self.store.outbox(self._sent, count_max=1000, bytes_max=1 << 30):
            changes = parse_batch(sealed.payload).changes_json
            self.append(self.head.seq + 1, changes, device="till-7", batch=sealed.batch, digest=sealed.digest)
            self._sent = sealed.batch


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
def sync(path: Path) -> Iterator[DataSync]:
    with DataSync(path) as opened:
        yield opened


@pytest.fixture
def device(sync: DataSync, path: Path) -> Iterator[Device]:
    device = Device(path)
    device.welcome()
    device.seal()
    device.send()
    with closing(device.store):
        yield device


def test_a_file_without_an_agent_says_what_to_do(sync: DataSync) -> None:
    sync.update("k", 1)
    with pytest.raises(FlushTimeout, match="tidewire-agent run"):
        sync.flush(timeout=0.05)
    with pytest.raises(TimeoutError, match="tidewire-agent run"):
        sync.fresh(timeout=0.05)


def test_nothing_written_is_flushed_at_once(sync: DataSync, device: Device) -> None:
    sync.flush(timeout=0)


def test_a_write_is_flushed_when_the_log_includes_it(sync: DataSync, device: Device) -> None:
    sync.update("k", 1)
    with pytest.raises(FlushTimeout):
        sync.flush(timeout=0)
    device.seal()
    with pytest.raises(FlushTimeout):
        sync.flush(timeout=0)
    device.send()
    sync.flush(timeout=0)


def test_flush_waits_for_what_was_there_when_it_was_called_and_no_longer(sync: DataSync, device: Device) -> None:
    wait = FlushWait()
    sync.update("before", 1)
    assert not wait.done(sync.connection)
    device.seal()
    assert not wait.done(sync.connection)
    sync.update("after", 2)
    device.send()
    assert wait.done(sync.connection)
    device.seal()
    assert wait.done(sync.connection)


def test_rows_from_before_the_agent_are_flushed_as_well(sync: DataSync, path: Path) -> None:
    for i in range(100):
        sync.update(f"k{i}", i)
    device = Device(path)
    with closing(device.store):
        with pytest.raises(FlushTimeout):
            sync.flush(timeout=0)
        device.welcome()
        with pytest.raises(FlushTimeout):
            sync.flush(timeout=0)
        device.seal()
        with pytest.raises(FlushTimeout):
            sync.flush(timeout=0)
        device.send()
        sync.flush(timeout=0)


def test_a_new_incarnation_in_between_does_not_end_the_wait_too_early_or_never(sync: DataSync, device: Device) -> None:
    for i in range(3):
        sync.update("k", i)
        device.seal()
        device.send()
    sync.update("k", "last")
    with ThreadPoolExecutor(1) as pool:
        flushing = pool.submit(sync.flush, 60)
        device.seal()
        kept = device.store.last_sealed
        assert kept is not None
        device.store.renumber(kept.batch - 1, device.store.outbox(kept.batch - 2, count_max=1, bytes_max=1)[0].digest)
        device._sent = 0
        with pytest.raises(FlushTimeout):
            sync.flush(timeout=0.2)
        assert not flushing.done()
        device.send()
        flushing.result()


def test_other_programs_writes_to_other_tables_are_flushed_as_well(device: Device, sync: DataSync, path: Path) -> None:
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
    device.store.attach(["orders"])
    device.welcome()
    device.seal()
    device.send()
    sync.flush(timeout=0)
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("INSERT INTO orders VALUES (1)")
    with pytest.raises(FlushTimeout):
        sync.flush(timeout=0)
    device.seal()
    device.send()
    sync.flush(timeout=0)


def test_an_open_transaction_is_refused_as_nobody_else_can_see_it(sync: DataSync, device: Device) -> None:
    with sync.transaction():
        sync.update("k", 1)
        with pytest.raises(TransactionOpen):
            sync.flush(timeout=1)
        with pytest.raises(TransactionOpen):
            sync.fresh(timeout=1)
    assert sync.get("k") == 1


def test_fresh_waits_for_the_answer_and_for_all_that_it_names(sync: DataSync, device: Device) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(sync.fresh, 60)
        (nonce,) = wait_for(device.store.fresh.open)
        target = Position(1, device.head.seq + 2)
        device.store.fresh.answer(nonce, target)
        for seq in range(device.head.seq + 1, target.seq + 1):
            assert not waiting.done()
            device.append(seq, CHANGE % seq, device="other", batch=seq, digest="d" * 32)
        waiting.result()
    assert sync.get("k") == target.seq
    assert sync.connection.execute("SELECT count(*) FROM tidewire_fresh").fetchone() == (0,)


def test_a_file_is_fresh_while_the_log_is_empty(sync: DataSync, path: Path) -> None:
    device = Device(path)
    device.welcome()
    with closing(device.store), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(sync.fresh, 60)
        (nonce,) = wait_for(device.store.fresh.open)
        device.store.fresh.answer(nonce, START)
        waiting.result()


def test_the_first_answer_counts(sync: DataSync, device: Device) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(sync.fresh, 60)
        (nonce,) = wait_for(device.store.fresh.open)
        device.store.fresh.answer(nonce, device.head)
        device.store.fresh.answer(nonce, Position(1, device.head.seq + 1))
        waiting.result()


def test_a_question_without_an_answer_times_out_and_is_taken_back(sync: DataSync, device: Device) -> None:
    with pytest.raises(FreshTimeout, match=r"after 0\.1 s"):
        sync.fresh(timeout=0.1)
    assert device.store.fresh.open() == []


def test_questions_of_killed_programs_are_swept_by_the_next_one(sync: DataSync, device: Device) -> None:
    now_ms = time.time_ns() // 1_000_000
    with sync.connection as connection:
        for nonce, age in (
            ("old", ABANDONED_AFTER_MS + 1000),
            ("new", 1000),
            ("future", -ABANDONED_AFTER_MS - 100_000),
        ):
            connection.execute("INSERT INTO tidewire_fresh (nonce, asked_at) VALUES (?, ?)", (nonce, now_ms - age))
    with pytest.raises(FreshTimeout):
        sync.fresh(timeout=0)
    assert device.store.fresh.open() == ["new"]
