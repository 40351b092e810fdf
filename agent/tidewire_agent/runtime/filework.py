"""What the engine has done on the database's thread: each function is one crossing to it and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tidewire_agent.session.session import Standing
from tidewire_agent.store.apply import Applied
from tidewire_agent.store.edge_store import EdgeStore
from tidewire_agent.store.outbox import SealedBatch
from tidewire_agent.store.seal import SealOutcome
from tidewire_schemas.messages import Hello, Page
from tidewire_schemas.positions import Position


class Sealed(NamedTuple):
    """What one look at the file brought."""

    outcome: SealOutcome
    last: int
    """The newest batch that is sealed and durable."""
    shapes_changed: bool
    questions: list[str]
    """Nonces of open `fresh` questions."""


def read_standing(store: EdgeStore) -> Standing:
    """Where the device stands."""
    return Standing(
        incarnation=store.incarnation,
        log=store.log_id,
        epoch=store.epoch,
        position=store.replay_from,
        sealed=store.last_sealed.batch if store.last_sealed else 0,
    )


def look(store: EdgeStore, now_ms: int) -> Sealed:
    """Seal what was committed, and bring it to the disk before anything of it is sent. (Guarantee 1.)"""
    shapes_changed = store.refresh()
    outcome = store.seal(now_ms)
    if outcome.batches:
        store.harden()
    last = store.last_sealed
    return Sealed(outcome, last.batch if last else 0, shapes_changed, store.fresh_asked())


def apply_page(store: EdgeStore, page: Page) -> tuple[Applied, Position, bool]:
    """What was applied, after which entry the next page must go on, and whether shapes have changed before."""
    shapes_changed = store.refresh()
    return store.apply(page), store.replay_from, shapes_changed


def outbox(store: EdgeStore, after: int, count_max: int, bytes_max: int) -> list[SealedBatch]:
    """Batches after this number, within the limits."""
    return store.outbox(after, count_max=count_max, bytes_max=bytes_max)


def digests_of(store: EdgeStore, batches: Sequence[int]) -> dict[int, str]:
    """Our digests of these batches, as far as we know them still."""
    found: dict[int, str] = {}
    last = store.last_sealed
    for number in batches:
        if last is not None and number == last.batch:
            found[number] = last.digest
            continue
        digest = store.digest_of(number)
        if digest is not None:
            found[number] = digest
    return found


def hello(store: EdgeStore, boot: str) -> Hello:
    """What to say in a handshake."""
    return Hello(
        incarnation=store.incarnation,
        boot=boot,
        log=store.log_id,
        position=store.checkpoint,
        epoch=store.epoch,
        last_sealed=store.last_sealed,
        oldest_kept=store.oldest_kept,
        tables=store.shapes(),
    )
