"""Where a batch ends: with a transaction, soon after the target."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support.fleet import Edge
from tidewire_agent.store.change_log import STEPS
from tidewire_agent.store.settings import StoreSettings
from tidewire_schemas.codec import parse_batch

TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, v)"


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    path = tmp_path / "a.db"
    edge = Edge(path, "a", settings=StoreSettings(changes_per_batch_soft_max=10))
    edge.sql(TABLE)
    edge.attach("t")
    edge.seal()
    edge.store.data_version()
    yield edge
    edge.close()


def write(edge: Edge, first: int, rows: int, *, seen: bool = True) -> None:
    """One transaction, whose commit the agent has seen or not."""
    values = ", ".join(f"({first + n}, 0)" for n in range(rows))
    edge.sql(f"BEGIN; INSERT INTO t VALUES {values}; COMMIT")
    if seen:
        edge.store.data_version()


def sizes(edge: Edge) -> list[int]:
    """Rows of each batch in the outbox."""
    edge.seal()
    payloads = [batch.payload for batch in edge.store.outbox(0, count_max=100, bytes_max=2**30)]
    parsed = [parse_batch(payload, bytes_max=len(payload)).batch for payload in payloads]
    return [sum(len(run.rows) for run in batch.changes) for batch in parsed]


def test_small_transactions_make_batches_of_about_the_target(edge: Edge) -> None:
    for n in range(12):
        write(edge, n * 3, 3)
    assert sizes(edge) == [9, 9, 9, 9]


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize(
    ("schema", "rowid"),
    [
        ("k TEXT PRIMARY KEY, v", "rowid"),
        ("k TEXT PRIMARY KEY, v) WITHOUT ROWID; CREATE TABLE other (x", None),
        ("k TEXT PRIMARY KEY COLLATE NOCASE, rowid", "oid"),
        ("k TEXT PRIMARY KEY, rowid, oid, _rowid_", None),
        ("k TEXT, v, PRIMARY KEY (v, k)", "_rowid_"),
        ("k PRIMARY KEY, v AS (1) VIRTUAL, rowid AS (k || 'x') STORED", "oid"),
    ],
)
def test_inserted_rows_are_found_wherever_they_are_stored(
    tmp_path: Path, schema: str, rowid: str | None, moved: bool
) -> None:
    settings = StoreSettings(changes_per_batch_soft_max=10)
    with closing(Edge(tmp_path / "a.db", "a", settings=settings)) as edge:
        edge.sql(f"CREATE TABLE t ({schema})")
        edge.attach("t")
        others = [name for (name,) in edge.rows("SELECT name FROM pragma_table_info('t') WHERE name <> 'k'")]
        columns, values = ", ".join(["k", *others]), ", ".join(["'key ' || value", *("value - 7" for _ in others)])
        edge.sql(f"INSERT INTO t ({columns}) SELECT {values} FROM json_each('{list(range(30))}')")
        edge.store.data_version()
        if rowid and moved:  # no change of the row; and others are stored where they were
            edge.sql(f"UPDATE t SET {rowid} = {rowid} + 1000")
            columns, values = f"{rowid}, {columns}", f"key + 1, {values}"
        edge.sql(f"INSERT INTO t ({columns}) SELECT {values} FROM json_each('{list(range(30, 60))}')")
        edge.store.data_version()
        edge.seal()
        sent = []
        for batch in edge.store.outbox(0, count_max=10, bytes_max=2**30):
            (run,) = parse_batch(batch.payload, bytes_max=2**20).batch.changes
            assert run.op == "put"
            sent.append({row[run.columns.index("k")] for row in run.rows})
        assert sent == [{f"key {n}" for n in numbers} for numbers in (range(30), range(30, 60))]


def test_a_large_transaction_is_one_batch(edge: Edge) -> None:
    """Guarantee 4."""
    write(edge, 0, 2)
    write(edge, 10, 50)
    write(edge, 100, 20)
    assert sizes(edge) == [52, 20]


def test_a_row_that_is_written_again_is_never_ahead_of_what_was_written_with_it(edge: Edge) -> None:
    """Rows are read when they are sealed, so all that was committed then must go with them. Guarantee 4."""
    edge.sql("INSERT INTO t VALUES (0, 0)")
    edge.seal()
    edge.store.data_version()
    for n in range(1, 20):
        edge.sql(f"BEGIN; UPDATE t SET v = {n} WHERE id = 0; INSERT INTO t VALUES ({n}, {n}); COMMIT")
        edge.store.data_version()
    assert sizes(edge)[1:] == [20]


def test_transactions_whose_ends_were_not_seen_are_never_parted(edge: Edge) -> None:
    """Guarantee 4."""
    write(edge, 0, 4)
    for n in range(1, 6):
        write(edge, n * 10, 4, seen=False)
    write(edge, 100, 4)
    assert sizes(edge) == [28]


def test_ends_of_changes_that_are_sealed_say_nothing_of_later_ones_with_the_same_numbers(edge: Edge) -> None:
    """The change log was emptied, so its numbers begin anew. Guarantee 4."""
    for n in range(5):
        write(edge, n * 4, 4)
    edge.seal()
    write(edge, 100, 30, seen=False)
    assert sizes(edge)[-1] == 30


def test_an_end_is_not_believed_once_the_newest_changes_were_removed(edge: Edge) -> None:
    """Detaching a table removes its changes, and others get their numbers. Guarantee 4."""
    edge.sql("CREATE TABLE u (id INTEGER PRIMARY KEY)")
    edge.attach("u")
    edge.seal()
    edge.store.data_version()
    write(edge, 0, 11)
    edge.sql("INSERT INTO u VALUES (1), (2), (3)")
    edge.store.data_version()
    edge.store.detach_table("u")
    write(edge, 100, 30, seen=False)
    assert sizes(edge)[-1] == 41


def with_limits(tmp_path: Path, **limits: int) -> Edge:
    edge = Edge(tmp_path / "limited.db", "a", settings=StoreSettings(**limits))
    edge.sql(TABLE)
    edge.attach("t")
    edge.seal()
    return edge


def test_a_group_that_no_batch_can_hold_is_cut_into_small_pieces_and_the_log_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edge = with_limits(tmp_path, changes_per_batch_max=50, piece_changes_max=20)
    write(edge, 0, 70, seen=False)
    assert sizes(edge) == [20, 20, 20, 10]
    assert [r.getMessage() for r in caplog.records if "part a transaction" in r.getMessage()] == [
        "70 changes, in one transaction or made while nobody looked, are more than changes_per_batch_max=50: they are"
        " sent as several batches, which may part a transaction"
    ]
    edge.close()


def test_what_is_written_while_a_large_group_is_cut_is_whole_again(tmp_path: Path) -> None:
    """Guarantee 4."""
    edge = with_limits(tmp_path, changes_per_batch_max=50, piece_changes_max=20)
    write(edge, 0, 70)
    edge.store.seal(0)
    write(edge, 100, 40)
    assert sizes(edge) == [20, 20, 20, 10, 40]
    edge.close()


def test_a_group_of_too_many_bytes_is_cut_into_pieces_of_few_bytes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edge = with_limits(tmp_path, batch_bytes_max=20_000, piece_bytes_max=5_000)
    values = ", ".join(f"({n}, printf('%0900d', {n}))" for n in range(40))
    edge.sql(f"BEGIN; INSERT INTO t VALUES {values}; COMMIT")
    assert sum(sizes(edge)) == 40
    assert max(sizes(edge)) == 5
    assert sum("batch_bytes_max=20000" in record.getMessage() for record in caplog.records) == 1
    edge.close()


def test_a_row_above_what_a_piece_may_have_goes_alone_and_one_above_a_batch_stays_and_says_so(tmp_path: Path) -> None:
    edge = with_limits(tmp_path, batch_bytes_max=20_000, piece_bytes_max=5_000)
    edge.sql(
        "BEGIN; INSERT INTO t VALUES (1, printf('%09000d', 0)), (2, 'small'), (3, printf('%030000d', 0)), (4, 'small');"
        " COMMIT"
    )
    assert sum(sizes(edge)) == 3
    assert [(letter.key, letter.reason) for letter in edge.store.dead(10)] == [([3], "row_too_large")]
    edge.close()


def test_no_batch_is_above_the_limit_and_a_row_that_would_make_it_so_is_a_letter_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Guarantee 12: the limit is of the whole message, and what is said of a row above it names the row and why."""
    limit = 4000
    edge = with_limits(tmp_path, batch_bytes_max=limit)
    for n, size in enumerate(range(3400, 4000, 20)):
        edge.sql(f"INSERT INTO t VALUES ({n}, printf('%0{size}d', 0))")
        edge.seal()
    sent = [len(batch.payload) for batch in edge.store.outbox(0, count_max=100, bytes_max=2**30)]
    assert max(sent) <= limit
    assert max(sent) > limit - 150
    letters = edge.store.dead(100)
    assert len(sent) + len(letters) == 30
    for letter in letters:
        found = re.search(r"a batch of this row alone may have (\d+) bytes, above batch_bytes_max=4000;", letter.detail)
        assert found is not None
        assert int(found[1]) > limit
        assert sum(f"table t, key {letter.key}:" in record.getMessage() for record in caplog.records) == 1
    edge.close()


def test_a_transaction_that_is_above_the_limit_only_as_a_whole_message_is_parted(tmp_path: Path) -> None:
    limit = 4000
    edge = with_limits(tmp_path, batch_bytes_max=limit)
    for n, size in enumerate(range(1700, 2000, 10)):
        rows = ", ".join(f"({2 * n + m}, printf('%0{size}d', 0))" for m in range(2))
        edge.sql(f"BEGIN; INSERT INTO t VALUES {rows}; COMMIT")
        edge.seal()
    sent = [len(batch.payload) for batch in edge.store.outbox(0, count_max=100, bytes_max=2**30)]
    assert max(sent) <= limit
    assert 30 < len(sent) < 60
    assert edge.store.dead(1) == []
    edge.close()


def test_ends_of_more_transactions_than_are_remembered_are_still_known_here_and_there(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidewire_agent.store.change_log.TRANSACTION_ENDS_MAX", 8)
    for n in range(40):
        write(edge, n * 3, 3)
    found = sizes(edge)
    assert sum(found) == 120
    assert all(rows % 3 == 0 for rows in found)
    assert len(found) > 2


def test_how_many_changes_an_app_commits_at_once_is_known_after_some_looks(edge: Edge) -> None:
    for n in range(STEPS):
        assert edge.store.seal(0).step == 0
        write(edge, n * 100, 5 + n)
    assert edge.store.seal(0).step == 5
    write(edge, 900, 2)
    assert edge.store.seal(0).step == 2
