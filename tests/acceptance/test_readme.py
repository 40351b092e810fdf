"""What README and tutorial tell people to type works as it is written."""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import psutil
import pytest

from support.broker import Mosquitto
from support.waiting import wait_for

ROOT: Final = Path(__file__).resolve().parents[2]
BIN: Final = Path(sys.executable).parent
PORT: Final = "18830"
DEADLINE_S: Final = 30.0


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str


def blocks(page: str, heading: str | None = None) -> list[Block]:
    """The fenced blocks of a page in Markdown, or of one of its sections."""
    text = (ROOT / page).read_text(encoding="utf-8")
    if heading is not None:
        text = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


def environment() -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TIDEWIRE_")}
    return {**clean, "PATH": f"{BIN}:{os.environ['PATH']}"}


def end(process: subprocess.Popen[str]) -> None:
    """End a process and all that it started."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.kill()
    psutil.wait_procs(family, timeout=10)
    process.wait(10)


# ── the walk ──────────────────────────────────────────────────────────────────────────────────────────────────────


class FirstTerminal:
    """A bash with job control: its jobs run in the background, its screen shows what they say."""

    def __init__(self, directory: Path) -> None:
        self._screen = directory / "screen.txt"
        self._typed = self._live = self._stopped = 0
        with self._screen.open("w") as output:
            self.process = subprocess.Popen(
                ["bash"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=environment(),
                text=True,
            )
        self._type("set -m")

    def run(self, commands: str) -> None:
        """Type commands; return when they are done, and agents have said that they are live, or that they stopped."""
        self._typed += 1
        self._live += commands.count("tidewire-agent run")
        self._stopped += commands.count("kill %")
        self._type(f"{commands}\necho typed-{self._typed}.")
        wait_for(self._is_done, DEADLINE_S, what=f"the first terminal is done with {commands}")
        if "jobs -p" in commands:
            wait_for(lambda: not psutil.Process(self.process.pid).children(), DEADLINE_S, what="all jobs have ended")

    def _type(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def _is_done(self) -> bool:
        said = self._screen.read_text()
        return (
            f"typed-{self._typed}." in said
            and len(re.findall(r" live: ", said)) >= self._live
            and len(re.findall(r" stopped$", said, re.MULTILINE)) >= self._stopped
        )


class SecondTerminal:
    """Commands with a prompt, and what they print; `…` in a page stands for anything on that line."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def run(self, text: str) -> None:
        """Run each command; what it prints must be, or within seconds become, what the page says."""
        assert text.startswith("$ ")
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            if command.startswith("cd "):
                self._directory /= command.removeprefix("cd ")
            elif expected:
                wait_for(partial(self._prints, command, expected), DEADLINE_S, what=part, every_s=0.1)
            else:
                self._output(command)

    def _prints(self, command: str, expected: str) -> bool:
        pattern = ".*".join(map(re.escape, expected.split("…")))
        return re.fullmatch(pattern, self._output(command)) is not None

    def _output(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self._directory,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout


SET_UP: Final = ("sudo ", "bin/activate", "mosquitto_sub")
"""Blocks that the tests' own environment stands for, and the one that watches for ever."""


@pytest.mark.parametrize(
    ("page", "heading"), [("README.md", "By hand, in five minutes"), ("docs/tutorial/first-sync.md", None)]
)
def test_the_walk_by_hand_works_as_it_is_written(page: str, heading: str | None, tmp_path: Path) -> None:
    port = str(Mosquitto(tmp_path / "unused").port)
    first, second = FirstTerminal(tmp_path), SecondTerminal(tmp_path)
    try:
        for block in blocks(page, heading):
            text = block.text.replace(PORT, port)
            if block.language == "console":
                second.run(text)
            elif block.language == "sh" and not any(word in text for word in SET_UP):
                first.run(text)
    finally:
        end(first.process)


# ── the two snippets at the top ───────────────────────────────────────────────────────────────────────────────────


@contextmanager
def hub_and_till_8(directory: Path, broker: str) -> Iterator[Path]:
    """A hub, and the agent of another device with the same table; its file."""
    path = directory / "till-8.db"
    make_table(path)
    hub = ["tidewire-hub", "run", "--data", "hub", "--broker", broker]
    agent = ["tidewire-agent", "run", "--db", path.name, "--device", "till-8", "--broker", broker]
    processes = [
        subprocess.Popen(command, cwd=directory, env=environment(), text=True)
        for command in (hub, [*agent, "--table", "orders"])
    ]
    try:
        yield path
    finally:
        for process in processes:
            end(process)


def make_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE orders (id TEXT PRIMARY KEY, item TEXT, cents INTEGER)")


def has_the_order(path: Path) -> bool:
    with closing(sqlite3.connect(path, timeout=5)) as connection:
        return connection.execute("SELECT * FROM orders").fetchall() == [("o-1", "espresso", 220)]


def test_a_row_that_plain_sql_inserted_appears_on_another_device(tmp_path: Path, broker: Mosquitto) -> None:
    install, run, insert = blocks("README.md")[0].text.splitlines()
    assert install == "pip install tidewire"
    make_table(tmp_path / "shop.db")
    with hub_and_till_8(tmp_path, broker.url) as other:
        words = shlex.split(run.replace("mqtt://broker.local", broker.url))
        agent = subprocess.Popen(words, cwd=tmp_path, env=environment(), text=True)
        try:
            subprocess.run(["bash", "-c", insert], cwd=tmp_path, env=environment(), check=True)
            wait_for(lambda: has_the_order(other), DEADLINE_S, what="the row is on the other device")
        finally:
            end(agent)


def test_the_python_of_the_readme_runs(tmp_path: Path, broker: Mosquitto) -> None:
    snippet = blocks("README.md")[1]
    assert snippet.language == "python"
    script = snippet.text.replace("mqtt://broker.local", broker.url)
    with hub_and_till_8(tmp_path, broker.url):
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, "None\n"), done.stderr
