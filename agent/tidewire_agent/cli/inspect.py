"""`tidewire-agent status`, `log` and `digests`."""

from __future__ import annotations

import json
from typing import Any

import click

from tidewire_agent.cli.common import EPILOG, database_options, known_to_tidewire, open_store, reading, settings_of
from tidewire_agent.lock import read_status
from tidewire_agent.settings import AgentSettings
from tidewire_agent.status import AgentStatus
from tidewire_agent.store.overview import database_of, tables_of
from tidewire_agent.verify_report import VerifyReport
from tidewire_link.command_line import json_option, print_records, time_text
from tidewire_schemas.names import fold


@click.command(epilog=EPILOG)
@database_options()
@json_option
def status(as_json: bool, **options: Any) -> None:
    """Say how the agent and its database are: state, position in the log, what waits, what is wrong.

    States: live, catching_up, loading_snapshot, handshaking, offline (no broker), halted (a person must decide),
    starting, stopped, not_running (it ended without saying so), never_run.

    Of a table: not_connected (it has met no hub yet), taking (the hub's rows come first), offering (then the rows that
    were there before are sent), synced, refused (the hub does not take it as it is declared here), behind (too many
    changes of other devices do not fit), missing (dropped or renamed), not_synced (not possible).
    """
    settings = settings_of(options)
    document = _document(settings)
    if as_json:
        click.echo(json.dumps(document, ensure_ascii=False, separators=(",", ":")))
        return
    for line in _lines(document):
        click.echo(line)


@click.command(epilog=EPILOG)
@database_options()
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many.")
@json_option
def log(limit: int, as_json: bool, **options: Any) -> None:
    """List the batches of this device that are kept, the newest first."""
    settings = settings_of(options)
    if not known_to_tidewire(settings):
        print_records([], (), as_json=as_json, empty="no agent has used this database yet")
        return
    with open_store(settings) as store:
        kept = store.kept_log(limit + 1)
    records = [
        {
            "batch": batch.batch,
            "in_log": batch.released,
            "sealed_at": batch.sealed_at if as_json else time_text(batch.sealed_at),
            "bytes": batch.bytes,
            "digest": batch.digest,
        }
        for batch in kept[:limit]
    ]
    print_records(
        records, ("batch", "in_log", "sealed_at", "bytes", "digest"), as_json=as_json, empty="no batches are kept"
    )
    if len(kept) > limit:
        click.echo("… and more: give a larger --limit", err=as_json)


@click.command(epilog=EPILOG)
@database_options()
@json_option
def digests(as_json: bool, **options: Any) -> None:
    """Print rows and digest of each synced table: `tidewire-hub digests` says the same for the same entry.

    Rows that wait to be sent make a difference until they are in the log.
    """
    settings = settings_of(options)
    if not known_to_tidewire(settings):
        print_records([], (), as_json=as_json, empty="no agent has used this database yet")
        return
    with open_store(settings) as store:
        position, tables = store.digests()
    records = [{**table._asdict(), "epoch": position.epoch, "seq": position.seq} for table in tables]
    print_records(records, ("table", "rows", "digest", "seq"), as_json=as_json, empty="no table is attached")


def _document(settings: AgentSettings) -> dict[str, Any]:
    """The agent's own document, with what the file says now where the agent does not run."""
    known = known_to_tidewire(settings)
    told = read_status(settings.db)
    document: dict[str, Any] = _plain(told) if told else {"state": "never_run", "problems": []}
    with reading(settings) as connection:
        if known and document["state"] in ("stopped", "not_running", "never_run"):
            document |= database_of(connection)
        allow = settings.allow_unkept_unique
        found = tables_of(connection, allow_unkept_unique=allow) if known else []
    refused = {fold(name): why for name, why in document.get("refused", {}).items()}
    document["tables"] = [_with_refusal(table._asdict(), refused) for table in found]
    return document


def _with_refusal(table: dict[str, Any], refused: dict[str, str]) -> dict[str, Any]:
    """A table that the hub does not take is not synced, whatever the file says of it."""
    why = refused.get(fold(table["table"]))
    return table if why is None or table["state"] == "missing" else table | {"state": "refused", "problem": why}


def _table_lines(table: dict[str, Any]) -> list[str]:
    state = "not connected yet" if table["state"] == "not_connected" else table["state"].replace("_", " ")
    line = f"table {table['table']}: {state}"
    for count, what in ((table["waiting"], "changes wait to be sent"), (table["parked"], "changes wait to fit")):
        if count:
            line += f", {count} {what}"
    if table["columns_elsewhere"]:
        line += f"; columns not here: {', '.join(table['columns_elsewhere'])}"
    return [line, f"  {table['problem']}"] if table["problem"] else [line]


def _verified_line(report: dict[str, Any]) -> str:
    found = VerifyReport.model_validate(report)
    what = found.problem or f"{found.rows} rows, {found.differing} differ"
    rest = "" if found.complete or found.problem else ", not all could be compared"
    return f"verified {time_text(found.at)} UTC at entry {found.position.seq}: {what}{rest}"


def _plain(told: AgentStatus) -> dict[str, Any]:
    plain: dict[str, Any] = told.model_dump(mode="json")
    return plain


def _lines(document: dict[str, Any]) -> list[str]:
    since = f" since {time_text(document['since'])} UTC" if document.get("since") else ""
    pid = f" (process {document['pid']})" if document.get("pid") and document["state"] != "stopped" else ""
    lines = [f"{document['state'].replace('_', ' ')}{since}{pid}"]
    if document.get("device"):
        where = f", stream {document['stream']} at {document['broker']}" if document.get("broker") else ""
        lines.append(f"device {document['device']}{where}")
    if document["state"] == "offline" and document.get("connects_at"):
        lines.append(f"connects to the broker again at {time_text(document['connects_at'])} UTC")
    if document.get("position") is not None:
        heard = f" of {document['heard']} heard" if document.get("heard") else ""
        lines.append(f"applied entry {document['position'][1]}{heard} (epoch {document['position'][0]})")
    if document.get("snapshot"):
        loaded, chunks = document["snapshot"]["loaded"], document["snapshot"]["chunks"]
        lines.append(f"loading a snapshot: {loaded} of {chunks} chunks; tables hold some of its rows and not others")
    if document.get("changes") is not None:
        limit = f" of {document['outbox_bytes_max']}" if document.get("outbox_bytes_max") else ""
        lines.append(
            f"waiting: {document['changes']} changes, {document['batches']} batches"
            f" ({document['batch_bytes']}{limit} bytes), "
            f"the oldest sealed at {time_text(document['oldest_sealed_at'])}"
        )
        gone = (
            f" ({document['dead_letters_dropped']} older ones are gone)" if document.get("dead_letters_dropped") else ""
        )
        lines.append(f"{document['dead_letters']} dead letters{gone}, {document['parked']} parked rows")
    lines += [line for table in document["tables"] for line in _table_lines(table)]
    if document.get("device") and not document["tables"]:
        lines.append("no table is attached")
    if document.get("verified"):
        lines.append(_verified_line(document["verified"]))
    if document.get("rejected_count"):
        last = document["rejected"][-1]
        lines.append(f"{document['rejected_count']} messages set aside, the last on {last['topic']}: {last['reason']}")
    for problem in document["problems"]:
        lines.append(f"problem {problem['code']}: {problem['message']}")
        if problem["hint"]:
            lines.append(f"  hint: {problem['hint']}")
    return lines
