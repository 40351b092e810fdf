"""Which test proves which guarantee under which fault: read from the tests, for `docs/reference/faults.md`.

A test says the fault by `@pytest.mark.fault("a hub that is killed")` and the guarantees by their numbers in its
docstring ("Guarantees 1 and 2."). What strikes simulated worlds comes from the simulation itself.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[1]
GUARANTEES: Final = range(1, 14)
SIMULATION_TEST: Final = "test_two_hundred_worlds_keep_all_guarantees_and_meet_all_faults"


class FaultTest(NamedTuple):
    """A test under a fault."""

    fault: str
    name: str
    path: str
    """From the project's root."""
    guarantees: frozenset[int]


def found(folder: Path = ROOT / "tests") -> list[FaultTest]:
    """All tests that say a fault.

    Raises:
        ValueError: one of them names no guarantee in its docstring.
    """
    return [
        test
        for path in sorted(folder.rglob("test_*.py"))
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for test in _of(function, str(path.relative_to(ROOT)))
    ]


def page() -> str:
    """The table, in Markdown."""
    return "\n".join(_page()) + "\n"


def _of(function: ast.FunctionDef | ast.AsyncFunctionDef, path: str) -> Iterator[FaultTest]:
    for decorator in function.decorator_list:
        match decorator:
            case ast.Call(func=ast.Attribute(attr="fault"), args=[ast.Constant(value=str(fault))]):
                numbers = _numbers(ast.get_docstring(function) or "")
                if not numbers:
                    raise ValueError(f"{path}: {function.name} says a fault and no guarantee (“Guarantee 3.”)")
                yield FaultTest(fault, function.name, path, numbers)


def _numbers(docstring: str) -> frozenset[int]:
    """Of "Guarantee 3.", "Guarantees 1, 2 and 7", "Guarantees 1 to 5"."""
    numbers: set[int] = set()
    for said in re.findall(r"Guarantees?\s+(\d+(?:(?:,\s*|\s+(?:and|to)\s+)\d+)*)", docstring):
        for first, last in re.findall(r"(\d+)(?:\s+to\s+(\d+))?", said):
            numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)


def _page() -> Iterator[str]:
    tests = found()
    places = {name: place for place, name in enumerate(sorted({test.name for test in tests} | {SIMULATION_TEST}), 1)}
    by_fault: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for test in tests:
        for number in test.guarantees:
            by_fault[test.fault][number].add(places[test.name])
    yield "# Faults and guarantees"
    yield ""
    yield "<!-- Made by docs/generate.py from the tests: do not edit. -->"
    yield ""
    yield "What befalls processes, files, disks and connections in the tests, and which of the"
    yield "[guarantees](../explanation/guarantees.md) is looked at then. The numbers in the cells are those of the"
    yield "tests below; `make faults` runs them all, with more kills than `make test`."
    yield ""
    yield f"| fault | {' | '.join(map(str, GUARANTEES))} |"
    yield f"|---|{'---|' * len(GUARANTEES)}"
    for fault in sorted(by_fault):
        cells = (", ".join(map(str, sorted(by_fault[fault][number]))) or " " for number in GUARANTEES)
        yield f"| {fault} | {' | '.join(cells)} |"
    yield ""
    yield "| | test | file |"
    yield "|---|---|---|"
    paths = {test.name: test.path for test in tests} | {SIMULATION_TEST: "tests/simulation/test_simulation.py"}
    for name, place in places.items():
        yield f"| {place} | `{name}` | [{paths[name]}](../../{paths[name]}) |"
    yield ""
    yield "## In simulated worlds"
    yield ""
    yield "All guarantees that the checkers of the [simulation](../explanation/simulation.md) watch are watched under"
    yield f"each of these, in test {places[SIMULATION_TEST]} and by `make sim`:"
    yield ""
    yield "| fault | what it is |"
    yield "|---|---|"
    for name, text in _simulated():
        yield f"| `{name}` | {text} |"


def _simulated() -> list[tuple[str, str]]:
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        from simulation.faults import FAULTS  # noqa: PLC0415  # it is no installed package
    finally:
        sys.path.pop(0)
    return [(fault.name, fault.text) for fault in FAULTS.values() if fault.on]
