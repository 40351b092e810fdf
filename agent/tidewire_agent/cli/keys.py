"""`tidewire-agent put`, `get`, `delete`, `keys`, `watch`: the keys of a database, through the file alone."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from tidewire_agent.cli.common import EPILOG, confirm_flush, database_options, flush_option, open_keys
from tidewire_link.command_line import ExitCode, json_option, print_records

_MISSING = object()


@click.command(epilog=EPILOG)
@database_options()
@click.argument("key")
@click.argument("value")
@click.option("--text", is_flag=True, help="VALUE is a text even if it could be read as JSON.")
@flush_option
def put(key: str, value: str, text: bool, flush: float | None, **options: Any) -> None:
    """Set KEY to VALUE, which is JSON; what is not JSON is taken as a text.

    The agent need not run: the write is kept in the database and travels when it does.
    """
    with open_keys(options) as sync:
        sync.update(key, value if text else _parsed(value))
        confirm_flush(sync, flush)


@click.command(epilog=EPILOG)
@database_options()
@click.argument("key")
@json_option
def get(key: str, as_json: bool, **options: Any) -> None:
    """Print the value of KEY as JSON; exit code 1 if there is no such key. A text is printed as it is."""
    with open_keys(options) as sync:
        value = sync.get(key, _MISSING)
    if value is _MISSING:
        click.echo(f"there is no key {key!r}", err=True)
        sys.exit(ExitCode.ERROR)
    click.echo(_line({"key": key, "value": value}) if as_json else _shown(value))


@click.command(epilog=EPILOG)
@database_options()
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@flush_option
def delete(keys: tuple[str, ...], flush: float | None, **options: Any) -> None:
    """Remove keys; exit code 1 if one of them is not there."""
    with open_keys(options) as sync:
        with sync.transaction():
            missing = [key for key in keys if not sync.delete(key)]
        confirm_flush(sync, flush)
    for key in missing:
        click.echo(f"there is no key {key!r}", err=True)
    if missing:
        sys.exit(ExitCode.ERROR)


@click.command(epilog=EPILOG)
@database_options()
@click.argument("prefix", default="")
@click.option("--values", is_flag=True, help="Print the values too.")
@json_option
def keys(prefix: str, values: bool, as_json: bool, **options: Any) -> None:
    """List the keys that begin with PREFIX."""
    with open_keys(options) as sync:
        found = sync.keys(prefix)
        records = [{"key": key, "value": sync.get(key)} if values else {"key": key} for key in found]
    if as_json:
        print_records(records, ("key",), as_json=True, empty="")
        return
    for record in records:
        click.echo(f"{record['key']}\t{_shown(record['value'])}" if values else record["key"])


@click.command(epilog=EPILOG)
@database_options()
@click.argument("prefix", default="")
@click.option("--initial", is_flag=True, help="Begin with the keys that are there.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="End when nothing changed so long.")
@json_option
def watch(prefix: str, initial: bool, timeout: float | None, as_json: bool, **options: Any) -> None:
    """Print keys that begin with PREFIX as they change, here or elsewhere, until Ctrl-C."""
    try:
        with open_keys(options) as sync:
            for change in sync.watch(prefix, timeout=timeout, initial=initial):
                if as_json:
                    line = _line({"key": change.key, "deleted": change.deleted, "value": change.value})
                else:
                    line = f"{change.key}\t{'(deleted)' if change.deleted else _shown(change.value)}"
                click.echo(line)
                sys.stdout.flush()
    except KeyboardInterrupt:
        return


def _parsed(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else _line(value)


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
