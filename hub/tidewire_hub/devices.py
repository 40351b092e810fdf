"""What the hub knows of its devices: kept in memory, saved now and then for the commands that look from outside."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tidewire_hub.rejected import RejectedMessage
from tidewire_schemas.messages import DeviceState, Hello
from tidewire_schemas.positions import Position
from tidewire_schemas.snapshots import LoadProgress
from tidewire_schemas.verification import Verified

FILE_NAME = "devices.json"
"""Where in the data directory the document is."""


class DeviceRecord(BaseModel):
    """One device, as it last said and as the log last saw it."""

    model_config = ConfigDict(frozen=True)

    device: str
    state: str = "unknown"
    """What the device said last; `unknown` until it says anything."""
    incarnation: str | None = None
    boot: str | None = None
    position: Position | None = None
    """Its checkpoint as it said."""
    pending: int | None = None
    oldest_unsent_at: int | None = None
    dead_letters: int | None = None
    dead_letters_dropped: int | None = None
    """Dead letters that went, as there were more than it keeps."""
    snapshot: LoadProgress | None = None
    """How much of a snapshot it has loaded, None while it loads none."""
    verified: Verified | None = None
    """What its last comparison with the hub's rows found."""
    problem: str | None = None
    clone: str | None = None
    """Which agents run under this name, where that is more than one."""
    version: str | None = None
    accepted_batch: int | None = None
    """Its newest batch in the log that this hub process saw."""
    accepted_seq: int | None = None
    last_seen: int = 0
    """When it last said anything, milliseconds since 1970 by the hub's clock; 0 where only the broker told of it."""


class DevicesDocument(BaseModel):
    """What is saved in `devices.json`."""

    saved_at: int
    head: Position
    epoch: int
    oldest: int = 1
    """The lowest seq that the log still has: a device that lacks older entries takes a snapshot."""
    devices: list[DeviceRecord]
    rejected_total: Annotated[int, Field(ge=0)] = 0
    rejected: list[RejectedMessage] = []


class DeviceRegistry:
    """Records of the `count_max` devices seen last."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._records: OrderedDict[str, DeviceRecord] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def get(self, device: str) -> DeviceRecord | None:
        """The record of a device."""
        return self._records.get(device)

    def records(self) -> list[DeviceRecord]:
        """All of them, by name."""
        return sorted(self._records.values(), key=lambda record: record.device)

    def connected(self) -> frozenset[str]:
        """Names of those that said no goodbye, nor their last will."""
        away = ("unknown", "offline", "stopped")
        return frozenset(name for name, record in self._records.items() if record.state not in away)

    def load(self, records: list[DeviceRecord]) -> None:
        """Begin with what was saved."""
        for record in sorted(records, key=lambda record: record.last_seen):
            self._keep(record)

    def said_hello(self, device: str, hello: Hello, at: int) -> None:
        """A device said Hello."""
        self._update(device, last_seen=at, incarnation=hello.incarnation, boot=hello.boot, position=hello.position)

    def said_state(self, device: str, state: DeviceState, at: int | None) -> None:
        """A device, or its last will, said how it is; `at` None: some time ago, and the broker kept it.

        What a last will leaves out stays as it was.
        """
        known = state.model_dump(exclude={"v", "type", "position", "snapshot", "verified"}, exclude_none=True)
        if state.position is not None:
            known["position"] = state.position
        if state.verified is not None:
            known["verified"] = state.verified
        if at is not None:
            known["last_seen"] = at
        # Absent means "nothing to tell", save for what is over when it is not said again.
        self._update(device, **{"problem": None, "snapshot": state.snapshot, **known})

    def was_accepted(self, device: str, batch: int, seq: int, at: int) -> None:
        """A batch of a device is in the log."""
        self._update(device, accepted_batch=batch, accepted_seq=seq, last_seen=at)

    def is_run_by(self, device: str, clone: str | None) -> None:
        """More than one agent runs under this name, or no longer so."""
        self._update(device, clone=clone)

    def forget(self, device: str) -> None:
        """A device's retained state was removed."""
        self._records.pop(device, None)

    def _update(self, device: str, **changes: object) -> None:
        record = self._records.get(device) or DeviceRecord(device=device)
        self._keep(record.model_copy(update=changes))

    def _keep(self, record: DeviceRecord) -> None:
        self._records[record.device] = record
        self._records.move_to_end(record.device)
        if len(self._records) > self._count_max:
            self._records.popitem(last=False)


def read_document(text: bytes) -> DevicesDocument | None:
    """The saved document, or None where it is not one (a hub that finds none begins anew)."""
    try:
        return DevicesDocument.model_validate_json(text)
    except ValidationError:
        return None
