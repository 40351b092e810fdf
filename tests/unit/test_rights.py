"""What a run of the tests says where the machine refuses what a test needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]

CASES = """
import pytest

@pytest.mark.needs("mount")
def test_that_mounts():
    pass

def test_that_needs_nothing():
    pass
"""


def outcome(folder: Path, *options: str, path: str = "/nowhere") -> subprocess.CompletedProcess[str]:
    """A run of two tests in a process where no command of the system is found."""
    (folder / "test_cases.py").write_text(CASES)
    plugins = ["-p", "support.rights", "-p", "no:cacheprovider", "--rootdir", str(folder), "-c", os.devnull]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, *options, str(folder)],
        env={**os.environ, "PYTHONPATH": str(TESTS), "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("processes", ["0", "1"])
def test_what_could_not_run_is_listed_at_the_end_and_the_rest_runs(tmp_path: Path, processes: str) -> None:
    run = outcome(tmp_path, "-n", processes)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed, 1 skipped" in run.stdout
    assert "1 TESTS OF REAL FAULTS NOT RUN" in run.stdout
    assert "NOT RUN: test_cases.py::test_that_mounts\n  because mount: " in run.stdout
    assert "; needs root, or CAP_SYS_ADMIN in a container" in run.stdout


def test_it_fails_where_all_must_run(tmp_path: Path) -> None:
    run = outcome(tmp_path, "--require-rights")
    assert run.returncode == 1, run.stdout + run.stderr
    assert "1 passed, 1 error" in run.stdout
    assert "NOT RUN: test_cases.py::test_that_mounts\n  because mount: " in run.stdout
