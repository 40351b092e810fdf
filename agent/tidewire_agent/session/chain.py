"""Where the batches of a device and what the log has of them part. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tidewire_schemas.messages import Welcome


class Parted(NamedTuple):
    """The chains have parted: a new incarnation goes on from here."""

    after: int | None
    """The newest batch, by the device's numbers, that is in the log; None where there is none."""
    digest: str | None
    """Its digest as the log has it; None where that is as it was when this incarnation began."""


def parted(welcome: Welcome, ours: Mapping[int, str], sealed: int) -> Parted | None:
    """Where the chains have parted, None if they have not.

    Args:
        welcome: what the log has.
        ours: digests by the device's own numbers: of the batches with the numbers that the welcome names, and of those
            with its digests, as far as they are kept. Batches of earlier incarnations have numbers of 0 and below.
        sealed: the newest batch of this incarnation.

    A batch that is no longer kept is taken to be alike: the hub checks the next one's `prev_digest`.
    """
    accepted = welcome.accepted
    if accepted is None:
        if welcome.parent == "known":
            return None
    elif accepted.batch <= sealed and ours.get(accepted.batch, accepted.digest) == accepted.digest:
        return None
    named = {point.digest for point in (*((accepted,) if accepted else ()), *welcome.recent)}
    common = [number for number, digest in ours.items() if digest in named]
    if not common:
        # Two copies of one incarnation have at least what it began with.
        return Parted(None if accepted is None else 0, None)
    return Parted(max(common), ours[max(common)])
