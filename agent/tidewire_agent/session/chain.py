"""Whether the batches of a device can be sent as they are numbered, and where they and the log part. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tidewire_agent.session.effects import Heal, Renumber
from tidewire_agent.store.taking_apart import TakeApart
from tidewire_schemas.messages import Welcome
from tidewire_schemas.positions import START


class Chain:
    """What keeps batches from being sent as they are numbered: nothing, mostly."""

    def __init__(self) -> None:
        self._unfit: int | None = None
        """A batch that the hub will never take as it is."""

    def cannot_take(self, batch: int) -> None:
        """The hub has said so: what is not in the log can be numbered anew, in smaller batches."""
        self._unfit = batch

    def judge(
        self, welcome: Welcome, ours: Mapping[int, str], sealed: int, *, too_large: bool
    ) -> Renumber | Heal | None:
        """How the batches must be numbered anew; see `parted`, and `too_large`: one is above what the hub takes."""
        if welcome.checkpoint == "off_log":
            return Heal(welcome.common or START, welcome.recent)
        fork = parted(welcome, ours, sealed)
        if fork is not None:
            return Renumber(fork.after, fork.digest)
        last = 0 if welcome.accepted is None else welcome.accepted.batch
        unfit, self._unfit = self._unfit, None
        if unfit is not None and unfit <= last:
            unfit = None
        if unfit is None and not too_large:
            return None
        digest = None if welcome.accepted is None else welcome.accepted.digest
        return Renumber(last, digest, TakeApart(welcome.batch_bytes_max, unfit))


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
