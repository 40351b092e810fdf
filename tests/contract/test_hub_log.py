"""What every `HubLog` does. A new backend joins `BACKENDS` and must pass all of it."""

from __future__ import annotations

import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support.flipped import flip_in
from tidewire_hub.database import LogDamaged, StorageDamaged, StorageFailed
from tidewire_hub.log.memory import MemoryLog
from tidewire_hub.log.port import EntriesTrimmed, HubLog, LogOutOfStep, StaleLeader, StoredEntry
from tidewire_hub.log.sqlite import SqliteLog
from tidewire_schemas.errors import DatabaseError
from tidewire_schemas.positions import START, Epoch, Position, Seq

BACKENDS: dict[str, Callable[[Path], HubLog]] = {
    "memory": lambda path: MemoryLog("ab" * 16),
    "sqlite": lambda path: SqliteLog.open(path / "log.db"),
}

BEFORE_CHECKSUMS = "".join(f"ALTER TABLE {table} DROP COLUMN crc;" for table in ("entry", "log", "document"))


@pytest.fixture(params=list(BACKENDS))
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HubLog]:
    backend = BACKENDS[request.param](tmp_path)
    yield backend
    backend.close()


def entries(epoch: int, first: int, last: int) -> list[StoredEntry]:
    return [StoredEntry(Position(epoch, seq), b'{"seq":%d}' % seq) for seq in range(first, last + 1)]


def read_all(log: HubLog, after: int = 0) -> list[StoredEntry]:
    return log.read(Seq(after), bytes_max=10**9, entries_max=10**6)


def test_a_new_log_is_empty_and_nobody_leads_it(log: HubLog) -> None:
    assert len(log.log_id) == 32
    assert (log.head(), log.oldest(), log.epoch()) == (START, 1, 0)
    assert read_all(log) == []


def test_entries_come_back_byte_for_byte_in_order(log: HubLog) -> None:
    stored = [
        StoredEntry(Position(5, 1), b'{"text":"\xc3\xa9\\u0000"}', b'[{"a":1}]'),
        StoredEntry(Position(5, 2), b'{"x":  1.50}'),
    ]
    log.acquire(Epoch(5))
    log.append(Epoch(5), Seq(0), stored[:1])
    log.append(Epoch(5), Seq(1), stored[1:])
    assert read_all(log) == stored
    assert log.head() == Position(5, 2)


def test_a_page_ends_at_the_count_or_at_the_bytes_but_holds_at_least_one_entry(log: HubLog) -> None:
    log.acquire(Epoch(1))
    log.append(Epoch(1), Seq(0), entries(1, 1, 9))
    size = len(b'{"seq":1}')
    assert [e.position.seq for e in log.read(Seq(2), bytes_max=10**6, entries_max=3)] == [3, 4, 5]
    assert [e.position.seq for e in log.read(Seq(2), bytes_max=2 * size, entries_max=9)] == [3, 4]
    assert [e.position.seq for e in log.read(Seq(2), bytes_max=1, entries_max=9)] == [3]
    assert log.read(Seq(9), bytes_max=10**6, entries_max=9) == []


def test_a_position_is_known_exactly_for_the_entries_there_are(log: HubLog) -> None:
    log.acquire(Epoch(3))
    log.append(Epoch(3), Seq(0), entries(3, 1, 2))
    log.acquire(Epoch(4))
    log.append(Epoch(4), Seq(2), entries(4, 3, 3))
    assert [log.position_at(Seq(seq)) for seq in range(5)] == [
        START,
        Position(3, 1),
        Position(3, 2),
        Position(4, 3),
        None,
    ]


def test_leadership_is_only_acquired_with_a_later_epoch(log: HubLog) -> None:
    log.acquire(Epoch(10))
    for epoch in (9, 10):
        with pytest.raises(StaleLeader):
            log.acquire(Epoch(epoch))
    assert log.epoch() == 10


def test_a_stale_leader_stores_nothing(log: HubLog) -> None:
    """Guarantee 8."""
    log.acquire(Epoch(10))
    log.append(Epoch(10), Seq(0), entries(10, 1, 1))
    log.acquire(Epoch(11))
    with pytest.raises(StaleLeader):
        log.append(Epoch(10), Seq(1), entries(10, 2, 2))
    log.append(Epoch(11), Seq(1), entries(11, 2, 2))
    assert [e.position for e in read_all(log)] == [(10, 1), (11, 2)]


def test_nobody_appends_before_leadership_was_acquired(log: HubLog) -> None:
    """Guarantee 8."""
    with pytest.raises(StaleLeader):
        log.append(Epoch(0), Seq(0), entries(0, 1, 1))
    assert log.head() == START


def test_an_append_that_would_leave_a_gap_or_number_twice_stores_nothing(log: HubLog) -> None:
    """Guarantee 2."""
    log.acquire(Epoch(1))
    log.append(Epoch(1), Seq(0), entries(1, 1, 3))
    for after, first, last in ((2, 3, 4), (4, 5, 6), (3, 5, 6)):
        with pytest.raises(LogOutOfStep):
            log.append(Epoch(1), Seq(after), entries(1, first, last))
    gap = [*entries(1, 4, 4), *entries(1, 6, 6)]
    with pytest.raises(LogOutOfStep):
        log.append(Epoch(1), Seq(3), gap)
    assert log.head() == Position(1, 3)


def trim(log: HubLog, before: int, *, bytes_max: int = 10**9, entries_max: int = 10**6) -> int:
    return log.trim(Seq(before), bytes_max=bytes_max, entries_max=entries_max)


def test_trimming_removes_the_oldest_and_reading_over_the_hole_is_an_error(log: HubLog) -> None:
    """Guarantee 3."""
    log.acquire(Epoch(1))
    log.append(Epoch(1), Seq(0), entries(1, 1, 5))
    assert trim(log, 3) == 2
    assert trim(log, 3) == 0
    assert (log.oldest(), log.head()) == (3, Position(1, 5))
    with pytest.raises(EntriesTrimmed) as error:
        read_all(log, after=1)
    assert error.value.oldest == 3
    assert [e.position.seq for e in read_all(log, after=2)] == [3, 4, 5]


def test_trimming_never_removes_the_head(log: HubLog) -> None:
    assert trim(log, 9) == 0
    log.acquire(Epoch(1))
    log.append(Epoch(1), Seq(0), entries(1, 1, 5))
    assert trim(log, 99) == 4
    assert (log.oldest(), log.head()) == (5, Position(1, 5))
    log.append(Epoch(1), Seq(5), entries(1, 6, 6))
    assert log.head() == Position(1, 6)


def test_trimming_takes_small_steps_of_at_least_one_entry(log: HubLog) -> None:
    """Guarantee 12."""
    log.acquire(Epoch(1))
    log.append(Epoch(1), Seq(0), entries(1, 1, 9))
    size = len(b'{"seq":1}')
    assert trim(log, 9, entries_max=3) == 3
    assert trim(log, 9, bytes_max=2 * size) == 2
    assert trim(log, 9, bytes_max=1) == 1
    assert (log.oldest(), trim(log, 9), log.oldest()) == (7, 2, 9)


def test_the_position_of_an_entry_is_known_after_it_is_gone(log: HubLog) -> None:
    """Guarantee 3: a checkpoint can be judged however old it is."""
    epochs = {1: 3, 2: 3, 3: 3, 4: 7, 5: 9, 6: 9}
    for seq, epoch in epochs.items():
        if log.epoch() != epoch:
            log.acquire(Epoch(epoch))
        log.append(Epoch(epoch), Seq(seq - 1), entries(epoch, seq, seq))
    for before in (3, 6):
        trim(log, before)
        assert [log.position_at(Seq(seq)) for seq in epochs] == [Position(e, seq) for seq, e in epochs.items()]
        assert log.position_at(Seq(0)) == START
        assert log.position_at(Seq(7)) is None


def test_trimming_makes_the_log_smaller(log: HubLog) -> None:
    log.acquire(Epoch(1))
    log.append(Epoch(1), Seq(0), [StoredEntry(Position(1, seq), b"x" * 5000) for seq in range(1, 101)])
    full = log.size_bytes()
    assert full >= 500_000
    trim(log, 51)
    assert log.size_bytes() < full * 0.6


def test_a_document_is_the_last_one_stored_under_its_name(log: HubLog) -> None:
    assert log.load_document("catalogue") is None
    log.save_document("catalogue", b"one")
    log.save_document("other", b"else")
    log.save_document("catalogue", b"two")
    assert log.load_document("catalogue") == b"two"


# ── SQLite alone: what only a file can show ───────────────────────────────────────────────────────────────────────


def test_everything_is_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    log = SqliteLog.open(tmp_path / "log.db")
    log.acquire(Epoch(7))
    log.append(Epoch(7), Seq(0), entries(7, 1, 2))
    log.save_document("catalogue", b"x")
    log_id = log.log_id
    log.close()
    again = SqliteLog.open(tmp_path / "log.db")
    assert (again.log_id, again.epoch(), again.head()) == (log_id, 7, Position(7, 2))
    assert again.load_document("catalogue") == b"x"
    again.close()


def test_what_was_trimmed_is_remembered_when_the_file_is_opened_again(tmp_path: Path) -> None:
    log = SqliteLog.open(tmp_path / "log.db")
    log.acquire(Epoch(7))
    log.append(Epoch(7), Seq(0), entries(7, 1, 5))
    trim(log, 4)
    log.close()
    again = SqliteLog.open(tmp_path / "log.db")
    assert (again.oldest(), again.position_at(Seq(2))) == (4, Position(7, 2))
    again.close()


def test_a_file_of_the_first_format_is_brought_to_the_present_one(tmp_path: Path) -> None:
    SqliteLog.open(tmp_path / "log.db").close()
    with closing(sqlite3.connect(tmp_path / "log.db")) as old:
        old.executescript(f"{BEFORE_CHECKSUMS} DROP TABLE trimmed; PRAGMA user_version = 1")
    log = SqliteLog.open(tmp_path / "log.db")
    log.acquire(Epoch(1))
    log.append(Epoch(1), Seq(0), entries(1, 1, 3))
    assert (trim(log, 3), log.position_at(Seq(1))) == (2, Position(1, 1))
    log.close()


def test_entries_of_a_format_without_checksums_are_read_as_they_are(tmp_path: Path) -> None:
    log = SqliteLog.open(tmp_path / "log.db")
    log.acquire(Epoch(1))
    log.append(Epoch(1), Seq(0), entries(1, 1, 2))
    log.close()
    with closing(sqlite3.connect(tmp_path / "log.db")) as old:
        old.executescript(f"{BEFORE_CHECKSUMS} PRAGMA user_version = 2")
    log = SqliteLog.open(tmp_path / "log.db")
    log.append(Epoch(1), Seq(2), entries(1, 3, 3))
    assert read_all(log) == entries(1, 1, 3)
    log.close()


@pytest.mark.fault("a byte of the hub's log that the disk has changed")
@pytest.mark.parametrize("place", range(0, 40, 3))
def test_a_changed_byte_of_an_entry_is_noticed_when_it_is_read(tmp_path: Path, place: int) -> None:
    """Guarantee 3. Guarantee 7."""
    data, written = b'{"text":"some words that the disk changes"}', tmp_path / "log.db"
    log = SqliteLog.open(written)
    log.acquire(Epoch(1))
    log.append(Epoch(1), Seq(0), [*entries(1, 1, 1), StoredEntry(Position(1, 2), data)])
    log.close()
    flip_in(written, data, place)
    log = SqliteLog.open(written)
    assert log.read(Seq(0), bytes_max=1, entries_max=1) == entries(1, 1, 1)
    with pytest.raises(LogDamaged, match="entry 2 is not as it was written"):
        read_all(log)
    log.close()


@pytest.mark.fault("a byte of the hub's log that the disk has changed")
@pytest.mark.parametrize("value", ["NULL", "CAST(data AS TEXT)", "7", "1.5"])
def test_a_value_of_another_type_is_noticed_when_it_is_read(tmp_path: Path, value: str) -> None:
    """Guarantee 3: a byte in front of a row's values says which types they are."""
    with closing(SqliteLog.open(tmp_path / "log.db")) as log:
        log.acquire(Epoch(1))
        log.append(Epoch(1), Seq(0), entries(1, 1, 3))
    with closing(sqlite3.connect(tmp_path / "log.db")) as disk:
        (schema,) = disk.execute("SELECT sql FROM sqlite_schema WHERE name = 'entry'").fetchone()
        loose = schema.replace("data  BLOB    NOT NULL", "data")
        disk.executescript(
            f"ALTER TABLE entry RENAME TO old; {loose}; INSERT INTO entry SELECT * FROM old; DROP TABLE old;"
            f"UPDATE entry SET data = {value} WHERE seq = 2"
        )
    with closing(SqliteLog.open(tmp_path / "log.db")) as log:
        assert log.read(Seq(0), bytes_max=1, entries_max=1) == entries(1, 1, 1)
        with pytest.raises(LogDamaged, match="entry 2"):
            read_all(log)


@pytest.mark.fault("a byte of the hub's log that the disk has changed")
def test_a_changed_byte_beside_the_entries_is_noticed_when_it_is_read(tmp_path: Path) -> None:
    """Guarantee 3."""
    log = SqliteLog.open(tmp_path / "log.db")
    log.acquire(Epoch(1))
    log.save_document("catalogue", b"all tables")
    log_id = log.log_id
    log.close()
    flip_in(tmp_path / "log.db", b"all tables", 4)
    log = SqliteLog.open(tmp_path / "log.db")
    with pytest.raises(LogDamaged, match="document 'catalogue'"):
        log.load_document("catalogue")
    log.close()
    flip_in(tmp_path / "log.db", log_id.encode(), 7)
    with pytest.raises(LogDamaged, match="id or epoch"):
        SqliteLog.open(tmp_path / "log.db")


def test_two_logs_have_different_ids(tmp_path: Path) -> None:
    logs = [SqliteLog.open(tmp_path / name) for name in ("a.db", "b.db")]
    assert logs[0].log_id != logs[1].log_id
    for log in logs:
        log.close()


@pytest.mark.fault("two hubs on one log")
def test_two_connections_to_one_file_are_fenced_by_the_epoch(tmp_path: Path) -> None:
    """Guarantee 8."""
    old, new = SqliteLog.open(tmp_path / "log.db"), SqliteLog.open(tmp_path / "log.db")
    old.acquire(Epoch(1))
    old.append(Epoch(1), Seq(0), entries(1, 1, 1))
    new.acquire(Epoch(2))
    with pytest.raises(StaleLeader) as error:
        old.append(Epoch(1), Seq(1), entries(1, 2, 2))
    assert (error.value.ours, error.value.stored) == (1, 2)
    new.append(Epoch(2), Seq(1), entries(2, 2, 2))
    assert [e.position for e in read_all(old)] == [(1, 1), (2, 2)]
    old.close()
    new.close()


def test_a_file_that_is_no_database_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "log.db").write_bytes(b"this is not a database, it only pretends to be one" * 100)
    with pytest.raises(StorageDamaged, match=r"log\.db"):
        SqliteLog.open(tmp_path / "log.db")


def test_a_folder_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="absent"):
        SqliteLog.open(tmp_path / "absent" / "log.db")


@pytest.mark.fault("a hub's disk that is full")
def test_an_append_that_the_disk_refuses_leaves_nothing_and_succeeds_later(tmp_path: Path) -> None:
    """Guarantee 11: a file size limit of the operating system stands for a disk that takes no more."""
    log = SqliteLog.open(tmp_path / "log.db")
    log.acquire(Epoch(1))
    log.append(Epoch(1), Seq(0), entries(1, 1, 3))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = [StoredEntry(Position(1, 4), b"x" * 4_000_000)]
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        with pytest.raises(DatabaseError) as error:
            log.append(Epoch(1), Seq(3), big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.retry
    assert log.head() == Position(1, 3)
    log.append(Epoch(1), Seq(3), big)
    log.close()
    again = SqliteLog.open(tmp_path / "log.db")
    assert again.head() == Position(1, 4)
    again.close()


_APPENDER = """
import sys
from pathlib import Path
from tidewire_hub.log.port import StoredEntry
from tidewire_hub.log.sqlite import SqliteLog
from tidewire_schemas.positions import Epoch, Position, Seq

log = SqliteLog.open(Path(sys.argv[1]))
epoch = Epoch(log.epoch() + 1)
log.acquire(epoch)
seq = log.head().seq
while True:
    group = [StoredEntry(Position(epoch, seq + n), b"%d:" % (seq + n) + b"x" * 3000) for n in (1, 2, 3)]
    log.append(epoch, Seq(seq), group)
    seq += 3
    print(seq, flush=True)
"""


@pytest.mark.fault("a hub killed again and again")
def test_what_an_append_returned_for_survives_kill_9_and_groups_are_whole(tmp_path: Path) -> None:
    """Guarantees 1 and 2."""
    path = tmp_path / "log.db"
    for kill_after in (1, 7, 40, 90):
        with subprocess.Popen([sys.executable, "-c", _APPENDER, str(path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            acked = 0
            for _ in range(kill_after):
                acked = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            acked = max(
                [
                    acked,
                    *(int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith(b"\n")),
                ]
            )
        log = SqliteLog.open(path)
        stored = read_all(log)
        assert [entry.position.seq for entry in stored] == list(range(1, len(stored) + 1))
        assert all(entry.data.startswith(b"%d:" % entry.position.seq) for entry in stored)
        assert len(stored) >= acked
        assert len(stored) % 3 == 0
        log.close()
