"""`tidewire-agent dead list`, `retry`, `discard`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from tidewire_agent.cli.common import EPILOG, database_options, known_to_tidewire, open_store, say_left_out, settings_of
from tidewire_agent.store.dead_letters import CannotRetry
from tidewire_agent.store.edge_store import EdgeStore
from tidewire_link.command_line import ExitCode, json_option, print_records, time_text
from tidewire_schemas.errors import SettingError


@click.group(epilog=EPILOG)
def dead() -> None:
    """Writes of this device that the hub refused, or that cannot be synced."""


@dead.command("list", epilog=EPILOG)
@database_options()
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="How many.")
@json_option
def list_letters(limit: int, as_json: bool, **options: Any) -> None:
    """List them, the newest first, each with its reason."""
    settings = settings_of(options)
    letters, held = [], 0
    if known_to_tidewire(settings):
        with open_store(settings) as store:
            letters, held = store.dead(limit), store.backlog().dead_letters
    records = [
        {
            "id": letter.id,
            "at": letter.at if as_json else time_text(letter.at),
            "table": letter.table,
            "op": letter.op,
            "key": list(letter.key),
            "reason": letter.reason,
            "detail": letter.detail,
            "cells": letter.cells,
            "batch": letter.batch,
            "seq": letter.seq,
        }
        for letter in letters
    ]
    columns = ("id", "at", "table", "op", "key", "reason", "detail", "cells")
    print_records(records, columns, as_json=as_json, empty="no dead letters")
    say_left_out(held - len(letters), as_json=as_json)


@dead.command(epilog=EPILOG)
@database_options()
@click.argument("ids", nargs=-1, type=int, metavar="[ID]...")
@click.option("--all", "all_of_them", is_flag=True, help="All there are.")
def retry(ids: tuple[int, ...], all_of_them: bool, **options: Any) -> None:
    """Write this device's version again, as a new write that is judged anew."""
    _each(options, ids, all_of_them, EdgeStore.dead_retry, "written again")


@dead.command(epilog=EPILOG)
@database_options()
@click.argument("ids", nargs=-1, type=int, metavar="[ID]...")
@click.option("--all", "all_of_them", is_flag=True, help="All there are.")
def discard(ids: tuple[int, ...], all_of_them: bool, **options: Any) -> None:
    """Drop them: the hub's version stays."""
    _each(options, ids, all_of_them, EdgeStore.dead_discard, "discarded")


def _each(
    options: dict[str, Any],
    ids: tuple[int, ...],
    all_of_them: bool,
    act: Callable[[EdgeStore, int], None],
    done: str,
) -> None:
    if bool(ids) == all_of_them:
        raise SettingError("which of them?", hint="give their numbers from `dead list`, or --all")
    settings = settings_of(options)
    if not known_to_tidewire(settings):
        raise SettingError("no agent has used this database yet", hint="there are no dead letters in it")
    with open_store(settings) as store:
        held = [letter.id for letter in store.dead(settings.dead_letters_max) if letter.id is not None]
        unknown = [number for number in ids if number not in held]
        if unknown:
            raise SettingError(f"there is no dead letter {unknown[0]}", hint="see `dead list`")
        kept = 0
        for number in sorted(held if all_of_them else ids):
            try:
                act(store, number)
                click.echo(f"{number} {done}")
            except CannotRetry as error:  # the others may do
                kept += 1
                click.echo(f"{number} stays: {error}", err=True)
    if kept:
        sys.exit(ExitCode.ERROR)
