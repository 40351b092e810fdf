"""The strings below a model's fields, read from its source: Python itself throws them away.

pydantic can do it (`use_attribute_docstrings`), for every model when it is imported, which is a sixth of a program's
start. Here it is done when somebody asks.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Mapping
from functools import cache
from types import ModuleType

from pydantic import BaseModel


def docstrings(model: type[BaseModel]) -> Mapping[str, str]:
    """Field → its docstring, its own and those it inherits; a field without one is left out.

    A paragraph is a line. Empty where there is no source.
    """
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            found |= of_module(sys.modules[base.__module__]).get(base.__name__, {})
    return found


@cache
def of_module(module: ModuleType) -> Mapping[str, Mapping[str, str]]:
    """Class → field → docstring."""
    try:
        source = inspect.getsource(module)
    except OSError:
        return {}
    return {node.name: _of_class(node) for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}


def paragraphs(text: str) -> str:
    """Each paragraph on one line."""
    return "\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _of_class(node: ast.ClassDef) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for field, after in zip(node.body, node.body[1:], strict=False):
        match field, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = paragraphs(text)
    return found
