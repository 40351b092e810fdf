"""`tidewire-agent backup`: a copy of the database without the identity of its device."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from tidewire_agent.cli.common import EPILOG, database_options, known_to_tidewire, settings_of
from tidewire_agent.errors import DatabaseNotUsable, from_sqlite
from tidewire_agent.store.edge_store import EdgeStore
from tidewire_schemas.errors import SettingError


@click.command(epilog=EPILOG)
@database_options()
@click.argument("destination", metavar="DEST", type=click.Path(path_type=Path))
def backup(destination: Path, **options: Any) -> None:
    """Copy the database to a new file that can be started as another device. The agent may run or not.

    The copy holds the app's tables and nothing of Tidewire's: no device name, no batches, no place in a log. Attach its
    tables under a name of its own: it then takes the hub's rows, and offers those that the hub does not have.
    """
    settings = settings_of(options)
    known = known_to_tidewire(settings)
    if not destination.absolute().parent.is_dir():
        raise SettingError(
            f"there is no folder {destination.absolute().parent}",
            hint="make it, or give a file in a folder that is there",
        )
    if destination.exists():
        raise SettingError(f"{destination} exists already", hint="give a new file for each backup")
    unfinished = destination.with_name(f".{destination.name}.new")
    try:
        _copy(settings.db, unfinished)
        if known:
            with closing(EdgeStore.open(unfinished, device=None)) as store:
                store.detach()
        _make_one_file(unfinished)
        unfinished.rename(destination)
        _make_durable(destination.absolute().parent)
    except sqlite3.Error as error:
        raise from_sqlite(error) from error
    except OSError as error:
        raise DatabaseNotUsable(f"cannot write {destination}: {error.strerror}") from error
    finally:
        for suffix in ("", "-wal", "-shm"):
            unfinished.with_name(unfinished.name + suffix).unlink(missing_ok=True)
    click.echo(f"{destination}: the app's tables, without a trace of this device")


def _copy(source: Path, target: Path) -> None:
    """One snapshot of a database that may be in use."""
    target.unlink(missing_ok=True)
    with closing(sqlite3.connect(source)) as reader, closing(sqlite3.connect(target)) as writer:
        reader.backup(writer)


def _make_one_file(path: Path) -> None:
    """No -wal beside it, none of the removed rows in it, and durable."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("VACUUM")
    _make_durable(path)


def _make_durable(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
