"""The answer to a Hello: where the device stands in this log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tidewire_hub.actions import Standing
from tidewire_schemas.messages import ChainPoint, Hello, LastSealed, Problem, Welcome
from tidewire_schemas.positions import SAFE_INTEGER_MAX, Position

if TYPE_CHECKING:
    from tidewire_hub.voice import Voice

EPOCH_HEARD_MAX: Final = SAFE_INTEGER_MAX - 2**32
"""An epoch above this is no hub's (they are milliseconds since 1970 × 1024): following it would leave no room."""

AHEAD: Final = "a device has applied entries that this log does not hold: its end was lost, and is offered again"

RECENT_MAX: Final = 256
"""Chain points sent to a device that has batches beyond ours and so probably our chain: about 20 KB."""


def objection(hello: Hello, log: str) -> Problem | None:
    """Why a Hello cannot be welcomed, None if it can."""
    if hello.log is not None and hello.log != log:
        return Problem(
            incarnation=hello.incarnation,
            boot=hello.boot,
            code="log_unknown",
            message=f"the device follows log {hello.log}, this hub has log {log}",
            hint="start the hub with the data directory it had; or let the device adopt this log: tidewire-agent adopt",
        )
    if hello.epoch > EPOCH_HEARD_MAX:
        return Problem(
            incarnation=hello.incarnation,
            boot=hello.boot,
            code="epoch_impossible",
            message=f"the device has heard of epoch {hello.epoch}, which no hub can have made",
            hint="its database is damaged or was edited: attach a new one",
        )
    return None


def report(voice: Voice, device: str, hello: Hello, standing: Standing) -> None:
    """Say in the hub's log what a person should know of a device that said Hello."""
    if standing.common is not None:
        voice.report("warning", AHEAD, device=device, applied=hello.position, common=standing.common)
    for problem in standing.table_problems:
        voice.report("warning", problem.message, device=device, table=problem.table, code=problem.code)


def welcome(
    hello: Hello,
    standing: Standing,
    *,
    log: str,
    epoch: int,
    head: Position,
    oldest: int,
    snapshot_advised: bool = False,
    cloned: str | None = None,
    payload_bytes_max: int,
    batch_bytes_max: int,
) -> Welcome:
    """The Welcome that answers a Hello."""
    return Welcome(
        incarnation=hello.incarnation,
        boot=hello.boot,
        handshake=hello.handshake,
        log=log,
        epoch=epoch,
        head=head,
        oldest=oldest,
        checkpoint="on_log" if standing.on_log else "off_log",
        snapshot_advised=snapshot_advised,
        common=standing.common,
        accepted=standing.accepted,
        parent="known" if standing.parent_known else "unknown",
        recent=standing.recent
        if standing.common is not None
        else _useful(hello.last_sealed, standing.accepted, standing.recent),
        table_problems=standing.table_problems,
        columns_elsewhere=standing.columns_elsewhere,
        cloned=cloned,
        payload_bytes_max=payload_bytes_max,
        batch_bytes_max=batch_bytes_max,
    )


def _useful(
    sealed: LastSealed | None, accepted: ChainPoint | None, recent: Sequence[ChainPoint]
) -> tuple[ChainPoint, ...]:
    """The points by which a device can find where its chain and ours part."""
    if accepted is None:
        return tuple(recent)
    if sealed is None or (sealed.batch, sealed.digest) == (accepted.batch, accepted.digest):
        return ()
    if sealed.batch > accepted.batch:
        return tuple(recent[:RECENT_MAX])
    # An older copy of its database: what it never sealed is of no use to it.
    known = [point for point in recent if point.batch <= sealed.batch]
    if known and (known[0].batch, known[0].digest) == (sealed.batch, sealed.digest):
        return (known[0],)
    return tuple(known)
