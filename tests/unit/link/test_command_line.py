"""Settings from flags, environment and TOML; exit codes; output."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from pydantic import Field, SecretStr

from tidewire_link.command_line import (
    CommandGroup,
    ExitCode,
    LogSettings,
    Settings,
    exit_code,
    load_settings,
    print_records,
    set_up_logging,
    settings_options,
    time_text,
)
from tidewire_schemas.errors import AlreadyRunning, DatabaseError, SettingError, TidewireError


class Kettle(Settings):
    """A model with one of each kind of setting."""

    path: Path
    """Where it is."""
    ack_timeout_s: float = Field(default=5.0, gt=0)
    """How long it waits."""
    tables: tuple[str, ...] = Field(default=(), json_schema_extra={"flag": "--table"})
    """What it holds."""
    quick: bool = False
    """Whether it hurries."""
    password: SecretStr | None = None
    """What it hides."""


@click.group(cls=CommandGroup)
def program() -> None:
    pass


@program.command()
@settings_options(Kettle)
def boil(config: str | None, **values: Any) -> None:
    click.echo(load_settings(Kettle, values, config, "KETTLE_").model_dump_json())


def loaded(values: dict[str, Any], file: Path | None = None, environ: dict[str, str] | None = None) -> Kettle:
    return load_settings(Kettle, values, file, "KETTLE_", environ or {})


def test_a_flag_wins_over_the_environment_and_the_environment_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "kettle.toml"
    file.write_text('path = "/file"\nack_timeout_s = 1\ntables = ["a"]\nquick = true\n')
    got = loaded({"path": "/flag", "tables": ()}, file, {"KETTLE_ACK_TIMEOUT_S": "2.5", "KETTLE_PATH": "/environment"})
    assert got == Kettle(path=Path("/flag"), ack_timeout_s=2.5, tables=("a",), quick=True)


def test_the_environment_may_name_the_file_and_lists_with_commas(tmp_path: Path) -> None:
    file = tmp_path / "kettle.toml"
    file.write_text('path = "/file"\n')
    got = loaded({}, None, {"KETTLE_CONFIG": str(file), "KETTLE_TABLES": "orders, items"})
    assert got.path == Path("/file")
    assert got.tables == ("orders", "items")


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("KETTLE_ACK_TIMEOUTS_S", "did you mean KETTLE_ACK_TIMEOUT_S?"),
        ("KETTLE_ack_timeout_s", "did you mean KETTLE_ACK_TIMEOUT_S?"),
        ("KETTLE_BOGUS", "unset it; run the command with --help for all settings"),
        ("KETTLE_PORT", "unset it; run the command with --help for all settings"),
    ],
)
def test_a_variable_that_no_setting_has_is_refused(variable: str, hint: str) -> None:
    with pytest.raises(SettingError, match=f"unknown setting {variable} in the environment") as caught:
        loaded({"path": "/x"}, None, {variable: "1"})
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    "variable",
    [
        "KETTLE_SERVICE_HOST=10.0.0.1",
        "KETTLE_SERVICE_PORT_HTTP=8080",
        "KETTLE_METRICS_SERVICE_PORT=9100",
        "KETTLE_PORT=tcp://10.0.0.1:8080",
        "KETTLE_PORT_8080_TCP=tcp://10.0.0.1:8080",
        "KETTLE_PORT_8080_TCP_ADDR=10.0.0.1",
        "KETTLE_NAME=/app/kettle",
        "KETTLE_ENV_HOME=/root",
        "KETTLES_BOGUS=1",
    ],
)
def test_a_variable_that_a_platform_sets_for_a_service_of_the_name_is_let_be(variable: str) -> None:
    name, value = variable.split("=")
    loaded({"path": "/x"}, None, {name: value})


@pytest.mark.parametrize("key", ["ack_timeout", "ack-timeout-s", "ACK_TIMEOUT_S"])
def test_an_unknown_key_in_the_file_is_named_with_what_was_probably_meant(tmp_path: Path, key: str) -> None:
    file = tmp_path / "kettle.toml"
    file.write_text(f'path = "/file"\n"{key}" = 1\n')
    with pytest.raises(SettingError, match=key) as caught:
        loaded({}, file)
    assert caught.value.hint == "did you mean ack_timeout_s?"


def test_a_bad_value_is_named_with_the_place_it_came_from(tmp_path: Path) -> None:
    file = tmp_path / "kettle.toml"
    file.write_text('path = "/file"\nack_timeout_s = -1\n')
    with pytest.raises(SettingError, match=r"kettle\.toml: ack_timeout_s: .*greater than 0"):
        loaded({}, file)
    with pytest.raises(SettingError, match=r"--ack-timeout-s: .*'soon'"):
        loaded({"ack_timeout_s": "soon"}, file)
    with pytest.raises(SettingError, match="KETTLE_QUICK"):
        loaded({"path": "/x"}, None, {"KETTLE_QUICK": "perhaps"})


def test_a_missing_setting_says_the_three_ways_to_give_it() -> None:
    with pytest.raises(SettingError, match="path is missing") as caught:
        loaded({})
    assert caught.value.hint == "give --path, or path in the file, or KETTLE_PATH in the environment"


def test_a_file_that_is_missing_or_not_toml_is_a_setting_error(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="No such file"):
        loaded({}, tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("path = = 3")
    with pytest.raises(SettingError, match="not TOML"):
        loaded({}, tmp_path / "bad.toml")


def test_a_command_has_a_flag_for_each_setting_with_its_help_and_default() -> None:
    text = CliRunner().invoke(program, ["boil", "--help"]).output
    for expected in (
        "--path PATH",
        "--ack-timeout-s SECONDS",
        "How long it waits.",
        "[default: 5.0]",
        "--table TABLES",
    ):
        assert expected in text
    result = CliRunner().invoke(program, ["boil", "--path", "/x", "--table", "a", "--table", "b", "--quick"])
    assert json.loads(result.output) == {
        "path": "/x",
        "ack_timeout_s": 5.0,
        "tables": ["a", "b"],
        "quick": True,
        "password": None,
    }


def test_an_error_of_ours_becomes_a_message_and_an_exit_code() -> None:
    result = CliRunner().invoke(program, ["boil", "--config", "/nowhere/kettle.toml"])
    assert result.exit_code == ExitCode.USAGE
    assert result.stderr == "error: cannot read /nowhere/kettle.toml: No such file or directory\n"


def test_exit_codes_tell_whose_fault_it_is() -> None:
    assert exit_code(AlreadyRunning(what="the hub on", path="/x", pid=7)) == ExitCode.LOCKED
    assert exit_code(DatabaseError("no")) == ExitCode.DATABASE
    assert exit_code(TidewireError("no")) == ExitCode.ERROR


def test_records_print_as_a_table_or_as_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    records: list[dict[str, Any]] = [{"device": "till-7", "last_seen": None}, {"device": "b", "last_seen": [1]}]
    print_records(records, ["device", "last_seen"], as_json=False, empty="none")
    assert capsys.readouterr().out == "device  last seen\ntill-7  -\nb       [1]\n"
    print_records(records, ["device"], as_json=True, empty="none")
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == records
    print_records([], ["device"], as_json=False, empty="no device yet")
    assert capsys.readouterr().out == "no device yet\n"


def test_times_of_any_clock_can_be_shown() -> None:
    assert time_text(0) == "1970-01-01 00:00:00"
    assert time_text(None) == "-"
    assert time_text(10**18) == str(10**18)


@pytest.mark.parametrize("log_format", ["human", "json"])
def test_log_lines_carry_their_fields(capsys: pytest.CaptureFixture[str], log_format: Any) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        set_up_logging(LogSettings(log_format=log_format))
        logging.getLogger("kettle").info("it boils", extra={"degrees": 100})
    finally:
        root.handlers[:], root.level = before
    line = capsys.readouterr().err
    if log_format == "json":
        record = json.loads(line)
        assert (record["message"], record["degrees"], record["level"]) == ("it boils", 100, "info")
    else:
        assert line.endswith("info    it boils degrees=100\n")
