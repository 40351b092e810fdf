"""The tables of a stream: what devices declared, merged, and what of it is in force. Pure.

Merging is a union: columns, unique sets and foreign keys are added, never changed. What contradicts the catalogue is
the declaring device's problem and changes nothing for the others. A column that no device declares any more is
forgotten, with the unique sets and foreign keys that name it (`declared.py` says when).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, NamedTuple

from pydantic import Field, TypeAdapter

from tidewire_schemas.errors import MessageError
from tidewire_schemas.keys import Collation, apply_affinity
from tidewire_schemas.messages import TableProblem
from tidewire_schemas.names import fold
from tidewire_schemas.shapes import COLUMNS_MAX, ColumnShape, ForeignKey, TableShape, UniqueSet
from tidewire_schemas.values import Value, WireValue, decode, encode


class KnownShape(TableShape):
    """A table as all devices together declare it, and what became of columns that they gave up. Names are folded."""

    forgotten: tuple[str, ...] = ()
    """Columns that no device has any more; what the log says of them does not count."""
    since: dict[str, int] = Field(default_factory=dict)
    """Columns that were forgotten and came back: entries up to this one do not count for them."""

    @property
    def declared(self) -> TableShape:
        """What of it devices declared."""
        return TableShape.model_construct(**{name: getattr(self, name) for name in TableShape.model_fields})


_SHAPES: Final = TypeAdapter(list[KnownShape])


class Unique(NamedTuple):
    """A unique set in force; columns folded."""

    columns: tuple[str, ...]
    collations: tuple[Collation, ...]


class Reference(NamedTuple):
    """A foreign key; names folded. `references` is empty where it means the key of `table`."""

    columns: tuple[str, ...]
    table: str
    references: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Table:
    """A table of the catalogue, with what is looked up again and again. Names are folded unless they say `shown`."""

    id: int
    """Its place in the catalogue from 1, the same forever: what the state's rows are filed under."""
    shape: KnownShape

    @cached_property
    def name(self) -> str:
        """Folded name."""
        return fold(self.shape.name)

    @cached_property
    def columns(self) -> Mapping[str, ColumnShape]:
        """Columns by folded name, in the order they became known."""
        return {fold(column.name): column for column in self.shape.columns}

    @cached_property
    def key(self) -> tuple[str, ...]:
        """Folded names of the key's columns."""
        return tuple(map(fold, self.shape.key))

    @cached_property
    def key_collations(self) -> tuple[Collation, ...]:
        """By which the key's columns compare."""
        return tuple(self.columns[name].collation for name in self.key)

    @cached_property
    def unique(self) -> tuple[Unique, ...]:
        """Unique sets in force; a set's place is the number its values are filed under."""
        return tuple(unique_of(unique) for unique in self.shape.unique)

    @cached_property
    def references(self) -> tuple[Reference, ...]:
        """Declared foreign keys."""
        return tuple(_reference(key) for key in self.shape.foreign_keys)

    @cached_property
    def defaults(self) -> Mapping[str, WireValue]:
        """Constant defaults that are not NULL, as the column stores them."""
        return {name: value for name, c in self.columns.items() if (value := _stored_default(c)) is not None}

    def shown(self, name: str) -> str:
        """The first declared spelling of a column."""
        return self.columns[name].name

    def counts(self, column: str, seq: int) -> bool:
        """Whether what entry `seq` says of a column is in the state."""
        return column in self.columns and seq > self.shape.since.get(column, 0)


@dataclass(frozen=True)
class Catalogue:
    """All tables of a stream."""

    tables: tuple[Table, ...] = ()
    _by_name: dict[str, Table] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {table.name: table for table in self.tables})

    def find(self, name: str) -> Table | None:
        """The table of that name in any spelling."""
        return self._by_name.get(name) or self._by_name.get(fold(name))

    def with_table(self, table: Table) -> Catalogue:
        """A catalogue with this table in its place (by id), or added."""
        tables = list(self.tables)
        tables[table.id - 1 : table.id] = [table]
        return Catalogue(tuple(tables))

    def to_json(self) -> bytes:
        """As it is kept beside the log."""
        return _SHAPES.dump_json([table.shape for table in self.tables])

    @classmethod
    def from_json(cls, data: bytes | None) -> Catalogue:
        """The catalogue kept beside the log, empty where none is."""
        shapes = [] if data is None else _SHAPES.validate_json(data)
        return cls(tuple(Table(number, shape) for number, shape in enumerate(shapes, 1)))


class Merge(NamedTuple):
    """A declared shape put together with what was known of the table.

    `table` has all of it but `new_unique`, which take force only if the present rows satisfy them.
    """

    table: Table
    new_columns: tuple[str, ...]
    new_unique: tuple[UniqueSet, ...]


def merge(catalogue: Catalogue, declared: TableShape, head: int) -> Merge | TableProblem | None:
    """What `declared` adds; a problem if it contradicts the catalogue, None if it adds nothing.

    `head` is the newest entry: no later one knows less of the table.
    """
    bad_default = _bad_default(declared)
    if bad_default is not None:
        return TableProblem(table=declared.name, code="wrong_default", message=bad_default)
    known = catalogue.find(declared.name)
    if known is None:
        unique = _useful(declared.unique, declared)
        table = Table(len(catalogue.tables) + 1, _known(declared, unique=()))
        return Merge(table, tuple(table.columns), unique)
    contradiction = _contradiction(known, declared)
    if contradiction is not None:
        return TableProblem(table=declared.name, code="shape_differs", message=contradiction)
    return _added(known, declared, head)


def without_columns(table: Table, names: Collection[str]) -> Table:
    """The table less these columns, and less what names them."""
    shape = table.shape
    shape = shape.model_copy(
        update={
            "columns": tuple(column for column in shape.columns if fold(column.name) not in names),
            "unique": tuple(u for u in shape.unique if not set(unique_of(u).columns) & set(names)),
            "foreign_keys": tuple(key for key in shape.foreign_keys if not set(_reference(key).columns) & set(names)),
            "forgotten": (*shape.forgotten, *sorted(names))[-COLUMNS_MAX:],
            "since": {name: seq for name, seq in shape.since.items() if name not in names},
        }
    )
    return Table(table.id, shape)


def with_unique(table: Table, unique: UniqueSet) -> Table:
    """The table with one unique set more in force."""
    return Table(table.id, table.shape.model_copy(update={"unique": (*table.shape.unique, unique)}))


def _known(declared: TableShape, **changes: object) -> KnownShape:
    return KnownShape.model_construct(**{**dict(declared), **changes})


def _added(known: Table, declared: TableShape, head: int) -> Merge | None:
    columns = tuple(_later(column) for column in declared.columns if fold(column.name) not in known.columns)
    foreign_keys = tuple(key for key in declared.foreign_keys if _reference(key) not in known.references)
    unique = tuple(u for u in _useful(declared.unique, known.shape) if unique_of(u) not in known.unique)
    if not (columns or foreign_keys or unique):
        return None
    names = tuple(fold(column.name) for column in columns)
    back = frozenset(names).intersection(known.shape.forgotten)
    shape = known.shape.model_copy(
        update={
            "columns": (*known.shape.columns, *columns),
            "foreign_keys": (*known.shape.foreign_keys, *foreign_keys),
            "forgotten": tuple(name for name in known.shape.forgotten if name not in back),
            "since": {**known.shape.since, **dict.fromkeys(sorted(back), head)},
        }
    )
    return Merge(Table(known.id, shape), names, unique)


def _later(column: ColumnShape) -> ColumnShape:
    """A column that the table gets when there may be rows without it: they are NULL there, whatever it declares."""
    return column.model_copy(update={"not_null": False}) if _needs_value(column) else column


def _useful(sets: Iterable[UniqueSet], shape: TableShape) -> tuple[UniqueSet, ...]:
    """The sets, each once, without the one that the key itself is."""
    collation = {fold(column.name): column.collation for column in shape.columns}
    key = tuple(map(fold, shape.key))
    seen = {Unique(key, tuple(collation[name] for name in key))}
    useful = []
    for unique in sets:
        if unique_of(unique) not in seen:
            seen.add(unique_of(unique))
            useful.append(unique)
    return tuple(useful)


def _contradiction(known: Table, declared: TableShape) -> str | None:
    """Why rows of the two cannot be the same table, in one line."""
    if tuple(map(fold, declared.key)) != known.key:
        return f"its key is ({', '.join(declared.key)}) here and ({', '.join(known.shape.key)}) at the hub"
    if declared.key_is_rowid != known.shape.key_is_rowid:
        here, there = ("INTEGER PRIMARY KEY", "an ordinary key")[:: 1 if declared.key_is_rowid else -1]
        return f"its key is {here} here and {there} at the hub"
    for column in declared.columns:
        other = known.columns.get(fold(column.name))
        if other is None:
            continue
        if column.affinity != other.affinity:
            return f"column {column.name!r} has affinity {column.affinity} here and {other.affinity} at the hub"
        if column.collation != other.collation:
            return f"column {column.name!r} has collation {column.collation} here and {other.collation} at the hub"
    return None


def _bad_default(declared: TableShape) -> str | None:
    for column in declared.columns:
        try:
            _stored_default(column)
        except MessageError as error:
            return f"the default of column {column.name!r}: {error.message}"
    return None


def differences(known: Table, declared: TableShape) -> list[TableProblem]:
    """What does not keep the table from being synced, and yet lets rows differ or keeps them from being applied."""
    problems = []
    here = {fold(column.name): column for column in declared.columns}
    for name in [*known.columns, *(name for name in here if name not in known.columns)]:
        own, others = here.get(name), known.columns.get(name)
        for code, message in (_other_default(own, others), _other_null(own, others)):
            if message and name not in known.key:
                problems.append(TableProblem(table=declared.name, code=code, message=message))
    return problems


def _other_default(own: ColumnShape | None, others: ColumnShape | None) -> tuple[str, str]:
    message = ""
    if own is not None and others is not None:
        here, there = _stored_default(own), _stored_default(others)
        if type(here) is not type(there) or here != there:
            message = (
                f"column {own.name!r} has default {_brief(here)} here and {_brief(there)} at the hub:"
                " rows from before the column may differ"
            )
    return "default_differs", message


def _other_null(own: ColumnShape | None, others: ColumnShape | None) -> tuple[str, str]:
    """NOT NULL without a default on one side alone; with one, rows that lack the column are completed."""
    message = ""
    if own is not None and _needs_value(own) and not (others is not None and others.not_null):
        message = f"column {own.name!r} is NOT NULL without a default here: rows of devices that leave it NULL wait"
    elif others is not None and _needs_value(others) and not (own is not None and own.not_null):
        message = f"column {others.name!r} is NOT NULL without a default elsewhere: rows that leave it NULL wait there"
    return "not_null_differs", message


def _needs_value(column: ColumnShape) -> bool:
    return column.not_null and column.default is None


def _brief(value: WireValue) -> str:
    return "NULL" if value is None else repr(value)[:40]


def _stored_default(column: ColumnShape) -> WireValue:
    default: Any = column.default
    value: Value = apply_affinity(decode(default), column.affinity)
    return encode(value)


def unique_of(unique: UniqueSet) -> Unique:
    """A declared set with folded names."""
    return Unique(tuple(map(fold, unique.columns)), unique.collations)


def _reference(key: ForeignKey) -> Reference:
    return Reference(tuple(map(fold, key.columns)), fold(key.table), tuple(map(fold, key.references)))
