"""The limits of a session."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How long to wait and how much to hold; described in `settings.py`, whose defaults they have."""

    welcome_timeout_s: float
    hello_pause_s: float
    hello_backoff_max_s: float
    hello_spread_s: float
    ack_timeout_s: float
    stall_timeout_s: float
    hub_silence_s: float
    window_batches: int
    window_bytes: int
    replay_pages: int
    pages_held_max: int
    pages_held_bytes_max: int
    fresh_questions_max: int
    snapshot_chunks_ahead_max: int
    table_replay_entries_max: int
