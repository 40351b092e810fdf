from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from tidewire_agent.errors import TableNotSyncable
from tidewire_agent.store.tables import affinity_of, read_table, user_tables


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    yield connection
    connection.close()


@pytest.mark.parametrize(
    ("declared", "affinity"),
    [
        ("INTEGER", "INTEGER"),
        ("bigint", "INTEGER"),
        ("FLOATING POINT", "INTEGER"),
        ("VARCHAR(20)", "TEXT"),
        ("", "BLOB"),
        ("BLOB", "BLOB"),
        ("DOUBLE", "REAL"),
        ("DECIMAL(10,2)", "NUMERIC"),
        ("ANY", "NUMERIC"),
    ],
)
def test_affinities_follow_sqlites_rules(declared: str, affinity: str) -> None:
    assert affinity_of(declared) == affinity


def test_any_in_a_strict_table_converts_nothing(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE s (id INTEGER PRIMARY KEY, v ANY) STRICT")
    assert read_table(connection, "s").by_name["v"].affinity == "BLOB"


@pytest.mark.parametrize(
    ("sql", "is_rowid"),
    [
        ("id INTEGER PRIMARY KEY", True),
        ("id integer primary key autoincrement", True),
        ("id INT PRIMARY KEY", False),
        ("id INTEGER PRIMARY KEY DESC", False),
        ("id TEXT PRIMARY KEY", False),
        ("id INTEGER, b, PRIMARY KEY (id)", True),
        ("id INTEGER, b, PRIMARY KEY (id, b)", False),
    ],
)
def test_keys_that_sqlite_hands_out_are_recognised(connection: sqlite3.Connection, sql: str, is_rowid: bool) -> None:
    connection.execute(f"CREATE TABLE t ({sql})")
    assert read_table(connection, "t").key_is_rowid is is_rowid


def test_an_integer_key_without_rowid_is_chosen_by_the_app(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY) WITHOUT ROWID")
    assert not read_table(connection, "t").key_is_rowid


def test_a_shape_tells_keys_collations_defaults_unique_sets_and_references(connection: sqlite3.Connection) -> None:
    connection.executescript(
        """
        CREATE TABLE p (a TEXT, b TEXT, PRIMARY KEY (a, b));
        CREATE TABLE t (
            b INTEGER DEFAULT (-5), a TEXT COLLATE NOCASE, c TEXT DEFAULT 'it''s', d DEFAULT CURRENT_TIMESTAMP,
            e REAL DEFAULT 1, f BLOB DEFAULT x'00ff', g AS (b + 1), x TEXT, y TEXT,
            PRIMARY KEY (a, b), UNIQUE (c, e), FOREIGN KEY (x, y) REFERENCES p
        );
        CREATE UNIQUE INDEX u ON t (c COLLATE NOCASE);
        """
    )
    shape = read_table(connection, "t").shape
    assert shape.key == ("a", "b")
    assert {c.name: c.default for c in shape.columns} == {
        "b": -5,
        "a": None,
        "c": "it's",
        "d": None,
        "e": 1.0,
        "f": {"blob": "AP8="},
        "x": None,
        "y": None,
    }
    assert {c.name for c in shape.columns if c.collation == "NOCASE"} == {"a"}
    assert {(u.columns, u.collations) for u in shape.unique} == {
        (("c",), ("NOCASE",)),
        (("c", "e"), ("BINARY", "BINARY")),
    }
    (foreign_key,) = shape.foreign_keys
    assert (foreign_key.columns, foreign_key.table, foreign_key.references) == (("x", "y"), "p", ("a", "b"))


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("CREATE TABLE t (a)", "no PRIMARY KEY"),
        ("CREATE TABLE t (a PRIMARY KEY, b AS (1) UNIQUE)", "generated column"),
        (
            "CREATE TABLE t (a, b, c, d, e, f, g, h, i, PRIMARY KEY (a, b, c, d, e, f, g, h, i))",
            "more than 8",
        ),
        ("CREATE TABLE other (a)", "no such table"),
    ],
)
def test_tables_that_cannot_be_synced_say_why(connection: sqlite3.Connection, sql: str, reason: str) -> None:
    connection.execute(sql)
    with pytest.raises(TableNotSyncable, match=reason):
        read_table(connection, "t")


@pytest.mark.parametrize(
    "sql",
    [
        f"CREATE TABLE t (id INTEGER PRIMARY KEY, {'c' * 256})",
        'CREATE TABLE t (id INTEGER PRIMARY KEY, "")',
        f"CREATE TABLE t (id INTEGER PRIMARY KEY, {'c' * 256} UNIQUE)",
    ],
)
def test_names_that_the_protocol_does_not_take_are_refused(connection: sqlite3.Connection, sql: str) -> None:
    connection.execute(sql)
    with pytest.raises(TableNotSyncable, match="a name of 0 or more than 255 characters"):
        read_table(connection, "t")


def test_a_reference_to_a_table_with_such_a_name_is_left_out(connection: sqlite3.Connection) -> None:
    connection.execute(f"CREATE TABLE t (id INTEGER PRIMARY KEY, p REFERENCES {'p' * 256} (id))")
    assert read_table(connection, "t").shape.foreign_keys == ()


def test_a_custom_collation_is_refused_unless_allowed(connection: sqlite3.Connection) -> None:
    connection.create_collation("mine", lambda a, b: (a > b) - (a < b))
    connection.executescript(
        """
        CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT COLLATE mine UNIQUE);
        CREATE TABLE k (a TEXT COLLATE mine PRIMARY KEY);
        """
    )
    with pytest.raises(TableNotSyncable, match="collation mine"):
        read_table(connection, "t")
    assert read_table(connection, "t", allow_unkept_unique=True).unique == ()
    with pytest.raises(TableNotSyncable, match="collation"):
        read_table(connection, "k", allow_unkept_unique=True)


def test_tidewires_own_tables_are_not_the_apps(connection: sqlite3.Connection) -> None:
    connection.executescript(
        "CREATE TABLE tidewire_meta (a PRIMARY KEY); CREATE TABLE tidewire_kv (key PRIMARY KEY); CREATE TABLE x (a)"
    )
    assert user_tables(connection) == ["tidewire_kv", "x"]
    with pytest.raises(TableNotSyncable, match="belongs to"):
        read_table(connection, "tidewire_meta")


def test_tables_of_virtual_tables_are_left_alone(connection: sqlite3.Connection) -> None:
    connection.executescript(
        """
        CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT);
        CREATE VIRTUAL TABLE notes_fts USING fts5 (body, content = 'notes', content_rowid = 'id');
        CREATE TABLE notes_more (id INTEGER PRIMARY KEY);
        """
    )
    assert user_tables(connection) == ["notes", "notes_fts", "notes_more"]
    with pytest.raises(TableNotSyncable, match="its own data"):
        read_table(connection, "notes_fts_data")
