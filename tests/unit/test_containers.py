"""What holds for every container, read from docker-compose.yml and Dockerfile."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from tidewire_link.version import VERSION
from tidewire_schemas.codec import PAYLOAD_BYTES_MAX
from tidewire_schemas.messages import DeviceState
from tidewire_schemas.names import TOPIC_NAME_PATTERN

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
LASTING = ["broker", "hub", "agent-a", "agent-b"]
ONCE = ["credentials", "app-a", "app-b"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
MOSQUITTO_CONF = (ROOT / "mosquitto/mosquitto.conf").read_text()

MIB = 1024 * 1024


def _stages() -> dict[str, str]:
    """Stage name → its text."""
    parts = re.split(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, flags=re.MULTILINE)[1:]
    return {parts[index + 1]: parts[index + 2] for index in range(0, len(parts), 3)}


def _bytes(size: str) -> int:
    assert size.endswith("m"), size
    return int(size[:-1]) * MIB


def _options() -> dict[str, str]:
    lines = [line for line in MOSQUITTO_CONF.splitlines() if line and not line.startswith("#")]
    return dict(line.split(" ", 1) for line in lines)


def _mounts(service: str) -> list[list[str]]:
    return [volume.split(":") for volume in SERVICES[service].get("volumes", [])]


def test_the_services_are_the_ones_that_the_guide_describes() -> None:
    assert sorted(SERVICES) == sorted([*LASTING, *ONCE])
    guide = (ROOT / "docs/how-to/run-with-docker.md").read_text()
    for name in SERVICES:
        assert f"`{name}`" in guide, f"{name} is missing in the guide"


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    user, group = map(int, service["user"].split(":"))
    assert user >= 10_000
    assert group >= 10_000
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert "no-new-privileges:true" in service["security_opt"]
    assert any(entry.startswith("/tmp:") for entry in service["tmpfs"])


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_limits(name: str) -> None:
    service = SERVICES[name]
    assert _bytes(service["mem_limit"]) <= 1024 * MIB
    assert service["pids_limit"] > 0
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert all("size=" in entry for entry in service["tmpfs"])


@pytest.mark.parametrize("name", LASTING)
def test_a_lasting_container_is_watched_and_started_again(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert set(service["healthcheck"]) >= {"test", "interval", "timeout", "retries", "start_period"}


@pytest.mark.parametrize("name", ["agent-a", "agent-b"])
def test_an_agent_that_is_out_of_step_is_not_healthy(name: str) -> None:
    """`status` itself succeeds whatever it has to say."""
    (_, command) = SERVICES[name]["healthcheck"]["test"]
    states = re.search(r'"state":"\((.*)\)"', command)
    assert states is not None
    assert (
        set(states[1].split("|"))
        == {"live", "catching_up"}
        <= set(get_args(DeviceState.model_fields["state"].annotation))
    )


@pytest.mark.parametrize("name", ONCE)
def test_a_container_that_runs_once_has_no_network(name: str) -> None:
    assert SERVICES[name]["restart"] == "no"
    assert SERVICES[name]["network_mode"] == "none"


def test_each_waits_for_what_it_needs() -> None:
    def needs(name: str) -> dict[str, str]:
        return {other: how["condition"] for other, how in SERVICES[name].get("depends_on", {}).items()}

    assert needs("broker") == {"credentials": "service_completed_successfully"}
    assert needs("hub") == {"broker": "service_healthy"}
    for letter in "ab":
        assert needs(f"agent-{letter}") == {
            "broker": "service_healthy",
            "hub": "service_healthy",
            f"app-{letter}": "service_completed_successfully",
        }


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_open_on_this_machine_alone(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("127.0.0.1:"), port


@pytest.mark.parametrize("name", SERVICES)
def test_what_lasts_is_in_named_volumes(name: str) -> None:
    for source, target, *_ in _mounts(name):
        assert source in COMPOSE["volumes"], f"{source} is not a named volume"
        assert target.startswith(("/data", "/secrets"))


def test_a_password_is_mounted_read_only_and_only_where_it_belongs() -> None:
    for name in LASTING:
        secrets = {source: mode for source, _, *mode in _mounts(name) if source.startswith("secrets-")}
        expected = {"secrets-broker", "secrets-watcher"} if name == "broker" else {f"secrets-{name}"}
        assert set(secrets) == expected
        assert all(mode == ["ro"] for mode in secrets.values())
        assert not any("--password=" in str(argument) for argument in SERVICES[name].get("command", []))


def test_a_volume_of_passwords_has_its_directory_in_the_image() -> None:
    """An empty volume takes the owner of the directory it is mounted on; without one it would belong to root."""
    made = re.search(r"mkdir -p (.*?) \\", _stages()["broker"])
    assert made is not None
    directories = made[1].split()
    for _, target, *_ in _mounts("credentials"):
        assert any(directory == target or directory.startswith(f"{target}/") for directory in directories), target


def test_images_carry_the_projects_version_and_the_bases_a_release() -> None:
    for service in SERVICES.values():
        assert re.fullmatch(rf"tidewire/(broker|hub|agent):{re.escape(VERSION)}", service["image"])
        assert service["image"].removeprefix("tidewire/").startswith(f"{service['build']['target']}:")
    bases = dict(re.findall(r"^ARG (\w+)=(\S+)$", DOCKERFILE, re.MULTILINE))
    assert bases
    for image in bases.values():
        assert re.search(r":\d", image), f"{image} names no release"
    for origin in re.findall(r"^FROM (\S+) ", DOCKERFILE, re.MULTILINE):
        assert origin in {f"${{{name}}}" for name in bases} | set(_stages()), origin


@pytest.mark.parametrize("target", sorted({service["build"]["target"] for service in SERVICES.values()}))
def test_an_image_ends_as_an_ordinary_user(target: str) -> None:
    users = re.findall(r"^USER (\S+)$", _stages()[target], re.MULTILINE)
    assert users[-1] == "10001:10001"


def test_images_install_nothing_but_what_the_lock_files_pin() -> None:
    installs = re.findall(r"pip install [^\n&]*", DOCKERFILE)
    assert installs
    for command in installs:
        assert "--require-hashes -r requirements/" in command or "--no-deps /wheels/" in command, command
    assert "--no-deps --no-build-isolation" in DOCKERFILE


def test_the_build_context_leaves_secrets_out() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    assert "mosquitto/secrets" in lines[lines.index("!mosquitto") :]


@pytest.mark.parametrize("name", ["agent-a", "agent-b"])
def test_an_agents_user_is_its_device(name: str) -> None:
    command = SERVICES[name]["command"]
    assert re.fullmatch(TOPIC_NAME_PATTERN, name)
    assert f"--device={name}" in command
    assert f"--username={name}" in command


def test_the_brokers_limits_fit_its_container_and_the_messages() -> None:
    options = _options()
    assert options["allow_anonymous"] == "false"
    assert options["persistence"] == "false"
    assert int(options["memory_limit"]) < _bytes(SERVICES["broker"]["mem_limit"])
    assert int(options["max_packet_size"]) > 2 * PAYLOAD_BYTES_MAX
    assert int(options["max_queued_bytes"]) < int(options["memory_limit"])


def test_every_line_of_the_broker_configuration_follows_an_explanation() -> None:
    """A block of options has a comment right above it; the log's own options speak for themselves."""
    for block in MOSQUITTO_CONF.split("\n\n"):
        options = [line for line in block.splitlines() if line and not line.startswith("#")]
        if options and not all(line.startswith(("log_", "connection_messages")) for line in options):
            assert block.lstrip().startswith("#"), options
