"""Whether a batch is the next of its device, one that is in the log already, or one that cannot follow. Pure.

A device's batches are numbered from 1 within an incarnation and chained by digest, so what came twice, too early, or
from a copy of the database that went its own way is told apart without any clock.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple, TypeAlias

from tidewire_schemas.digest import NO_DIGEST
from tidewire_schemas.messages import Batch, ChainPoint


class Next(Enum):
    """The batch follows what the log has of its incarnation."""

    NEXT = "next"


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
    batch: Batch, digest: str, newest: ChainPoint | None, point_at: Callable[[int], ChainPoint | None]
) -> Place:
    """Where a batch stands relative to `newest`, its incarnation's newest batch in the log.

    A repeated batch so old that its digest is no longer remembered is acked as `newest`: all up to that is in the log,
    and a device to which that batch means nothing ignores the ack.
    """
    last = newest.batch if newest is not None else 0
    last_digest = newest.digest if newest is not None else NO_DIGEST
    if batch.batch > last + 1:
        return Resend(last + 1)
    if batch.batch == last + 1:
        if batch.prev_digest == last_digest:
            return Next.NEXT
        return Fork(batch.batch) if newest is not None else Resend(1)
    point = point_at(batch.batch)
    if point is None:
        assert newest is not None
        return Again(newest)
    return Again(point) if point.digest == digest else Fork(batch.batch)
