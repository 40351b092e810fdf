"""Opening an app's database file, and making Tidewire's tables in it or removing them."""

from __future__ import annotations

import json
import secrets
import sqlite3
from pathlib import Path
from typing import Final

from tidewire_agent.errors import DatabaseNotUsable, DeviceNeeded, OtherDevice
from tidewire_agent.store.meta import SCHEMA_SQL, Meta
from tidewire_agent.store.sql import quote
from tidewire_agent.store.tables import KV_TABLE

TABLES_VERSION: Final = 2
"""Of Tidewire's own tables: goes up with every change of them. 1 was never released."""


SQLITE_MIN: Final = (3, 24, 0)
"""The first SQLite with UPSERT, which applying needs. The app may bring an older one."""


def connect(path: Path, *, busy_timeout_s: float) -> sqlite3.Connection:
    """A connection in WAL mode, set up for an agent.

    Raises:
        sqlite3.Error, DatabaseNotUsable: the file cannot be used.
    """
    if sqlite3.sqlite_version_info < SQLITE_MIN:
        raise DatabaseNotUsable(f"this Python brings SQLite {sqlite3.sqlite_version}", hint="3.24 or newer is needed")
    connection = sqlite3.connect(
        path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False, cached_statements=512
    )
    try:
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise DatabaseNotUsable(
                f"{path} cannot be put in WAL mode (it stays in {mode})",
                hint="it must lie on a local disk and be writable",
            )
        connection.execute("PRAGMA synchronous = NORMAL")  # EdgeStore.harden makes it durable before it is sent
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # EdgeStore does it, when no transaction waits for it
        connection.execute("PRAGMA foreign_keys = OFF")  # the log holds the effects of foreign key actions already
        connection.execute("PRAGMA ignore_check_constraints = ON")  # what was taken elsewhere must fit here too
        connection.execute("PRAGMA recursive_triggers = OFF")
    except BaseException:
        connection.close()
        raise
    return connection


def prepare(connection: sqlite3.Connection, device: str | None) -> None:
    """Make Tidewire's tables and the device's identity in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        meta = Meta(connection)
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'tidewire_meta'").fetchone():
            _check_version(meta)  # before anything is made beside tables of another version
        for statement in SCHEMA_SQL.split(";\n"):
            if statement.strip():
                connection.execute(statement)
        meta.set(tables_version=TABLES_VERSION)
        known = meta.text("device")
        if known is None:
            if device is None:
                raise DeviceNeeded("this database does not know its device name yet")
            meta.set(device=device, incarnation=secrets.token_hex(16), next_batch=1, wanted=json.dumps([]))
        elif device is not None and device != known:
            raise OtherDevice(f"this database belongs to device {known!r}, not {device!r}")
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise


def _check_version(meta: Meta) -> None:
    found = meta.number("tables_version")
    if found > TABLES_VERSION:
        raise DatabaseNotUsable(
            f"a newer Tidewire has used this file: its tables have version {found}, this one knows {TABLES_VERSION}",
            hint="update Tidewire on this device",
        )
    if found < TABLES_VERSION:
        raise DatabaseNotUsable(
            f"an earlier Tidewire has used this file: its tables have version {found}, this one needs {TABLES_VERSION}",
            hint="let that one send what waits and remove its tables (`tidewire-agent detach`), then attach anew",
        )


def remove_tables(connection: sqlite3.Connection) -> None:
    """In the caller's transaction: drop Tidewire's tables, and `tidewire_kv` where it has no rows."""
    tables = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB 'tidewire_*' AND name <> ?", (KV_TABLE,)
    ).fetchall()
    for (name,) in tables:
        connection.execute(f"DROP TABLE {quote(name)}")
    has_kv = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (KV_TABLE,)).fetchone()
    if has_kv and not connection.execute(f"SELECT EXISTS (SELECT 1 FROM {KV_TABLE})").fetchone()[0]:
        connection.execute(f"DROP TABLE {KV_TABLE}")
