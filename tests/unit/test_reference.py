"""The reference pages say what commands and settings say of themselves."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_of_both_commands_and_of_the_faults_is_fresh() -> None:
    assert generator().stale() == [], "run: python docs/generate.py"


@pytest.mark.parametrize(
    ("docstring", "guarantees"),
    [
        ("Guarantee 3.", {3}),
        ("Guarantees 1, 2 and 7: so.", {1, 2, 7}),
        ("Guarantees 1 to 4. Guarantee 13.", {*range(1, 5), 13}),
    ],
)
def test_a_test_under_a_fault_is_listed_with_its_guarantees(
    tmp_path: Path, docstring: str, guarantees: set[int]
) -> None:
    faults = generator()._faults()
    faults.ROOT = tmp_path
    (tmp_path / "test_x.py").write_text(f'@pytest.mark.fault("rain")\ndef test_it():\n    """{docstring}"""\n')
    assert faults.found(tmp_path) == [("rain", "test_it", "test_x.py", guarantees)]


def test_a_test_under_a_fault_must_say_a_guarantee(tmp_path: Path) -> None:
    faults = generator()._faults()
    faults.ROOT = tmp_path
    (tmp_path / "test_x.py").write_text('@pytest.mark.fault("rain")\nasync def test_it():\n    pass\n')
    with pytest.raises(ValueError, match="test_it says a fault and no guarantee"):
        faults.found(tmp_path)
