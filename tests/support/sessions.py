"""What sessions of one device are made of, and are told, where only one thing is looked at."""

from __future__ import annotations

from typing import Final

from tidewire_schemas.messages import Ack, Welcome
from tidewire_schemas.positions import START, Position

ME: Final = "a" * 32
OTHER: Final = "b" * 32
BOOT: Final = "c" * 32
LOG: Final = "d" * 32
DIGEST: Final = "1" * 32
EPOCH: Final = 1000


def welcome(head: Position = START, cloned: str | None = None) -> Welcome:
    """The hub has nothing of this device."""
    return Welcome(
        v=1,
        type="welcome",
        incarnation=ME,
        boot=BOOT,
        log=LOG,
        epoch=EPOCH,
        head=head,
        oldest=1,
        checkpoint="on_log",
        accepted=None,
        cloned=cloned,
        payload_bytes_max=50_000,
        batch_bytes_max=1_000_000,
    )


def ack(digest: str = DIGEST) -> Ack:
    """Of batch 1."""
    return Ack(v=1, type="ack", incarnation=ME, boot=BOOT, epoch=EPOCH, batch=1, digest=digest, seq=1)
