"""A hub with a long log: does it start, append and replay as fast as with a short one?"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from bench.results import Sample
from bench.usage import peak_mib
from support.broker import Mosquitto
from support.hub_process import HubProcess
from support.long_log import write_long_log
from tidewire_hub.layout import DataDirectory
from tidewire_hub.settings import HubSettings
from tidewire_hub.stream_host import open_stream
from tidewire_schemas.positions import Seq

ENTRIES = (10_000, 100_000, 1_000_000, 5_000_000)
LONGEST = "TIDEWIRE_BENCH_ENTRIES"
"""Environment variable: no longer log than this is made; the longest takes half an hour and 5 GB."""

DEVICES = 50
APPENDED = 5_000
READ = 10_000
PAGE_BYTES = 100_000
STARTS = 3


def long_log(folder: Path) -> Sample:
    """Start of the hub's process; entries that it takes into its log; entries that it reads for replay."""
    points: dict[str, list[tuple[float, float]]] = {}
    data, there = folder / "hub", 0
    longest = int(os.environ.get(LONGEST, ENTRIES[-1]))
    for number, entries in enumerate(count for count in ENTRIES if count <= longest):
        write_long_log(data, entries=entries - there - APPENDED, first_device=2 * number * DEVICES)
        found = with_log(folder, data, entries, first_device=(2 * number + 1) * DEVICES)
        for name, value in found.items():
            points.setdefault(name, []).append((entries, value))
        there = entries
    shutil.rmtree(data)
    return Sample(series=points)


def with_log(folder: Path, data: Path, entries: int, *, first_device: int) -> dict[str, float]:
    """How fast a hub is with a log that has so many entries once some are appended, of devices that are new."""
    took_s = write_long_log(data, entries=APPENDED, first_device=first_device)
    return {"append entries/s": APPENDED / took_s, **_replayed(data, entries), **_started(folder, data)}


def _replayed(data: Path, entries: int) -> dict[str, float]:
    """How fast pages are read at the beginning and at the end of the log."""
    settings = HubSettings.model_validate({"data": data})
    stream = open_stream(DataDirectory(data, settings.stream), settings)
    found = {}
    try:
        for name, first in (("oldest", 0), ("newest", entries - READ)):
            after, began = Seq(first), time.monotonic()
            while after < first + READ:
                after = Seq(stream.read(after, bytes_max=PAGE_BYTES, entries_max=READ)[-1].position.seq)
            found[f"replay of the {name} entries/s"] = (after - first) / (time.monotonic() - began)
    finally:
        stream.close()
    return found


def _started(folder: Path, data: Path) -> dict[str, float]:
    """How long a hub takes until it is ready, the best of some starts, and its memory then."""
    took, memory = [], []
    with Mosquitto(folder / "broker") as broker:
        for _ in range(STARTS):
            began = time.monotonic()
            with HubProcess(data, broker.url, log=folder / "hub.log") as hub:
                took.append(time.monotonic() - began)
                memory.append(peak_mib(hub.process.pid))
                hub.terminate()
    return {"start s": min(took), "memory after the start MiB": max(memory)}
