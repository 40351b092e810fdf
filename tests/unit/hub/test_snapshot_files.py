"""Snapshots as files: what is in them, what stays of them, and what is made anew from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from support.random_batches import SHAPES, Follower, random_batches, send_all
from support.stream_kit import HandDevice, entry_of, only_entry, picture, reasons, send, shape
from tidewire_hub.database import StorageDamaged
from tidewire_hub.log.retention import Retention
from tidewire_hub.log.sqlite import SqliteLog
from tidewire_hub.snapshot.build import Stopped
from tidewire_hub.snapshot.manifest import KeptSnapshot
from tidewire_hub.snapshot.shelf import Shelf
from tidewire_hub.state.opening import SpareState, StateLost
from tidewire_hub.stream import Stream, StreamSettings
from tidewire_schemas import codec
from tidewire_schemas.errors import DatabaseError
from tidewire_schemas.positions import Position, Seq
from tidewire_schemas.snapshots import RefusedRow, SnapshotChunk, SnapshotRequest

ID = "ab" * 16
NOW_MS = 1_795_390_000_000
SMALL = 560
"""A payload in which few rows have room."""


class Hub:
    """A stream in files, with its snapshots."""

    def __init__(self, folder: Path, settings: StreamSettings | None = None) -> None:
        self.folder = folder
        self.log = SqliteLog.open(folder / "log.db")
        self.shelf = Shelf(folder / "snapshots", self.log.log_id)
        spares = [SpareState(kept.position, path) for kept, path in self.shelf.state_copies()]
        self.stream = Stream.open(self.log, folder / "state.db", settings=settings, spares=spares)
        self.stream.lead(NOW_MS, 7)
        self.made = 0

    def snapshot(
        self, *, stopping: Callable[[], bool] = lambda: False, conflicts_max: int = 1000, refused_bytes_max: int = 2000
    ) -> KeptSnapshot:
        self.made += 1
        self.stream.settle()
        state, name = self.folder / "state.db", f"{self.made:032x}"
        return self.shelf.make(
            name,
            state,
            payload_bytes_max=SMALL,
            at_ms=NOW_MS,
            conflicts_max=conflicts_max,
            refused_bytes_max=refused_bytes_max,
            stopping=stopping,
        )

    def chunks(self, snapshot: KeptSnapshot) -> list[SnapshotChunk]:
        bodies = [self.shelf.read(snapshot, number) for number in range(len(snapshot.sizes))]
        chunks = [codec.parse("in", codec.encode_snapshot_chunk(ID, ID, body)) for body in bodies]
        assert all(isinstance(chunk, SnapshotChunk) for chunk in chunks)
        return [chunk for chunk in chunks if isinstance(chunk, SnapshotChunk)]

    def trim(self, before: int) -> None:
        keep_one = Retention(entries=1)
        while self.stream.trim(keep_one, Seq(before), NOW_MS).removed:
            pass

    def close(self) -> None:
        self.stream.close()


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    """Each test closes it."""
    return Hub(tmp_path)


def work(hub: Hub, seed: int, count: int) -> None:
    for _ in send_all(hub.stream, random_batches(Random(seed), count)):
        pass


def follow(hub: Hub, snapshot: KeptSnapshot) -> Follower:
    """A device that loads a snapshot and then applies all that follows it."""
    follower = Follower(SHAPES)
    for chunk in hub.chunks(snapshot):
        assert codec.rows_digest(chunk.rows) == chunk.digest
        follower.load(chunk)
    for table in snapshot.tables:
        assert (follower.digest(table.table), len(follower.rows(table.table))) == (table.digest, table.rows)
    for stored in hub.stream.read(Seq(snapshot.position.seq), bytes_max=10**9, entries_max=10**6):
        follower.apply(entry_of(stored))
    return follower


def assert_equal(hub: Hub, follower: Follower) -> None:
    for total in hub.stream.digests():
        assert follower.rows(total.table) == list(hub.stream.rows(total.table))
        assert (len(follower.rows(total.table)), follower.digest(total.table)) == (total.rows, total.digest)


# ── what is in them ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", range(6))
def test_a_snapshot_and_the_entries_after_it_are_the_whole_log(seed: int, tmp_path: Path) -> None:
    """Guarantee 6, at random places of random work."""
    random = Random(seed)
    hub = Hub(tmp_path)
    steps = send_all(hub.stream, random_batches(random))
    snapshots = [hub.snapshot() for _ in steps if random.random() < 0.1]
    snapshots.append(hub.snapshot())
    assert any(table.chunks > 1 for snapshot in snapshots for table in snapshot.tables)
    for snapshot in snapshots:
        assert_equal(hub, follow(hub, snapshot))
    hub.close()


@pytest.mark.parametrize("seed", range(6))
def test_a_state_that_is_lost_is_made_anew_from_a_snapshot_and_what_the_log_still_has(
    seed: int, tmp_path: Path
) -> None:
    """Guarantees 2 and 6: rows, tombstones, writers, conflicts and batches that are known all survive."""
    random = Random(seed)
    hub = Hub(tmp_path)
    snapshot = None
    at = random.randrange(10, 50)
    for number, _ in enumerate(send_all(hub.stream, random_batches(random))):
        if number == at:
            snapshot = hub.snapshot()
    assert snapshot is not None
    before = picture(hub.stream)
    hub.trim(snapshot.position.seq + 1)
    assert hub.stream.oldest == snapshot.position.seq + 1
    hub.close()
    for file in tmp_path.glob("state.db*"):
        file.unlink()
    again = Hub(tmp_path)
    assert picture(again.stream) == before
    again.close()


def test_a_late_write_on_a_row_that_was_deleted_before_the_log_begins_is_refused(hub: Hub) -> None:
    """Tombstones outlive the entries that made them, and the state that was lost."""
    a, b = HandDevice("a"), HandDevice("b")
    hub.stream.declare("a", SHAPES)
    send(hub.stream, a.seal(a.put("item", "id code", [1, "x"])))
    b.base = hub.stream.head
    a.base = hub.stream.head
    send(hub.stream, a.seal(a.delete("item", "id", [1])))
    send(hub.stream, a.seal(a.put("item", "id code", [2, "y"])))
    hub.trim(hub.snapshot().position.seq + 1)
    hub.close()
    for file in hub.folder.glob("state.db*"):
        file.unlink()
    again = Hub(hub.folder)
    late = send(again.stream, b.seal(b.set("item", "id code", [1, "late"])))
    seed = send(again.stream, b.seal(b.seed("item", "id code", [1, "seed"])))
    assert [reasons(only_entry(commit)) for commit in (late, seed)] == [["row_absent"], ["row_known"]]
    again.close()


def test_chunks_fit_in_a_payload_and_a_larger_row_has_one_of_its_own(hub: Hub) -> None:
    a = HandDevice("a")
    hub.stream.declare("a", SHAPES)
    rows = [[n, f"code {n}", None, "x" * (3000 if n == 20 else 30)] for n in range(40)]
    send(hub.stream, a.seal(a.put("item", "id code n note", *rows)))
    chunks = hub.chunks(hub.snapshot())
    sizes = [len(codec.encode(chunk)) for chunk in chunks]
    assert [chunk.chunk for chunk in chunks] == list(range(len(chunks)))
    (large,) = [chunk for chunk, size in zip(chunks, sizes, strict=True) if size > SMALL]
    assert [row[0] for row in large.rows] == [20]
    assert sorted(row[0] for chunk in chunks for row in chunk.rows) == list(range(40))
    hub.close()


def test_a_manifest_says_which_batches_of_a_device_it_includes(hub: Hub) -> None:
    hub.stream.declare("a", SHAPES)
    a, copy, b = HandDevice("a"), HandDevice("a", "c0" * 16), HandDevice("b")
    for device in (a, b, a, copy):
        device.base = hub.stream.head
        send(hub.stream, device.seal(device.put("part", "name box", ["x", 1], key=2)))
    included = hub.snapshot().included
    assert [(each.incarnation, each.batch, each.seq) for each in included["a"]] == [
        (copy.incarnation, 1, 4),
        (a.incarnation, 2, 3),
    ]
    assert included["a"][1].digest == a.digest
    assert [each.batch for each in included["b"]] == [1]
    hub.close()


def refused_by(hub: Hub, *, count: int) -> None:
    """As many rows of `a` are refused, one by one, in entries 2, 3 and so on."""
    hub.stream.declare("a", [shape("t", "id INTEGER, n INTEGER")])
    b, a = HandDevice("b"), HandDevice("a")
    send(hub.stream, b.seal(b.put("t", "id n", [0, 0])))
    for number in range(1, count + 1):
        send(hub.stream, a.seal(a.set("t", "id n", [number, number])))


def request(refused_after: int = 0) -> SnapshotRequest:
    return SnapshotRequest(incarnation=ID, boot=ID, snapshot=None, refused_after=refused_after)


def test_a_manifest_says_which_rows_of_a_device_were_refused(hub: Hub) -> None:
    refused_by(hub, count=3)
    hub.snapshot()
    (kept,) = Shelf(hub.folder / "snapshots", hub.log.log_id).load(hub.stream.checkpoint_known)
    manifest = kept.manifest_for("a", request(2))
    assert manifest.refused_since == 0
    assert manifest.refused == tuple(
        RefusedRow(
            seq=seq,
            incarnation=HandDevice("a").incarnation,
            batch=batch,
            table="t",
            key=[key],
            op="set",
            reason="row_absent",
        )
        for seq, batch, key in ((3, 2, 2), (4, 3, 3))
    )
    assert len(kept.manifest_for("a", request()).refused) == 3
    assert kept.manifest_for("b", request()).refused == ()
    hub.close()


def test_and_up_to_where_it_cannot_say_that(hub: Hub) -> None:
    """Guarantee 12: what is told is bounded, and so is what is kept of conflicts."""
    refused_by(hub, count=8)
    manifest = hub.snapshot(refused_bytes_max=400).manifest_for("a", request())
    assert 1 <= len(manifest.refused) < 8
    assert manifest.refused_since == manifest.refused[0].seq - 1
    assert hub.snapshot(refused_bytes_max=400).manifest_for("b", request()).refused_since == 0
    nothing = hub.snapshot(conflicts_max=0).manifest_for("a", request())
    assert nothing.refused_since == nothing.position.seq
    hub.close()


def test_a_hub_that_forgets_conflicts_says_from_where_on_it_knows_of_refused_rows(tmp_path: Path) -> None:
    hub = Hub(tmp_path, StreamSettings(conflicts_max=3))
    refused_by(hub, count=8)
    manifest = hub.snapshot().manifest_for("a", request())
    assert [row.seq for row in manifest.refused] == [7, 8, 9]
    assert manifest.refused_since == 7, "of entry 7 some may be forgotten"
    hub.close()


# ── what stays of them ────────────────────────────────────────────────────────────────────────────────────────────


def test_snapshots_are_there_again_after_a_restart_and_only_the_newest_has_a_copy_of_the_state(hub: Hub) -> None:
    work(hub, 1, 5)
    first = hub.snapshot()
    work_more(hub)
    second = hub.snapshot()
    hub.close()
    again = Hub(hub.folder)
    assert again.shelf.load(again.stream.checkpoint_known) == [second, first]
    assert [kept.snapshot for kept, _ in again.shelf.state_copies()] == [second.snapshot]
    assert again.chunks(first)
    again.shelf.remove(first.snapshot)
    assert again.shelf.load(again.stream.checkpoint_known) == [second]
    again.close()


def work_more(hub: Hub) -> None:
    device = HandDevice("more")
    device.base = hub.stream.head
    send(hub.stream, device.seal(device.put("part", "name box n", ["more", 1, 1.5], key=2)))


def test_what_is_unfinished_damaged_or_of_another_log_is_removed(hub: Hub) -> None:
    work(hub, 1, 5)
    kept = [hub.snapshot() for _ in range(4)]
    folder = hub.folder / "snapshots"
    (folder / kept[0].snapshot / "manifest.json").write_bytes(b'{"snapshot":')
    with (folder / kept[1].snapshot / "chunks").open("ab") as file:
        file.write(b"more")
    (folder / ".unfinished-1").mkdir()
    elsewhere = kept[2].model_copy(update={"log": "f" * 32})
    (folder / kept[2].snapshot / "manifest.json").write_text(elsewhere.model_dump_json())
    assert hub.shelf.load(hub.stream.checkpoint_known) == [kept[3]]
    assert [path.name for path in folder.iterdir()] == [kept[3].snapshot]
    assert hub.shelf.load(lambda position: False) == []
    hub.close()


def test_a_flipped_byte_in_a_chunk_is_noticed(hub: Hub) -> None:
    work(hub, 1, 20)
    snapshot = hub.snapshot()
    path = hub.folder / "snapshots" / snapshot.snapshot / "chunks"
    damaged = bytearray(path.read_bytes())
    damaged[snapshot.span(1)[0] + 5] ^= 1
    path.write_bytes(damaged)
    assert hub.shelf.read(snapshot, 0)
    with pytest.raises(StorageDamaged, match="chunk 1"):
        hub.shelf.read(snapshot, 1)
    hub.shelf.remove(snapshot.snapshot)
    with pytest.raises(StorageDamaged, match="gone"):
        hub.shelf.read(snapshot, 0)
    hub.close()


def test_a_snapshot_that_is_given_up_or_fails_leaves_nothing(hub: Hub) -> None:
    """Guarantee 11."""
    work(hub, 1, 20)
    with pytest.raises(Stopped):
        hub.snapshot(stopping=lambda: True)
    folder = hub.folder / "snapshots"
    assert list(folder.iterdir()) == []
    folder.rmdir()
    folder.write_bytes(b"a file is in the way")
    with pytest.raises(DatabaseError):
        hub.snapshot()
    folder.unlink()
    assert hub.chunks(hub.snapshot())
    hub.close()


# ── what is made anew from them ───────────────────────────────────────────────────────────────────────────────────


def test_a_trimmed_log_without_state_and_snapshot_says_so_and_touches_nothing(hub: Hub) -> None:
    work(hub, 1, 20)
    hub.trim(10)
    hub.close()
    for file in hub.folder.glob("state.db*"):
        file.unlink()
    with pytest.raises(StateLost, match="begins at 10") as error:
        Hub(hub.folder)
    assert "snapshots" in error.value.hint
    assert SqliteLog.open(hub.folder / "log.db").head().seq == 20


def test_an_older_copy_of_the_state_is_brought_up_if_the_log_still_has_what_it_lacks(hub: Hub) -> None:
    work(hub, 1, 20)
    before = picture(hub.stream)
    snapshot = hub.snapshot()
    work_more(hub)
    hub.trim(snapshot.position.seq + 1)
    after = picture(hub.stream)
    hub.close()
    copy = hub.folder / "snapshots" / snapshot.snapshot / "state.db"
    (hub.folder / "state.db").write_bytes(copy.read_bytes())
    again = Hub(hub.folder)
    assert picture(again.stream) == after != before
    again.close()


def test_a_position_in_the_trimmed_part_is_still_judged(hub: Hub) -> None:
    """Guarantee 8: a checkpoint of another log is never taken for one that is merely old."""
    work(hub, 1, 20)
    old = hub.stream.read(Seq(4), bytes_max=1, entries_max=1)[0].position
    hub.trim(10)
    assert hub.stream.checkpoint_known(old)
    assert not hub.stream.checkpoint_known(Position(old.epoch + 1, old.seq))
    hub.close()
