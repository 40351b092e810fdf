"""`tidewire-hub`: run a hub, and look at what it holds.

Imports that take long (the MQTT client, SQLite state, FastAPI) happen inside the commands that need them, so that
`--help` is fast and works without the extra `hub`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from tidewire_hub.settings import ENV_PREFIX, HubSettings
from tidewire_link.command_line import (
    EXIT_CODES_HELP,
    CommandGroup,
    ExitCode,
    json_option,
    load_settings,
    print_records,
    set_up_logging,
    settings_options,
    time_text,
)
from tidewire_link.settings import BrokerSettings
from tidewire_link.version import VERSION

_FOLLOW_INTERVAL_S: Final = 0.2
"""How often `log --follow` looks for new entries."""

_NUMBER_MAX: Final = 2**53 - 1
"""No entry or conflict has a greater number."""

_POSITIVE: Final = click.IntRange(1, _NUMBER_MAX)

_READ_ENTRIES: Final = 256
"""Entries that `log` reads at once."""


class HubCommands(CommandGroup):
    """The commands, and `demo` where the package `tidewire_hub.demo` is: it has a `command`, quick to import."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names for --help."""
        names = super().list_commands(ctx)
        return sorted([*names, "demo"]) if _has_demo() else names

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name."""
        if cmd_name == "demo" and _has_demo():
            command = importlib.import_module("tidewire_hub.demo").command
            assert isinstance(command, click.Command)
            return command
        return super().get_command(ctx, cmd_name)


@click.group(cls=HubCommands, epilog=EXIT_CODES_HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="tidewire-hub")
def main() -> None:
    """The Tidewire hub: puts the updates of all devices into one order and fans them out.

    Every setting of `run` is also a key of the TOML file (--config) and an environment variable: --head-period-s is
    head_period_s and TIDEWIRE_HUB_HEAD_PERIOD_S.
    """


_data_options = settings_options(HubSettings, "data", "stream")


@main.command()
@settings_options(HubSettings)
@click.option(
    "--take-over",
    is_flag=True,
    help="Lead even if another hub leads this stream, or has taken it over from this data; that hub ends. "
    "For one start by hand: no setting, as two hubs that always do so would take the stream from each other in turn.",
)
def run(config: str | None, take_over: bool, **values: Any) -> None:
    """Lead a stream until SIGTERM or Ctrl-C. One hub leads a stream: where another does, this one ends with code 6."""
    import asyncio  # noqa: PLC0415  # see the module's docstring

    from tidewire_hub.serve import serve  # noqa: PLC0415

    settings = _settings(values, config)
    set_up_logging(settings)
    asyncio.run(serve(settings, take_over=take_over))


@main.command()
@_data_options
@json_option
def devices(config: str | None, as_json: bool, **values: Any) -> None:
    """List devices: how they are, how far behind, what they have not sent yet."""
    document = _read_devices(_settings(values, config))
    records = []
    for device in document.devices:
        record = device.model_dump(mode="json")
        behind = None if device.position is None else document.head.seq - device.position.seq
        record["behind"] = None if behind is None or behind < 0 else behind  # it may have what this log has lost
        record["needs_snapshot"] = device.position is not None and device.position.seq + 1 < document.oldest
        if not as_json:
            if device.snapshot is not None:
                record["state"] += f" {device.snapshot.loaded}/{device.snapshot.chunks}"
            record["last_seen"] = time_text(device.last_seen or None)
            record["problem"] = device.clone or device.problem
        records.append(record)
    columns = ["device", "state", "behind", "pending", "dead_letters", "accepted_seq", "last_seen", "problem"]
    print_records(records, columns, as_json=as_json, empty="no device was seen yet")


@main.command()
@_data_options
@json_option
def rejected(config: str | None, as_json: bool, **values: Any) -> None:
    """List messages that could not be used, newest first, with their reason."""
    document = _read_devices(_settings(values, config))
    records = [message.model_dump() for message in document.rejected]
    if not as_json:
        for record in records:
            record["at"] = time_text(record["at"])
    print_records(records, ["at", "device", "code", "message", "size", "topic"], as_json=as_json, empty="none")


@main.command()
@_data_options
@click.option("--from", "from_seq", type=_POSITIVE, help="First seq to print; the last 20 by default.")
@click.option("--limit", type=_POSITIVE, help="Print at most so many entries.")
@click.option("--follow", is_flag=True, help="Go on printing entries as they come.")
@json_option
def log(
    config: str | None, from_seq: int | None, limit: int | None, follow: bool, as_json: bool, **values: Any
) -> None:
    """Print entries of the log, oldest first; with --json as they are stored.

    An entry that the disk has changed is not printed but named, and the exit code is 5.
    """
    from tidewire_hub.database import LogDamaged  # noqa: PLC0415
    from tidewire_hub.layout import DataDirectory  # noqa: PLC0415
    from tidewire_hub.offline import LogReader  # noqa: PLC0415

    settings = _settings(values, config)
    reader = LogReader(DataDirectory(settings.data, settings.stream).log)
    try:
        following = max(1, reader.newest() + 1 - min(limit or 20, 20)) if from_seq is None else from_seq
        oldest = reader.oldest()
        if following < oldest:
            click.echo(f"the log begins at {oldest}: older entries are no longer kept", err=True)
            following = oldest
        left, damaged = limit, False
        while left is None or left > 0:
            entries = reader.read(following, min(_READ_ENTRIES, left or _READ_ENTRIES))
            for seq, data, whole in entries:
                if whole:
                    click.echo(data.decode() if as_json else _entry_line(json.loads(data)))
                else:
                    click.echo(f"entry {seq} is not as it was written (log_damaged): {LogDamaged.hint}", err=True)
                    damaged = True
                following = seq + 1
            left = None if left is None else left - len(entries)
            if not entries and not follow:
                break
            if not entries:
                time.sleep(_FOLLOW_INTERVAL_S)
    except KeyboardInterrupt:  # how one ends --follow
        click.echo(err=True)
    finally:
        reader.close()
    if damaged:
        sys.exit(ExitCode.DATABASE)


@main.command()
@_data_options
@click.option("--after", default=0, type=click.IntRange(0, _NUMBER_MAX), help="Only conflicts with a greater id.")
@click.option("--limit", default=100, show_default=True, type=_POSITIVE, help="Print at most so many.")
@json_option
def conflicts(config: str | None, after: int, limit: int, as_json: bool, **values: Any) -> None:
    """List concurrent writes, oldest first: which won, and the values that lost."""
    from tidewire_hub.offline import read_state  # noqa: PLC0415

    found = read_state(_settings(values, config), after=after, limit=limit + 1)
    records = [conflict._asdict() for conflict in found.conflicts[:limit]]
    if not as_json:
        for record in records:
            record["at"] = time_text(record["at"])
    columns = ["id", "seq", "at", "table", "key", "kind", "device", "loser", "lost"]
    print_records(records, columns, as_json=as_json, empty="no conflicts")
    if len(found.conflicts) > limit:
        click.echo(f"… and more: go on with --after {records[-1]['id']}", err=as_json)


@main.command()
@_data_options
@json_option
def digests(config: str | None, as_json: bool, **values: Any) -> None:
    """Print rows and digest of each table: an edge at the same position has the same."""
    from tidewire_hub.offline import read_state  # noqa: PLC0415

    head, tables, _ = read_state(_settings(values, config))
    records = [{**table._asdict(), "epoch": head.epoch, "seq": head.seq} for table in tables]
    print_records(records, ["table", "rows", "digest", "seq"], as_json=as_json, empty="no table was declared yet")


@main.command()
@settings_options(HubSettings, "data", "stream", "broker", *BrokerSettings.model_fields)
@click.argument("device")
@click.option("--table", "tables", multiple=True, metavar="TABLE", help="Only this table; repeat it for more.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the device's report.",
)
@json_option
def verify(
    config: str | None, device: str, tables: tuple[str, ...], timeout: float, as_json: bool, **values: Any
) -> None:
    """Have DEVICE compare its rows with the hub's now, and list those that are not as the log says.

    The hub and the device's agent must run; both go on with their work. Nothing is repaired: that is done on the
    device. Exit code 1 if rows differ, if something could not be compared, or if no report came.
    """
    import asyncio  # noqa: PLC0415

    from tidewire_hub.verify_device import lines, verify_device  # noqa: PLC0415
    from tidewire_schemas.names import check_topic_name  # noqa: PLC0415

    check_topic_name(device, "device")
    report = asyncio.run(verify_device(_settings(values, config), device, tables, timeout_s=timeout))
    if as_json:
        print_records([table.model_dump(mode="json") for table in report.tables], [], as_json=True, empty="")
    else:
        for line in lines(report):
            click.echo(line)
    if report.problem:
        click.echo(report.problem, err=True)
    if not report.equal:
        sys.exit(ExitCode.ERROR)


@main.command()
@_data_options
@click.argument("dest", type=click.Path(path_type=Path, file_okay=False))
@json_option
def backup(config: str | None, dest: Path, as_json: bool, **values: Any) -> None:
    """Copy the log, also of a running hub, into the directory DEST; start a hub with --data DEST to use it."""
    from tidewire_hub.backup import back_up  # noqa: PLC0415
    from tidewire_hub.layout import DataDirectory  # noqa: PLC0415

    settings = _settings(values, config)
    report = back_up(DataDirectory(settings.data, settings.stream), dest)
    if as_json:
        print_records([{**report._asdict(), "path": str(report.path)}], [], as_json=True, empty="")
    else:
        click.echo(f"copied entries up to {report.seq} of log {report.log} to {report.path} ({report.size:_} bytes)")


def _settings(values: Mapping[str, Any], config: str | None) -> HubSettings:
    return load_settings(HubSettings, values, config, ENV_PREFIX)


def _read_devices(settings: HubSettings) -> Any:
    from tidewire_hub.layout import DataDirectory, is_locked  # noqa: PLC0415
    from tidewire_hub.offline import read_devices  # noqa: PLC0415

    data = DataDirectory(settings.data, settings.stream)
    document = read_devices(data)
    if not is_locked(data.lock):
        click.echo(f"no hub runs here: this was so at {time_text(document.saved_at)}", err=True)
    return document


def _entry_line(entry: dict[str, Any]) -> str:
    counts: dict[str, int] = {}
    for run_ in entry["changes"]:
        what = f"{run_['op']} {run_['table']}"
        counts[what] = counts.get(what, 0) + len(run_["rows"])
    changes = ", ".join(f"{what} {count}" for what, count in counts.items()) or "nothing"
    refused = f"  refused {len(entry['refused'])}" if entry["refused"] else ""
    return f"{entry['seq']:>8}  {time_text(entry['at'])}  {entry['device']} #{entry['batch']}  {changes}{refused}"


def _has_demo() -> bool:
    return importlib.util.find_spec("tidewire_hub.demo") is not None
