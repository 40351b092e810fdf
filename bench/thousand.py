"""A hub with 1,000 devices: connected, idle, sent to, and all coming back at once."""

from __future__ import annotations

import json
import queue
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from bench.app import PATIENCE_S, begin_app, end_app
from bench.bed import Bed
from bench.jobs import LATENCY_PAUSE_S, PER_TRANSACTION
from bench.machine import ROOT
from bench.results import Sample, Usage
from bench.usage import peak_mib, usage_of, using

DEVICES = 1_000
PROCESSES = 2
IDLE_S = 10.0
SETTLE_S = 3.0
SINGLE_ROWS = 100
BATCH_ROWS = 5_000


class Crowds:
    """The processes that are the devices, and what they say."""

    def __init__(self, url: str, devices: int) -> None:
        each = devices // PROCESSES
        self._said: list[queue.Queue[dict[str, float]]] = []
        self._processes = []
        for number in range(PROCESSES):
            command = [sys.executable, "-m", "bench.crowd", url, str(number * each), str(each)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
            said: queue.Queue[dict[str, float]] = queue.Queue()
            threading.Thread(target=self._read, args=(process, said), daemon=True).start()
            self._processes.append(process)
            self._said.append(said)

    def until_live(self) -> float:
        """When the last device was live."""
        return max(self._next(said, "live", 0)[1] for said in self._said)

    def until_rows(self, rows: int) -> list[list[tuple[float, float]]]:
        """For each process: how many rows its last device held, and since when, until all hold so many."""
        told = []
        for said in self._said:
            points = [self._next(said, "rows", 0)]
            while points[-1][0] < rows:
                points.append(self._next(said, "rows", points[-1][0]))
            told.append(points)
        return told

    def end(self) -> None:
        """All devices vanish."""
        for process in self._processes:
            process.kill()
            process.wait()

    def _next(self, said: queue.Queue[dict[str, float]], what: str, above: float) -> tuple[float, float]:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            line = said.get(timeout=max(0.0, deadline - time.monotonic()))
            if line.get(what, 0) > above:
                return line[what], line["at"]

    @staticmethod
    def _read(process: subprocess.Popen[str], said: queue.Queue[dict[str, float]]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            said.put(json.loads(line))


@contextmanager
def _crowds(url: str, devices: int) -> Iterator[Crowds]:
    crowds = Crowds(url, devices)
    try:
        yield crowds
    finally:
        crowds.end()


def thousand(folder: Path, *, devices: int = DEVICES) -> Sample:
    """All connect at once, rest, hear of single rows and of batches, lose the broker and come back."""
    _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))  # for the broker, which inherits it
    figures: dict[str, float] = {}
    used: dict[str, Usage] = {}
    with Bed(folder) as bed:
        a = bed.add("a")
        hub = psutil.Process(bed.hub.process.pid)
        figures["hub MiB with one device"] = usage_of(hub).rss_mib
        began, before = time.monotonic(), usage_of(hub)
        with _crowds(bed.broker.url, devices) as crowds:
            figures["all connect s"] = crowds.until_live() - began
            figures["all connect hub CPU s"] = usage_of(hub).cpu_s - before.cpu_s
            figures |= _rest(hub, psutil.Process(bed.broker.pid))
            with using(bed.processes(), used):
                app = begin_app(a.db, SINGLE_ROWS, 1, LATENCY_PAUSE_S)
                told = crowds.until_rows(SINGLE_ROWS)
                committed = end_app(app).committed
                took = [max(_since(points, row + 1) for points in told) - at for row, at in enumerate(committed)]
                figures["one row to all p50 ms"] = 1000 * statistics.median(took)
                app = begin_app(a.db, BATCH_ROWS, PER_TRANSACTION, seed=1)
                told = crowds.until_rows(SINGLE_ROWS + BATCH_ROWS)
                written = end_app(app)
            figures["rows/s to all"] = BATCH_ROWS / (max(points[-1][1] for points in told) - written.began)
            figures["hub MiB after that"] = usage_of(hub).rss_mib
            bed.broker.kill()
            before = usage_of(hub)
            bed.broker.start()
            began = time.monotonic()
            figures["all back s"] = crowds.until_live() - began
            figures["all back hub CPU s"] = usage_of(hub).cpu_s - before.cpu_s
        figures["hub most MiB"] = peak_mib(hub.pid)
        figures["broker most MiB"] = peak_mib(bed.broker.pid)
    return Sample(figures=figures, rows=SINGLE_ROWS + BATCH_ROWS, used=used)


def _rest(hub: psutil.Process, broker: psutil.Process) -> dict[str, float]:
    time.sleep(SETTLE_S)
    before = usage_of(hub), usage_of(broker)
    time.sleep(IDLE_S)
    after = usage_of(hub), usage_of(broker)
    return {
        "hub idle MiB": after[0].rss_mib,
        "hub idle CPU %": 100 * (after[0].cpu_s - before[0].cpu_s) / IDLE_S,
        "broker idle CPU %": 100 * (after[1].cpu_s - before[1].cpu_s) / IDLE_S,
    }


def _since(points: list[tuple[float, float]], rows: int) -> float:
    """Since when all devices of a process hold so many rows."""
    return next(at for held, at in points if held >= rows)
