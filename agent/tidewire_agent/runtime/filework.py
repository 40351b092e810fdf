"""What the engine has done on the database's thread: each function is one crossing to it and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tidewire_agent.errors import TablesUntold
from tidewire_agent.session.effects import ApplyPage, BeginLoad, FinishLoad, ForgetLoad, LoadChunk
from tidewire_agent.session.standing import Standing
from tidewire_agent.store.apply import Applied
from tidewire_agent.store.edge_store import EdgeStore
from tidewire_agent.store.outbox import SealedBatch
from tidewire_agent.store.seal import SealOutcome
from tidewire_agent.store.verify_questions import VerifyQuestion
from tidewire_schemas.errors import SequenceGap
from tidewire_schemas.messages import ChainPoint, Hello, Welcome
from tidewire_schemas.positions import Position

LoadEffect = BeginLoad | LoadChunk | FinishLoad | ForgetLoad


class Sealed(NamedTuple):
    """What one look at the file brought."""

    outcome: SealOutcome
    standing: Standing
    shapes_changed: bool
    """Whether the hub must be told other shapes before anything that was sealed now is sent."""
    questions: list[str]
    """Nonces of open `fresh` questions."""
    verifications: list[VerifyQuestion]
    """Open questions whether rows are as the hub's."""
    dead_letters: int
    """How many there are."""
    outbox_full: str | None
    """What a person should know while more waits to be sent than should."""


class PageDone(NamedTuple):
    """What became of a page."""

    applied: Applied | None
    """None where it did not continue what is applied, or the tables are not those that it was meant for."""
    standing: Standing
    shapes_changed: bool
    """Whether the hub must be told other shapes."""
    behind: int
    """How many tables have fallen behind."""
    to_seal: bool
    """Whether there is anything to seal: of the app, or what applying has brought about."""


def read_standing(store: EdgeStore) -> Standing:
    """Where the device stands."""
    return Standing(
        incarnation=store.incarnation,
        log=store.log_id,
        epoch=store.epoch,
        position=store.replay_from,
        sealed=store.last_sealed.batch if store.last_sealed else 0,
        checkpoint=store.checkpoint,
        loading=store.loading,
        told=store.tables.told_count,
    )


def look(store: EdgeStore, now_ms: int, hub_bytes_max: int | None = None, least: int = 1) -> Sealed:
    """Seal what was committed, and bring it to the disk before anything of it is sent. (Guarantee 1.)

    `hub_bytes_max` is the largest batch that the hub takes, where that is known; fewer changes than `least` are left.
    """
    if hub_bytes_max is not None:
        store.heed(hub_bytes_max)
    outcome = store.seal(now_ms, least)
    if outcome.batch is not None:
        store.harden()
    return Sealed(
        outcome,
        read_standing(store),
        store.tables.news,
        store.fresh.open(),
        store.questions.open(),
        store.dead_letters,
        store.outbox_full,
    )


def apply_some(store: EdgeStore, effect: ApplyPage) -> PageDone:
    """Apply the next piece of a page, if the page continues what is applied and the tables are as the hub was told."""
    try:
        applied = store.apply(effect.page, effect.told)
    except (SequenceGap, TablesUntold):
        applied = None
    return PageDone(applied, read_standing(store), store.tables.news, store.tables.behind, store.has_to_seal)


class Loaded(NamedTuple):
    """What one piece of work on a snapshot did."""

    done: bool
    """Whether there is no more to do of what was asked for."""
    lock_s: float
    """Seconds for which it held the app's write lock."""
    standing: Standing


def load_some(store: EdgeStore, effect: LoadEffect) -> Loaded:
    """Do a piece of what the session wants done with a snapshot."""
    done, lock_s = True, 0.0
    match effect:
        case BeginLoad(manifest, whole):
            store.load_begin(manifest, whole=whole)
        case LoadChunk(chunk):
            done, lock_s = store.load(chunk)
        case FinishLoad():
            done, lock_s = store.load_finish()
        case ForgetLoad():
            store.load_forget()
    return Loaded(done, lock_s, read_standing(store))


def outbox(store: EdgeStore, after: int, sealed: int, count_max: int, bytes_max: int) -> list[SealedBatch]:
    """Batches after one number up to another, within the limits."""
    found = store.outbox(after, count_max=count_max, bytes_max=bytes_max)
    return [batch for batch in found if batch.batch <= sealed]


def compare(store: EdgeStore, welcome: Welcome, points: Sequence[ChainPoint]) -> tuple[dict[int, str], bool]:
    """Our digests of the batches at these points, and whether one that the hub lacks is above what it takes."""
    sent = 0 if welcome.accepted is None else welcome.accepted.batch
    return store.batches.digests_of(points), store.batches.above(sent, welcome.batch_bytes_max)


def answer_fresh(store: EdgeStore, nonce: str, head: Position) -> None:
    """Tell a program how far the hub is."""
    store.fresh.answer(nonce, head)


def introduction(store: EdgeStore, boot: str) -> tuple[Hello, Standing]:
    """What to say in a handshake, and where the device stands that says it."""
    return hello(store, boot), read_standing(store)


def hello(store: EdgeStore, boot: str) -> Hello:
    """What to say in a handshake."""
    return Hello(
        incarnation=store.incarnation,
        boot=boot,
        log=store.log_id,
        position=store.checkpoint,
        epoch=store.epoch,
        last_sealed=store.last_sealed,
        parent=store.batches.parent,
        history=tuple(store.history),
        oldest_kept=store.batches.oldest,
        tables=store.tables.tell(),
    )
