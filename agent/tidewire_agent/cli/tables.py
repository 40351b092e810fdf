"""`tidewire-agent attach`, `detach` and `adopt`."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any

import click

from tidewire_agent.cli.common import EPILOG, database_options, known_to_tidewire, open_store, settings_of
from tidewire_agent.lock import AgentLock
from tidewire_agent.store.edge_store import EdgeStore
from tidewire_link.command_line import ExitCode, json_option, print_records
from tidewire_schemas.errors import DatabaseError, SettingError


class PendingChanges(DatabaseError):
    """Detaching would lose changes that the hub does not have."""

    code = "pending_changes"
    hint = "let the agent run until `status` shows nothing pending, or give --force"


@click.command(epilog=EPILOG)
@database_options("device", "all_tables")
@click.argument("tables", nargs=-1, metavar="TABLE...")
@json_option
def attach(tables: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Begin to sync these tables. The agent may run or not; their rows travel when it does.

    First the rows that the hub has are taken over, then the ones that were there before are offered.
    """
    settings = settings_of({**options, "tables": tables})
    if not settings.tables and not settings.all_tables:
        raise SettingError("no table is named", hint="name tables, or give --all-tables")
    with open_store(settings, new=True) as store:
        reports = store.attach(settings.tables, all_tables=settings.all_tables)
    records = [{"table": r.table, "attached": r.attached, "reason": r.reason} for r in reports]
    print_records(records, ("table", "attached", "reason"), as_json=as_json, empty="there is no table to sync")
    if not all(report.attached for report in reports):
        sys.exit(ExitCode.ERROR)


@click.command(epilog=EPILOG)
@database_options()
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@click.option("--force", is_flag=True, help="Even if changes are lost that the hub does not have.")
def detach(tables: tuple[str, ...], force: bool, **options: Any) -> None:
    """Stop syncing these tables; without any: remove every trace of Tidewire from the database.

    Rows stay as they are. Removing everything needs the agent to be stopped.
    """
    settings = settings_of(options)
    if not known_to_tidewire(settings):
        click.echo("this database holds no trace of Tidewire")
        return
    with nullcontext() if tables else AgentLock.acquire(settings.db) as lock, open_store(settings) as store:
        if not force:
            _check_nothing_pends(store)
        if lock is None:
            _detach_each(store, tables)
        else:
            store.detach()
            lock.remove()
            click.echo("removed every trace; the rows stay as they are")


@click.command(epilog=EPILOG)
@database_options()
def adopt(**options: Any) -> None:
    """Follow another log from its start, and offer all rows here to it. The agent must be stopped.

    For a hub that was made anew, or has lost its data. The rows of the new log are taken first. A row here is then
    accepted where the hub has none; where the two differ the hub's row stays, and the one here is a dead letter.
    """
    settings = settings_of(options)
    if not known_to_tidewire(settings):
        click.echo("no agent has used this database yet: it takes the log that it meets first")
        return
    with AgentLock.acquire(settings.db), open_store(settings) as store:
        store.adopt()
    click.echo("the log is forgotten; start the agent to follow the one it meets")


def _detach_each(store: EdgeStore, tables: tuple[str, ...]) -> None:
    for name in tables:
        if not store.detach_table(name):
            raise SettingError(f"table {name!r} is not attached")
        click.echo(f"{name} is detached")


def _check_nothing_pends(store: EdgeStore) -> None:
    backlog = store.backlog()
    if backlog.changes or backlog.batches:
        raise PendingChanges(f"{backlog.changes} changes and {backlog.batches} batches are not in the log yet")
