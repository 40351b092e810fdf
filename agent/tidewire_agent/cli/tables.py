"""`tidewire-agent attach`, `detach` and `adopt`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Final

import click

from tidewire_agent.cli.common import EPILOG, database_options, known_to_tidewire, open_store, settings_of
from tidewire_agent.lock import AgentLock
from tidewire_agent.store.edge_store import EdgeStore
from tidewire_link.command_line import ExitCode, json_option, print_records
from tidewire_schemas.errors import DatabaseError, SettingError

_SOLVED_BY_ADOPTING: Final = ("log_foreign", "leader_stale")


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

    One that does not exist is named and forgotten, one that cannot be synced is named until it can; the others are
    attached all the same, and the exit code is 1. To name a table that the app has yet to make, give it to `run`.
    """
    settings = settings_of({**options, "tables": tables})
    if not settings.tables and not settings.all_tables:
        raise SettingError("no table is named", hint="name tables, or give --all-tables")
    with open_store(settings, new=True) as store:
        reports = store.attach(settings.tables, all_tables=settings.all_tables, ahead=False)
    records = [{"table": r.table, "attached": r.attached, "reason": r.reason} for r in reports]
    print_records(records, ("table", "attached", "reason"), as_json=as_json, empty="there is no table to sync")
    absent = [report.table for report in reports if not report.exists]
    if absent:
        hint = "the agent is not told of it; `run --table` waits for one that the app has yet to make"
        click.echo(f"not there: {', '.join(absent)}\n  hint: {hint}", err=True)
    if not all(report.attached for report in reports):
        sys.exit(ExitCode.ERROR)


@click.command(epilog=EPILOG)
@database_options()
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@click.option("--force", is_flag=True, help="Even if changes are lost that the hub does not have.")
@json_option
def detach(tables: tuple[str, ...], force: bool, as_json: bool, **options: Any) -> None:
    """Stop syncing these tables; without any: remove every trace of Tidewire from the database.

    Rows stay as they are. Removing everything needs the agent to be stopped.
    """
    settings = settings_of(options)
    if not known_to_tidewire(settings):
        _say((), "this database holds no trace of Tidewire", as_json=as_json)
        return
    with nullcontext() if tables else AgentLock.acquire(settings.db) as lock, open_store(settings) as store:
        if not force:
            _check_nothing_pends(store)
        if lock is None:
            for name in tables:
                if not store.detach_table(name):
                    raise SettingError(f"table {name!r} is not attached", hint="`status` lists the tables that are")
                _say([name], f"{name} is detached", as_json=as_json)
        else:
            attached = [shape.name for shape in store.tables.shapes()]
            store.detach()
            lock.remove()
            _say(attached, "removed every trace; the rows stay as they are", as_json=as_json)


@click.command(epilog=EPILOG)
@database_options()
@json_option
def adopt(as_json: bool, **options: Any) -> None:
    """Follow another log from its start, and offer all rows here to it. The agent must be stopped.

    For a hub that was made anew, or has lost its data. The rows of the new log are taken first. A row here is then
    accepted where the hub has none; where the two differ the hub's row stays, and the one here is a dead letter.
    """
    settings = settings_of(options)
    forgotten = None
    text = "no agent has used this database yet: it takes the log that it meets first"
    if known_to_tidewire(settings):
        with AgentLock.acquire(settings.db) as lock, open_store(settings) as store:
            forgotten = store.log_id
            store.adopt()
            told = lock.told()
            if told is not None:  # what was wrong with the log is solved
                left = tuple(problem for problem in told.problems if problem.code not in _SOLVED_BY_ADOPTING)
                lock.write(told.model_copy(update={"problems": left, "log": None, "position": None}))
        text = "the log is forgotten; start the agent to follow the one it meets"
    if as_json:
        print_records([{"forgotten_log": forgotten}], (), as_json=True, empty="")
    else:
        click.echo(text)


def _say(detached: Sequence[str], text: str, *, as_json: bool) -> None:
    if as_json:
        print_records([{"table": name, "detached": True} for name in detached], (), as_json=True, empty="")
    else:
        click.echo(text)


def _check_nothing_pends(store: EdgeStore) -> None:
    backlog = store.backlog()
    if backlog.changes or backlog.batches:
        raise PendingChanges(f"{backlog.changes} changes and {backlog.batches} batches are not in the log yet")
