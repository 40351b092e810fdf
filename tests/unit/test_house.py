"""Rules of the house that are worth a test: who may import whom, what stays pure, what must be in step."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from pydantic import BaseModel

from tidewire_schemas import generate

ROOT: Final = Path(__file__).resolve().parents[2]

PACKAGES: Final = {
    "tidewire_schemas": ROOT / "schemas/tidewire_schemas",
    "tidewire_link": ROOT / "link/tidewire_link",
    "tidewire_agent": ROOT / "agent/tidewire_agent",
    "tidewire_hub": ROOT / "hub/tidewire_hub",
}

MAY_IMPORT: Final = {
    "tidewire_schemas": {"tidewire_schemas"},
    "tidewire_link": {"tidewire_link", "tidewire_schemas"},
    "tidewire_agent": {"tidewire_agent", "tidewire_link", "tidewire_schemas"},
    "tidewire_hub": {"tidewire_hub", "tidewire_link", "tidewire_schemas"},
}

PAHO_AT: Final = "tidewire_link.mqtt"

PURE: Final = (
    "tidewire_schemas.*",
    "tidewire_agent.session.*",
    "tidewire_agent.runtime.gathering",
    "tidewire_agent.runtime.pace",
    "tidewire_hub.core",
    "tidewire_hub.actions",
    "tidewire_hub.commits",
    "tidewire_hub.device_watch",
    "tidewire_hub.downloads",
    "tidewire_hub.greetings",
    "tidewire_hub.handshake",
    "tidewire_hub.ingest",
    "tidewire_hub.intake",
    "tidewire_hub.leadership",
    "tidewire_hub.paced",
    "tidewire_hub.pages",
    "tidewire_hub.replay",
    "tidewire_hub.resolve*",
    "tidewire_hub.sessions",
    "tidewire_hub.situation",
    "tidewire_hub.snapshot.desk",
    "tidewire_hub.snapshot.manifest",
    "tidewire_hub.snapshot.service",
    "tidewire_hub.voice",
)
"""Modules that decide: of the same inputs and the same `now` they make the same, on a device and in a simulation."""

NOT_PURE: Final = {
    *("asyncio", "threading", "subprocess", "select", "socket", "paho"),
    *("time", "datetime", "random", "secrets", "uuid"),
    *("sqlite3", "aiosqlite"),
}

LINES_MAX: Final = 500
"""Most modules stay below 350: what is longer than this does two things and wants to be split."""

TEST_LINES_MAX: Final = 700
"""A file of tests is a list of cases, which one reads one at a time."""


class Module:
    """A source file and what it imports."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.imports = set(_imports(self.tree))
        """All modules named in imports anywhere in the file."""
        self.imports_at_run_time = set(_imports(self.tree, type_checking=False))


def _imports(tree: ast.AST, *, type_checking: bool = True) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), level=0, names=names):
                yield module
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.If(test=ast.Name(id="TYPE_CHECKING")) if not type_checking:
                pass
            case _:
                yield from _imports(node, type_checking=type_checking)


@cache
def modules() -> dict[str, Module]:
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join([package, *(part for part in parts if part != "__init__")])
            found[name] = Module(name, path)
    return found


@cache
def tracked() -> tuple[Path, ...]:
    """Files of the repository: what git knows, or all that is there if this is no checkout."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        paths = [path for path in ROOT.rglob("*") if not any(part.startswith(".") for part in path.parts)]
    return tuple(path for path in paths if path.is_file())


def texts() -> Iterator[tuple[str, str]]:
    """Every tracked text file and what stands in it."""
    for path in tracked():
        try:
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def pure_modules() -> list[str]:
    return [
        name
        for name in modules()
        if any(name == rule or (rule.endswith("*") and name.startswith(rule.rstrip(".*"))) for rule in PURE)
    ]


# ── imports ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_lies_in_its_direction(package: str) -> None:
    """agent → link → schemas ← link ← hub."""
    for module in modules().values():
        if module.name.split(".")[0] == package:
            ours = {name.split(".")[0] for name in module.imports} & PACKAGES.keys()
            assert ours <= MAY_IMPORT[package], module.path


def test_imports_name_their_package_in_full() -> None:
    for module in modules().values():
        relative = [node for node in ast.walk(module.tree) if isinstance(node, ast.ImportFrom) and node.level]
        assert not relative, module.path


def test_one_module_imports_paho() -> None:
    importers = {module.name for module in modules().values() if any(n.split(".")[0] == "paho" for n in module.imports)}
    assert importers == {PAHO_AT}


def test_every_rule_for_pure_modules_still_finds_one() -> None:
    for rule in PURE:
        assert any(name == rule or name.startswith(rule.rstrip(".*")) for name in modules()), rule


@pytest.mark.parametrize("name", pure_modules())
def test_what_decides_reaches_no_clock_no_chance_no_network_and_no_database(name: str) -> None:
    """Neither itself nor through the modules that it needs at run time."""
    pending, seen = [name], set[str]()
    while pending:
        module = modules()[pending.pop()]
        if module.name in seen:
            continue
        seen.add(module.name)
        outside = {imported.split(".")[0] for imported in module.imports_at_run_time}
        assert not outside & NOT_PURE, f"{module.path} imports {outside & NOT_PURE}, and {name} needs it"
        pending += [imported for imported in module.imports_at_run_time if imported in modules()]


# ── in step ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_generated_schemas_are_fresh() -> None:
    assert generate.stale(ROOT / "schemas") == [], "run: python -m tidewire_schemas.generate"


def settings_models() -> dict[str, type]:
    """Every model or dataclass of ours whose name ends in Settings."""
    found: dict[str, type] = {}
    for module in modules().values():
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and node.name.endswith("Settings"):
                found[node.name] = getattr(importlib.import_module(module.name), node.name)
    return {name: model for name, model in found.items() if issubclass(model, BaseModel) or is_dataclass(model)}


def field_names(model: type) -> list[str]:
    return list(model.model_fields if issubclass(model, BaseModel) else model.__annotations__)


def test_the_settings_that_people_meet_are_found() -> None:
    assert {"AgentSettings", "HubSettings", "BrokerSettings", "StoreSettings"} <= settings_models().keys()


MADE_BY_THE_PROGRAM: Final = {
    "LinkSettings": {"url", "client_id", "will"},  # from `broker`, `device` and `node`
    "StreamSettings": {"state_commit_rows"},
}
"""Fields that no person sets."""


@pytest.mark.parametrize("name", settings_models())
def test_every_setting_is_documented_in_the_reference(name: str) -> None:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs/reference").glob("*.md"))
    words = set(re.findall(r"`(?:--)?([a-z][a-z0-9_-]*)[^`\n]*`", pages))
    told = {word.replace("-", "_") for word in words}
    missing = [field for field in field_names(settings_models()[name]) if field not in told]
    assert set(missing) <= MADE_BY_THE_PROGRAM.get(name, set()), f"{name}: not in docs/reference: {missing}"


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_module_is_longer_than_one_can_read() -> None:
    for name, text in texts():
        if name.endswith(".py"):
            limit = TEST_LINES_MAX if name.startswith("tests/") else LINES_MAX
            assert text.count("\n") <= limit, f"{name} has more than {limit} lines"


HOSTS: Final = re.compile(r"pypi\.(?:org|python)|pythonhosted\.org|registry\.npm|proxy\.golang|artifactory")
MACHINE_PATHS: Final = re.compile(r"(?<![\w.~$}/])/(?:work|root|home|Users|private)/\w")


def test_no_tracked_file_names_a_package_registry_or_a_path_of_one_machine() -> None:
    ours = Path(__file__).resolve().relative_to(ROOT).as_posix()
    for name, text in texts():
        if name == ours:
            continue  # it must spell what it looks for
        for rule in (HOSTS, MACHINE_PATHS):
            found = rule.search(text)
            assert found is None, f"{name}: {found and found[0]}"


def test_pages_of_the_docs_link_only_to_what_is_there() -> None:
    for name, text in texts():
        if not name.endswith(".md"):
            continue
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if "://" not in target and not target.startswith("mailto:"):
                assert ((ROOT / name).parent / target).exists(), f"{name} links to {target}"


def test_files_that_the_docs_name_are_there() -> None:
    for name, text in texts():
        if name.endswith(".md"):
            for path in re.findall(r"`((?:agent|bench|docs|hub|link|mosquitto|schemas|tests)/[\w./-]+)`", text):
                assert (ROOT / path).exists(), f"{name} names {path}"


def test_tests_cite_only_guarantees_that_are_on_the_page() -> None:
    page = (ROOT / "docs/explanation/guarantees.md").read_text(encoding="utf-8")
    numbers = [int(number) for number in re.findall(r"^\*\*(\d+)\. ", page, re.MULTILINE)]
    assert numbers == list(range(1, 14))
    for name, text in texts():
        if name.startswith("tests/"):
            for cited in re.findall(r"[Gg]uarantees? (\d+)", text):
                assert int(cited) in numbers, f"{name} cites guarantee {cited}"
