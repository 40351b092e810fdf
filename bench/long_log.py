"""A hub with a long log: does it start, append and replay as fast as with a short one?

All logs are made first and then measured in turn, so that what the machine does meanwhile meets the short ones as well.
"""

from __future__ import annotations

import os
import statistics
import time
from itertools import count
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

KEPT = "TIDEWIRE_BENCH_LOGS"
"""Environment variable: a folder in which the logs are kept, and where those of an earlier run are used again."""

DEVICES = 50
APPENDED = 2_000
READ = 5_000
PAGE_BYTES = 100_000
ROUNDS = 5

_new_devices = count(time.time_ns() // 1_000_000, DEVICES)
"""Numbers of devices that no log has heard of, kept ones included."""


def long_log(folder: Path) -> Sample:
    """Start of the hub's process; entries that it takes into its log; entries that it reads for replay."""
    logs = {
        entries: Path(os.environ.get(KEPT, folder)) / f"hub-{entries}" for entries in ENTRIES if entries <= _longest()
    }
    for entries, data in logs.items():
        make(data, entries)
    rounds = [{entries: with_log(folder, data) for entries, data in logs.items()} for _ in range(ROUNDS)]
    shortest = rounds[0][ENTRIES[0]]
    return Sample(
        series={
            name: [(entries, statistics.median(found[entries][name] for found in rounds)) for entries in logs]
            for name in shortest
        }
    )


def make(data: Path, entries: int) -> None:
    """Have a log of so many entries in this folder."""
    if not data.exists():
        half_made = data.with_suffix(".part")
        write_long_log(half_made, entries=entries - ROUNDS * APPENDED // 2, first_device=next(_new_devices))
        half_made.rename(data)


def with_log(folder: Path, data: Path) -> dict[str, float]:
    """How fast a hub is with this log once some entries are appended, of devices that are new."""
    took_s = write_long_log(data, entries=APPENDED, first_device=next(_new_devices))
    return {"append entries/s": APPENDED / took_s, **_replayed(data), **_started(folder, data)}


def _longest() -> int:
    return int(os.environ.get(LONGEST, ENTRIES[-1]))


def _replayed(data: Path) -> dict[str, float]:
    """How fast pages are read at the beginning and at the end of the log."""
    settings = HubSettings.model_validate({"data": data})
    stream = open_stream(DataDirectory(data, settings.stream), settings)
    found = {}
    try:
        for name, first in (("oldest", 0), ("newest", stream.head.seq - READ)):
            after, began = Seq(first), time.monotonic()
            while after < first + READ:
                after = Seq(stream.read(after, bytes_max=PAGE_BYTES, entries_max=READ)[-1].position.seq)
            found[f"replay of the {name} entries/s"] = (after - first) / (time.monotonic() - began)
    finally:
        stream.close()
    return found


def _started(folder: Path, data: Path) -> dict[str, float]:
    """How long a hub takes until it is ready, and its memory then."""
    with Mosquitto(folder / "broker") as broker:
        began = time.monotonic()
        with HubProcess(data, broker.url, log=folder / "hub.log") as hub:
            took_s = time.monotonic() - began
            memory = peak_mib(hub.process.pid)
            hub.terminate()
    return {"start s": took_s, "memory after the start MiB": memory}
