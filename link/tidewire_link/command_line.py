"""What the command lines of agent and hub share: settings, exit codes, output, logging.

A setting is declared once, as a field of a frozen pydantic model with a docstring. From that come its flag
(`--ack-timeout-s`), its TOML key (`ack_timeout_s`), its environment variable (`TIDEWIRE_AGENT_ACK_TIMEOUT_S`) and its
help. A flag wins over the environment, the environment over the file, the file over the default.
"""

from __future__ import annotations

import enum
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, NoReturn, TypeVar, Union, get_args, get_origin

import click
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from tidewire_link.errors import LinkError
from tidewire_schemas.docstrings import docstrings
from tidewire_schemas.errors import AlreadyRunning, DatabaseError, LedElsewhere, SettingError, TidewireError

Model = TypeVar("Model", bound=BaseModel)
Decorated = TypeVar("Decorated", bound=Callable[..., Any])

CONFIG_OPTION: Final = "config"
"""The option that names the TOML file; it is no setting itself."""

_SET_BY_PLATFORMS: Final = re.compile(
    r"""
    (.+_)? SERVICE_HOST = .*  |  (.+_)? SERVICE_PORT (_.+)? = \d+
    | (.+_)? PORT = (tcp|udp|sctp)://.*  |  (.+_)? PORT_\d+_(TCP|UDP|SCTP) (_(PROTO|PORT|ADDR))? = .*
    | NAME = /.*  |  ENV_.+ = .*
    """,
    re.VERBOSE | re.DOTALL,
)
"""What follows the prefix in variables that Kubernetes and Docker's links set in other containers for a service that is
called `tidewire-hub`: TIDEWIRE_HUB_SERVICE_HOST=10.0.0.1, TIDEWIRE_HUB_PORT=tcp://10.0.0.1:8080."""

_METAVARS: Final = (("_bytes_max", "BYTES"), ("_bytes", "BYTES"), ("_ms", "MILLISECONDS"), ("_s", "SECONDS"))


class ExitCode(enum.IntEnum):
    """Exit codes of every Tidewire command."""

    OK = 0
    ERROR = 1
    """Something else went wrong; the message says what."""
    USAGE = 2
    """A wrong flag, setting or configuration file: the same again will fail again."""
    UNREACHABLE = 3
    """The broker cannot be reached, or refuses."""
    LOCKED = 4
    """Another process already runs on this database or data directory."""
    DATABASE = 5
    """The database or its disk cannot be used as it is."""
    LED_ELSEWHERE = 6
    """Another hub leads this stream, or has taken it over: this one must not go on."""


EXIT_CODES_HELP: Final = (
    "Exit codes: 0 done, 1 error, 2 wrong usage or setting, 3 broker unreachable, "
    "4 another process runs on this data, 5 database or disk, 6 another hub leads this stream."
)


# ── settings ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Settings(BaseModel):
    """Base of settings models: frozen, no unknown keys, each field's docstring is its description."""

    model_config = ConfigDict(defer_build=True, frozen=True, extra="forbid")


class LogSettings(Settings):
    """How a long-running command says what it does, on stderr."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe that is written."""

    log_format: Literal["human", "json"] = "human"
    """Lines for people, or one JSON object per line for collectors."""


class SettingOption(click.Option):
    """A setting's flag. Its help is the field's docstring, which is read once somebody asks for it."""

    def __init__(self, *args: Any, describe: Callable[[], str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.describe: Final = describe

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """As `click.Option.get_help_record`."""
        self.help = self.describe()
        return super().get_help_record(ctx)


def settings_options(model: type[BaseModel], *names: str) -> Callable[[Decorated], Decorated]:
    """Decorate a command with `--config` and one option per setting of `model` (or only for `names`).

    The command receives them as keyword arguments; what was not given is None, or () where it may be repeated. Pass
    them on to `load_settings`. A field with `json_schema_extra={"flag": "--table"}` has that flag in place of its name.
    """

    def decorate(command: Decorated) -> Decorated:
        own = model.__annotations__  # what is particular to this model stands first in the help
        fields = sorted(model.model_fields.items(), key=lambda item: item[0] not in own)
        for name, field in reversed(fields):
            if not names or name in names:
                command = _option(model, name, field)(command)
        config = click.option(
            "--config",
            CONFIG_OPTION,
            type=click.Path(dir_okay=False),
            help="TOML file with settings: the same names as the flags, with underscores.",
        )
        return config(command)

    return decorate


def load_settings(
    model: type[Model],
    cli_values: Mapping[str, Any],
    config_file: str | Path | None,
    env_prefix: str,
    environ: Mapping[str, str] = os.environ,
) -> Model:
    """The settings from flags, environment and file, in this order of precedence.

    Args:
        cli_values: what `settings_options` gave the command; None and () mean "not given"; other keys are ignored.
        config_file: the TOML file; None takes the one that the environment names (`{env_prefix}CONFIG`), if any.
        env_prefix: such as `TIDEWIRE_HUB_`.

    Raises:
        SettingError: a file that cannot be read, an unknown key, a missing or bad value; it names the place.
    """
    _refuse_unknown(model, env_prefix, environ)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    path = config_file or environ.get(f"{env_prefix}CONFIG")
    if path:
        for key, value in _read_toml(Path(path), model).items():
            values[key], origins[key] = value, f"{path}: {key}"
    for key, field in model.model_fields.items():
        variable = f"{env_prefix}{key.upper()}"
        if variable in environ:
            text = environ[variable]
            values[key] = _split_list(text) if _is_list(field) else text
            origins[key] = variable
        given = cli_values.get(key)
        if given is not None and given != ():
            values[key], origins[key] = given, _flag(key, field)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _explained(model, error, origins, env_prefix) from None


def default_text(field: FieldInfo) -> str:
    """A setting's default as it is shown to people; empty where there is none to show."""
    default = field.get_default(call_default_factory=True, validated_data={})
    if field.is_required() or default is None or default == () or isinstance(default, SecretStr):
        return ""
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"{default:_}" if isinstance(default, int) else str(default)


def _option(model: type[BaseModel], name: str, field: FieldInfo) -> Callable[[Decorated], Decorated]:
    def describe() -> str:
        shown = default_text(field)
        return " ".join(docstrings(model).get(name, "").split()) + (f"  [default: {shown}]" if shown else "")

    option = partial(click.option, cls=SettingOption, describe=describe, default=None)
    flag = _flag(name, field)
    annotation = _without_none(field.annotation)
    if annotation is bool:
        return option(f"{flag}/--no-{flag[2:]}", name)
    if get_origin(annotation) is Literal:
        return option(flag, name, type=click.Choice([str(c) for c in get_args(annotation)]))
    return option(flag, name, multiple=_is_list(field), metavar=_metavar(name, annotation))


def _flag(name: str, field: FieldInfo) -> str:
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "flag" in extra:
        return str(extra["flag"])
    return "--" + name.replace("_", "-")


def _metavar(name: str, annotation: Any) -> str:
    for ending, metavar in _METAVARS:
        if name.endswith(ending):
            return metavar
    if annotation is Path:
        return "PATH"
    return "NUMBER" if annotation in (int, float) else name.upper()


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, UnionType):
        return next(arg for arg in get_args(annotation) if arg is not type(None))
    return annotation


def _is_list(field: FieldInfo) -> bool:
    return get_origin(_without_none(field.annotation)) in (tuple, list)


def _split_list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _read_toml(path: Path, model: type[BaseModel]) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415  # most have no such file

    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"{path} is not TOML: {error}") from None
    for key in values:
        if key not in model.model_fields:
            raise SettingError(f"{path}: unknown setting {key!r}", hint=_suggestion(key, model))
    return values


def _refuse_unknown(model: type[BaseModel], env_prefix: str, environ: Mapping[str, str]) -> None:
    """Refuse a variable that no setting has, save those that platforms set for a service of our name."""
    known = {f"{env_prefix}{key.upper()}": key for key in (*model.model_fields, CONFIG_OPTION)}
    for variable in sorted(environ):
        if not variable.startswith(env_prefix) or variable in known:
            continue
        if _SET_BY_PLATFORMS.fullmatch(f"{variable.removeprefix(env_prefix)}={environ[variable]}"):
            continue
        near = _like(variable.removeprefix(env_prefix).lower(), known.values())
        meant = " or ".join(f"{env_prefix}{key.upper()}" for key in near)
        hint = f"did you mean {meant}?" if meant else "unset it; run the command with --help for all settings"
        raise SettingError(f"unknown setting {variable} in the environment", hint=hint)


def _like(key: str, known: Iterable[str]) -> list[str]:
    import difflib  # noqa: PLC0415  # for mistakes alone

    return difflib.get_close_matches(key, list(known), n=3)


def _suggestion(key: str, model: type[BaseModel]) -> str:
    near = _like(key.replace("-", "_").lower(), model.model_fields)
    if near:
        return "did you mean " + " or ".join(near) + "?"
    return "run the command with --help for all settings"


def _explained(model: type[BaseModel], error: ValidationError, origins: Mapping[str, str], prefix: str) -> SettingError:
    first = error.errors(include_url=False)[0]
    key = str(first["loc"][0]) if first["loc"] else ""
    field = model.model_fields.get(key)
    if first["type"] == "missing" and field is not None:
        hint = f"give {_flag(key, field)}, or {key} in the file, or {prefix}{key.upper()} in the environment"
        return SettingError(f"the setting {key} is missing", hint=hint)
    what = first["msg"].removeprefix("Value error, ")
    if field is None:
        return SettingError(what)
    shown = "" if "SecretStr" in str(field.annotation) else f", not {str(first['input'])[:80]!r}"
    return SettingError(f"{origins.get(key, key)}: {what}{shown}")


# ── errors and output ─────────────────────────────────────────────────────────────────────────────────────────────


def exit_code(error: BaseException) -> ExitCode:
    """The exit code that tells a script whose fault an error is."""
    match error:
        case SettingError():
            return ExitCode.USAGE
        case LinkError():
            return ExitCode.UNREACHABLE
        case AlreadyRunning():
            return ExitCode.LOCKED
        case DatabaseError():
            return ExitCode.DATABASE
        case LedElsewhere():
            return ExitCode.LED_ELSEWHERE
        case _:
            return ExitCode.ERROR


def fail(error: TidewireError) -> NoReturn:
    """Say the error and what to do about it on stderr, and exit with its code."""
    click.echo(f"error: {error.message}", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)
    sys.exit(exit_code(error))


class CommandGroup(click.Group):
    """A group of commands whose Tidewire errors become a message and an exit code, never a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except TidewireError as error:
            fail(error)
        except BrokenPipeError:  # the reader (`| head`) has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(ExitCode.OK)


def json_option(command: Decorated) -> Decorated:
    """Decorate a command that prints data with `--json`; it receives `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")(command)


def print_records(records: Iterable[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool, empty: str) -> None:
    """Print records as JSON lines, or as a table of `columns` for people; `empty` is what people read when none are."""
    if as_json:
        for record in records:
            click.echo(json.dumps(record, ensure_ascii=False, separators=(",", ":")))
        return
    rows = [[_cell(record.get(column)) for column in columns] for record in records]
    if not rows:
        click.echo(empty)
        return
    titles = [column.replace("_", " ") for column in columns]
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    for row in [titles, *rows]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def time_text(milliseconds: int | None) -> str:
    """Milliseconds since 1970 as UTC time for people."""
    if milliseconds is None:
        return "-"
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return str(milliseconds)  # a device's clock may say anything


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, str | int | float):
        return str(value).replace("\n", " ")
    return json.dumps(value, ensure_ascii=False)


# ── logging ───────────────────────────────────────────────────────────────────────────────────────────────────────

_PLAIN_ATTRIBUTES: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _HumanFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        line = f"{at} {record.levelname.lower():7} {record.getMessage()}"
        for key, value in _extras(record).items():
            line += f" {key}={_cell(value)}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extras(record),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False, default=str)


def set_up_logging(settings: LogSettings) -> None:
    """Send all log records to stderr, as lines for people or as JSON; `extra={…}` fields are shown in both."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter() if settings.log_format == "json" else _HumanFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _PLAIN_ATTRIBUTES}
