"""The agent's settings: names, defaults, and what is refused."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
from pydantic import SecretStr

from tidewire_agent.settings import ENV_PREFIX, AgentSettings, host_device_name
from tidewire_link.command_line import load_settings
from tidewire_schemas.docstrings import docstrings
from tidewire_schemas.errors import SettingError

UNITS = ("_s", "_ms", "_max", "_min", "_bytes", "_batches", "_pages")


def test_every_setting_is_described() -> None:
    described = docstrings(AgentSettings)
    for name in AgentSettings.model_fields:
        assert len(described[name]) > 15, name


def test_numbers_carry_their_unit_or_say_that_they_are_limits() -> None:
    for name, field in AgentSettings.model_fields.items():
        if field.annotation in (int, float):
            assert name.endswith(UNITS), name


def test_the_smallest_settings_are_a_database() -> None:
    made = AgentSettings.of(db="shop.db")
    assert made.stream == "main"
    assert made.broker == "mqtt://127.0.0.1:1883"
    assert made.session_limits().ack_timeout_s == made.ack_timeout_s
    assert made.store_settings().busy_timeout_s == made.busy_timeout_s


def test_four_lines_of_toml_are_a_configuration(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('db = "shop.db"\ndevice = "till-7"\nbroker = "mqtt://broker.local"\ntables = ["orders"]\n')
    made = load_settings(AgentSettings, {}, file, ENV_PREFIX, environ={})
    assert (made.device, made.tables) == ("till-7", ("orders",))


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('db = "file.db"\nstream = "file"\ndevice = "file"\n')
    environ = {f"{ENV_PREFIX}STREAM": "environment", f"{ENV_PREFIX}DEVICE": "environment"}
    made = load_settings(AgentSettings, {"device": "flag"}, file, ENV_PREFIX, environ=environ)
    assert (str(made.db), made.stream, made.device) == ("file.db", "environment", "flag")


def test_an_unknown_key_is_refused_with_what_may_be_meant(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('db = "shop.db"\nack_timeout = 3\n')
    with pytest.raises(SettingError, match=r"unknown setting 'ack_timeout'.*ack_timeout_s"):
        load_settings(AgentSettings, {}, file, ENV_PREFIX, environ={})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"device": "Till 7"}, "device"),
        ({"stream": "a/b"}, "stream"),
        ({"broker": "broker.local"}, "broker"),
        ({"broker": "http://broker"}, "broker"),
        ({"ack_timeout_s": 0}, "ack_timeout_s"),
        ({"lock_share_max": 2}, "lock_share_max"),
        ({"protocol": "4"}, "protocol"),
        ({"tables": ["\0"]}, "tables"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_a_bad_value_is_refused_by_name(values: dict[str, object], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        AgentSettings.of(db="shop.db", **values)


def test_a_password_is_never_shown() -> None:
    made = AgentSettings.of(db="shop.db", username="u", password=SecretStr("hunter2"))
    assert "hunter2" not in repr(made)


@pytest.mark.parametrize(
    ("host", "device"),
    [("Till-7.shop.local", "till-7"), ("localhost", None), ("über", None), ("-x", None), ("a" * 64, None)],
)
def test_the_hosts_name_is_taken_if_it_can_be_a_device(
    monkeypatch: pytest.MonkeyPatch, host: str, device: str | None
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    assert host_device_name() == device


def test_the_client_id_and_will_reach_the_link() -> None:
    made = AgentSettings.of(db="shop.db", broker="mqtt://h:1", protocol="3.1.1", keepalive_s=7)
    link = made.link_settings(client_id="tidewire-x", will=None)
    assert (link.url, link.protocol, link.keepalive_s, link.client_id) == ("mqtt://h:1", "3.1.1", 7, "tidewire-x")


def test_names_are_plain() -> None:
    assert all(re.fullmatch(r"[a-z_0-9]+", name) for name in AgentSettings.model_fields)
