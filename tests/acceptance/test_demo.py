"""`tidewire-hub demo`, as a person starts it: its story is true, and nothing of it is left."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil
import pytest

from support.waiting import wait_for

DEMO: Final = (sys.executable, "-m", "tidewire_hub", "demo", "--fast")
LIMIT_S: Final = 180.0


class Demo:
    """A demo that runs in a directory of its own; what it says is in `text`."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self._out = directory.with_name("said.txt")
        with self._out.open("wb") as output:
            self.process = subprocess.Popen(
                [*DEMO, *options], stdout=output, stderr=subprocess.STDOUT, env=environment(directory)
            )

    @property
    def text(self) -> str:
        return self._out.read_text(encoding="utf-8")

    def says(self, words: str) -> None:
        """Wait for words."""
        wait_for(lambda: words in self.text or self.process.poll() is not None, LIMIT_S, what=f"it says {words!r}")
        assert words in self.text

    def ends(self) -> int:
        """Its exit code."""
        return self.process.wait(LIMIT_S)

    def family(self) -> list[psutil.Process]:
        """The processes that it started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def member(self, *words: str) -> psutil.Process:
        """The process with these words in its command line."""
        (found,) = [one for one in self.family() if set(words) <= set(one.cmdline())]
        return found


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Where the demo keeps its files. At the end no process that knows this place may be left."""
    path = tmp_path / "place"
    path.mkdir()
    yield path
    left = processes_in(path)
    for process in left:
        process.kill()
    assert left == []


def processes_in(path: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if any(str(path) in word for word in process.cmdline()):
                found.append(process)
    return found


def environment(directory: Path) -> dict[str, str]:
    dull = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR")}
    return {**dull, "TMPDIR": str(directory), "TERM": "xterm"}


def assert_all_equal(text: str) -> None:
    """The table of digests shows four equal lines that are not empty."""
    lines = re.findall(r"^ +(till-[123]\.db|hub) +(\d+ +[0-9a-f]{16} +4 +[0-9a-f]{16}) *$", text, re.MULTILINE)
    assert [name for name, _ in lines] == ["till-1.db", "till-2.db", "till-3.db", "hub"], text
    assert len({re.sub(" +", " ", cells) for _, cells in lines}) == 1, text
    assert not lines[0][1].startswith("0 ")


@pytest.mark.parametrize("broker", ["mosquitto", "embedded"])
def test_three_files_are_equal_at_the_end_and_the_conflict_is_shown(directory: Path, broker: str) -> None:
    """Guarantee 7."""
    demo = Demo(directory, "--broker", broker)
    assert demo.ends() == 0, demo.text
    assert_all_equal(demo.text)
    assert re.search(r"till-3 \d+ at #\d+ offline, [1-9]\d* to send", demo.text), "it kept on writing while it was away"
    assert re.search(r"prices espresso +till-3 +till-1 +cents 250 +#\d+", demo.text)
    assert "\x1b" not in demo.text
    assert list(directory.iterdir()) == []


def test_a_terminal_of_80_by_24_shows_live_tables(directory: Path) -> None:
    near, far = pty.openpty()
    fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    demo = subprocess.Popen(DEMO, stdin=far, stdout=far, stderr=far, env=environment(directory))
    os.close(far)
    said = b""
    with suppress(OSError):  # how Linux says that nobody holds the other end any more
        while data := os.read(near, 65536):
            said += data
    os.close(near)
    assert demo.wait(LIMIT_S) == 0, said.decode()
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode()))
    assert_all_equal("\n".join(lines))
    assert max(len(line) for line in lines if "--data" not in line) <= 80
    assert b"\x1b[1A" in said, "the table is drawn over itself"


def test_what_it_prints_to_play_with_works_until_ctrl_c(directory: Path) -> None:
    demo = Demo(directory, "--keep")
    demo.says("# start it again")
    commands = dict(re.findall(r"^# (.+)\n(.+)$", demo.text, re.MULTILINE))
    (place,) = re.findall(r"^cd (.+)$", demo.text, re.MULTILINE)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def play(name: str, *more: str) -> str:
        done = subprocess.run(
            ["bash", "-c", shlex.join([*shlex.split(commands[name]), *more])],
            cwd=place,
            env={**environment(directory), "PATH": path},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, f"{commands[name]}: {done.stderr}"
        return done.stdout

    play("write one file")
    wait_for(lambda: play("read another") == "x|me|tea|99\n", 20, what="the row is in the other file")
    assert play("all that travels", "-C", "1").startswith("tidewire/v1/")
    assert play("an agent").startswith("live since")
    wait_for(lambda: "till-2" in play("all devices"), what="the hub has saved who came")
    assert "prices" in play("what lost")
    play("stop an agent")
    wait_for(lambda: play("an agent").startswith("stopped"), 20, what="the agent has stopped")
    again = subprocess.Popen(
        shlex.split(commands["start it again"]), cwd=place, env={**environment(directory), "PATH": path}
    )
    try:
        wait_for(lambda: play("an agent").startswith("live"), 20, what="it is live again, without its tables given")
    finally:
        again.terminate()
        again.wait(10)
    demo.process.send_signal(signal.SIGINT)
    assert demo.ends() == 0, demo.text
    assert list(directory.iterdir()) == []


def test_a_process_that_dies_ends_the_demo_with_a_clear_error(directory: Path) -> None:
    demo = Demo(directory)
    demo.says("\n2  till-3")
    demo.member("tidewire_hub", "run").kill()
    assert demo.ends() == 1
    assert "error: hub has ended (exit code -9)" in demo.text
    assert "the end of hub.log" in demo.text
    assert "leading stream main" in demo.text
    (kept,) = directory.iterdir()
    assert f"kept in {kept}" in demo.text


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_however_it_is_ended_no_process_is_left(directory: Path, number: signal.Signals, code: int) -> None:
    demo = Demo(directory)
    demo.says("\n1  Three tills")
    family = demo.family()
    assert len(family) == 5
    demo.process.send_signal(number)
    assert demo.ends() == code, demo.text
    _gone, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
