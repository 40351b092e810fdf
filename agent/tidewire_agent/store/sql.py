"""The one place where names become SQL text: quoting, and lists of quoted names."""

from __future__ import annotations

from collections.abc import Iterable


def quote(name: str) -> str:
    """A table or column name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as an SQL string literal (for the argument of a PRAGMA, which takes no parameters)."""
    return "'" + text.replace("'", "''") + "'"


def names(columns: Iterable[str], prefix: str = "") -> str:
    """`"a", "b"`, or with a prefix `NEW."a", NEW."b"`."""
    dot = f"{prefix}." if prefix else ""
    return ", ".join(dot + quote(column) for column in columns)


def matches(columns: Iterable[str], values: Iterable[str]) -> str:
    """`"a" = x AND "b" = y`: the row whose columns equal the given SQL expressions."""
    return " AND ".join(f"{quote(column)} = {value}" for column, value in zip(columns, values, strict=True))


def placeholders(count: int) -> str:
    """`?, ?, ?`."""
    return ", ".join("?" * count)
