"""A hub's log as many devices would have filled it in weeks: written in seconds, by the hub's own sequencer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from pydantic_core import to_json

from tidewire_hub.layout import DataDirectory
from tidewire_hub.settings import HubSettings
from tidewire_hub.stream import Incoming
from tidewire_hub.stream_host import open_stream
from tidewire_schemas.codec import encode_batch
from tidewire_schemas.digest import NO_DIGEST, message_digest
from tidewire_schemas.shapes import ColumnShape, TableShape

SCHEMA: Final = "CREATE TABLE readings (id TEXT PRIMARY KEY, device TEXT, ts INTEGER, temp REAL, note TEXT);"

SHAPE: Final = TableShape(
    name="readings",
    columns=(
        ColumnShape(name="id", affinity="TEXT"),
        ColumnShape(name="device", affinity="TEXT"),
        ColumnShape(name="ts", affinity="INTEGER"),
        ColumnShape(name="temp", affinity="REAL"),
        ColumnShape(name="note", affinity="TEXT"),
    ),
    key=("id",),
)

AT_ONCE: Final = 500
"""Batches in a group commit."""


class _Writer:
    """One device that writes its rows again and again."""

    def __init__(self, number: int, rows: int) -> None:
        self.name = f"d{number:02}"
        self._incarnation = message_digest(self.name.encode())
        self._digest = NO_DIGEST
        self._batch = 0
        self._rows = rows

    def batch(self) -> bytes:
        """The next one."""
        self._batch += 1
        n = self._batch
        row = [f"{self.name}-{n % self._rows:06}", self.name, 1_795_390_000 + n, n % 1000 / 10, f"{n:040}"]
        run = {"op": "put", "table": SHAPE.name, "base": [0, 0], "key": 1, "columns": _COLUMNS, "rows": [row]}
        payload = encode_batch(
            incarnation=self._incarnation,
            batch=n,
            prev_digest=self._digest,
            sealed_at=n,
            changes_json=to_json([run]),
        )
        self._digest = message_digest(payload)
        return payload


_COLUMNS: Final = [column.name for column in SHAPE.columns]


def write_long_log(data: Path, *, entries: int, devices: int = 50, rows: int = 100_000, first_device: int = 0) -> float:
    """Add entries of so many devices, about `rows` different rows, to a hub's data directory while no hub runs.

    Who adds more has to begin with other devices. Returns the seconds that the hub's part of the work took.
    """
    settings = HubSettings.model_validate({"data": data})
    directory = DataDirectory(data, settings.stream)
    directory.make()
    writers = [_Writer(number, max(1, rows // devices)) for number in range(first_device, first_device + devices)]
    took_s = 0.0
    stream = open_stream(directory, settings)
    try:
        stream.lead(1, 1)
        for writer in writers:
            assert stream.declare(writer.name, [SHAPE]) == []
        done = 0
        while done < entries:
            count = min(AT_ONCE, entries - done)
            group = [Incoming(w.name, w.batch()) for w in (writers[(done + n) % devices] for n in range(count))]
            began = time.monotonic()
            commit = stream.sequence(group, done + 1)
            took_s += time.monotonic() - began
            assert len(commit.entries) == count, commit.problems
            done += count
    finally:
        stream.close()
    return took_s
