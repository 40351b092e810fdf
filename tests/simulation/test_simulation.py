"""Worlds full of faults, all guarantees watched: a short form of `make sim`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from simulation.__main__ import INTERRUPTED, command, main
from simulation.checkers import Guarantee, Violation
from simulation.faults import FAULTS
from simulation.lifetime import simulate
from simulation.world import Plan, World
from support.waiting import wait_for

TESTS = Path(__file__).resolve().parents[1]


LINE = (sys.executable, "-m", "simulation")

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(TESTS)}


def run(*arguments: str, hash_seed: str = "random") -> subprocess.CompletedProcess[str]:
    env = {**ENVIRONMENT, "PYTHONHASHSEED": hash_seed}
    return subprocess.run([*LINE, *arguments], env=env, capture_output=True, text=True, check=False)


@pytest.mark.timeout(900)
def test_two_hundred_worlds_keep_all_guarantees_and_meet_all_faults() -> None:
    """Guarantees 1, 2, 3, 4, 5, 7, 8, 9, 10, 12."""
    done = run("--seeds", "0:200", "--steps", "25")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("number", "group"),
    [(signal.SIGKILL, False), (signal.SIGINT, False), (signal.SIGINT, True), (signal.SIGTERM, False)],
)
def test_a_run_that_is_ended_leaves_no_worker_and_no_file_behind(
    number: signal.Signals, group: bool, tmp_path: Path
) -> None:
    code = f"import sys; from simulation import __main__ as sim; sim.MEMORY_DISK = sim.Path({str(tmp_path)!r}); "
    code += "sys.exit(sim.main(['--seeds', '0:1000', '--jobs', '2']))"
    with subprocess.Popen(
        [sys.executable, "-c", code], env=ENVIRONMENT, stdout=subprocess.DEVNULL, start_new_session=True
    ) as started:
        children = Path(f"/proc/{started.pid}/task/{started.pid}/children")

        def at_work() -> list[str]:
            workers = children.read_text().split()
            return workers if len(workers) == 2 and any(tmp_path.glob("*/*/*")) else []

        try:
            workers = wait_for(at_work, what="two workers are at work")
            if group:
                os.killpg(started.pid, number)
            else:
                started.send_signal(number)
            started.wait(60)
        finally:
            started.kill()
    assert started.returncode == (-9 if number is signal.SIGKILL else INTERRUPTED)
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), what="the workers have ended")
    wait_for(lambda: not any(tmp_path.iterdir()), what="their files are gone")


def test_without_faults_a_world_is_at_rest_at_once(tmp_path: Path) -> None:
    outcome = simulate(Plan(1, steps=60, faults=()), tmp_path)
    assert outcome.violation is None
    assert not outcome.struck
    assert outcome.counts["entries"] > 30


@pytest.mark.parametrize(("seed", "steps"), [(7, 80), (5, 60)])
def test_a_seed_is_one_history_whatever_process_lives_it(seed: int, steps: int) -> None:
    """Also where sets of names come in another order, and messages say where files are."""
    digests = set()
    for hash_seed in ("1", "2"):
        done = run("--seed", str(seed), "--steps", str(steps), hash_seed=hash_seed)
        (digest,) = re.findall(r"history (\w{32})", done.stdout)
        digests.add(digest)
    assert len(digests) == 1, "the same seed, two histories"


def test_two_seeds_are_two_histories(tmp_path: Path) -> None:
    digests = set()
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        digests.add(simulate(Plan(seed, steps=10), folder).digest)
    assert len(digests) == 2


def test_a_failure_prints_what_repeats_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: World) -> None:
        raise Violation(Guarantee.LOST, "everything")

    monkeypatch.setattr(World, "_check", broken)
    assert main(["--seed", "3", "--steps", "5", "--faults", "hub_killed"]) == 1
    said = capsys.readouterr().out
    assert "seed 3 failed: lost: everything" in said
    assert "make sim ARGS='--seed 3 --steps 5 --devices 3 --faults hub_killed --history'" in said


def test_a_fault_that_never_struck_fails_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "0:2", "--steps", "1", "--faults", "hub_state_deleted", "--jobs", "1"]) == 1
    assert "never struck: hub_state_deleted" in capsys.readouterr().out


def test_the_command_of_a_plan_says_all_of_it() -> None:
    assert command(Plan(5, 10, 2, ())).endswith("--seed 5 --steps 10 --devices 2 --faults none --history'")


def test_every_fault_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    said = capsys.readouterr().out
    for fault in FAULTS.values():
        assert fault.name in said
        assert fault.text, fault.name
