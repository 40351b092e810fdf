"""The shipped broker configuration, access list and credentials script, against a real Mosquitto.

Mosquitto's own clients publish and subscribe here. As a refused publish may be confirmed and a refused subscription is
granted, each test looks at what arrives, and at a message that must arrive after what must not: silence alone proves
nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Self

import pytest

from support.waiting import wait_for
from tidewire_schemas import topics

SHIPPED = Path(__file__).parents[2] / "mosquitto"
CREDENTIALS = SHIPPED / "credentials"
MINE = "till-1"
OTHER = "till-2"
DEADLINE_S = 30.0

VERSIONS = ["mqttv5", "mqttv311"]

MINE_TO_READ = list(topics.agent_filters("main", MINE))
MINE_TO_WRITE = [topics.up("main", MINE), topics.ask("main", MINE), topics.device_state(MINE)]
NOT_MINE_TO_WRITE = [
    *MINE_TO_READ,
    topics.up("main", OTHER),
    topics.ask("main", OTHER),
    topics.up("other", MINE),
    topics.inbox(OTHER, "main"),
    topics.device_state(OTHER),
    topics.hub_state("hub-1"),
    "tidewire/v1/anything/else",
]
NOT_MINE_TO_READ = [
    topics.up("main", OTHER),
    topics.ask("main", OTHER),
    topics.up("main", MINE),
    topics.log("other"),
    topics.head("other"),
    topics.inbox(OTHER, "main"),
    topics.device_state(OTHER),
    topics.hub_state("hub-1"),
]


class Subscriber:
    """A mosquitto_sub whose messages are collected as `topic payload` lines."""

    def __init__(self, command: Sequence[str], output: Path) -> None:
        self._output = output
        self._file = output.open("wb")
        self._process = subprocess.Popen(command, stdout=self._file, stderr=subprocess.STDOUT)
        wait_for(lambda: b"received SUBACK" in output.read_bytes(), DEADLINE_S, what="the broker answers SUBSCRIBE")

    @property
    def received(self) -> list[str]:
        """Topic and payload of what has arrived, in order; the client's own notes left out."""
        return re.findall(r"^got (\S+ \S+)$", self._output.read_text(), re.MULTILINE)

    def wait_for(self, line: str) -> None:
        """Wait until this has arrived."""
        wait_for(lambda: line in self.received, DEADLINE_S, what=f"{line!r} arrives")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(DEADLINE_S)
        self._file.close()


class ShippedBroker:
    """Mosquitto on the shipped files: only the paths, the port and the user it runs as differ."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.secrets = directory / "secrets"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        for arguments in (["hub"], ["watcher"], ["device", MINE], ["device", OTHER]):
            self.credentials(*arguments)
        # Retained messages of a second stream and an unknown topic need a user that may write them.
        self._extra_acl = directory / "acl"
        self._extra_acl.write_text((SHIPPED / "acl").read_text() + "\nuser root\ntopic readwrite #\n")
        self._add_root()
        self.config = directory / "mosquitto.conf"
        self.config.write_text(self._config_text())
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([_binary(), "-c", str(self.config)], stdout=log, stderr=log)
        wait_for(lambda: self.process.poll() is not None or self._listens(), DEADLINE_S, what="mosquitto listens")
        assert self.process.poll() is None, self.log.read_text()

    def credentials(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the script on this broker's secrets."""
        environment = {**os.environ, "TIDEWIRE_SECRETS": str(self.secrets)}
        return subprocess.run(
            [CREDENTIALS, *arguments], env=environment, capture_output=True, text=True, check=check, timeout=DEADLINE_S
        )

    def password(self, user: str) -> str:
        """What the script wrote for a user."""
        folder = self.secrets if user in {"hub", "watcher", "root"} else self.secrets / "devices"
        return (folder / user / "password").read_text()

    def publish(
        self, user: str, topic: str, payload: str, version: str = "mqttv5", *, retain: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Publish with QoS 1 and wait for the broker's answer."""
        command = [*self._client("mosquitto_pub", user, version), "-d", "-q", "1", "-t", topic, "-m", payload]
        return subprocess.run(
            [*command, "-r"] if retain else command, capture_output=True, text=True, check=False, timeout=DEADLINE_S
        )

    def subscribe(self, user: str, *filters: str, version: str = "mqttv5") -> Subscriber:
        """Subscribe and return once the broker has answered."""
        client = self._client("mosquitto_sub", user, version)
        command = ["stdbuf", "-oL", *client, "-d", "-q", "1", "-F", "got %t %p"]  # else lines wait in its buffer
        command += [word for name in filters for word in ("-t", name)]
        output = self.directory / f"received-{len(list(self.directory.glob('received-*')))}"
        return Subscriber(command, output)

    def reload(self) -> None:
        """Tell it to read its password file again; it does so at its next turn."""
        self.process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(DEADLINE_S)

    def _client(self, program: str, user: str, version: str) -> list[str]:
        login = ["-u", user, "-P", self.password(user)]
        return [program, "-h", "127.0.0.1", "-p", str(self.port), "-V", version, *login]

    def _config_text(self) -> str:
        text = (SHIPPED / "mosquitto.conf").read_text()
        for shipped, here in {
            "password_file /secrets/broker/passwd": f"password_file {self.secrets}/broker/passwd",
            "acl_file /mosquitto/config/acl": f"acl_file {self._extra_acl}",
            "listener 1883": f"listener {self.port} 127.0.0.1",
        }.items():
            assert text.count(f"\n{shipped}\n") == 1, shipped
            text = text.replace(f"\n{shipped}\n", f"\n{here}\n")
        return f"user root\n{text}" if os.geteuid() == 0 else text

    def _add_root(self) -> None:
        folder = self.secrets / "root"
        folder.mkdir()
        (folder / "password").write_text("for-tests-only")
        command = ["mosquitto_passwd", "-b", str(self.secrets / "broker/passwd"), "root", "for-tests-only"]
        subprocess.run(command, check=True, timeout=DEADLINE_S)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def _binary() -> str:
    return shutil.which("mosquitto") or "/usr/sbin/mosquitto"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShippedBroker]:
    running = ShippedBroker(tmp_path_factory.mktemp("broker"))
    yield running
    running.stop()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("topic", NOT_MINE_TO_WRITE)
@pytest.mark.fault("a device that oversteps its rights")
def test_a_device_cannot_publish_outside_its_own_topics(broker: ShippedBroker, topic: str, version: str) -> None:
    """Guarantee 13."""
    with broker.subscribe("root", "tidewire/#") as everything:
        broker.publish("root", topic, "allowed")
        everything.wait_for(f"{topic} allowed")  # the watcher would see it
        answer = broker.publish(MINE, topic, "forged", version)
        broker.publish(MINE, MINE_TO_WRITE[0], "after", version)
        everything.wait_for(f"{MINE_TO_WRITE[0]} after")
        assert f"{topic} forged" not in everything.received
    assert version == "mqttv311" or "RC:135" in answer.stdout + answer.stderr  # 135 is "not authorized"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("topic", NOT_MINE_TO_WRITE)
def test_a_device_cannot_leave_a_retained_message_outside_its_own_topics(
    broker: ShippedBroker, topic: str, version: str
) -> None:
    """Guarantee 13."""
    broker.publish("root", topic, "genuine", retain=True)
    broker.publish(MINE, topic, "forged", version, retain=True)
    with broker.subscribe("root", topic) as everything:
        everything.wait_for(f"{topic} genuine")
    broker.publish("root", topic, "", retain=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("topic", MINE_TO_WRITE)
def test_a_device_publishes_its_own_topics_and_the_hub_reads_them(
    broker: ShippedBroker, topic: str, version: str
) -> None:
    with broker.subscribe("hub", *topics.hub_filters("main"), version=version) as hub:
        broker.publish(MINE, topic, "hello", version)
        hub.wait_for(f"{topic} hello")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("topic", MINE_TO_READ)
def test_the_hub_publishes_and_a_device_reads_what_is_for_it(broker: ShippedBroker, topic: str, version: str) -> None:
    with broker.subscribe(MINE, *MINE_TO_READ, version=version) as device:
        broker.publish("hub", topic, "page", version)
        device.wait_for(f"{topic} page")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("wildcard", [False, True], ids=["by name", "by wildcard"])
@pytest.mark.fault("a device that oversteps its rights")
def test_a_device_cannot_read_what_is_not_for_it(broker: ShippedBroker, version: str, wildcard: bool) -> None:
    """Guarantee 13."""
    filters = ["#", "$SYS/#"] if wildcard else [*NOT_MINE_TO_READ, *MINE_TO_READ]
    with (
        broker.subscribe("root", "tidewire/#") as everything,
        broker.subscribe(MINE, *filters, version=version) as device,
    ):
        for topic in [*NOT_MINE_TO_READ, *MINE_TO_READ]:
            broker.publish("root", topic, "secret")
        last = f"{MINE_TO_READ[-1]} secret"
        device.wait_for(last)
        everything.wait_for(last)
        assert set(everything.received) == {f"{topic} secret" for topic in [*NOT_MINE_TO_READ, *MINE_TO_READ]}
        assert set(device.received) == {f"{topic} secret" for topic in MINE_TO_READ}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_device_is_not_handed_retained_messages_that_are_not_for_it(broker: ShippedBroker, version: str) -> None:
    """Guarantee 13."""
    topics = [*NOT_MINE_TO_READ, *MINE_TO_READ]
    for topic in topics:
        broker.publish("root", topic, "kept", retain=True)
    try:
        with broker.subscribe(MINE, "#", version=version) as device:
            broker.publish("root", MINE_TO_READ[-1], "after")
            device.wait_for(f"{MINE_TO_READ[-1]} after")
            kept = {line.removesuffix(" kept") for line in device.received if line.endswith(" kept")}
            assert kept == set(MINE_TO_READ)
    finally:
        for topic in topics:
            broker.publish("root", topic, "", retain=True)


def test_a_watcher_reads_everything_and_writes_nothing(broker: ShippedBroker) -> None:
    with broker.subscribe("watcher", "tidewire/v1/#") as watcher:
        for topic in [*MINE_TO_WRITE, *MINE_TO_READ]:
            broker.publish("watcher", topic, "forged")
            broker.publish("root", topic, "genuine")
            watcher.wait_for(f"{topic} genuine")
        assert not [line for line in watcher.received if line.endswith(" forged")]


@pytest.mark.parametrize("version", VERSIONS)
def test_nobody_comes_in_without_the_right_password(broker: ShippedBroker, version: str) -> None:
    command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(broker.port), "-V", version, "-t", "x", "-m", "x"]
    for login in ([], ["-u", MINE], ["-u", MINE, "-P", "wrong"], ["-u", MINE, "-P", broker.password(OTHER)]):
        answer = subprocess.run([*command, *login], capture_output=True, text=True, check=False, timeout=DEADLINE_S)
        assert answer.returncode != 0
        assert "not authori" in answer.stderr.lower()


def test_a_message_above_the_limit_is_turned_away(broker: ShippedBroker) -> None:
    with broker.subscribe("watcher", "tidewire/v1/#") as watcher:
        broker.publish(MINE, MINE_TO_WRITE[0], "x" * 100_000)
        wait_for(lambda: len(watcher.received) == 1, DEADLINE_S, what="100,000 bytes pass")
        large = broker.directory / "large"
        large.write_bytes(b"y" * 300_000)
        login = ["-u", MINE, "-P", broker.password(MINE)]
        subprocess.run(
            ["mosquitto_pub", "-p", str(broker.port), *login, "-q", "1", "-t", MINE_TO_WRITE[0], "-f", str(large)],
            capture_output=True,
            check=False,
            timeout=DEADLINE_S,
        )
        broker.publish(MINE, MINE_TO_WRITE[0], "after")
        watcher.wait_for(f"{MINE_TO_WRITE[0]} after")
        assert len(watcher.received) == 2


def test_credentials_are_made_once_renewed_on_request_and_removed(broker: ShippedBroker) -> None:
    topic = topics.device_state("till-9")
    made = broker.credentials("--broker", "mqtts://example.org", "device", "till-9")
    first = broker.password("till-9")
    assert "--device till-9 --broker mqtts://example.org --username till-9" in made.stdout
    broker.credentials("device", "till-9")
    assert broker.password("till-9") == first
    broker.reload()
    wait_for(lambda: broker.publish("till-9", topic, "x").returncode == 0, DEADLINE_S, what="the new user comes in")
    broker.credentials("--renew", "device", "till-9")
    assert broker.password("till-9") != first
    broker.reload()
    wait_for(lambda: broker.publish("till-9", topic, "x").returncode == 0, DEADLINE_S, what="the new password works")
    assert "till-9" in broker.credentials("list").stdout.split()
    broker.credentials("remove", "till-9")
    assert "till-9" not in broker.credentials("list").stdout.split()
    assert not (broker.secrets / "devices/till-9").exists()
    assert MINE in broker.credentials("list").stdout.split()


def test_password_files_are_private(broker: ShippedBroker) -> None:
    for user in ("hub", "watcher", f"devices/{MINE}"):
        assert stat.S_IMODE((broker.secrets / user / "password").stat().st_mode) == 0o600
    assert stat.S_IMODE((broker.secrets / "broker/passwd").stat().st_mode) & 0o077 == 0
    assert broker.password(MINE) not in (broker.secrets / "broker/passwd").read_text()
    assert broker.password(MINE) != broker.password(OTHER)


@pytest.mark.parametrize("name", ["", "UP", "a/b", "a+", "#", "-x", "a b", "a\nb", "a:b", "x" * 64, "hub", "watcher"])
def test_names_that_cannot_be_a_device_are_refused(broker: ShippedBroker, name: str) -> None:
    before = broker.credentials("list").stdout
    answer = broker.credentials("device", name, check=False)
    assert answer.returncode == 2
    assert "name" in answer.stderr
    assert broker.credentials("list").stdout == before


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_the_programs_do_all_their_work_within_the_access_list(
    broker: ShippedBroker, tmp_path: Path, protocol: str
) -> None:
    """The hub and two agents as a person starts them, each with the credentials made for it."""

    def login(user: str, password: Path) -> list[str]:
        url = f"mqtt://127.0.0.1:{broker.port}"
        return ["--broker", url, "--username", user, "--password-file", str(password), "--protocol", protocol]

    databases = [tmp_path / f"{device}.db" for device in (MINE, OTHER)]
    for database in databases:
        with closing(sqlite3.connect(database)) as app:
            app.execute("CREATE TABLE readings (id TEXT PRIMARY KEY, celsius REAL)")
    with ExitStack() as programs:
        hub = ["tidewire_hub", "run", "--data", str(tmp_path / "hub")]
        hub_log = tmp_path / "hub.log"
        programs.enter_context(_program([*hub, *login("hub", broker.secrets / "hub/password")], hub_log))
        wait_for(lambda: "connected to mqtt://" in hub_log.read_text(), DEADLINE_S, what="the hub is connected")
        for device, database in zip((MINE, OTHER), databases, strict=True):
            agent = ["tidewire_agent", "run", "--db", str(database), "--device", device, "--all-tables"]
            password = broker.secrets / "devices" / device / "password"
            programs.enter_context(_program([*agent, *login(device, password)], tmp_path / f"{device}.log"))
        for writer, database in enumerate(databases):
            with closing(sqlite3.connect(database, timeout=5)) as app, app:
                app.execute("INSERT INTO readings VALUES (?, 21.5)", (f"r-{writer}",))
        for database in databases:
            wait_for(partial(_holds, database, {"r-0", "r-1"}), 30, what=f"{database.name} holds both rows")


@contextmanager
def _program(arguments: Sequence[str], log: Path) -> Iterator[None]:
    """`python -m …`, ended with SIGTERM; its last words are shown when the test fails."""
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", *arguments], stdout=output, stderr=output)
    try:
        yield
        assert process.poll() is None, "it ended by itself"
    finally:
        process.terminate()
        process.wait(DEADLINE_S)
        print(log.read_text())  # noqa: T201  # pytest shows it with a failure


def _holds(database: Path, ids: set[str]) -> bool:
    with closing(sqlite3.connect(database, timeout=5)) as app:
        return {name for (name,) in app.execute("SELECT id FROM readings")} == ids
