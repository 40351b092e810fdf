"""Every setting of the agent: a flag, a TOML key and an environment variable (`TIDEWIRE_AGENT_…`) of one name."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, field_validator

from tidewire_agent.session.limits import SessionLimits
from tidewire_agent.store.settings import StoreSettings
from tidewire_link.command_line import LogSettings
from tidewire_link.settings import BrokerSettings, LinkSettings, Will, parse_url
from tidewire_schemas.codec import BATCH_BYTES_MAX, PAYLOAD_BYTES_MAX
from tidewire_schemas.errors import InvalidName, SettingError
from tidewire_schemas.names import TOPIC_NAME_PATTERN, check_topic_name
from tidewire_schemas.snapshots import CHUNKS_ASKED_MAX

ENV_PREFIX: Final = "TIDEWIRE_AGENT_"


def _topic_name(name: str) -> str:
    try:
        return check_topic_name(name, "topic")
    except InvalidName as error:
        raise ValueError(f"{error.message}: {error.hint}") from None


Name = Annotated[str, AfterValidator(_topic_name)]


class AgentSettings(StoreSettings, BrokerSettings, LogSettings):
    """How an agent runs. Durations in seconds, sizes in bytes; each name ends in its unit."""

    # ── what and where ────────────────────────────────────────────────────────────────────────────────────────────

    db: Path
    """The app's SQLite file."""

    device: Name | None = None
    """This device's name: 1 to 63 of a-z 0-9 _ -. The database remembers it; the host's name if it was never given."""

    broker: str = "mqtt://127.0.0.1:1883"
    """Where the MQTT broker is: mqtt://, mqtts://, ws:// or wss://, host, port; user:password@ is allowed."""

    stream: Name = "main"
    """The stream to follow: devices of one stream hold equal tables."""

    tables: tuple[str, ...] = Field(default=(), json_schema_extra={"flag": "--table"})
    """A table to sync; repeat it for more. Tables that were attached before stay attached."""

    all_tables: bool = False
    """Sync every table that can be synced, also those that are made later."""

    # ── conversation with the hub ─────────────────────────────────────────────────────────────────────────────────

    welcome_timeout_s: float = Field(default=5.0, gt=0, le=3600)
    """How long to wait for the hub's answer to Hello. A hub answers in milliseconds; a mobile link may take seconds."""

    hello_pause_s: float = Field(default=0.2, gt=0, le=3600)
    """Shortest time between two Hellos, so that a confused hub is not flooded."""

    hello_backoff_max_s: float = Field(default=60.0, gt=0, le=86_400)
    """Longest wait between Hellos that nobody answers; also how often a halted agent looks whether things are well."""

    hello_spread_s: float = Field(default=0.5, ge=0, le=3600)
    """When a new leader is heard, all devices say Hello at random within this time, not in one instant."""

    ack_timeout_s: float = Field(default=10.0, gt=0, le=3600)
    """Without an ack for this long, say Hello and send again. Well above the hub's slowest group commit."""

    stall_timeout_s: float = Field(default=5.0, gt=0, le=3600)
    """Entries that were heard of and do not come are asked for after this long, and again before it is a problem."""

    hub_silence_s: float = Field(default=35.0, ge=0, le=86_400)
    """Without a word of the hub for this long a device that waits for nothing says Hello all the same; if there is no
    answer it says `hub_silent`. Above three times the hub's `head_period_s` (10); 0 for never."""

    window_batches: int = Field(default=64, ge=1, le=10_000)
    """Batches that may be sent and not yet acked: enough for hundreds of batches a second at 100 ms."""

    window_bytes: int = Field(default=1024 * 1024, ge=1024)
    """Bytes of these, which bounds what a resend repeats; one batch is always allowed."""

    replay_pages: int = Field(default=8, ge=1, le=64)
    """Pages to ask for at once when catching up: the next ones travel while these are applied."""

    pages_held_max: int = Field(default=64, ge=1, le=10_000)
    """Pages that may wait to be applied; more are dropped and asked for later."""

    pages_held_bytes_max: int = Field(default=4 * 1024 * 1024, ge=1024)
    """Bytes of these; one page is always held."""

    fresh_questions_max: int = Field(default=256, ge=1, le=100_000)
    """Questions of `DataSync.fresh` that may be open at once; the others wait."""

    snapshot_chunks_ahead_max: int = Field(default=8, ge=1, le=CHUNKS_ASKED_MAX)
    """Chunks of a snapshot to ask for at once, and to hold: the next ones travel while one is loaded."""

    table_replay_entries_max: int = Field(default=10_000, ge=0)
    """A table that was attached late takes a snapshot of its rows if it lies more entries behind the others."""

    # ── comparing rows with the hub's ─────────────────────────────────────────────────────────────────────────────

    verify_interval_s: float = Field(default=86_400.0, ge=0, le=366 * 86_400)
    """How often the agent compares its rows with the hub's by itself, the first time at random within this time; 0 for
    never. What it finds stands in the log, in `status` and in the state topic; nothing is repaired unasked."""

    verify_timeout_s: float = Field(default=30.0, gt=0, le=3600)
    """How long to wait for the hub's answer before it is asked again: it may have to look through a large table."""

    verify_rows_max: int = Field(default=10_000, ge=1, le=1_000_000)
    """Rows of a table that are looked at one by one; where more differ, the rest is left, and the report says so."""

    verify_listed_max: int = Field(default=100, ge=0, le=10_000)
    """Differing rows of a table whose values a report lists."""

    # ── messages ──────────────────────────────────────────────────────────────────────────────────────────────────

    payload_bytes_max: int = Field(default=PAYLOAD_BYTES_MAX, ge=1024, le=200 * 1024 * 1024)
    """Largest MQTT message to send or take: every known broker takes 100,000 bytes. What is larger goes in parts."""

    message_bytes_max: int = Field(default=2 * BATCH_BYTES_MAX, ge=1024)
    """Largest message put together from parts: a page with the largest batch, and what was refused of it."""

    # ── the database ──────────────────────────────────────────────────────────────────────────────────────────────

    lock_share_max: float = Field(default=0.01, gt=0, le=1)
    """Share of time in which sealing may hold the write lock of an app that commits without pauses of 30 ms: a busy
    app meets a locked database this rarely. A backlog of more than one batch is sealed with rests of 30 ms instead."""

    rush_lock_share_max: float = Field(default=0.0003, gt=0, le=1)
    """The same while an app commits one small transaction after the other without a pause: it tries for the lock in
    every moment, so that each millisecond counts. What it writes gathers meanwhile and travels together."""

    rush_pause_max_s: float = Field(default=5.0, gt=0, le=3600)
    """The longest time for which the changes of such an app gather; as soon as it pauses they travel at once."""

    lock_burst_s: float = Field(default=0.04, gt=0, le=10)
    """Lock time that may be used at once after a quiet time, so that single writes travel without waiting."""

    lock_pause_max_s: float = Field(default=1.0, gt=0, le=3600)
    """Longest time without sealing after the lock was held for long, as on a machine that stalls."""

    offline_changes_max: int = Field(default=10_000, ge=1)
    """While no batch can be sent, changes gather in the change log, where repeated writes of a row become one change.
    With so many a batch is made all the same: a longer one would take long to be applied."""

    offline_pause_max_s: float = Field(default=60.0, ge=0, le=86_400)
    """The longest time for which changes gather then: what is sealed counts for `outbox_bytes_max`, and is known again
    when a database is restored or copied."""

    seal_pause_s: float = Field(default=0.0, ge=0, le=86_400)
    """How long changes gather though they could be sent: each batch costs the disk some pages, however few changes it
    holds. With `offline_changes_max` of them a batch is made all the same. 0 sends at once; `flush` waits so long."""

    watch: Literal["auto", "poll"] = "auto"
    """How commits are noticed: by inotify where there is one, or by looking at the file."""

    poll_interval_s: float = Field(default=1.0, gt=0, le=3600)
    """How often the database is asked for commits whatever the file watch says: a safety net."""

    stat_interval_s: float = Field(default=0.04, gt=0, le=60)
    """Without inotify: how often the file is looked at. A commit is to be noticed within 50 ms."""

    disk_interval_s: float = Field(default=5.0, gt=0, le=3600)
    """How often to look whether `disk_reserve_bytes` are free while nothing is written: the app may need the space."""

    retry_delay_min_s: float = Field(default=0.05, gt=0, le=60)
    """First pause after an error of the database; it doubles with each."""

    retry_delay_max_s: float = Field(default=30.0, gt=0, le=3600)
    """Longest pause after an error of the database, such as a full disk."""

    # ── what it says about itself ─────────────────────────────────────────────────────────────────────────────────

    state_interval_s: float = Field(default=30.0, gt=0, le=86_400)
    """How often the device's state is published even if nothing changed."""

    state_pause_s: float = Field(default=2.0, gt=0, le=86_400)
    """Shortest time between two publications because of the position or of what waits. The state goes at once."""

    status_interval_s: float = Field(default=1.0, gt=0, le=3600)
    """Shortest time between two writes of the status document, except when the state changes."""

    stop_timeout_s: float = Field(default=1.0, gt=0, le=60)
    """How long a stopping agent waits for its last words to reach the broker."""

    @field_validator("broker")
    @classmethod
    def _is_broker_url(cls, url: str) -> str:
        try:
            parse_url(url)
        except SettingError as error:
            raise ValueError(str(error)) from None
        return url

    @field_validator("tables")
    @classmethod
    def _are_names(cls, tables: tuple[str, ...]) -> tuple[str, ...]:
        if any(not name or "\0" in name for name in tables):
            raise ValueError("a table's name is empty or holds a NUL")
        return tables

    @classmethod
    def of(cls, **values: object) -> Self:
        """Settings from loose values.

        Raises:
            SettingError: says which setting is wrong.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            name = ".".join(str(part) for part in first["loc"]) or "settings"
            raise SettingError(f"{name}: {first['msg'].removeprefix('Value error, ')}") from None

    def session_limits(self) -> SessionLimits:
        """What the conversation with the hub needs."""
        return SessionLimits(
            welcome_timeout_s=self.welcome_timeout_s,
            hello_pause_s=self.hello_pause_s,
            hello_backoff_max_s=self.hello_backoff_max_s,
            hello_spread_s=self.hello_spread_s,
            ack_timeout_s=self.ack_timeout_s,
            stall_timeout_s=self.stall_timeout_s,
            hub_silence_s=self.hub_silence_s,
            window_batches=self.window_batches,
            window_bytes=self.window_bytes,
            replay_pages=self.replay_pages,
            pages_held_max=self.pages_held_max,
            pages_held_bytes_max=self.pages_held_bytes_max,
            fresh_questions_max=self.fresh_questions_max,
            snapshot_chunks_ahead_max=self.snapshot_chunks_ahead_max,
            table_replay_entries_max=self.table_replay_entries_max,
        )

    def store_settings(self) -> StoreSettings:
        """What the database's keeper needs."""
        return StoreSettings(**{name: getattr(self, name) for name in StoreSettings.model_fields})

    def link_settings(self, *, client_id: str, will: Will | None) -> LinkSettings:
        """What the connection needs."""
        return LinkSettings.of(
            url=self.broker,
            client_id=client_id,
            payload_bytes_max=self.payload_bytes_max,
            will=will,
            **self.broker_values(),
        )


def host_device_name() -> str | None:
    """The host's name as a device name: in lower case, without its domain; None if that is no valid one."""
    name = socket.gethostname().split(".")[0].lower()
    if name == "localhost" or not re.fullmatch(TOPIC_NAME_PATTERN, name):
        return None
    return name
