"""The core commits batches in groups, fans them out, acks them, and bounds what waits."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from support.hub_core import (
    BOOT,
    EPOCH,
    INCARNATION,
    Driver,
    batch,
    every,
    group_of,
    hello,
    messages,
    only,
    problem,
    stored,
    told,
)
from tidewire_hub.actions import Append, Effect, Greet, Publish, QueuedBatch, SaveDevices, Standing
from tidewire_hub.commits import GroupCommits
from tidewire_hub.devices import read_document
from tidewire_hub.ingest import IngestQueue
from tidewire_hub.log.port import StoredEntry
from tidewire_hub.stream import Acked
from tidewire_schemas import topics
from tidewire_schemas.digest import message_digest
from tidewire_schemas.errors import DatabaseError, TidewireError
from tidewire_schemas.messages import Ack, ChainPoint, FreshRequest, Page, Part, Problem
from tidewire_schemas.parts import Assembler, split
from tidewire_schemas.positions import START, Position, Seq

LOG_TOPIC = topics.log("main")


def acked(device: str, number: int) -> list[Acked]:
    return [Acked(device, INCARNATION, number, message_digest(batch(number)), Seq(number))]


def heads(effects: Sequence[Effect]) -> list[str | None]:
    """What the heads among these say that the hub is busy with."""
    return [said.busy for said in messages(effects, topics.head("main"))]


def fresh() -> FreshRequest:
    return FreshRequest(v=1, type="fresh_request", incarnation=INCARNATION, boot=BOOT, nonce="e" * 32)


def test_an_idle_hub_commits_at_once() -> None:
    driver = Driver.make()
    assert group_of(driver.up("till", batch())) == (QueuedBatch("till", batch()),)


def test_while_a_group_commits_the_next_one_gathers() -> None:
    driver = Driver.make()
    group = group_of(driver.up("a", batch(1)))
    for number in (2, 3):
        assert not every(Append, driver.up("a", batch(number)))
    assert not every(Append, driver.up("b", batch(1)))
    assert group_of(driver.appended(group)) == (
        QueuedBatch("a", batch(2)),
        QueuedBatch("b", batch(1)),
        QueuedBatch("a", batch(3)),
    )


def test_nothing_is_acked_before_it_is_durable() -> None:
    """Guarantee 1."""
    driver = Driver.make()
    effects = driver.up("till", batch())
    assert not every(Publish, effects)
    (ack,) = told(driver.appended(group_of(effects)), "till")
    assert isinstance(ack, Ack)
    assert (ack.batch, ack.digest, ack.seq, ack.epoch) == (1, message_digest(batch()), 1, EPOCH)


def test_a_device_that_never_said_hello_is_acked_without_a_boot() -> None:
    driver = Driver.make()
    (ack,) = told(driver.appended(group_of(driver.up("till", batch()))), "till")
    assert ack.boot is None
    driver.ask("till", hello())
    (ack,) = told(driver.appended(group_of(driver.up("till", batch(2)))), "till")
    assert ack.boot == BOOT


def test_only_the_newest_batch_of_each_database_is_acked() -> None:
    driver = Driver.make()
    group = group_of(driver.up("a", batch(1)))
    for number in (2, 3, 4):
        driver.up("a", batch(number))
    driver.up("a", batch(1, incarnation="7" * 32))
    group = group_of(driver.appended(group))
    acks = told(driver.appended(group), "a")
    assert [(ack.incarnation, ack.batch) for ack in acks] == [(INCARNATION, 4), ("7" * 32, 1)]


def test_entries_go_out_before_acks_as_pages_that_follow_each_other() -> None:
    driver = Driver.make(head=Position(EPOCH - 1, 5))
    group = group_of(driver.up("a", batch(1)))
    for number in (2, 3):
        driver.up("a", batch(number))
    driver.appended(group)
    effects = driver.appended(group_of(driver.seen[-1:]))
    (page,) = messages(effects, LOG_TOPIC)
    assert (page.prev, [entry.seq for entry in page.entries]) == (Position(EPOCH, 6), [7, 8])
    assert driver.core.head == Position(EPOCH, 8)
    order = [effect.topic for effect in every(Publish, effects)]
    assert order.index(LOG_TOPIC) < order.index(topics.inbox("a", "main"))


def test_a_page_that_would_not_fit_is_cut_between_entries() -> None:
    driver = Driver.make(payload_bytes_max=4096)
    driver.up("a", batch(1))
    group = tuple(QueuedBatch("a", batch(number, padding=1500)) for number in range(1, 6))
    effects = driver.appended(group)
    sizes = [len(effect.payload) for effect in every(Publish, effects)]
    assert max(sizes) <= 4096
    pages = messages(effects, LOG_TOPIC)
    assert [[entry.seq for entry in page.entries] for page in pages] == [[1, 2], [3, 4], [5]]
    assert [page.prev for page in pages] == [START, Position(EPOCH, 2), Position(EPOCH, 4)]


def test_an_entry_larger_than_a_payload_travels_in_parts() -> None:
    driver = Driver.make(payload_bytes_max=4096)
    large = batch(1, padding=20_000)
    group = None
    for part in split(large, 4096):
        group = driver.up("a", part)
    assert group is not None
    assert group_of(group) == (QueuedBatch("a", large),)
    assembler = Assembler(1_000_000)
    parts = messages(driver.appended(group_of(group)), LOG_TOPIC)
    wholes = [assembler.feed(part) for part in parts if isinstance(part, Part)]
    assert len(parts) == len(wholes) > 4
    page = Page.model_validate_json(wholes[-1] or b"")
    assert [entry.seq for entry in page.entries] == [1]


def test_a_broker_that_takes_less_gets_smaller_messages() -> None:
    driver = Driver.make()
    driver.core.on_connected(4096, driver.now)
    effects = driver.appended(group_of(driver.up("a", batch(1, padding=50_000))))
    assert max(len(effect.payload) for effect in every(Publish, effects)) <= 4096


def test_a_lost_part_is_asked_for_again() -> None:
    driver = Driver.make(payload_bytes_max=4096)
    driver.appended(group_of(driver.up("a", batch(1))))
    first, _, third, *_ = split(batch(2, padding=20_000), 4096)
    driver.up("a", first)
    (answer,) = told(driver.up("a", third), "a")
    assert isinstance(answer, Problem)
    assert (answer.code, answer.batch, answer.incarnation) == ("resend", 2, INCARNATION)


def test_parts_of_all_devices_together_are_bounded_and_none_is_evicted_half_way() -> None:
    """Guarantee 12."""
    driver = Driver.make(
        payload_bytes_max=4096, batch_bytes_max=30_000, ingest_bytes_max=30_000, parts_bytes_max=30_000
    )
    a, b = (list(split(batch(1, padding=20_000), 4096)) for _ in range(2))
    driver.up("a", a[0])
    (answer,) = told(driver.up("b", b[0]), "b")
    assert (answer.code, answer.retry) == ("busy", True)
    for part in a[1:-1]:
        assert not every(Append, driver.up("a", part))
    assert group_of(driver.up("a", a[-1]))
    assert not told(driver.up("b", b[0]), "b")
    for part in b[1:]:
        driver.up("b", part)
    assert len(driver.core._commits.queue) == 1


def test_a_batch_larger_than_allowed_is_refused_at_its_first_part() -> None:
    driver = Driver.make(batch_bytes_max=100_000, payload_bytes_max=4096)
    (answer,) = told(driver.up("a", next(split(batch(1, padding=200_000), 4096))), "a")
    assert answer.code == "message_too_large"


def test_a_full_queue_drops_the_newest_of_whoever_fills_it_and_asks_for_it_later() -> None:
    """Guarantee 12."""
    driver = Driver.make(ingest_batches_max=4)
    driver.ask("greedy", hello())
    accepted = ChainPoint(batch=9, digest="0" * 32, seq=9)
    driver.core.greetings.on_greeted("greedy", hello(), Standing((), True, accepted, ()), driver.now)
    group = group_of(driver.up("modest", batch(1)))
    for number in range(10, 14):
        driver.up("greedy", batch(number))
    effects = driver.up("modest", batch(2))
    assert [answer.code for answer in told(effects, "greedy")] == ["busy"]
    assert not told(effects, "modest")
    assert not told(driver.up("greedy", batch(14)), "greedy")
    group = group_of(driver.appended(group))
    assert [QueuedBatch("modest", batch(2)) in group, len(group)] == [True, 4]
    effects = driver.appended(group)
    assert [(p.code, p.batch) for p in told(effects, "greedy") if isinstance(p, Problem)] in (
        [("resend", 13)],
        [],
    )


def test_a_device_with_a_long_backlog_does_not_hold_others_up() -> None:
    driver = Driver.make(commit_batches_max=3)
    group = group_of(driver.up("a", batch(1)))
    for number in range(2, 50):
        driver.up("a", batch(number))
    driver.up("b", batch(1))
    assert QueuedBatch("b", batch(1)) in group_of(driver.appended(group))


def test_a_group_is_bounded_by_count_and_by_bytes() -> None:
    driver = Driver.make(commit_batches_max=3, commit_bytes_max=5_000)
    group = group_of(driver.up("a", batch(1)))
    for number in (2, 3, 4, 5):
        driver.up("a", batch(number))
    driver.up("a", batch(6, padding=4_900))
    driver.up("a", batch(7))
    sizes = []
    while group:
        sizes.append(len(group))
        appends = every(Append, driver.appended(group))
        group = appends[0].group if appends else ()
    assert sizes == [1, 3, 1, 1, 1]


def test_what_a_group_had_no_time_for_comes_in_its_order_after_a_turn_of_the_other_devices() -> None:
    """Guarantee 5."""
    driver = Driver.make()
    group = group_of(driver.up("large", batch(1)))
    for number in range(2, 7):
        driver.up("large", batch(number))
    group = group_of(driver.appended(group))
    assert [sent.payload for sent in group] == [batch(number) for number in range(2, 7)]
    driver.up("large", batch(7))
    driver.up("small", batch(1))
    effects = driver.appended(group, left=4, entries=[], acks=acked("large", 2))
    assert [ack.batch for ack in told(effects, "large")] == [2]
    group = group_of(effects)
    assert group[0] == QueuedBatch("small", batch(1))
    assert [sent.payload for sent in group[1:]] == [batch(number) for number in range(3, 8)]


def test_devices_that_a_group_did_not_come_to_are_the_first_of_the_next() -> None:
    driver = Driver.make()
    group = group_of(driver.up("z", batch(1)))
    for device in ("a", "b", "a", "c"):
        driver.up(device, batch(1))
    group = group_of(driver.appended(group))
    assert [sent.device for sent in group] == ["a", "b", "c", "a"]
    driver.up("d", batch(1))
    group = group_of(driver.appended(group, left=3, entries=[], acks=[]))
    assert [sent.device for sent in group] == ["b", "c", "d", "a"]


def test_a_commit_that_takes_long_is_told_again_and_again_and_its_end_at_once() -> None:
    driver = Driver.make(commit_busy_s=2, head_period_s=60)
    driver.core.on_watching(driver.now)
    driver.later(driver.core._settings.rival_wait_s)
    driver.take(driver.core.on_connected(100_000, driver.now))
    assert heads(driver.seen) == [None]
    group = group_of(driver.up("a", batch(1, padding=90_000)))
    driver.up("b", batch(1))
    assert not heads(driver.later(1.9))
    (busy,) = heads(driver.later(0.1))
    assert busy == "a commit of 0.1 MB has been under way for 2 s, 1 batches wait"
    assert not heads(driver.later(1.9))
    assert len(heads(driver.later(0.1))) == 1
    assert told(driver.ask("a", fresh()), "a")[0].head == START
    assert heads(driver.appended(group, entries=[], acks=[])) == [None]


def test_a_repeated_batch_is_acked_again_and_goes_out_only_once() -> None:
    """Guarantee 2."""
    driver = Driver.make(head=Position(EPOCH, 9))
    group = group_of(driver.up("a", batch(1)))
    acks = [Acked("a", INCARNATION, 1, message_digest(batch(1)), Seq(4))]
    effects = driver.appended(group, entries=[], acks=acks)
    assert not messages(effects, LOG_TOPIC)
    assert [(ack.batch, ack.seq) for ack in told(effects, "a")] == [(1, 4)]


def test_a_batch_that_comes_again_behind_a_newer_one_does_not_hide_that_ones_ack() -> None:
    driver = Driver.make()
    group = group_of(driver.up("a", batch(1)))
    acks = [Acked("a", INCARNATION, number, message_digest(batch(number)), Seq(number)) for number in (1, 2, 1)]
    assert [ack.batch for ack in told(driver.appended(group, acks=acks), "a")] == [2]


def test_a_gap_is_told_once_for_all_batches_behind_it() -> None:
    driver = Driver.make()
    driver.ask("a", hello())
    group = group_of(driver.up("a", batch(5)))
    gaps = [problem("a", "resend", batch=2, retry=True)] * 3
    (answer,) = told(driver.appended(group, entries=[], acks=[], problems=gaps), "a")
    assert (answer.code, answer.batch, answer.incarnation, answer.boot) == ("resend", 2, INCARNATION, BOOT)


def test_a_batch_the_stream_cannot_use_is_kept_for_people_and_holds_nothing_up() -> None:
    """Guarantee 10."""
    driver = Driver.make()
    group = group_of(driver.up("a", b"\xffgarbage"))
    driver.up("b", batch(1))
    bad = [problem("a", "message_malformed", hint="see the schema")]
    effects = driver.appended(group, entries=[], acks=[], problems=bad)
    (answer,) = told(effects, "a")
    assert (answer.code, answer.hint) == ("message_malformed", "see the schema")
    assert group_of(effects) == (QueuedBatch("b", batch(1)),)
    document = read_document(only(SaveDevices, driver.later(10)).document)
    assert document is not None
    assert document.rejected[0].sample == "\\xffgarbage"


def test_a_full_disk_acks_nothing_and_the_same_group_is_tried_again() -> None:
    """Guarantee 11."""
    driver = Driver.make(commit_retry_min_s=1, commit_retry_max_s=4)
    group = group_of(driver.up("a", batch(1)))
    full = DatabaseError("disk full")
    effects = driver.core.on_append_failed(group, full, driver.now, storage=True)
    assert not told(effects, "a")
    (state,) = messages(effects, topics.hub_state("hub"))
    assert (state.state, state.problem) == ("halted", "disk full")
    assert not every(Append, driver.up("a", batch(2)))
    for pause in (1, 2, 4, 4):
        assert not every(Append, driver.later(pause - 0.1))
        assert group_of(driver.later(0.2)) == group
        effects = driver.core.on_append_failed(group, full, driver.now, storage=True)
        assert not messages(effects, topics.hub_state("hub"))
    driver.later(5)
    effects = driver.appended(group)
    assert told(effects, "a")
    (state,) = messages(effects, topics.hub_state("hub"))
    assert (state.state, state.problem) == ("leading", None)
    assert group_of(effects) == (QueuedBatch("a", batch(2)),)


def test_of_a_group_that_fails_without_the_disks_fault_each_batch_is_tried_alone() -> None:
    """Guarantee 10."""
    driver = Driver.make()
    first = group_of(driver.up("a", batch(1)))
    driver.up("a", batch(2))
    driver.up("b", batch(1))
    group = group_of(driver.appended(first))
    alone = group_of(driver.core.on_append_failed(group, TidewireError("?"), driver.now, storage=False))
    assert alone == (QueuedBatch("a", batch(2)),)
    effects = driver.core.on_append_failed(alone, TidewireError("poison"), driver.now, storage=False)
    assert [answer.message for answer in told(effects, "a")] == ["poison"]
    assert group_of(effects) == (QueuedBatch("b", batch(1)),)
    assert told(driver.appended(group_of(effects)), "b")


def test_a_slow_broker_holds_commits_back() -> None:
    driver = Driver.make()
    driver.core.on_outbox(driver.now, full=True)
    assert not every(Append, driver.up("a", batch(1)))
    assert group_of(driver.core.on_outbox(driver.now, full=False)) == (QueuedBatch("a", batch(1)),)


def test_a_slow_commit_is_told_at_the_moment_it_is_due_however_sums_are_rounded() -> None:
    for began_ms in range(0, 3000, 7):
        commits = GroupCommits(
            IngestQueue(batches_max=10, bytes_max=1000),
            batches_max=1,
            bytes_max=1000,
            busy_s=2.1,
            retry_min_s=1,
            retry_max_s=1,
        )
        commits.queue.put("a", b"x")
        commits.next(began_ms / 1000)
        due = commits.busy_at
        assert commits.busy(due) is not None
        assert commits.busy_at > due


def test_heads_of_a_busy_log_are_spaced() -> None:
    driver = Driver.make(head_interval_s=0.25)
    driver.core.on_connected(100_000, driver.now)
    heads = 0
    driver.s += 1
    for number in range(1, 11):
        driver.s += 0.05
        heads += len(messages(driver.appended(group_of(driver.up("a", batch(number)))), topics.head("main")))
        heads += len(messages(driver.later(0), topics.head("main")))
    assert heads == 2
    driver.later(0.3)
    (last,) = messages(driver.seen[-1:], topics.head("main"))
    assert last.head == driver.core.head


def test_after_a_lost_connection_a_half_received_message_begins_anew() -> None:
    driver = Driver.make(payload_bytes_max=4096)
    parts = list(split(batch(1, padding=20_000), 4096))
    driver.up("a", parts[0])
    driver.core.on_disconnected(driver.now)
    driver.core.on_connected(100_000, driver.now)
    for part in parts[:-1]:
        driver.up("a", part)
    assert group_of(driver.up("a", parts[-1]))


def test_a_stopping_hub_begins_no_commit() -> None:
    driver = Driver.make()
    driver.core.stop(driver.now)
    assert not every(Append, driver.up("a", batch(1)))


@pytest.mark.parametrize("spelling", [b'{"type" : "part", "v":1,', b' {\n"v": 1, "type":"part",'])
def test_parts_are_found_however_they_are_spelled(spelling: bytes) -> None:
    driver = Driver.make()
    rest = b'"digest":"%s","part":1,"parts":2,"size":10,"text":"x"}' % (b"0" * 32)
    assert not every(Append, driver.up("a", spelling + rest))


def test_a_row_that_speaks_of_parts_is_still_a_batch() -> None:
    driver = Driver.make()
    spelled = b'{"type":"batch","v":1,"note":"' + b'"type":"part"'.replace(b'"', b'\\"') + b'"}'
    assert every(Append, driver.up("a", spelled))


def test_entries_of_others_in_a_commit_are_fanned_out_even_when_their_device_is_gone() -> None:
    driver = Driver.make()
    position = Position(EPOCH, 1)
    entry = StoredEntry(position, stored(position, "gone", 1, batch(1)))
    effects = driver.appended((), entries=[entry], acks=[])
    (page,) = messages(effects, LOG_TOPIC)
    assert page.entries[0].device == "gone"
    assert not every(Greet, effects)
