"""Limits of what Tidewire keeps and does in the app's file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from tidewire_schemas.codec import BATCH_BYTES_MAX


class StoreSettings(BaseModel):
    """Limits of what Tidewire keeps and does in the app's file."""

    model_config = ConfigDict(defer_build=True, frozen=True, extra="forbid")

    busy_timeout_s: Annotated[float, Field(gt=0)] = 5.0
    """How long the agent waits for the app's write lock before it reports the database as busy and tries again."""
    wal_bytes_max: Annotated[int, Field(ge=4096)] = 32 * 1024 * 1024
    """About how much may gather in the `-wal` file until the agent moves what it wrote into the database (a
    checkpoint). Less writes pages that change often to the disk more often. It may be more while somebody reads all the
    time."""
    batch_bytes_max: Annotated[int, Field(ge=1024)] = BATCH_BYTES_MAX
    """Largest batch. A larger transaction is split and the log says so; a larger single row becomes a dead letter."""
    changes_per_batch_soft_max: Annotated[int, Field(ge=1)] = 1_000
    """Where rows are only inserted, a batch ends with a transaction after about so many, if the agent saw one end:
    short batches are applied in a short time. A larger transaction is one batch."""
    changes_per_batch_max: Annotated[int, Field(ge=1)] = 100_000
    """Changes in one batch. More of them, in one transaction or made while no agent ran, are cut into pieces, and the
    log says so."""
    piece_changes_max: Annotated[int, Field(ge=1)] = 10_000
    """Changes in such a piece: it is not whole anyway, and small pieces keep the agent's memory small, and the
    receivers', while a large backlog is worked off."""
    piece_bytes_max: Annotated[int, Field(ge=1024)] = 4 * 1024 * 1024
    """Bytes of such a piece, if it holds more than one change."""
    seed_chunk_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024
    """About how many bytes of rows that were there before go into one batch: one MQTT message each."""
    lock_hold_ms_max: Annotated[float, Field(gt=0, le=10_000)] = 20.0
    """How long applying entries or loading a snapshot may hold the app's write lock at once, in milliseconds: pieces
    are made to take half of it, as rows may cost more than those before. An entry is never parted."""
    disk_reserve_bytes: Annotated[int, Field(ge=0)] = 16 * 1024 * 1024
    """While less is free on the database's disk, the agent seals and applies nothing, and says so (`disk_low`): what is
    left belongs to the app. It sends what it has, and goes on when there is space. 0 for no reserve."""
    outbox_bytes_max: Annotated[int, Field(ge=0)] = 0
    """Bytes of batches that may wait to be in the log: a bound for a device that may be away for long. Above it happens
    what `outbox_full` says; nothing is ever dropped. What is being sealed then may still exceed it. 0 for no limit."""
    outbox_full: Literal["keep", "refuse"] = "keep"
    """What becomes of the app's writes then: `keep` takes them and says so (`outbox_full` in `status`), `refuse` lets
    every write to a synced table fail with an SQL error that says why, until there is room."""
    outbox_low_bytes: Annotated[int, Field(ge=0)] = 0
    """Down to how much it must fall until writes are taken again, so that they are not refused and taken in turn at
    every batch; 0 for nine tenths of `outbox_bytes_max`."""
    kept_batches_max: Annotated[int, Field(ge=0)] = 64
    """Batches kept after the log has them, so that a hub which lost its tail can be healed."""
    kept_bytes_max: Annotated[int, Field(ge=0)] = 4 * 1024 * 1024
    """Bytes of such batches."""
    parked_rows_max: Annotated[int, Field(ge=1)] = 10_000
    """Changes of the log that wait until they fit a table (a value clashes with a row here); above it the table
    with most of them falls behind, which `status` says, and is taken anew when its schema changes or it is attached."""
    dead_letters_max: Annotated[int, Field(ge=1)] = 10_000
    """Dead letters kept; above it the oldest go, and `status` and the state topic say how many went. From nine
    tenths of it on this is a problem (`dead_letters_full`)."""
    dead_letter_bytes_max: Annotated[int, Field(ge=0)] = 64 * 1024
    """Bytes of values kept in the dead letter of a row that stays here unsent, as it is too large or has no key. Above
    it the largest values are left out, which the letter says; they are in the table still."""
    allow_unkept_unique: bool = False
    """Sync tables whose unique indexes (partial, over expressions, custom collations) the hub cannot keep unique."""
