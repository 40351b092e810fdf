"""The declared shape of a table: what the hub must know to judge and complete rows. Structure, never SQL text."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from tidewire_schemas.keys import Affinity, Collation
from tidewire_schemas.names import Identifier, fold
from tidewire_schemas.values import VALUE_SCHEMA, check_rows

COLUMNS_MAX = 2000
"""SQLite's own default limit of columns in a table."""

WireValueField = Annotated[Any, WithJsonSchema(VALUE_SCHEMA)]


class Shape(BaseModel):
    """Base of the parts of a shape."""

    model_config = ConfigDict(defer_build=True, frozen=True, extra="forbid", strict=True)


class ColumnShape(Shape):
    """A stored column. Generated columns are left out: each device computes its own."""

    name: Identifier
    affinity: Affinity
    collation: Collation = "BINARY"
    not_null: bool = False
    default: WireValueField = None
    """Its constant default; None where it has none or one that is not constant (such as CURRENT_TIMESTAMP)."""

    @model_validator(mode="after")
    def _storable(self) -> Self:
        check_rows([[self.default]], 1)
        return self


class UniqueSet(Shape):
    """Columns that are UNIQUE together, with the collation by which their index compares."""

    columns: tuple[Identifier, ...] = Field(min_length=1, max_length=COLUMNS_MAX)
    collations: tuple[Collation, ...]

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if len(self.columns) != len(self.collations):
            raise ValueError("a collation for each column is needed")
        return self


class ForeignKey(Shape):
    """Columns whose values name a row of `table` (by `references` there), as declared."""

    columns: tuple[Identifier, ...] = Field(min_length=1)
    table: Identifier
    references: tuple[Identifier, ...]
    """The columns there; empty where the declaration names none, which means that table's PRIMARY KEY."""

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if self.references and len(self.columns) != len(self.references):
            raise ValueError("a referenced column for each column is needed")
        return self


class TableShape(Shape):
    """A synced table as a device has it."""

    name: Identifier
    columns: tuple[ColumnShape, ...] = Field(min_length=1, max_length=COLUMNS_MAX)
    key: tuple[Identifier, ...] = Field(min_length=1)
    """The PRIMARY KEY's columns in its order."""
    key_is_rowid: bool = False
    """INTEGER PRIMARY KEY: SQLite hands the key out, so two inserts of one key are two things."""
    unique: tuple[UniqueSet, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()

    @model_validator(mode="after")
    def _names_exist_once(self) -> Self:
        names = [fold(column.name) for column in self.columns]
        known = set(names)
        if len(known) != len(names):
            raise ValueError(f"table {self.name!r} names a column twice")
        if len(set(map(fold, self.key))) != len(self.key) or (self.key_is_rowid and len(self.key) != 1):
            raise ValueError(f"table {self.name!r} has no such key as {', '.join(self.key)[:80]!r}")
        used = [*self.key]
        for unique in self.unique:
            used.extend(unique.columns)
        for foreign_key in self.foreign_keys:
            used.extend(foreign_key.columns)
        for name in used:
            if fold(name) not in known:
                raise ValueError(f"table {self.name!r} has no column {name!r}")
        return self
