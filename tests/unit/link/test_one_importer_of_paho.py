from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[3]
PACKAGES = ("agent", "hub", "link", "schemas")
ALLOWED = ROOT / "link/tidewire_link/mqtt.py"


def imported(source: Path) -> set[str]:
    """First parts of all module names that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_one_file_imports_paho() -> None:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert [path for path in files if "paho" in imported(path)] == [ALLOWED]


def test_the_link_knows_neither_agent_nor_hub() -> None:
    for path in (ROOT / "link").rglob("*.py"):
        assert not imported(path) & {"tidewire_agent", "tidewire_hub"}, path
