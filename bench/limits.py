"""How fast the parts could be at best: SQLite alone, MQTT alone and the bare way through both, with the same rows."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

from bench.app import SCHEMA, begin_app, connect, end_app, readings
from bench.bare import move
from bench.jobs import (
    FANOUT,
    LATENCY_PAUSE_S,
    LATENCY_ROWS,
    PER_TRANSACTION,
    ROWS,
    SINGLE_ROWS,
    cpu_ms,
    quantiles_ms,
)
from bench.raw_mqtt import travel
from bench.results import Sample
from support.broker import Mosquitto
from tidewire_agent.store.edge_store import EdgeStore

MQTT_ROWS = 4 * ROWS
"""More than Tidewire is given, as 50,000 rows take MQTT alone a few hundredths of a second."""


def sqlite(folder: Path) -> Sample:
    """One app writes and nobody reads: in transactions of 500 and of one row, without and with the capture trigger."""
    figures = {}
    for name, rows, per_transaction in (("batches", ROWS, PER_TRANSACTION), ("singles", SINGLE_ROWS, 1)):
        for suffix, captured in (("", False), (" with trigger", True)):
            db = folder / f"{name}{suffix.replace(' ', '-')}.db"
            figures[f"{name}{suffix} rows/s"] = written_per_s(db, rows, per_transaction, captured=captured)
    return Sample(figures=figures)


def written_per_s(db: Path, rows: int, per_transaction: int, *, captured: bool) -> float:
    """Rows per second that an app writes into a new database, whose changes are captured or not; no agent runs."""
    new_database(db, captured=captured)
    written = end_app(begin_app(db, rows, per_transaction))
    return rows / (written.committed[-1] - written.began)


def bare(folder: Path) -> Sample:
    """T, S, L and F the bare way."""
    figures = {}
    for job, rows, per_transaction, receivers in (
        ("T", ROWS, PER_TRANSACTION, 1),
        ("S", SINGLE_ROWS, 1, 1),
        ("F", ROWS, PER_TRANSACTION, FANOUT),
    ):
        moved = move(_new(folder / job), rows, per_transaction, receivers=receivers)
        figures[f"{job} rows/s"] = rows / (max(times[-1] for times in moved.seen) - moved.began)
        figures[f"{job} CPU ms/1k rows"] = cpu_ms(moved.used) / rows * 1000
    moved = move(_new(folder / "L"), LATENCY_ROWS, 1, pause_s=LATENCY_PAUSE_S)
    took = quantiles_ms([there - here for here, there in zip(moved.committed, moved.seen[0], strict=True)])
    return Sample(figures=figures | {f"L {name}": value for name, value in took.items()})


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def new_database(db: Path, *, captured: bool) -> None:
    """Make a database for readings, with or without the capture trigger."""
    with closing(connect(db)) as app:
        app.execute(SCHEMA)
    if captured:
        with closing(EdgeStore.open(db, device="a")) as store:
            store.attach(["readings"])


def mqtt(folder: Path) -> Sample:
    """One client publishes: 500 rows a message to one and to ten receivers, and single rows at the pace of L."""
    rows = [list(row) for row in readings(PER_TRANSACTION)]
    large, small = json.dumps(rows, separators=(",", ":")).encode(), json.dumps(rows[:1]).encode()
    with Mosquitto(folder / "broker") as broker:
        (one,) = travel(broker.port, [large] * (MQTT_ROWS // PER_TRANSACTION))
        ten = travel(broker.port, [large] * (ROWS // PER_TRANSACTION), receivers=FANOUT)
        (took,) = travel(broker.port, [small] * LATENCY_ROWS, pause_s=LATENCY_PAUSE_S)
    return Sample(
        figures={
            "rows/s": MQTT_ROWS / one[-1],
            "rows/s to ten": ROWS / max(times[-1] for times in ten),
            **quantiles_ms(took),
        }
    )
