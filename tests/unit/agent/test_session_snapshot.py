"""How a session takes a snapshot: when, how much at once, and what it does when something does not come."""

from __future__ import annotations

from typing import Any

from tidewire_agent.load_standing import LoadStanding
from tidewire_agent.session.complaints import BROKEN_CHUNK, NO_CHUNKS, SNAPSHOT_GONE, snapshot_gone
from tidewire_agent.session.effects import (
    ApplyPage,
    AwaitSnapshot,
    BeginLoad,
    ClearProblem,
    Effect,
    FinishLoad,
    ForgetLoad,
    LoadChunk,
    RequestReplay,
    RequestSnapshot,
    SayProblem,
    SendBatches,
    SendHello,
)
from tidewire_agent.session.limits import SessionLimits
from tidewire_agent.session.session import Session
from tidewire_agent.session.standing import Standing
from tidewire_agent.session.states import State
from tidewire_agent.settings import AgentSettings
from tidewire_schemas.codec import rows_digest
from tidewire_schemas.messages import Head, Problem, Welcome
from tidewire_schemas.positions import START, Position
from tidewire_schemas.snapshots import Snapshot, SnapshotChunk

ME, BOOT, LOG, SNAPSHOT = "a" * 32, "b" * 32, "c" * 32, "d" * 32
EPOCH = 1000
LIMITS: SessionLimits = AgentSettings.of(db="unused.db", snapshot_chunks_ahead_max=4).session_limits()


def at(seq: int) -> Position:
    return Position(EPOCH, seq) if seq else START


def stands(
    seq: int, *, checkpoint: int | None = None, loading: LoadStanding | None = None, sealed: int = 0
) -> Standing:
    return Standing(ME, LOG, EPOCH, at(seq), sealed, None if checkpoint is None else at(checkpoint), loading)


def load(*missing: range, snapshot: str | None = SNAPSHOT, whole: bool = True, chunks: int = 10) -> LoadStanding:
    left = sum(map(len, missing))
    return LoadStanding(snapshot, whole, at(90), ("notes",), missing, chunks - left, chunks)


def welcome(**changes: Any) -> Welcome:
    values: dict[str, Any] = {
        "incarnation": ME,
        "boot": BOOT,
        "handshake": 1,
        "log": LOG,
        "epoch": EPOCH,
        "head": at(100),
        "oldest": 80,
        "checkpoint": "on_log",
        "accepted": None,
        "payload_bytes_max": 50_000,
        "batch_bytes_max": 1_000_000,
    }
    return Welcome(**(values | changes))


def manifest(seq: int = 90) -> Snapshot:
    return Snapshot(
        incarnation=ME, boot=BOOT, snapshot=SNAPSHOT, log=LOG, position=at(seq), chunks=10, bytes=0, tables=()
    )


def chunk(number: int, *, digest: str | None = None) -> SnapshotChunk:
    rows = [[number, "x"]]
    return SnapshotChunk(
        incarnation=ME,
        boot=BOOT,
        snapshot=SNAPSHOT,
        chunk=number,
        table="notes",
        key=1,
        columns=("id", "title"),
        digest=digest or rows_digest(rows),
        rows=rows,
    )


def problem(code: str) -> Problem:
    return Problem(incarnation=ME, boot=BOOT, code=code, message=code)


def greeted(standing: Standing, answer: Welcome | None = None) -> tuple[Session, list[Effect]]:
    session = Session(LIMITS, BOOT, standing)
    session.connected(0.0)
    return session, session.welcomed(answer or welcome(), {}, 0.0)


def of(effects: list[Effect], kind: type[Effect]) -> list[Effect]:
    return [effect for effect in effects if isinstance(effect, kind)]


def test_a_device_that_lacks_what_is_no_longer_kept_asks_for_a_snapshot() -> None:
    session, effects = greeted(stands(50, sealed=3))
    assert session.state is State.LOADING
    assert RequestSnapshot(None, None, 0, 0, refused_after=50) in effects
    assert not of(effects, RequestReplay)
    assert of(effects, SendBatches)  # its own writes go up meanwhile


def test_one_that_is_advised_to_does_so_too() -> None:
    session, _ = greeted(stands(85), welcome(snapshot_advised=True))
    assert session.state is State.LOADING


def test_one_that_can_be_served_from_the_log_asks_for_entries() -> None:
    session, effects = greeted(stands(79))
    assert session.state is State.CATCHING_UP
    assert of(effects, RequestReplay)


def test_chunks_are_asked_for_a_few_at_a_time_and_loaded_in_order() -> None:
    session, _ = greeted(stands(50))
    assert session.received(manifest(), 1, 1.0, 0.0) == [BeginLoad(manifest(), whole=True)]
    asked = session.loaded(stands(50, loading=load(range(10))), 1.0)
    assert asked == [RequestSnapshot(SNAPSHOT, None, 0, 4)]
    assert session.received(chunk(1), 1, 1.0, 0.0) == []
    assert session.received(chunk(0), 1, 1.0, 0.0) == [LoadChunk(chunk(0))]
    assert session.received(chunk(2), 1, 1.0, 0.0) == []
    assert session.received(chunk(3), 1, 1.0, 0.0) == []  # three wait already
    effects = session.loaded(stands(50, loading=load(range(1, 10))), 1.0)
    assert effects == [LoadChunk(chunk(1)), RequestSnapshot(SNAPSHOT, None, 4, 4)]


def test_only_chunks_of_its_tables_are_asked_for() -> None:
    _, effects = greeted(stands(50, loading=load(range(3, 5), range(8, 10))))
    assert of(effects, RequestSnapshot) == [RequestSnapshot(SNAPSHOT, None, 3, 2)]


def test_when_all_is_loaded_the_rest_is_done_and_the_next_handshake_tells_how_to_go_on() -> None:
    session, effects = greeted(stands(50, loading=load()))
    assert of(effects, FinishLoad)
    assert session.loaded(stands(90), 1.0)[-1:] == [SendHello()]
    assert session.position == at(90)
    effects = session.welcomed(welcome(handshake=session.handshake), {}, 1.0)
    assert RequestReplay(at(90), LIMITS.replay_pages) in effects


def test_nothing_is_applied_while_a_snapshot_is_loaded() -> None:
    session, _ = greeted(stands(50))
    head = Head(log=LOG, epoch=EPOCH, head=at(120), oldest=80, leader="hub", at=0)
    assert not of(session.received(head, 1, 1.0, 0.0), ApplyPage)
    assert session.tick(LIMITS.stall_timeout_s / 2, 0.0) == []
    assert session.state is State.LOADING


def test_a_load_goes_on_after_the_connection_was_lost() -> None:
    session, _ = greeted(stands(50, loading=load(range(10))))
    session.received(chunk(0), 1, 1.0, 0.0)
    session.disconnected()
    session.loaded(stands(50, loading=load(range(1, 10))), 2.0)
    session.connected(3.0)
    effects = session.welcomed(welcome(handshake=session.handshake), {}, 3.0)
    assert of(effects, RequestSnapshot) == [RequestSnapshot(SNAPSHOT, None, 1, 4)]


def test_a_chunk_that_is_damaged_is_asked_for_again_aloud() -> None:
    session, _ = greeted(stands(50, loading=load(range(10))))
    effects = session.received(chunk(0, digest="e" * 32), 1, 1.0, 0.0)
    assert effects == [SayProblem(BROKEN_CHUNK)]
    effects = session.tick(session.wake_at, 0.0)
    assert effects == [RequestSnapshot(SNAPSHOT, None, 0, 4)]
    effects = session.received(chunk(0), 1, 9.0, 0.0)
    assert effects == [ClearProblem(BROKEN_CHUNK.code), LoadChunk(chunk(0))]


def test_what_does_not_come_is_asked_for_again_and_then_a_problem() -> None:
    session, _ = greeted(stands(50, loading=load(range(10))))
    assert session.tick(session.wake_at, 0.0) == [RequestSnapshot(SNAPSHOT, None, 0, 4)]
    assert session.tick(session.wake_at, 0.0) == [SayProblem(NO_CHUNKS), RequestSnapshot(SNAPSHOT, None, 0, 4)]
    assert ClearProblem(NO_CHUNKS.code) in session.received(chunk(0), 1, 99.0, 0.0)


def test_a_hub_that_is_making_the_snapshot_is_waited_for() -> None:
    session, _ = greeted(stands(50))
    now = 0.0
    for _ in range(5):
        now += LIMITS.stall_timeout_s / 2
        session.received(problem("snapshot_building"), 1, now, 0.0)
        assert session.wake_at > now + LIMITS.stall_timeout_s / 3
        assert session.tick(now, 0.0) == []


def test_a_snapshot_that_is_gone_is_forgotten_and_another_asked_for() -> None:
    session, _ = greeted(stands(50, loading=load(range(5, 10))))
    effects = session.received(problem("snapshot_gone"), 1, 1.0, 0.0)
    assert effects == [SayProblem(snapshot_gone(5, 10)), ForgetLoad()]
    assert SendHello() in session.loaded(stands(50, loading=load(snapshot=None)), 1.0)
    effects = session.welcomed(welcome(handshake=session.handshake), {}, 1.0)
    assert session.state is State.LOADING
    assert of(effects, RequestSnapshot) == [RequestSnapshot(None, None, 0, 0, refused_after=50)]
    effects = session.received(manifest(), 1, 2.0, 0.0)
    assert effects == [ClearProblem(SNAPSHOT_GONE), BeginLoad(manifest(), whole=True)]


def test_one_that_goes_while_a_chunk_is_being_loaded_is_forgotten_after_it_at_once() -> None:
    session, _ = greeted(stands(50, loading=load(range(5, 10))))
    session.received(chunk(5), 1, 1.0, 0.0)
    assert session.received(problem("snapshot_gone"), 1, 1.0, 0.0) == []
    assert session.received(chunk(6), 1, 1.0, 0.0) == []
    effects = session.loaded(stands(50, loading=load(range(6, 10))), 1.0)
    assert effects == [SayProblem(snapshot_gone(6, 10)), ForgetLoad()]
    assert session.received(problem("snapshot_gone"), 1, 1.0, 0.0) == []
    assert SendHello() in session.loaded(stands(50, loading=load(snapshot=None)), 1.0)


def test_one_that_goes_when_all_of_it_is_here_is_loaded_to_its_end() -> None:
    session, _ = greeted(stands(50, loading=load(range(8, 10))))
    session.received(chunk(8), 1, 1.0, 0.0)
    session.received(chunk(9), 1, 1.0, 0.0)
    assert session.received(problem("snapshot_gone"), 1, 1.0, 0.0) == []
    assert session.loaded(stands(50, loading=load(range(9, 10))), 1.0) == [LoadChunk(chunk(9))]
    assert session.loaded(stands(50, loading=load()), 1.0) == [FinishLoad()]


def test_a_snapshot_that_is_older_than_the_device_is_not_loaded() -> None:
    session, _ = greeted(stands(95), welcome(snapshot_advised=True))
    effects = session.received(manifest(90), 1, 1.0, 0.0)
    assert session.state is State.CATCHING_UP
    assert of(effects, RequestReplay) == [RequestReplay(at(95), LIMITS.replay_pages)]


def test_nor_one_that_is_older_than_all_tables_but_a_late_one() -> None:
    """Guarantee 3: the position of the others would go back."""
    session, _ = greeted(stands(85, checkpoint=95), welcome(snapshot_advised=True))
    effects = session.received(manifest(90), 1, 1.0, 0.0)
    assert not of(effects, BeginLoad)
    assert of(effects, RequestReplay) == [RequestReplay(at(85), LIMITS.replay_pages)]


def test_but_tables_that_wait_for_a_snapshot_take_it() -> None:
    waiting = load(snapshot=None, whole=False, chunks=0)
    session, _ = greeted(stands(95, checkpoint=95, loading=waiting), welcome(snapshot_advised=True))
    effects = session.received(manifest(90), 1, 1.0, 0.0)
    assert of(effects, BeginLoad) == [BeginLoad(manifest(90), whole=False)]
    assert of(effects, RequestReplay) == [RequestReplay(at(95), LIMITS.replay_pages)]


def test_a_table_is_not_taken_from_a_snapshot_that_is_older_than_its_rows() -> None:
    """Guarantee 3."""
    waiting = load(snapshot=None, whole=False, chunks=0)._replace(least=91)
    session, effects = greeted(stands(95, loading=waiting))
    assert of(effects, RequestSnapshot) == [RequestSnapshot(None, None, 0, 0, least=91, refused_after=95)]
    assert not of(session.received(manifest(90), 1, 1.0, 0.0), BeginLoad)
    assert of(session.received(manifest(91), 1, 1.0, 0.0), BeginLoad) == [BeginLoad(manifest(91), whole=False)]


def test_and_those_for_which_entries_are_no_longer_kept_are_to_wait_for_one() -> None:
    session, _ = greeted(stands(60, checkpoint=95), welcome(snapshot_advised=True))
    effects = session.received(manifest(90), 1, 1.0, 0.0)
    assert of(effects, AwaitSnapshot)
    assert not of(effects, RequestReplay)


def test_where_the_file_does_not_begin_to_load_the_handshake_tells_why() -> None:
    session, _ = greeted(stands(50))
    assert of(session.received(manifest(), 1, 1.0, 0.0), BeginLoad)
    assert SendHello() in session.loaded(stands(50), 2.0)


def test_tables_that_came_to_wait_before_the_hello_was_said_take_their_snapshot() -> None:
    """Columns came to them after the agent had looked at its file, and before it was connected."""
    session = Session(LIMITS, BOOT, stands(95))
    session.connected(0.0)
    session.introduced(stands(95, loading=load(snapshot=None, whole=False, chunks=0)), 0.0)
    effects = session.welcomed(welcome(), {}, 0.0)
    assert of(effects, RequestSnapshot) == [RequestSnapshot(None, None, 0, 0, refused_after=95)]
    session.introduced(stands(95), 0.0)
    assert session.received(manifest(95), 1, 1.0, 0.0) == [BeginLoad(manifest(95), whole=False)]


def test_tables_that_lie_far_behind_wait_for_a_snapshot_beside_the_log() -> None:
    session, effects = greeted(stands(0, checkpoint=90))
    assert effects == [AwaitSnapshot()]
    waiting = load(snapshot=None, whole=False, chunks=0)
    assert SendHello() in session.reintroduce(stands(90, checkpoint=90, loading=waiting), 1.0)
    effects = session.welcomed(welcome(handshake=session.handshake), {}, 1.0)
    assert session.state is State.CATCHING_UP
    assert of(effects, RequestSnapshot) == [RequestSnapshot(None, None, 0, 0, refused_after=90)]
    assert of(effects, RequestReplay) == [RequestReplay(at(90), LIMITS.replay_pages)]


def test_a_snapshot_of_tables_is_begun_once_the_log_is_applied_up_to_it() -> None:
    waiting = load(snapshot=None, whole=False, chunks=0)
    session, _ = greeted(stands(90, checkpoint=90, loading=waiting))
    assert not of(session.received(manifest(97), 1, 1.0, 0.0), BeginLoad)
    assert not of(session.applied(at(96), 1.0), BeginLoad)
    assert of(session.applied(at(97), 1.0), BeginLoad) == [BeginLoad(manifest(97), whole=False)]


def test_a_table_that_lies_a_little_behind_takes_entries() -> None:
    session, effects = greeted(stands(0, checkpoint=90), welcome(oldest=1))
    assert session.state is State.CATCHING_UP
    assert of(effects, RequestReplay) == [RequestReplay(START, LIMITS.replay_pages)]
