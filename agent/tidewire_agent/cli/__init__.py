"""The command `tidewire-agent`. Each command is in the module named beside it, imported when it is used."""

from __future__ import annotations

import importlib
from typing import Final

import click

from tidewire_link.command_line import EXIT_CODES_HELP, CommandGroup
from tidewire_link.version import VERSION

_COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "run": ("run", "Keep a database in step with its stream, until stopped."),
    "attach": ("tables", "Begin to sync tables of a database."),
    "detach": ("tables", "Stop syncing, and remove every trace from the database."),
    "put": ("keys", "Set a key to a value."),
    "get": ("keys", "Print the value of a key."),
    "delete": ("keys", "Remove keys."),
    "keys": ("keys", "List the keys."),
    "watch": ("keys", "Print keys as they change, here or elsewhere."),
    "status": ("inspect", "Say how the agent and its database are."),
    "log": ("inspect", "List the batches of this device, the newest first."),
    "digests": ("inspect", "Print rows and digest of each table, to be compared with the hub's."),
    "verify": ("verify", "Compare the rows with the hub's, and repair them."),
    "backup": ("backup", "Copy the database to a file that can be started as another device."),
    "adopt": ("tables", "Follow another log from its start, and offer all rows here to it."),
    "dead": ("dead", "Writes that the hub refused, or that cannot be synced."),
}


class _LazyGroup(CommandGroup):
    """Knows its commands' names and help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{_COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, epilog=EXIT_CODES_HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="tidewire-agent")
def main() -> None:
    """Keep an SQLite database in step with other devices, over any MQTT broker.

    Every setting is a flag, a key of the TOML file given by --config, and an environment variable TIDEWIRE_AGENT_…
    """
