"""Starting, waiting, stopping: what a person sees of `tidewire-hub run`."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.broker import Mosquitto
from support.hub_process import START_S, HandMadeDevice, HubProcess, tidewire_hub
from support.ports import free_port
from support.waiting import PATIENCE_S, quickest, wait_for, wait_for_async
from tidewire_link.command_line import ExitCode
from tidewire_schemas.messages import HubState

STOP_S = 2.0
"""The promise: it has ended within this."""


def reasons(hub: HubProcess) -> str:
    """Why it is not ready; empty when it is."""
    answer = hub.http("readyz")
    assert answer is not None
    status, body = answer
    assert status == (200 if body["ready"] else 503)
    return " ".join(body["reasons"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_with_code_0_within_two_seconds_and_a_last_word(
    broker: Mosquitto, tmp_path: Path, number: signal.Signals
) -> None:
    hub = HubProcess(tmp_path / "data", broker.url, log=tmp_path / "hub.log")

    def start_and_stop() -> float:
        with hub:
            started = time.monotonic()
            hub.process.send_signal(number)
            assert hub.process.wait(PATIENCE_S) == 0
            return time.monotonic() - started

    async with HandMadeDevice(broker.url, "watcher") as watcher:
        assert await asyncio.to_thread(quickest, start_and_stop, STOP_S) < STOP_S
        await wait_for_async(lambda: watcher.of(HubState)[-1].state == "stopped", what="the last word")
    assert "stopped" in hub.log
    assert "Traceback" not in hub.log


@pytest.mark.usefixtures("protocol")
def test_without_a_broker_it_says_so_waits_and_goes_on_once_there_is_one(tmp_path: Path) -> None:
    port = free_port()
    hub = HubProcess(tmp_path / "data", f"mqtt://127.0.0.1:{port}", log=tmp_path / "hub.log")
    with Mosquitto(tmp_path / "broker", port=port) as broker:
        broker.stop()
        hub.start(ready=False)
        try:
            wait_for(lambda: f"127.0.0.1:{port}" in reasons(hub), what="a reason that names the broker")
            assert hub.http("healthz") == (200, {"status": "ok"})
            broker.start()
            wait_for(hub.ready, START_S, what="ready")
            assert hub.terminate() == 0
        finally:
            hub.__exit__(None, None, None)


@pytest.mark.usefixtures("protocol")
def test_without_a_broker_it_still_stops_within_two_seconds(tmp_path: Path) -> None:
    hub = HubProcess(tmp_path / "data", f"mqtt://127.0.0.1:{free_port()}", log=tmp_path / "hub.log")

    def start_and_stop() -> float:
        hub.start(ready=False)
        started = time.monotonic()
        assert hub.terminate() == 0
        return time.monotonic() - started

    assert quickest(start_and_stop, STOP_S) < STOP_S


def test_with_a_frozen_broker_it_still_stops_within_two_seconds(broker: Mosquitto, tmp_path: Path) -> None:
    def start_and_stop() -> float:
        with HubProcess(tmp_path / "data", broker.url, log=tmp_path / "hub.log") as hub:
            broker.freeze()
            try:
                started = time.monotonic()
                assert hub.terminate() == 0
                return time.monotonic() - started
            finally:
                broker.thaw()

    assert quickest(start_and_stop, STOP_S) < STOP_S


@pytest.mark.usefixtures("protocol")
def test_a_wrong_password_is_said_and_tried_again_until_it_is_right(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker", passwords={"hub": "right"}) as broker:
        password = tmp_path / "password"
        password.write_text("wrong\n")
        options = ["--username", "hub", "--password-file", str(password)]
        hub = HubProcess(tmp_path / "data", broker.url, *options, log=tmp_path / "hub.log").start(ready=False)
        try:
            wait_for(lambda: "password" in reasons(hub), what="a reason that names the password")
            assert "check username and password" in hub.log
            password.write_text("right\n")
            wait_for(hub.ready, START_S, what="ready")
        finally:
            hub.__exit__(None, None, None)


def test_a_denied_publish_is_said(tmp_path: Path) -> None:
    acl = "user hub\ntopic read tidewire/v1/#\ntopic write tidewire/v1/hub/#\n"
    with Mosquitto(tmp_path / "broker", passwords={"hub": "x"}, acl=acl) as broker:
        url = broker.url.replace("mqtt://", "mqtt://hub:x@")
        hub = HubProcess(tmp_path / "data", url, log=tmp_path / "hub.log").start(ready=False)
        try:
            wait_for(lambda: "tidewire/v1/stream/main/head" in reasons(hub), what="a reason that names the topic")
            assert "hub:x" not in hub.log
        finally:
            hub.__exit__(None, None, None)


def test_a_second_hub_on_the_same_data_is_refused(broker: Mosquitto, tmp_path: Path) -> None:
    with HubProcess(tmp_path / "data", broker.url, log=tmp_path / "hub.log") as hub:
        second = tidewire_hub("run", "--data", hub.data, "--broker", broker.url, "--stream", "other")
        assert second.returncode == ExitCode.LOCKED
        assert f"process {hub.process.pid} already runs a hub on {hub.data}" in second.stderr
        assert hub.ready()
        hub.kill()  # the lock goes with the process
        hub.start()


def test_a_data_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer = tidewire_hub("run", "--data", tmp_path / "file" / "data")
    assert answer.returncode == ExitCode.DATABASE
    assert "Not a directory" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_damaged_log_is_said_and_not_touched(tmp_path: Path) -> None:
    log = tmp_path / "data" / "main" / "log.db"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"this is no database " * 1000)
    answer = tidewire_hub("run", "--data", tmp_path / "data")
    assert answer.returncode == ExitCode.DATABASE
    assert str(log) in answer.stderr
    assert "Traceback" not in answer.stderr
    assert log.read_bytes() == b"this is no database " * 1000


def test_a_port_that_is_taken_is_said_before_anything_else_is_done(broker: Mosquitto, tmp_path: Path) -> None:
    answer = tidewire_hub("run", "--data", tmp_path / "data", "--http", f"127.0.0.1:{broker.port}")
    assert answer.returncode == ExitCode.USAGE
    assert f"cannot listen on 127.0.0.1:{broker.port}: another program uses this port" in answer.stderr
    assert "hint: give --http another port" in answer.stderr
    assert not (tmp_path / "data" / "main" / "log.db").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--broker", "http://x"], "scheme"),
        (["--stream", "Ma/in"], "stream name"),
        (["--http", "8080"], "HOST:PORT"),
        (["--data", ""], "--data: it is empty"),
        (["--state-cache-bytes", "9" * 30], "--state-cache-bytes"),
        (["--payload-bytes-max", "many"], "--payload-bytes-max"),
        (["--payload-bytes-max", "10"], "greater than or equal to 2048"),
        (["--batch-bytes-max", "4000"], "batch_bytes_max is below payload_bytes_max"),
        (["--config", "/nowhere.toml"], "/nowhere.toml"),
    ],
)
def test_a_setting_that_cannot_be_is_named(tmp_path: Path, options: list[str], said: str) -> None:
    answer = tidewire_hub("run", "--data", tmp_path / "data", *options)
    assert answer.returncode == ExitCode.USAGE
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "data").exists()


def test_an_unknown_key_in_the_configuration_is_named(tmp_path: Path) -> None:
    file = tmp_path / "hub.toml"
    file.write_text('data = "x"\nhead_periods_s = 3\n')
    answer = tidewire_hub("run", "--config", file)
    assert answer.returncode == ExitCode.USAGE
    assert "unknown setting 'head_periods_s'" in answer.stderr
    assert "did you mean head_period_s" in answer.stderr


def test_four_lines_of_configuration_are_enough(broker: Mosquitto, tmp_path: Path) -> None:
    port = free_port()
    file = tmp_path / "hub.toml"
    file.write_text(
        f'data = "{tmp_path / "data"}"\nbroker = "{broker.url}"\nhttp = "127.0.0.1:{port}"\nlog_format = "json"\n'
    )
    log = (tmp_path / "hub.log").open("wb")
    with log, subprocess.Popen([sys.executable, "-m", "tidewire_hub", "run", "--config", str(file)], stderr=log) as hub:
        probe = HubProcess(tmp_path / "data", broker.url, log=tmp_path / "hub.log")
        probe.http_port = port
        try:
            wait_for(probe.ready, START_S, what="ready")
        finally:
            hub.terminate()
        assert hub.wait(PATIENCE_S) == 0
    assert all(line.startswith("{") for line in (tmp_path / "hub.log").read_text().splitlines())


def test_http_without_its_packages_says_what_to_install(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked" / "fastapi"
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text("raise ModuleNotFoundError('no fastapi', name='fastapi')")
    environ = {"PYTHONPATH": os.pathsep.join([str(blocked.parent), *filter(None, [os.environ.get("PYTHONPATH")])])}
    options = ["--data", str(tmp_path / "data"), "--http", f"127.0.0.1:{free_port()}"]
    answer = tidewire_hub("run", *options, environ=environ)
    assert answer.returncode == ExitCode.USAGE
    assert "pip install 'tidewire[hub]'" in answer.stderr
    assert tidewire_hub("--help", environ=environ).returncode == 0
