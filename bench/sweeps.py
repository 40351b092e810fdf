"""How the latency depends on one number: the delay of the links, or how many devices there are."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from bench.app import begin_app, end_app
from bench.bed import LATENCY_POLL_S, Bed, wait_arrival, wait_arrivals
from bench.jobs import LATENCY_PAUSE_S, delays, quantiles_ms
from bench.relay import Relay
from bench.results import Sample
from support.processes import Device

DELAYS_MS = (0, 10, 50, 100)
DEVICES = (1, 2, 5, 10, 20)
SWEEP_ROWS = 100
DEVICES_POLL_S = 0.001


def link_delay(folder: Path) -> Sample:
    """L with links of A and B to the broker that delay what passes by so much in each direction."""
    points: dict[str, list[tuple[float, float]]] = {"p50 ms": [], "p99 ms": []}
    for delay_ms in DELAYS_MS:
        with ExitStack() as stack:
            bed = stack.enter_context(Bed(folder / str(delay_ms)))
            to_a, to_b = (stack.enter_context(Relay(bed.broker.port, delay_ms / 1000)) for _ in "ab")
            a, b = bed.add("a", broker=to_a.url), bed.add("b", broker=to_b.url)
            app = begin_app(a.db, SWEEP_ROWS, 1, LATENCY_PAUSE_S)
            seen = wait_arrival(b, SWEEP_ROWS, poll_s=LATENCY_POLL_S)
            found = quantiles_ms(delays(end_app(app), seen))
        for name, series in points.items():
            series.append((delay_ms, found[name]))
    return Sample(series=points)


def device_count(folder: Path) -> Sample:
    """L from A to so many others; the delays of all rows to all of them."""
    points: dict[str, list[tuple[float, float]]] = {"p50 ms": [], "p99 ms": []}
    with Bed(folder) as bed:
        a = bed.add("a")
        others: list[Device] = []
        for round_, count in enumerate(DEVICES):
            others += [bed.add(f"b{n}") for n in range(len(others), count)]
            bed.wait_at_rest()
            there = round_ * SWEEP_ROWS
            app = begin_app(a.db, SWEEP_ROWS, 1, LATENCY_PAUSE_S, seed=round_)
            seen = wait_arrivals(others, there + SWEEP_ROWS, poll_s=DEVICES_POLL_S)
            written = end_app(app)
            found = quantiles_ms([late for times in seen for late in delays(written, times[there:])])
            for name, series in points.items():
                series.append((count, found[name]))
    return Sample(series=points)
