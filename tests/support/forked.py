"""Tidewire's programs as real processes that start in a moment: forked from one that has imported all they need.

with Forked() as programs:
    hub = programs.start(["tidewire-hub", "run", …], log)     # as subprocess.Popen, with what of it tests need
    hub.kill()
    programs.run(["tidewire-agent", "backup", …])             # as subprocess.run
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Self

from support.crash_point import CrashPoint
from support.host import HERE, Host
from support.waiting import PATIENCE_S, wait_for

_IMPORTS: Final = (
    "tidewire_agent.cli.run",
    "tidewire_agent.cli.tables",
    "tidewire_agent.cli.inspect",
    "tidewire_agent.cli.backup",
    "tidewire_agent.cli.dead",
    "tidewire_agent.cli.verify",
    "tidewire_link.mqtt",
    "tidewire_hub.serve",
    "tidewire_hub.http.app",
    "tidewire_hub.http.server",
)
_LOOK_S: Final = 0.002


class ForkedProcess:
    """One such process; its methods are those of `subprocess.Popen`."""

    def __init__(self, pid: int, ask: Callable[[dict[str, Any]], Any]) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ask = ask

    def poll(self) -> int | None:
        """Its exit code, the negative number of the signal that ended it, or None while it runs."""
        if self.returncode is None:
            self.returncode = self._ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended."""
        end = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            time.sleep(_LOOK_S)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forked:
    """The process from which others are forked; all of them are killed when it is left."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-P", "-c", "from support.forked import serve; serve()"]
        environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        self._lock = threading.Lock()
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(PATIENCE_S)
        assert self._server.stdout is not None
        self._server.stdout.close()

    def start(
        self, command: Sequence[str], log: Path, host: Host = HERE, *, crash: CrashPoint | None = None
    ) -> ForkedProcess:
        """Start a program; what it says goes to the end of the log. With a crash point it dies there."""
        assert host is HERE, "a process that is forked is where the other one is"
        pid = self._ask({"start": list(command), "log": str(log), "crash": crash})
        return ForkedProcess(pid, self._ask)

    def run(self, command: Sequence[str | Path], crash: CrashPoint | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program to its end; `stdout` holds all that it said."""
        with tempfile.NamedTemporaryFile() as file:
            process = self.start([str(word) for word in command], Path(file.name), crash=crash)
            wait_for(lambda: process.poll() is not None, 2 * PATIENCE_S, what=f"{command} ends", every_s=_LOOK_S)
            assert process.returncode is not None
            return subprocess.CompletedProcess(command, process.returncode, file.read().decode())

    def _ask(self, request: dict[str, Any]) -> Any:
        with self._lock:
            assert self._server.stdin is not None
            assert self._server.stdout is not None
            self._server.stdin.write(json.dumps(request).encode() + b"\n")
            self._server.stdin.flush()
            return json.loads(self._server.stdout.readline())


# ── in the other process ──────────────────────────────────────────────────────────────────────────────────────────


def serve() -> None:
    """Fork programs as they are asked for, until nobody asks any more."""
    for name in _IMPORTS:
        __import__(name)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # they are for the tests, which then end this
    codes: dict[int, int | None] = {}
    for line in sys.stdin.buffer:
        request = json.loads(line)
        answer: int | None
        if "start" in request:
            answer = _fork(request["start"], request["log"], request["crash"])
            codes[answer] = None
        else:
            answer = codes[request["poll"]] = _look(request["poll"], codes)
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()
    for pid in codes:
        if _look(pid, codes) is None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _look(pid: int, codes: dict[int, int | None]) -> int | None:
    if codes[pid] is None:
        ended, status = os.waitpid(pid, os.WNOHANG)
        codes[pid] = os.waitstatus_to_exitcode(status) if ended else None
    return codes[pid]


def _fork(command: list[str], log: str, crash: list[Any] | None) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = _be(command, log, None if crash is None else CrashPoint(*crash))
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _be(command: list[str], log: str, crash: CrashPoint | None) -> int:
    """Be a program from here on; its exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    nothing, file = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for source, target in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
    if crash is not None:
        crash.arm()
    sys.argv = command
    main = _main_of(command[0])
    try:
        main(prog_name=command[0])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0


def _main_of(program: str) -> Callable[..., None]:
    if program == "tidewire-agent":
        from tidewire_agent.cli import main  # one of the two

        return main
    from tidewire_hub.cli import main as hub

    return hub
