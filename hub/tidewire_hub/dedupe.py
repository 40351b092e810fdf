"""Whether a batch is the next of its device, one that is in the log already, or one that cannot follow. Pure.

A device's batches are numbered from 1 within an incarnation and chained by digest, so what came twice, too early, or
from a copy of the database that went its own way is told apart without any clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from tidewire_schemas.digest import NO_DIGEST
from tidewire_schemas.messages import Batch, ChainPoint, Parent


class Next(NamedTuple):
    """The batch follows what the log has of its incarnation."""

    parent: Parent | None = None
    """The batch begins an incarnation that goes on from this point of another one."""


class Again(NamedTuple):
    """The batch is in the log: ack it again as `point`."""

    point: ChainPoint


class Resend(NamedTuple):
    """A batch before it is missing: the device goes on from `batch`."""

    batch: int


class Fork(NamedTuple):
    """The log has another batch under this number, or another one before it: two copies of one database wrote."""

    batch: int


Place: TypeAlias = Next | Again | Resend | Fork


def place_of(
    batch: Batch,
    digest: str,
    newest: ChainPoint | None,
    *,
    point_at: Callable[[int], ChainPoint | None],
    parent_of: Callable[[str], Parent | None],
) -> Place:
    """Where a batch stands relative to `newest`, its incarnation's newest batch in the log.

    `point_at` finds another batch of the incarnation by its number, `parent_of` one of any of the device's incarnations
    by its digest: the first batch of an incarnation follows one that is in the log, or none.

    A repeated batch so old that its digest is no longer remembered is acked as `newest`: all up to that is in the log,
    and a device to which that batch means nothing ignores the ack.
    """
    last = newest.batch if newest is not None else 0
    if batch.batch > last + 1:
        return Resend(last + 1)
    if newest is None:
        if batch.prev_digest == NO_DIGEST:
            return Next()
        parent = parent_of(batch.prev_digest)
        return Fork(1) if parent is None else Next(parent)
    if batch.batch == last + 1:
        return Next() if batch.prev_digest == newest.digest else Fork(batch.batch)
    point = point_at(batch.batch)
    if point is None:
        return Again(newest)
    return Again(point) if point.digest == digest else Fork(batch.batch)
