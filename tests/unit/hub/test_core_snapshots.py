"""The core serves snapshots: made when they are needed, shared, fair between devices, kept as long as somebody needs
them; and it lets the log be trimmed up to them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from support.hub_core import BOOT, EPOCH, INCARNATION, LOG, Driver, every, hello, only, replay_request, settings, told
from tidewire_hub.actions import Effect, MakeSnapshot, Publish, ReadChunk, RemoveSnapshot, Standing, Trim
from tidewire_hub.core import HubCore
from tidewire_hub.database import StorageDamaged, StorageFailed
from tidewire_hub.log.retention import Kept
from tidewire_hub.snapshot.manifest import KeptSnapshot
from tidewire_schemas.codec import encode_chunk_body
from tidewire_schemas.digest import message_digest
from tidewire_schemas.errors import DatabaseError
from tidewire_schemas.messages import Problem, Welcome
from tidewire_schemas.positions import Position, Seq
from tidewire_schemas.snapshots import IncludedBatch, Snapshot, SnapshotChunk, SnapshotRequest, SnapshotTable


def name(number: int) -> str:
    return f"{number:032x}"


def body(snapshot: str, chunk: int, padding: int = 0) -> bytes:
    rows = b'[[%d,"%s"]]' % (chunk, b"x" * padding)
    return encode_chunk_body(snapshot=snapshot, chunk=chunk, table="t", key=1, columns=("id", "x"), rows_json=rows)


def kept(number: int, seq: int, *, chunks: int = 10, padding: int = 0) -> KeptSnapshot:
    bodies = [body(name(number), chunk, padding) for chunk in range(chunks)]
    included = IncludedBatch(incarnation=INCARNATION, batch=7, digest="e" * 32, seq=max(1, seq - 1))
    sizes = tuple(map(len, bodies))
    tables = (
        SnapshotTable(table="T", rows=chunks, bytes=sum(sizes), first=0, chunks=chunks, digest="f" * 32),
        SnapshotTable(table="empty", rows=0, bytes=0, first=chunks, chunks=0, digest="0" * 32),
    )
    return KeptSnapshot(
        snapshot=name(number),
        log=LOG,
        position=Position(EPOCH, seq),
        made_at=5,
        tables=tables,
        sizes=sizes,
        digests=tuple(map(message_digest, bodies)),
        included={"a": (included,)},
    )


def asking(
    snapshot: str | None = None,
    first: int = 0,
    chunks: int = 0,
    tables: tuple[str, ...] | None = None,
    least: int = 0,
) -> SnapshotRequest:
    return SnapshotRequest(
        incarnation=INCARNATION, boot=BOOT, snapshot=snapshot, first=first, chunks=chunks, tables=tables, least=least
    )


@dataclass
class Library(Driver):
    """A driver that reads chunks, and counts how often."""

    reads: Counter[tuple[str, int]] = field(default_factory=Counter)
    padding: int = 0
    first: list[Effect] = field(default_factory=list)
    """What it does when it begins to serve."""

    @classmethod
    def of(
        cls,
        *snapshots: KeptSnapshot,
        head: int = 1000,
        oldest: int = 1,
        padding: int = 0,
        spare: bool = True,
        **changes: Any,
    ) -> Library:
        core = HubCore(
            settings(**changes),
            log=LOG,
            epoch=EPOCH,
            head=Position(EPOCH, head),
            oldest=oldest,
            boot="d" * 32,
            version="1",
            log_bytes=head * 100,
            snapshots=snapshots,
            spare=spare,
        )
        driver = cls(core, padding=padding)
        driver.core.on_watching(driver.now)
        driver.first = driver.later(60)  # nobody else leads: it serves, and takes its first look at what it keeps
        return driver

    def serve(self, effects: list[Effect]) -> list[Effect]:
        """Answer reads until none is asked for; all other effects."""
        others: list[Effect] = []
        pending = list(effects)
        while pending:
            effect = pending.pop(0)
            if not isinstance(effect, ReadChunk):
                others.append(effect)
                continue
            self.reads[effect.snapshot.snapshot, effect.chunk] += 1
            read = body(effect.snapshot.snapshot, effect.chunk, self.padding)
            pending += self.core.downloads.on_chunk_read(effect, read, self.now)
        return others

    def wants(self, device: str, request: SnapshotRequest) -> list[Effect]:
        return self.serve(self.ask(device, request))

    def sent(self) -> list[Effect]:
        return self.serve(self.core.downloads.on_paced_sent(self.now))

    def made(self, snapshot: KeptSnapshot) -> list[Effect]:
        return self.core.downloads.on_snapshot_made(snapshot, self.now)


def codes(effects: list[Effect], device: str = "a") -> list[str]:
    return [answer.code for answer in told(effects, device) if isinstance(answer, Problem)]


# ── manifests ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_manifest_is_for_the_device_that_asked() -> None:
    driver = Library.of(kept(1, 995))
    (answer,) = told(driver.wants("a", asking()), "a")
    assert isinstance(answer, Snapshot)
    assert (answer.snapshot, answer.position.seq, answer.chunks, answer.log) == (name(1), 995, 10, LOG)
    assert (answer.incarnation, answer.boot) == (INCARNATION, BOOT)
    assert [included.batch for included in answer.included] == [7]
    (other,) = told(driver.wants("b", asking(tables=("t",))), "b")
    assert (other.included, [table.table for table in other.tables]) == ((), ["T"])


def test_a_device_waits_while_a_snapshot_is_made_and_hears_so() -> None:
    driver = Library.of()
    effects = driver.wants("a", asking())
    assert every(MakeSnapshot, effects)
    assert codes(effects) == ["snapshot_building"]
    effects = driver.wants("b", asking())
    assert not every(MakeSnapshot, effects)  # one for both
    effects = driver.made(kept(1, 1000))
    for device in ("a", "b"):
        assert [answer.type for answer in told(effects, device)] == ["snapshot"]


def test_a_snapshot_is_used_again_while_it_is_young_enough() -> None:
    driver = Library.of(kept(1, 995), snapshot_reuse_entries=5)
    assert not every(MakeSnapshot, driver.wants("a", asking()))
    older = Library.of(kept(1, 994), snapshot_reuse_entries=5)
    assert every(MakeSnapshot, older.wants("a", asking()))


def test_a_snapshot_from_before_the_oldest_entry_is_of_no_use() -> None:
    """Guarantee 3."""
    driver = Library.of(kept(1, 995), oldest=997)
    assert every(MakeSnapshot, driver.wants("a", asking()))


def test_a_device_is_not_taken_back_behind_what_it_has_applied() -> None:
    """Guarantee 3."""
    driver = Library.of(kept(1, 995))
    assert not every(MakeSnapshot, driver.wants("a", asking(least=995)))
    assert every(MakeSnapshot, driver.wants("a", asking(least=996)))
    # The one that is made may have been begun before: another follows, for an entry that is there at all.
    assert not every(MakeSnapshot, driver.wants("b", asking(least=10**9)))
    effects = driver.made(kept(2, 998))
    assert [answer.type for answer in told(effects, "a")] == ["snapshot"]
    assert told(effects, "b") == []
    assert every(MakeSnapshot, effects)
    effects = driver.made(kept(3, 1000))
    assert [answer.type for answer in told(effects, "b")] == ["snapshot"]
    assert not every(MakeSnapshot, effects)


def test_the_manifest_of_a_snapshot_comes_again_to_who_names_it() -> None:
    driver = Library.of(kept(1, 500), kept(2, 995))
    (answer,) = told(driver.wants("a", asking(name(1))), "a")
    assert answer.snapshot == name(1)


@pytest.mark.parametrize("request_", [asking(name(9)), asking(name(9), chunks=1), asking(name(1), first=10, chunks=1)])
def test_what_the_hub_does_not_have_is_gone(request_: SnapshotRequest) -> None:
    assert codes(Library.of(kept(1, 995)).wants("a", request_)) == ["snapshot_gone"]


def test_a_snapshot_that_cannot_be_made_is_said_to_those_who_wait_and_tried_again() -> None:
    """Guarantee 11."""
    driver = Library.of()
    driver.wants("a", asking())
    effects = driver.core.downloads.on_snapshot_failed(DatabaseError("no space"), driver.now)
    (answer,) = told(effects, "a")
    assert (answer.code, answer.message, answer.retry) == ("snapshot_failed", "no space", True)
    assert every(MakeSnapshot, driver.wants("a", asking()))


# ── chunks ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_chunks_come_as_they_are_stored_and_no_more_than_were_asked_for() -> None:
    driver = Library.of(kept(1, 995))
    chunks = told(driver.wants("a", asking(name(1), first=3, chunks=4)), "a")
    assert all(isinstance(chunk, SnapshotChunk) for chunk in chunks)
    assert [chunk.chunk for chunk in chunks] == [3, 4, 5, 6]
    assert chunks[0].rows == [[3, ""]]
    assert {(chunk.incarnation, chunk.boot) for chunk in chunks} == {(INCARNATION, BOOT)}
    chunks = told(driver.wants("a", asking(name(1), first=8, chunks=64)), "a")
    assert [chunk.chunk for chunk in chunks] == [8, 9]


def test_devices_that_load_together_cost_one_read_of_each_chunk() -> None:
    """500 devices, each asking for four chunks at a time, in the window of sixteen messages."""
    driver = Library.of(kept(1, 995, chunks=12))
    loaded: Counter[str] = Counter()
    effects = [effect for n in range(500) for effect in driver.wants(f"d{n}", asking(name(1), 0, 4))]
    in_flight = len(every(Publish, effects))
    assert in_flight == 16
    while effects:
        sent = every(Publish, effects)
        effects = []
        for publish in sent:
            device = publish.topic.split("/")[3]
            loaded[device] += 1
            effects += driver.sent()
            if loaded[device] % 4 == 0 and loaded[device] < 12:
                effects += driver.wants(device, asking(name(1), loaded[device], 4))
    assert set(loaded.values()) == {12}
    assert len(loaded) == 500
    assert driver.reads == Counter({(name(1), chunk): 1 for chunk in range(12)})


def test_chunks_and_pages_share_the_window_in_turns() -> None:
    """Guarantee 12."""
    driver = Library.of(kept(1, 995, chunks=64), replay_in_flight_max=4)
    at_head = replay_request(Position(EPOCH, 1000), pages=1)
    driver.wants("before", asking(name(1), 0, 64))  # so that no chunk has to be read from now on
    for _ in range(64):
        driver.sent()
    effects = driver.wants("a", asking(name(1), 0, 64))
    assert len(every(Publish, effects)) == 4
    for device in ("b", "c"):
        assert not every(Publish, driver.ask(device, at_head))
    topics_sent = [publish.topic.split("/")[3] for _ in range(4) for publish in every(Publish, driver.sent())]
    assert sorted(topics_sent) == ["a", "a", "b", "c"]


def test_devices_take_turns() -> None:
    driver = Library.of(kept(1, 995, chunks=60), replay_in_flight_max=2)
    driver.wants("a", asking(name(1), 0, 60))
    driver.wants("b", asking(name(1), 30, 30))
    order = [publish.topic.split("/")[3] for _ in range(20) for publish in every(Publish, driver.sent())]
    assert len(order) == 20
    for sent in range(1, 21):
        assert abs(order[:sent].count("a") - order[:sent].count("b")) <= 1


def test_a_new_request_replaces_the_one_before() -> None:
    driver = Library.of(kept(1, 995), replay_in_flight_max=1)
    driver.wants("a", asking(name(1), 0, 10))
    driver.wants("a", asking(name(1), 7, 1))
    assert [chunk.chunk for chunk in told(driver.sent(), "a")] == [7]
    assert not told(driver.sent(), "a")


def test_a_lost_connection_ends_all() -> None:
    driver = Library.of(kept(1, 995), replay_in_flight_max=1)
    driver.wants("a", asking(name(1), 0, 10))
    driver.core.on_disconnected(driver.now)
    assert not driver.sent()
    assert told(driver.wants("a", asking(name(1), 4, 1)), "a")[0].chunk == 4


def test_the_cache_of_chunks_is_bounded_and_the_newest_is_always_sent() -> None:
    """Guarantee 12."""
    driver = Library.of(kept(1, 995, padding=5000), padding=5000, snapshot_cache_bytes_max=0, replay_in_flight_max=99)
    for device in ("a", "b", "c"):
        chunks = told(driver.wants(device, asking(name(1), 0, 10)), device)
        assert [chunk.chunk for chunk in chunks] == list(range(10))
    assert set(driver.reads.values()) == {3}


def test_a_chunk_above_a_payload_goes_in_parts_and_counts_as_one_message() -> None:
    driver = Library.of(kept(1, 995, padding=9000), padding=9000, payload_bytes_max=4000)
    published = every(Publish, driver.wants("a", asking(name(1), 0, 1)))
    assert len(published) == 3
    assert [effect.paced for effect in published] == [False, False, True]


def test_a_damaged_snapshot_is_removed_and_another_one_is_made() -> None:
    """Guarantee 10."""
    driver = Library.of(kept(1, 995))
    read = only(ReadChunk, driver.ask("a", asking(name(1), 0, 4)))
    driver.ask("b", asking(name(1), 2, 4))
    effects = driver.core.downloads.on_chunk_failed(read, StorageDamaged("a bit flipped"), driver.now, damaged=True)
    assert only(RemoveSnapshot, effects).snapshot == name(1)
    assert codes(effects, "a") == codes(effects, "b") == ["snapshot_gone"]
    assert every(MakeSnapshot, driver.ask("a", asking()))


def test_a_disk_that_cannot_be_read_now_ends_nothing_but_the_request() -> None:
    """Guarantee 11."""
    driver = Library.of(kept(1, 995))
    read = only(ReadChunk, driver.ask("a", asking(name(1), 0, 4)))
    effects = driver.core.downloads.on_chunk_failed(read, StorageFailed("I/O error"), driver.now, damaged=False)
    assert codes(effects) == ["snapshot_failed"]
    assert not every(RemoveSnapshot, effects)
    assert len(told(driver.wants("a", asking(name(1), 0, 4)), "a")) == 4


# ── which are kept ────────────────────────────────────────────────────────────────────────────────────────────────


def test_only_so_many_are_kept_but_none_is_removed_while_it_is_loaded() -> None:
    driver = Library.of(kept(1, 500), kept(2, 600), snapshots_kept=2, snapshot_hold_s=60, snapshot_reuse_entries=0)
    driver.later(100)
    driver.wants("a", asking(name(1), 0, 4))
    assert not every(RemoveSnapshot, driver.made(kept(3, 1000)))
    assert only(RemoveSnapshot, driver.later(61)).snapshot == name(1)
    assert codes(driver.wants("a", asking(name(1), 4, 4))) == ["snapshot_gone"]
    assert only(RemoveSnapshot, driver.made(kept(4, 1000))).snapshot == name(2)


def test_while_as_many_are_loaded_as_may_be_kept_the_newest_must_do() -> None:
    """Guarantee 12: the disk does not fill with snapshots, however many devices come."""
    driver = Library.of(kept(1, 500), kept(2, 600), snapshots_kept=2, snapshot_reuse_entries=0)
    driver.wants("a", asking(name(1), 0, 1))
    driver.wants("b", asking(name(2), 0, 1))
    effects = driver.wants("c", asking())
    assert not every(MakeSnapshot, effects)
    assert told(effects, "c")[0].snapshot == name(2)


def test_a_snapshot_that_nobody_asks_for_goes_after_its_time() -> None:
    driver = Library.of(kept(1, 900), kept(2, 995), snapshot_keep_s=3600)
    driver.later(1)
    driver.later(3000)
    driver.wants("a", asking(name(1)))
    removed = [effect.snapshot for effect in every(RemoveSnapshot, driver.later(700))]
    assert removed == [name(2)]


def test_the_snapshot_from_which_a_trimmed_log_goes_on_is_kept_for_ever() -> None:
    """Guarantee 2: without it the state could not be made anew."""
    driver = Library.of(kept(1, 900), kept(2, 995), oldest=901, snapshot_keep_s=3600)
    driver.later(1)
    removed = [effect.snapshot for effect in every(RemoveSnapshot, driver.later(10 * 3600))]
    assert removed == [name(1)]


# ── trimming ──────────────────────────────────────────────────────────────────────────────────────────────────────


def trimmed(driver: Library, oldest: int, *, removed: int = 0, held_up: bool = False) -> list[Effect]:
    return driver.core.downloads.on_trimmed(Kept(Seq(oldest), 5000, removed, held_up), driver.now)


def test_without_retention_nothing_is_trimmed() -> None:
    driver = Library.of(kept(1, 995))
    assert not every(Trim, driver.later(1) + driver.later(1000))


def test_the_log_is_trimmed_step_by_step_and_looked_at_again_later() -> None:
    driver = Library.of(kept(1, 900), retention_entries=50, retention_interval_s=30, snapshot_hold_s=1)
    trimmed(driver, 1)
    assert only(Trim, driver.later(31)).needed_from == 901
    assert not every(Trim, driver.later(60))  # one step at a time
    assert only(Trim, trimmed(driver, 257, removed=256))
    assert driver.core.oldest == 257
    assert not every(Trim, trimmed(driver, 257))
    assert only(Trim, driver.later(31))


def test_a_snapshot_is_made_where_one_is_in_the_way_of_trimming_but_not_too_often() -> None:
    driver = Library.of(retention_entries=50, retention_interval_s=30, snapshot_interval_s=600, snapshot_hold_s=1)
    assert every(MakeSnapshot, trimmed(driver, 1, held_up=True))
    driver.made(kept(1, 990))
    assert only(Trim, driver.later(10)).needed_from == 991
    assert not every(MakeSnapshot, trimmed(driver, 500, held_up=True))
    driver.later(600)
    assert every(MakeSnapshot, trimmed(driver, 500, held_up=True))


def test_no_snapshot_is_made_where_it_would_not_let_the_log_be_trimmed_further() -> None:
    limits: dict[str, Any] = {
        "retention_entries": 50,
        "snapshot_interval_s": 1,
        "snapshot_hold_s": 30,
        "snapshots_kept": 9,
    }
    driver = Library.of(kept(1, 900), kept(2, 1000), **limits)  # up to the head
    driver.later(100)
    assert not every(MakeSnapshot, trimmed(driver, 500, held_up=True))

    driver = Library.of(kept(1, 900), kept(2, 990), **limits)
    driver.later(100)
    driver.wants("a", asking(name(1), 0, 4))  # what is needed is what follows this one
    assert not every(MakeSnapshot, trimmed(driver, 500, held_up=True))
    driver.later(100)
    assert every(MakeSnapshot, trimmed(driver, 500, held_up=True))


def test_one_at_the_head_without_a_copy_of_the_state_does_not_keep_another_from_being_made() -> None:
    driver = Library.of(kept(1, 1000), spare=False, retention_entries=50, snapshot_interval_s=1)
    assert every(MakeSnapshot, trimmed(driver, 1, held_up=True))


def test_a_snapshot_is_not_removed_while_chunks_of_it_wait_to_be_sent() -> None:
    limits: dict[str, Any] = {
        "snapshots_kept": 2,
        "snapshot_hold_s": 3,
        "retention_interval_s": 1,
        "replay_in_flight_max": 1,
    }
    driver = Library.of(kept(1, 500), kept(2, 600), **limits)
    driver.wants("a", asking(name(1), 0, 3))
    driver.made(kept(3, 998))
    removed = [effect.snapshot for _ in range(60) for effect in every(RemoveSnapshot, driver.later(1))]
    assert removed == []
    assert [chunk.chunk for _ in range(2) for chunk in told(driver.sent(), "a")] == [1, 2]
    assert not every(RemoveSnapshot, driver.later(2))  # it has a moment to ask for more
    assert [effect.snapshot for effect in every(RemoveSnapshot, driver.later(2))] == [name(1)]


def test_a_trimmed_log_without_a_copy_of_the_state_beside_a_snapshot_gets_one_at_once() -> None:
    driver = Library.of(kept(1, 900), oldest=500, spare=False)
    only(MakeSnapshot, driver.first)
    assert driver.later(60) == []  # it is being made
    driver.core.downloads.on_snapshot_failed(DatabaseError("full"), driver.now)
    only(MakeSnapshot, driver.later(60))
    driver.made(kept(2, 1000))
    assert every(MakeSnapshot, driver.later(60)) == []


def test_a_log_that_begins_at_its_first_entry_needs_no_copy_of_the_state() -> None:
    assert every(MakeSnapshot, Library.of(spare=False).first) == []


def test_nothing_is_trimmed_up_to_a_snapshot_that_has_no_copy_of_the_state() -> None:
    driver = Library.of(kept(1, 900), spare=False, retention_entries=10)
    assert only(Trim, driver.first).needed_from == 1
    only(MakeSnapshot, trimmed(driver, 1, held_up=True))
    driver.made(kept(2, 1000))
    assert only(Trim, driver.later(60)).needed_from > 900


def test_when_the_newest_snapshot_is_damaged_another_takes_its_place_at_once() -> None:
    driver = Library.of(kept(2, 990), kept(1, 900), oldest=500)
    read = only(ReadChunk, driver.ask("a", asking(name(2), 0, 1)))
    error = StorageDamaged("bad")
    effects = driver.core.downloads.on_chunk_failed(read, error, driver.now, damaged=True)
    assert only(RemoveSnapshot, effects).snapshot == name(2)
    only(MakeSnapshot, driver.later(0.001))


def test_entries_stay_that_follow_a_snapshot_which_is_being_loaded() -> None:
    """Guarantee 3."""
    driver = Library.of(kept(1, 500), kept(2, 900), retention_entries=50, snapshot_hold_s=60, retention_interval_s=30)
    trimmed(driver, 1)
    assert only(Trim, driver.later(100)).needed_from == 901
    trimmed(driver, 1)
    driver.wants("a", asking(name(1), 0, 4))
    assert only(Trim, driver.later(31)).needed_from == 501
    trimmed(driver, 1)
    assert only(Trim, driver.later(31)).needed_from == 901


def test_after_a_restart_every_snapshot_counts_as_being_loaded() -> None:
    """Guarantee 3: the devices go on where they were, and nothing was trimmed under them meanwhile."""
    driver = Library.of(kept(1, 500), kept(2, 900), retention_entries=50, snapshot_hold_s=60, retention_interval_s=30)
    trimmed(driver, 1)
    assert only(Trim, driver.later(31)).needed_from == 501


def test_a_log_that_cannot_be_trimmed_now_is_tried_again() -> None:
    """Guarantee 11."""
    driver = Library.of(retention_entries=50)
    driver.core.downloads.on_trim_failed(DatabaseError("disk I/O error"), driver.now)
    assert every(Trim, driver.later(31))


# ── what a device hears of it ─────────────────────────────────────────────────────────────────────────────────────


def welcomed(driver: Library, position: Position) -> Welcome:
    said = hello(position=position)
    standing = Standing(table_problems=(), on_log=True, accepted=None, recent=())
    driver.ask("a", said)
    (answer,) = told(driver.core.greetings.on_greeted("a", said, standing, driver.now), "a")
    assert isinstance(answer, Welcome)
    return answer


def test_a_snapshot_is_advised_where_it_costs_less_than_replay() -> None:
    """The log has 100 bytes for each entry, the snapshot some 1,800."""
    driver = Library.of(kept(1, 995), snapshot_advised_entries=5)
    small = kept(1, 995).bytes
    enough = 2 * small // 100 + 1
    assert welcomed(driver, Position(EPOCH, 1000 - enough)).snapshot_advised
    assert not welcomed(driver, Position(EPOCH, 1000 - enough + 2)).snapshot_advised
    assert not welcomed(driver, Position(EPOCH, 1000)).snapshot_advised


def test_a_snapshot_is_not_advised_for_a_few_entries_however_large() -> None:
    driver = Library.of(kept(1, 995), snapshot_advised_entries=500)
    assert not welcomed(driver, Position(EPOCH, 500)).snapshot_advised
    assert welcomed(driver, Position(EPOCH, 499)).snapshot_advised


def test_a_snapshot_is_advised_to_whom_the_log_cannot_serve() -> None:
    driver = Library.of(oldest=998)
    assert welcomed(driver, Position(EPOCH, 996)).snapshot_advised
    assert not welcomed(driver, Position(EPOCH, 997)).snapshot_advised
    assert welcomed(driver, Position(EPOCH, 996)).oldest == 998
