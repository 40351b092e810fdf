"""Every setting of the hub, with its default and why it has that value."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import Field, field_validator, model_validator

from tidewire_link.command_line import LogSettings
from tidewire_link.settings import BrokerSettings, parse_url
from tidewire_schemas.codec import BATCH_BYTES_MAX, PAYLOAD_BYTES_MAX
from tidewire_schemas.names import check_topic_name

ENV_PREFIX: Final = "TIDEWIRE_HUB_"

Seconds = Annotated[float, Field(gt=0, le=86_400)]


class HubSettings(LogSettings, BrokerSettings):
    """Settings of `tidewire-hub`. Durations are in seconds, sizes in bytes."""

    data: Path
    """Directory of the log, its state and what is known of devices. Made if missing. One hub per directory."""

    broker: str = "mqtt://127.0.0.1:1883"
    """mqtt://, mqtts://, ws:// or wss://, host, optional port; user:password@ is allowed."""

    stream: str = "main"
    """Name of the stream that this hub leads: a topic level."""

    node: str = "hub"
    """Name of this hub in its own topic and in the head; must differ between hubs on one broker."""

    http: str | None = None
    """HOST:PORT on which to serve /healthz and /readyz; not served when unset. Needs the extra `hub`."""

    payload_bytes_max: int = Field(default=PAYLOAD_BYTES_MAX, ge=2_048, le=200 * 1024 * 1024)
    """Largest MQTT message in either direction; larger ones travel in parts. Every known broker takes 100,000 bytes."""

    batch_bytes_max: int = Field(default=BATCH_BYTES_MAX, ge=2_048, le=1024 * 1024 * 1024)
    """Largest batch, put together from parts. A transaction above it is split by its device."""

    hello_bytes_max: int = Field(default=2 * 1024 * 1024, ge=2_048, le=64 * 1024 * 1024)
    """Largest Hello: some 20,000 columns declared. It is parsed on the event loop, so it must stay small."""

    ingest_batches_max: int = Field(default=10_000, ge=1)
    """Batches that wait for their commit; over it devices are told to send again later. Seconds of work."""

    ingest_bytes_max: int = Field(default=64 * 1024 * 1024, ge=2_048)
    """Bytes of these. With the parts and the replay cache this bounds the hub's memory."""

    commit_batches_max: int = Field(default=512, ge=1)
    """Batches in one group commit: enough that the fsync is a small share of it."""

    commit_bytes_max: int = Field(default=4 * 1024 * 1024, ge=2_048)
    """Bytes in one group commit, as the hub holds them in memory again while they go out to devices; a single larger
    batch is a group of its own."""

    commit_time_max_s: Seconds = 0.1
    """A group in which so much time has passed takes no further batch: what is left goes on after those of other
    devices. One batch is never cut, so a group may take this and the time of its last batch."""

    commit_busy_s: Seconds = 2.0
    """A commit that is under way for so long is told in the head, and again each time so much has passed: devices then
    wait, rather than take the hub for gone. Below their `welcome_timeout_s` (5) and `ack_timeout_s` (10)."""

    commit_retry_min_s: Seconds = 0.5
    """First pause after a commit failed (disk full); it doubles each time."""

    commit_retry_max_s: Seconds = 15.0
    """Longest pause, so that the hub goes on soon after space returns."""

    commit_slow_s: Seconds = 10.0
    """A commit that takes longer than this makes the hub not ready: its disk may be stuck."""

    disk_reserve_bytes: int = Field(default=64 * 1024 * 1024, ge=0)
    """While less is free on the disk of `data`, no batch is taken into the log and no snapshot is made; the hub says
    so, and so do its devices (`hub_busy`). It answers all the same, and goes on when there is space. 0: no reserve."""

    parts_bytes_max: int = Field(default=128 * 1024 * 1024, ge=2_048)
    """Bytes of all messages of which parts are missing: eight of the largest."""

    parts_timeout_s: Seconds = 60.0
    """A message whose next part does not come for this long is dropped; its device sends it again."""

    head_interval_s: Seconds = 0.25
    """Shortest time between two heads while the log grows: it is a retained message, which brokers store."""

    head_period_s: Seconds = 10.0
    """Time between heads while nothing happens: by it devices notice that pages did not reach them."""

    rival_wait_s: Seconds = 10.0
    """Longest wait at start for a hub that seems to lead this stream: the broker kept its head, and not its goodbye."""

    subscribe_retry_s: Seconds = 10.0
    """Time between attempts to subscribe while the broker's access rules forbid it: a person may change them."""

    replay_cache_bytes_max: int = Field(default=64 * 1024 * 1024, ge=0)
    """Pages kept for devices that come back together; some 600 full pages."""

    replay_block_entries: int = Field(default=256, ge=1, le=100_000)
    """Replay pages end at multiples of this, so that devices share them."""

    replay_in_flight_max: int = Field(default=16, ge=1, le=1_000)
    """Pages of replay and chunks of snapshots on their way to the broker at once: they must not delay live pages and
    acks by much."""

    retention_entries: int = Field(default=0, ge=0)
    """Newest entries of the log that are kept; 0 keeps all. A device that lacks older ones takes a snapshot instead of
    replay. Nothing is removed that no snapshot holds."""

    retention_bytes: int = Field(default=0, ge=0)
    """Above this the log's oldest entries are removed; 0 keeps all. Their space in the file is used again."""

    retention_days: float = Field(default=0, ge=0, le=36_500)
    """Entries are kept for so many days, by this machine's clock; 0 keeps them for ever."""

    retention_interval_s: Seconds = 30.0
    """Time between two looks at what of the log may go."""

    retention_step_entries: int = Field(default=256, ge=1, le=100_000)
    """Entries removed in one transaction: few, as commits wait for it."""

    retention_step_bytes: int = Field(default=4 * 1024 * 1024, ge=1)
    """Bytes of these."""

    snapshot_reuse_entries: int = Field(default=10_000, ge=0)
    """A device gets the newest snapshot if no more entries than this follow it, else a new one is made: making one
    costs the hub more than so much replay."""

    snapshot_advised_entries: int = Field(default=10_000, ge=1)
    """A device that is behind by more than this is advised to take a snapshot, if that is smaller than the entries."""

    snapshot_interval_s: Seconds = 600.0
    """Shortest time between two snapshots that are made only so that the log can be shorter."""

    snapshots_kept: int = Field(default=2, ge=2, le=100)
    """Snapshots on the disk, each about as large as the state: one for those who come, one for those who load it."""

    snapshot_keep_s: Seconds = 86_400.0
    """A snapshot that nobody asked for in this time is removed, unless it is the one from which the log goes on."""

    snapshot_hold_s: Seconds = 600.0
    """A snapshot that a device asked for within this time is neither removed nor are the entries after it."""

    snapshot_cache_bytes_max: int = Field(default=16 * 1024 * 1024, ge=0)
    """Chunks kept in memory for devices that load a snapshot together; some 160 full ones."""

    snapshot_refused_bytes_max: int = Field(default=256 * 1024, ge=0)
    """About how much a snapshot tells each device of its rows that were refused before it: it keeps its versions as
    dead letters. Older ones are left out, and the device says so in its log."""

    publish_bytes_max: int = Field(default=32 * 1024 * 1024, ge=2_048)
    """Bytes that wait to be published; while it is exceeded no new commit begins (a slow broker slows the hub)."""

    devices_max: int = Field(default=10_000, ge=1)
    """Devices remembered; the one heard longest ago goes first and is welcome again any time. About 2 KB each."""

    devices_save_interval_s: Seconds = 5.0
    """Shortest time between two writes of what is known of devices, which `tidewire-hub devices` reads; a device that
    was never seen, and a state, a problem or a number of dead letters that has changed, are written within half a
    second (a second for 500 devices, and so on)."""

    columns_kept_days: float = Field(default=90, ge=0, le=36_500)
    """A column that no device has any more is forgotten. One that is away, and was not heard of for so long, does not
    count; when it comes back its column begins anew. A hub whose clock runs ahead forgets too early."""

    clone_memory_s: Seconds = 3600.0
    """A second agent under one name that is silent for so long, and said no goodbye, is no longer thought alive."""

    rejected_max: int = Field(default=200, ge=1, le=100_000)
    """Unusable messages that are kept for `tidewire-hub rejected`, with their reason."""

    problem_interval_s: Seconds = 1.0
    """After `problem_burst` complaints a device is told of one unusable message in this time: it may send millions."""

    problem_burst: int = Field(default=10, ge=1, le=1_000)
    """Complaints that may go to a device at once."""

    settle_after_s: Seconds = 0.5
    """Pause after a commit before the state is committed too: while large groups come in, not each of them does so."""

    check_interval_s: Seconds = 86_400.0
    """Time between two looks whether the disk has changed a row of the state; the first is at start. It is made beside
    the hub's work, and reads the whole state."""

    verify_waiting_max: int = Field(default=256, ge=1, le=10_000)
    """Devices whose question about the hub's rows may wait, while they verify theirs; the others ask again."""

    verify_answer_bytes_max: int = Field(default=1024 * 1024, ge=2_048, le=64 * 1024 * 1024)
    """About how much one answer to such a question holds; the device asks again for the rest."""

    conflicts_max: int = Field(default=100_000, ge=0)
    """Conflict records kept; the oldest go first. About 300 bytes each."""

    chain_points_max: int = Field(default=1_000, ge=1, le=100_000)
    """Batches of each database whose digest is kept at hand, to find where a restored copy branched off."""

    wal_bytes_max: int = Field(default=16 * 1024 * 1024, ge=64 * 1024, le=2**40)
    """Write-ahead log of log.db, and of state.db, that gathers before it is copied into the file; one transaction more
    may be on the disk. Once no batch has come for `settle_after_s` a quarter of it stays at most, unless somebody reads
    the file just then. Less writes the pages that change often to the disk more often."""

    state_cache_bytes: int = Field(default=16 * 1024 * 1024, ge=1024 * 1024, le=2**40)
    """Page cache of the state database."""

    @field_validator("data", mode="before")
    @classmethod
    def _names_a_directory(cls, data: object) -> object:
        if data == "":  # an unset variable in a script, and not the directory it happens to run in
            raise ValueError("it is empty, and must name the hub's directory")
        return data

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check_topic_name(self.stream, "stream")
        check_topic_name(self.node, "node")
        parse_url(self.broker)
        if self.http is not None:
            parse_http(self.http)
        if self.batch_bytes_max < self.payload_bytes_max:
            raise ValueError("batch_bytes_max is below payload_bytes_max")
        for name in ("ingest_bytes_max", "parts_bytes_max"):
            if getattr(self, name) < self.batch_bytes_max:
                raise ValueError(f"{name} is below batch_bytes_max, so the largest batch would never be taken")
        return self

    @property
    def broker_address(self) -> str:
        """The broker's address without user and password: fit for logs."""
        return str(parse_url(self.broker))


def parse_http(address: str) -> tuple[str, int]:
    """Host and port of `--http`; raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ValueError(f"http: {address!r} is not HOST:PORT")
    return host.strip("[]") or "127.0.0.1", int(port)
