"""`tidewire-agent verify`."""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from contextlib import closing
from typing import Any, Final

import click

from tidewire_agent.cli.common import EPILOG, database_options, known_to_tidewire, settings_of
from tidewire_agent.errors import sqlite_errors
from tidewire_agent.lock import read_status
from tidewire_agent.settings import AgentSettings
from tidewire_agent.status import ProblemStatus
from tidewire_agent.store import verify_questions
from tidewire_agent.verify_report import TableVerified, VerifyReport
from tidewire_link.command_line import ExitCode, json_option, print_records
from tidewire_schemas.errors import TidewireError

_LOOK_S: Final = 0.1
"""How often to look whether the agent has answered."""


class AgentNotRunning(TidewireError):
    """No agent runs on this database."""

    code = "agent_not_running"
    hint = "start it (`tidewire-agent run`): it compares the rows, as it knows the hub"


class AgentHalted(TidewireError):
    """The agent waits for a person."""

    code = "agent_halted"


class VerifyTimeout(TidewireError):
    """The agent did not come to an end in time."""

    code = "verify_timeout"
    hint = "give a longer --timeout; `status` says how the agent is"
    retry = True


@click.command(epilog=EPILOG)
@database_options()
@click.option("--table", "tables", multiple=True, metavar="TABLE", help="Only this table; repeat it for more.")
@click.option("--repair", is_flag=True, help="Give rows that differ the hub's values; theirs become dead letters.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait.",
)
@json_option
def verify(tables: tuple[str, ...], repair: bool, timeout: float, as_json: bool, **options: Any) -> None:
    """Compare the rows here with the hub's, and list those that are not as the log says.

    The running agent does it, while the app writes and other devices do. Rows with a change that is not in the log yet
    are not compared. Exit code 1 if rows differ (and were not repaired), or something could not be compared.
    """
    settings = settings_of(options)
    report = _answer(settings, tables, repair=repair, timeout_s=timeout)
    if as_json:
        records = [table.model_dump(mode="json") for table in report.tables]
        print_records(records, (), as_json=True, empty="")
    else:
        for table in report.tables:
            if table.problem != report.problem or not table.problem:
                _print(table)
    if report.problem:
        click.echo(report.problem, err=True)
    if report.differing or not report.complete:
        sys.exit(ExitCode.ERROR)


def _answer(settings: AgentSettings, tables: tuple[str, ...], *, repair: bool, timeout_s: float) -> VerifyReport:
    known = known_to_tidewire(settings)
    if not known or not _runs(settings):
        raise AgentNotRunning(f"no agent runs on {settings.db}")
    end = time.monotonic() + timeout_s
    with sqlite_errors(), closing(_connection(settings)) as connection:
        nonce = verify_questions.ask(connection, tables, repair=repair)
        try:
            while (report := verify_questions.answer_of(connection, nonce)) is None:
                if not _runs(settings):
                    raise AgentNotRunning(f"the agent of {settings.db} has stopped")
                if time.monotonic() > end:
                    raise VerifyTimeout(f"no answer within {timeout_s:g} s")
                time.sleep(_LOOK_S)
        finally:
            verify_questions.forget(connection, nonce)
    return report


def _connection(settings: AgentSettings) -> sqlite3.Connection:
    return sqlite3.connect(settings.db, isolation_level=None, timeout=settings.busy_timeout_s)


def _runs(settings: AgentSettings) -> bool:
    """Whether an agent runs, which can compare rows.

    Raises:
        AgentHalted: it runs, and cannot.
    """
    told = read_status(settings.db)
    if told is not None and told.state == "halted":
        problems = told.problems or (ProblemStatus(code="", message="see its log"),)
        why = "; ".join(problem.message for problem in problems)
        hint = "; ".join(filter(None, (problem.hint for problem in problems)))
        raise AgentHalted(f"the agent of {settings.db} is halted: {why}", hint=hint)
    return told is not None and told.state not in ("stopped", "not_running")


def _print(table: TableVerified) -> None:
    counts = [f"{table.rows} rows", f"{table.differing} differ"]
    if table.repaired:
        counts.append(f"{table.repaired} repaired")
    if table.pending:
        counts.append(f"{table.pending} not compared: their changes are not in the log yet")
    if table.too_large:
        counts.append(f"{table.too_large} here as they are only, too large to be sent")
    if table.unsettled:
        counts.append(f"{table.unsettled} not compared: they are written all the time")
    click.echo(f"{table.table}: {table.problem}" if table.problem and not table.rows else _line(table, counts))
    for row in table.listed:
        click.echo(f"  {_text(row.key)}{' (repaired)' if row.repaired else ''}")
        click.echo(f"    here: {'no such row' if row.here is None else _text(row.here)}")
        click.echo(f"    hub:  {'no such row' if row.hub is None else _text(row.hub)}")
    if len(table.listed) < table.differing:
        click.echo(f"  and {table.differing - len(table.listed)} more")


def _line(table: TableVerified, counts: list[str]) -> str:
    return f"{table.table}: {', '.join(counts)}" + (f" ({table.problem})" if table.problem else "")


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
