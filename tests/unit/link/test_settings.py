from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tidewire_link.settings import BrokerAddress, LinkSettings, parse_url
from tidewire_schemas.errors import SettingError


def settings(**values: Any) -> LinkSettings:
    return LinkSettings.of(**{"url": "mqtt://broker", "client_id": "till-7", **values})


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtt://broker", BrokerAddress("mqtt", "broker", 1883, "/", None, None)),
        ("MQTTS://Broker.Local", BrokerAddress("mqtts", "broker.local", 8883, "/", None, None)),
        ("ws://h:9001/mqtt", BrokerAddress("ws", "h", 9001, "/mqtt", None, None)),
        ("wss://h", BrokerAddress("wss", "h", 443, "/", None, None)),
        ("mqtt://[::1]:99/", BrokerAddress("mqtt", "::1", 99, "/", None, None)),
        ("mqtt://u:p%40%3A%2F@h", BrokerAddress("mqtt", "h", 1883, "/", "u", "p@:/")),
        ("mqtt://u@h", BrokerAddress("mqtt", "h", 1883, "/", "u", None)),
    ],
)
def test_broker_urls_are_understood(url: str, address: BrokerAddress) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "broker",
        "broker:1883",
        "http://broker",
        "mqtt://",
        "mqtt://:1883",
        "mqtt://h:0",
        "mqtt://h:99999",
        "mqtt://h:x",
        "mqtt://h/path",
        "mqtt://h?x=1",
        "ws://h/#f",
        "mqtt:/h",
        "mqtt://[::1",
    ],
)
def test_a_bad_broker_url_is_refused_with_what_to_do(url: str) -> None:
    with pytest.raises(SettingError) as caught:
        settings(url=url)
    assert "mqtt://" in str(caught.value)


def test_an_error_never_shows_the_password() -> None:
    with pytest.raises(SettingError) as caught:
        settings(url="http://user:hunter2@broker")
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(settings(password="hunter2"))
    assert "hunter2" not in str(settings(url="mqtt://u:hunter2@broker").address)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"keepalive_s": 0}, "keepalive_s"),
        ({"protocol": "4"}, "protocol"),
        ({"nonsense": 1}, "nonsense"),
        ({"client_id": ""}, "client_id"),
        ({"password": "a", "password_file": "b"}, "password_file"),
        ({"reconnect_delay_min_s": 9, "reconnect_delay_max_s": 1}, "reconnect_delay_max_s"),
        ({"url": "mqtts://h", "key_file": "k"}, "key_file"),
        ({"ca_file": "ca.pem"}, "mqtts://"),
    ],
)
def test_a_bad_setting_is_named(values: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingError, match=named):
        settings(**values)


def test_explicit_credentials_win_over_the_url_and_a_file_is_read_each_time(tmp_path: Path) -> None:
    url = "mqtt://u:p@h"
    secret = tmp_path / "secret"
    secret.write_text("first\nsecond line\n")
    assert settings().credentials() == (None, None)
    assert settings(url=url).credentials() == ("u", "p")
    assert settings(url=url, username="v", password="q").credentials() == ("v", "q")
    from_file = settings(url=url, password_file=secret)
    assert from_file.credentials() == ("u", "first")
    secret.write_text("changed")
    assert from_file.credentials() == ("u", "changed")
    secret.unlink()
    with pytest.raises(SettingError, match="secret"):
        from_file.credentials()
