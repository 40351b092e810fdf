"""The lock files cover what pyproject.toml asks for, and pin content without saying where it is from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = {"agent": None, "hub": "hub", "dev": "dev", "bench": "bench"}
"""Lock file → the extra it is made with."""
STALE = "run `make lock`"


def _project() -> dict[str, list[str]]:
    """Extra → its requirements; the ones without an extra under ''."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {"": project["dependencies"], **project["optional-dependencies"]}


def _wanted(extra: str | None) -> list[Requirement]:
    """What an installation with this extra asks for, extras that name other extras followed."""
    extras = _project()
    wanted = [Requirement(line) for line in extras[""]]
    pending = [extra] if extra else []
    while pending:
        for requirement in map(Requirement, extras[pending.pop()]):
            if requirement.name == "tidewire":
                pending += requirement.extras
            else:
                wanted.append(requirement)
    return wanted


def _build() -> list[Requirement]:
    lines = (ROOT / "requirements/build.in").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def _pins(name: str) -> dict[str, Requirement]:
    """Package → its pinned requirement line."""
    text = (ROOT / f"requirements/{name}.txt").read_text()
    lines = re.findall(r"^([a-z0-9][^\\\n]*?) \\$", text, re.MULTILINE)
    return {canonicalize_name(pin.name): pin for pin in map(Requirement, lines)}


def _version(pin: Requirement) -> str:
    (specifier,) = pin.specifier
    assert specifier.operator == "==", pin
    return specifier.version


def _assert_covered(wanted: list[Requirement], pins: dict[str, Requirement]) -> None:
    for requirement in wanted:
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement} is not locked: {STALE}"
        assert requirement.specifier.contains(_version(pin), prereleases=True), f"{requirement} is not {pin}: {STALE}"


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_covers_the_projects_dependencies(name: str) -> None:
    _assert_covered(_wanted(LOCKS[name]), _pins(name))


@pytest.mark.parametrize("name", ["build", "dev"])
def test_the_build_backend_is_locked_where_the_project_is_built(name: str) -> None:
    build_system = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert {Requirement(line).name for line in build_system} <= {requirement.name for requirement in _build()}
    _assert_covered([*_build(), *map(Requirement, build_system)], _pins(name))


def test_the_locks_agree_on_every_version() -> None:
    development = _pins("dev")
    for name in ("agent", "hub", "build", "bench"):
        for package, pin in _pins(name).items():
            assert name == "bench" or package in development, f"{package} in {name}.txt: {STALE}"
            assert _version(pin) == _version(development.get(package, pin)), f"{package} in {name}.txt: {STALE}"


@pytest.mark.parametrize("name", [*LOCKS, "build"])
def test_a_lock_has_a_hash_for_every_package_and_names_no_host_or_path(name: str) -> None:
    text = (ROOT / f"requirements/{name}.txt").read_text()
    assert "://" not in text
    assert "file:" not in text
    assert not re.search(r"^(-|\s+--(?!hash=))", text, re.MULTILINE), "an option of its own"
    assert not re.search(r"\(/", text), "a path of the machine it was made on"
    for package in re.split(r"\n(?=\S)", text.strip()):
        assert "--hash=sha256:" in package, package


def test_a_lock_serves_every_python_that_the_project_supports() -> None:
    """Made for the oldest Python: what only that one needs must not be missing."""
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert SpecifierSet(requires).contains("3.11")
    assert "--python-version 3.11" in (ROOT / "Makefile").read_text()
