"""A shop's database on one device and the same tables empty on two: all are filled, then two are edited at random."""

from __future__ import annotations

import re
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from random import Random

from support.processes import Device, Site
from support.random_edits import RandomEdits, tables_of

SCHEMA = """
CREATE TABLE artist (artist_id INTEGER PRIMARY KEY, name NVARCHAR(120));
CREATE TABLE album (
    album_id INTEGER NOT NULL, title NVARCHAR(160) NOT NULL, artist_id INTEGER NOT NULL,
    CONSTRAINT pk_album PRIMARY KEY (album_id),
    FOREIGN KEY (artist_id) REFERENCES artist (artist_id) ON DELETE NO ACTION ON UPDATE NO ACTION
);
CREATE TABLE genre (genre_text TEXT PRIMARY KEY COLLATE NOCASE, note) WITHOUT ROWID;
CREATE TABLE media_type (media_type_id INTEGER PRIMARY KEY, name NVARCHAR(120));
CREATE TABLE track (
    track_id INTEGER PRIMARY KEY, name NVARCHAR(200) NOT NULL,
    album_id INTEGER REFERENCES album ON DELETE CASCADE ON UPDATE CASCADE,
    media_type_id INTEGER NOT NULL REFERENCES media_type,
    genre TEXT COLLATE NOCASE REFERENCES genre ON DELETE SET NULL ON UPDATE CASCADE,
    milliseconds INTEGER NOT NULL, bytes INTEGER, unit_price NUMERIC(10, 2) NOT NULL
);
CREATE INDEX track_album ON track (album_id);
CREATE TABLE playlist (playlist_id INTEGER PRIMARY KEY, name NVARCHAR(120));
CREATE TABLE playlist_track (
    playlist_id INTEGER NOT NULL REFERENCES playlist ON DELETE CASCADE,
    track_id INTEGER NOT NULL REFERENCES track ON DELETE CASCADE ON UPDATE CASCADE,
    PRIMARY KEY (playlist_id, track_id)
);
CREATE TABLE employee (
    employee_id INTEGER PRIMARY KEY, last_name NVARCHAR(20) NOT NULL, hired DATETIME,
    reports_to INTEGER REFERENCES employee
);
CREATE TABLE customer (
    customer_id INTEGER PRIMARY KEY, first_name NVARCHAR(40) NOT NULL, email NVARCHAR(60) NOT NULL UNIQUE,
    support_rep_id INTEGER REFERENCES employee
);
CREATE TABLE invoice (
    invoice_id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL REFERENCES customer, invoice_date DATETIME NOT NULL,
    billing_city NVARCHAR(40), total NUMERIC(10, 2) NOT NULL
);
CREATE TABLE invoice_line (
    invoice_line_id INTEGER PRIMARY KEY, invoice_id INTEGER NOT NULL REFERENCES invoice ON DELETE CASCADE,
    track_id INTEGER NOT NULL REFERENCES track, unit_price NUMERIC(10, 2) NOT NULL, quantity INTEGER NOT NULL
);
"""

STATEMENTS = 400
PER_PROGRAM = 40
"""Statements that one run of the `sqlite3` program is given."""

SEED = 20_261_123


def fill(path: Path) -> None:
    """Several thousand rows."""
    rng = Random(SEED)
    rows: dict[str, list[tuple[object, ...]]] = {
        "artist": [(i, f"Artist {i}") for i in range(1, 101)],
        "album": [(i, f"Album {i} 'ü'", rng.randint(1, 100)) for i in range(1, 201)],
        "genre": [(name, None) for name in ("Rock", "Jazz", "Metal", "Latin", "Blues", "Classical", "Reggae", "Pop")],
        "media_type": [(i, f"Type {i}") for i in range(1, 6)],
        "track": [
            (i, f"Track {i}", rng.randint(1, 200), rng.randint(1, 5), rng.choice(("Rock", "JAZZ", "pop", None)),
             rng.randint(1000, 500_000), rng.randint(1, 2**40), rng.choice((0.99, 1.99, 2)))
            for i in range(1, 1501)
        ],
        "playlist": [(i, f"List {i}") for i in range(1, 16)],
        "playlist_track": [(1 + i % 15, 1 + (i * 7) % 1500) for i in range(3000)],
        "employee": [(i, f"Name {i}", "2026-01-01 00:00:00", None if i == 1 else 1) for i in range(1, 9)],
        "customer": [(i, f"First {i}", f"c{i}@example.com", rng.randint(1, 8)) for i in range(1, 61)],
        "invoice": [(i, rng.randint(1, 60), "2026-02-03", f"City {i}", i / 100) for i in range(1, 301)],
        "invoice_line": [(i, rng.randint(1, 300), rng.randint(1, 1500), 0.99, 1) for i in range(1, 1201)],
    }  # fmt: skip
    with closing(sqlite3.connect(path, isolation_level=None)) as app:
        app.execute("PRAGMA foreign_keys = ON")
        app.execute("BEGIN")
        for table, values in rows.items():
            marks = ", ".join("?" * len(values[0]))
            app.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", values)
        app.execute("COMMIT")


def edit(device: Device, statements: list[str]) -> list[str]:
    """Run them with the `sqlite3` program; the errors it printed."""
    errors = []
    for start in range(0, len(statements), PER_PROGRAM):
        errors += device.sql(*statements[start : start + PER_PROGRAM]).stderr.splitlines()
    return errors


def test_devices_that_begin_empty_fill_and_random_edits_on_two_at_once_end_equal(tmp_path: Path) -> None:
    """Guarantee 7."""
    with Site(tmp_path) as site:
        a, b, c = (site.device(name, SCHEMA) for name in "abc")
        fill(a.db)
        tables = tables_of(a.db)
        assert len(tables) == 11
        for device in (a, b, c):
            device.options, device.tables = (), [table.name for table in tables]
            device.start(until=None)
        for device in (a, b, c):
            device.wait_state("live")
        site.wait_at_rest()
        site.assert_equal()
        assert sum(rows for rows, _digest in site.hub_digests().values()) == sum(table.rows for table in tables)

        edits = [
            (device, RandomEdits(tables, SEED, place).statements(STATEMENTS)) for place, device in ((1, b), (2, c))
        ]
        with ThreadPoolExecutor(2) as both:
            errors = [line for lines in both.map(lambda job: edit(*job), edits) for line in lines]
        assert not [line for line in errors if "locked" in line], "an app with 5 s of patience met a locked database"
        failed = sum(bool(re.search("constraint failed|datatype mismatch", line)) for line in errors)
        assert failed < STATEMENTS, "most of the statements are to do something"
        site.wait_at_rest()
        site.assert_equal()
        assert site.conflicts(), "what was written on both at once is listed"
        assert all(device.problems == set() for device in (a, b, c))
