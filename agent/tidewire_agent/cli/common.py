"""What the commands share: settings for a few names, an open store, an open `DataSync`."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import click

from tidewire_agent.datasync.blocking import DataSync
from tidewire_agent.errors import check_is_file, from_sqlite
from tidewire_agent.settings import ENV_PREFIX, AgentSettings, host_device_name
from tidewire_agent.store.edge_store import EdgeStore
from tidewire_link.command_line import EXIT_CODES_HELP, load_settings, settings_options

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

EPILOG: Final = EXIT_CODES_HELP


def database_options(*more: str) -> Callable[[Decorated], Decorated]:
    """`--config`, `--db` and the other named settings."""
    return settings_options(AgentSettings, "db", *more)


def settings_of(options: dict[str, Any]) -> AgentSettings:
    """The settings of a command that took `database_options`."""
    return load_settings(AgentSettings, options, options.pop("config"), ENV_PREFIX)


@contextmanager
def open_store(settings: AgentSettings, *, new: bool = False) -> Iterator[EdgeStore]:
    """The database's store, beside a running agent or without one.

    Args:
        new: a database that no agent has used yet is taken, and is given the host's name if none was given.

    Raises:
        DatabaseError, SettingError: it cannot be used.
    """
    device = settings.device
    if not known_to_tidewire(settings) and new and device is None:
        device = host_device_name()
    store = EdgeStore.open(settings.db, device=device, settings=settings.store_settings())
    try:
        yield store
    finally:
        store.close()


def known_to_tidewire(settings: AgentSettings) -> bool:
    """Whether an agent has used this database; looks without changing it.

    Raises:
        DatabaseMissing, DatabaseNotUsable: it cannot be looked at.
    """

    with reading(settings) as connection:
        return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'tidewire_meta'").fetchone() is not None


@contextmanager
def reading(settings: AgentSettings) -> Iterator[sqlite3.Connection]:
    """A connection that writes nothing.

    Raises:
        DatabaseMissing, DatabaseNotUsable: it cannot be looked at.
    """
    check_is_file(settings.db)
    try:
        connection = sqlite3.connect(f"{settings.db.resolve().as_uri()}?mode=ro", uri=True, timeout=5)
        try:
            yield connection
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise from_sqlite(error, settings.db) from error


@contextmanager
def open_keys(options: dict[str, Any]) -> Iterator[DataSync]:
    """The keys of the database, through the file alone.

    Raises:
        DatabaseMissing: there is no such file; a command does not make one by a slip of the hand.
        DatabaseNotUsable: it cannot be looked at.
    """
    settings = settings_of(options)
    known_to_tidewire(settings)
    with DataSync(settings.db) as sync:
        yield sync


def confirm_flush(sync: DataSync, flush: float | None) -> None:
    """Wait until the hub has all writes, if that was asked for."""
    if flush is not None:
        sync.flush(flush)


def say_left_out(count: int, *, as_json: bool) -> None:
    """Say how many records a `--limit` has left out, if any; beside JSON on stderr."""
    if count > 0:
        click.echo(f"… and {count} more: give a larger --limit", err=as_json)


def flush_option(command: Decorated) -> Decorated:
    """`--flush SECONDS`; the command receives `flush`."""
    return click.option(
        "--flush", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait so long until the hub has it, durably."
    )(command)
