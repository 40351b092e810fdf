"""What a running agent says about itself, in the file beside the database and to programs that hold it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tidewire_agent.verify_report import VerifyReport
from tidewire_schemas.positions import Position
from tidewire_schemas.snapshots import LoadProgress


class Document(BaseModel):
    """Base: frozen; unknown fields are ignored, as a newer agent may have written it."""

    model_config = ConfigDict(defer_build=True, frozen=True, extra="ignore")


class ProblemStatus(Document):
    """One thing that is wrong now."""

    code: str
    message: str
    hint: str = ""


class RejectedMessage(Document):
    """A message that could not be used."""

    at: int
    """Milliseconds since 1970."""
    topic: str
    code: str
    reason: str
    size: int
    excerpt: str
    """Its first bytes."""


class AgentStatus(Document):
    """How the agent of a database is."""

    state: Literal[
        "starting",
        "offline",
        "handshaking",
        "catching_up",
        "loading_snapshot",
        "live",
        "halted",
        "stopped",
        "not_running",
    ]
    """`halted` waits for a person or for the database (see `problems`); `not_running` ended without saying so."""
    pid: int
    since: int
    """When it came into this state, milliseconds since 1970."""
    updated_at: int
    """When this was written, milliseconds since 1970."""
    version: str
    device: str
    stream: str
    broker: str
    """Without user and password."""
    protocol: str | None = None
    """The MQTT version in use, while connected."""
    connects_at: int | None = None
    """While there is no connection: when the next attempt begins, milliseconds since 1970."""
    incarnation: str | None = None
    boot: str
    log: str | None = None
    position: Position | None = None
    """The last entry applied."""
    snapshot: LoadProgress | None = None
    """How much of a snapshot is loaded; meanwhile tables hold some of its rows and not others."""
    heard: int | None = None
    """The highest seq heard of."""
    changes: int | None = None
    """Changes not yet sealed."""
    batches: int | None = None
    """Batches sealed and not yet known to be in the log."""
    batch_bytes: int | None = None
    """Bytes of these."""
    outbox_bytes_max: int | None = None
    """Above so many happens what `outbox_full` says; None for no limit."""
    oldest_sealed_at: int | None = None
    """When the oldest of these was sealed, milliseconds since 1970."""
    parked: int | None = None
    dead_letters: int | None = None
    dead_letters_dropped: int | None = None
    """Dead letters that went, as there were more than `dead_letters_max`."""
    lock_share: float = 0.0
    """Share of the last minute in which the app's write lock was held."""
    lock_longest_ms: float = 0.0
    """The longest that sealing, applying or loading held it at once since the database was opened, milliseconds."""
    verified: VerifyReport | None = None
    """What comparisons with the hub's rows found, of each table the last, without the rows; None before the first since
    it started."""
    refused: dict[str, str] = {}
    """Tables that the hub does not take as they are declared, each with why."""
    problems: tuple[ProblemStatus, ...] = ()
    rejected_count: int = 0
    rejected: tuple[RejectedMessage, ...] = ()
    """The last messages that could not be used, newest last."""


def parse_status(data: bytes) -> AgentStatus | None:
    """The document in these bytes, or None if they hold none."""
    try:
        return AgentStatus.model_validate_json(data)
    except ValidationError:
        return None
