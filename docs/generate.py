"""Writes the reference of both commands, all settings and the faults tested: `python docs/generate.py`, from the code.

Here and not in a package, as it reads agent and hub, which never import each other. `--check` writes nothing and fails
if a page is stale; so does a test.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Any, Final, Literal, NamedTuple, Union, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tidewire_agent.cli import main as agent_command
from tidewire_agent.settings import AgentSettings
from tidewire_agent.store.settings import StoreSettings
from tidewire_hub.cli import main as hub_command
from tidewire_hub.settings import HubSettings
from tidewire_link.command_line import CONFIG_OPTION, ExitCode, LogSettings, SettingOption, default_text
from tidewire_link.settings import BrokerSettings
from tidewire_schemas.docstrings import docstrings

REFERENCE: Final = Path(__file__).resolve().parent / "reference"

_GROUPS: Final[dict[type[BaseModel], str]] = {
    StoreSettings: "What is kept in the app's file",
    BrokerSettings: "The connection to the broker",
    LogSettings: "What it says on stderr",
}
"""Settings that come from a base class get a table of their own."""


class Program(NamedTuple):
    """One command with its settings."""

    name: str
    command: click.Group
    settings: type[BaseModel]
    env_prefix: str
    example: str


PROGRAMS: Final = {
    "agent.md": Program(
        "tidewire-agent",
        agent_command,
        AgentSettings,
        "TIDEWIRE_AGENT_",
        'db = "/var/lib/shop/shop.db"\ndevice = "till-7"\nbroker = "mqtt://broker.local"\ntables = ["orders", "items"]',
    ),
    "hub.md": Program(
        "tidewire-hub",
        hub_command,
        HubSettings,
        "TIDEWIRE_HUB_",
        'data = "/var/lib/tidewire"\nbroker = "mqtt://broker.local"\nhttp = "127.0.0.1:8080"',
    ),
}


def page(program: Program) -> str:
    """The reference of a program, in Markdown."""
    return "\n".join(_page(program)) + "\n"


def pages() -> dict[str, str]:
    """All pages that are made here, by file name."""
    return {name: page(program) for name, program in PROGRAMS.items()} | {"faults.md": _faults().page()}


def stale() -> list[str]:
    """Names of the pages that are not what they should be."""
    return [
        name
        for name, text in pages().items()
        if not (REFERENCE / name).exists() or (REFERENCE / name).read_text(encoding="utf-8") != text
    ]


def _faults() -> ModuleType:
    """The module beside this one, which is no part of any package."""
    spec = importlib.util.spec_from_file_location("docs_faults", Path(__file__).with_name("faults.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _page(program: Program) -> Iterator[str]:
    yield f"# `{program.name}`"
    yield ""
    yield "<!-- Made by docs/generate.py from the commands and settings themselves: do not edit. -->"
    yield ""
    yield _text(program.command.help)
    yield ""
    yield f"Settings are described [below](#settings); `{program.name} COMMAND --help` says the same."
    yield ""
    yield "## Commands"
    for path, command in _commands(program.command, (program.name,)):
        yield ""
        yield from _command(path, command, program)
    yield ""
    yield "## Exit codes"
    yield ""
    yield from _exit_codes()
    yield ""
    yield "## Settings"
    yield ""
    yield from _settings_introduction(program)
    for title, fields in _groups(program.settings):
        yield ""
        yield f"### {title}"
        yield ""
        yield from _settings_table(fields, docstrings(program.settings))


def _commands(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))
        else:
            yield (*path, name), command


def _command(path: tuple[str, ...], command: click.Command, program: Program) -> Iterator[str]:
    usage = command.collect_usage_pieces(click.Context(command))
    yield f"### `{' '.join(path[1:])}`"
    yield ""
    yield f"`{' '.join([*path, *usage])}`"
    yield ""
    yield _text(command.help)
    known = _settings_of(command, program.settings)
    settings = [option.name for option in _options(command) if option.name in known]
    own = [option for option in _options(command) if option.name not in known]
    yield ""
    if len(settings) == len(program.settings.model_fields):
        yield "Takes every setting as a flag."
    elif settings:
        yield "Settings it takes: " + ", ".join(f"`{_flag(name, program.settings)}`" for name in settings if name) + "."
    if own:
        yield ""
        yield "| option | meaning |"
        yield "|---|---|"
        for option in own:
            yield f"| {_option_words(option)} | {_cell(_option_help(option))} |"


def _settings_of(command: click.Command, model: type[BaseModel]) -> set[str]:
    """Names of options that are settings: a command without `--config` takes none, whatever its options are called."""
    names = {option.name for option in _options(command) if option.name}
    return names & model.model_fields.keys() if CONFIG_OPTION in names else set()


def _options(command: click.Command) -> list[click.Option]:
    return [parameter for parameter in command.params if isinstance(parameter, click.Option) and not parameter.hidden]


def _option_words(option: click.Option) -> str:
    words = ", ".join(option.opts)
    if option.is_flag:
        return f"`{words}`"
    if isinstance(option.type, click.Choice):
        return f"`{words}` " + " or ".join(f"`{choice}`" for choice in option.type.choices)
    return f"`{words} {option.metavar or str(option.type.name).upper().removesuffix(' RANGE')}`"


def _option_help(option: click.Option) -> str:
    text = option.describe() if isinstance(option, SettingOption) else option.help or ""
    if option.show_default and option.default is not None:
        text += f" Default: {option.default}."
    return text


def _exit_codes() -> Iterator[str]:
    yield "| code | meaning |"
    yield "|---|---|"
    meanings = {
        ExitCode.OK: "done",
        ExitCode.ERROR: "an error; the message says what",
        ExitCode.USAGE: "a wrong flag, setting or configuration file: the same again fails again",
        ExitCode.UNREACHABLE: "the broker cannot be reached, or refuses",
        ExitCode.LOCKED: "another process already runs on this database or data directory",
        ExitCode.DATABASE: "the database or its disk cannot be used as it is",
        ExitCode.LED_ELSEWHERE: "another hub leads this stream, or has taken it over (`tidewire-hub run`)",
    }
    for code in ExitCode:
        yield f"| {code.value} | {meanings[code]} |"


def _settings_introduction(program: Program) -> Iterator[str]:
    yield "Every setting is a flag, a key of the TOML file given by `--config`, and an environment variable:"
    yield f'`--log-level debug`, `log_level = "debug"`, `{program.env_prefix}LOG_LEVEL=debug`. A flag wins over the'
    yield "environment, that over the file, that over the default. In the environment a list is separated by commas."
    yield f"`{program.env_prefix}CONFIG` names a file as `--config` does. A name that no setting has is an error, in"
    yield "the environment too: only what Kubernetes and Docker set there for a service of that name is let be."
    yield ""
    yield "```toml"
    yield program.example
    yield "```"


def _groups(model: type[BaseModel]) -> Iterator[tuple[str, dict[str, FieldInfo]]]:
    """Its own settings first, then those of each base. A field belongs where it was described last."""
    inherited: dict[str, type[BaseModel]] = {}
    for base in _GROUPS:
        if issubclass(model, base):
            inherited |= {name: base for name in base.model_fields if name not in inspect.get_annotations(model)}
    yield "Its own", {name: field for name, field in model.model_fields.items() if name not in inherited}
    for base, title in _GROUPS.items():
        fields = {name: model.model_fields[name] for name, owner in inherited.items() if owner is base}
        if fields:
            yield title, fields


def _settings_table(fields: dict[str, FieldInfo], meanings: Mapping[str, str]) -> Iterator[str]:
    yield "| setting | default | meaning |"
    yield "|---|---|---|"
    for name, field in fields.items():
        flag = _given_flag(field)
        spelled = f"`{name}`" if flag is None else f"`{name}` (`{flag}`)"
        yield f"| {spelled} | {_default(field)} | {_cell(_meaning(field, meanings.get(name)))} |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    shown = default_text(field)
    return f"`{shown}`" if shown else ""


def _meaning(field: FieldInfo, docstring: str | None) -> str:
    text = _text(docstring)
    choices = _choices(field.annotation)
    if choices:
        text += " One of " + ", ".join(f"`{choice}`" for choice in choices) + "."
    return text


def _choices(annotation: Any) -> tuple[str, ...]:
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(arg for arg in get_args(annotation) if arg is not NoneType)
    return tuple(map(str, get_args(annotation))) if get_origin(annotation) is Literal else ()


def _given_flag(field: FieldInfo) -> str | None:
    extra = field.json_schema_extra
    return str(extra["flag"]) if isinstance(extra, dict) and "flag" in extra else None


def _flag(name: str, model: type[BaseModel]) -> str:
    return _given_flag(model.model_fields[name]) or "--" + name.replace("_", "-")


def _text(text: str | None) -> str:
    """A docstring as paragraphs of one line each."""
    paragraphs = (text or "").replace("\b", "").strip().split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    """Write the pages, or with `--check` say which are stale."""
    names = stale()
    if "--check" in sys.argv[1:]:
        sys.exit(f"stale: {', '.join(names)}; run: python docs/generate.py" if names else 0)
    for name in names:
        (REFERENCE / name).write_text(pages()[name], encoding="utf-8")
        click.echo(f"wrote docs/reference/{name}")


if __name__ == "__main__":
    main()
