"""Declared tables: merged where they agree, the declaring device's problem where they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.stream_kit import HandDevice, only_entry, open_stream, picture, reasons, rows_of, send, shape
from tidewire_hub.catalogue import Catalogue
from tidewire_hub.log.sqlite import SqliteLog
from tidewire_hub.stream import Stream
from tidewire_schemas.shapes import ForeignKey, TableShape

BASE = shape("T", "Id TEXT, Name TEXT NOCASE", key="Id")


def test_what_a_device_declares_again_is_no_problem_and_no_write(tmp_path: Path) -> None:
    log = SqliteLog.open(tmp_path / "log.db")
    stream = open_stream(log)
    again = [BASE, shape("t", "ID TEXT, name TEXT NOCASE", key="id")]
    assert stream.declare("a", [BASE]) == []
    assert stream.declare("b", again) == []
    document = log.load_document("catalogue")
    size = (tmp_path / "log.db-wal").stat().st_size
    assert stream.declare("b", again) == []
    assert log.load_document("catalogue") == document
    assert (tmp_path / "log.db-wal").stat().st_size == size
    stream.close()


def test_columns_unique_sets_and_foreign_keys_are_united_in_the_first_spelling() -> None:
    stream = open_stream()
    stream.declare("a", [BASE])
    more = shape(
        "t",
        "id TEXT, NAME TEXT NOCASE, extra REAL =1",
        unique=["NAME"],
        foreign_keys=[ForeignKey(columns=("extra",), table="other", references=())],
    )
    assert stream.declare("b", [more]) == []
    assert stream.declare("a", [BASE]) == []
    (table,) = stream.tables()
    assert [column.name for column in table.columns] == ["Id", "Name", "extra"]
    assert (table.name, len(table.unique), len(table.foreign_keys)) == ("T", 1, 1)


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        (shape("t", "id TEXT, name TEXT NOCASE", key="id name"), "its key is (id, name) here and (Id) at the hub"),
        (shape("t", "id INTEGER, name TEXT NOCASE"), "column 'id' has affinity INTEGER here and TEXT at the hub"),
        (shape("t", "id TEXT, name TEXT"), "column 'name' has collation BINARY here and NOCASE at the hub"),
        (shape("t", "id TEXT", rowid=True), "INTEGER PRIMARY KEY here and an ordinary key at the hub"),
        (shape("t", "id TEXT, x TEXT =1.5"), "the default of column 'x'"),
    ],
)
def test_a_contradiction_is_a_clear_problem_and_changes_nothing(declared: TableShape, words: str) -> None:
    stream = open_stream()
    stream.declare("a", [BASE])
    (problem,) = stream.declare("b", [declared])
    assert words in problem.message
    assert stream.tables() == [BASE]


@pytest.mark.parametrize(
    ("declared", "code", "words"),
    [
        ('id TEXT, name TEXT ="q", must TEXT !', "default_differs", "'name' has default 'q' here and 'p' at the hub"),
        ("id TEXT, name TEXT, must TEXT !", "default_differs", "'name' has default NULL here and 'p' at the hub"),
        ('id TEXT, name TEXT ="p", must TEXT', "not_null_differs", "'must' is NOT NULL without a default elsewhere"),
        ('id TEXT, name TEXT ="p"', "not_null_differs", "'must' is NOT NULL without a default elsewhere"),
        (
            'id TEXT, name TEXT ="p", must TEXT !, more TEXT !',
            "not_null_differs",
            "'more' is NOT NULL without a default",
        ),
    ],
)
def test_defaults_and_not_null_that_differ_are_told_again_and_again_and_block_nothing(
    declared: str, code: str, words: str
) -> None:
    stream = open_stream()
    assert stream.declare("a", [_with_not_null('id TEXT, name TEXT ="p", must TEXT !')]) == []
    assert stream.declare("a", [_with_not_null('id TEXT, name TEXT ="p", must TEXT !')]) == []
    for _ in range(2):
        (problem,) = stream.declare("b", [_with_not_null(declared)])
        assert problem.code == code
        assert words in problem.message
    device = HandDevice("b")
    assert only_entry(send(stream, device.seal(device.put("t", "id", ["1"])))).refused == []


def test_not_null_with_a_default_suits_devices_without_the_column() -> None:
    stream = open_stream()
    stream.declare("a", [shape("t", "id TEXT")])
    assert stream.declare("b", [_with_not_null('id TEXT, more TEXT ="x"!')]) == []
    assert stream.declare("a", [shape("t", "id TEXT")]) == []


def _with_not_null(columns: str) -> TableShape:
    """A table `t`; a column that ends in `!` is NOT NULL."""
    made = shape("t", columns.replace(" !", "").replace("!", ""))
    not_null = [column.endswith("!") for column in columns.split(", ")]
    marked = tuple(c.model_copy(update={"not_null": m}) for c, m in zip(made.columns, not_null, strict=True))
    return made.model_copy(update={"columns": marked})


def test_one_bad_table_does_not_stop_the_others() -> None:
    """Guarantee 10."""
    stream = open_stream()
    stream.declare("a", [BASE])
    problems = stream.declare("b", [shape("t", "id REAL"), shape("other", "id TEXT")])
    assert [problem.table for problem in problems] == ["t"]
    assert [table.name for table in stream.tables()] == ["T", "other"]


def test_a_unique_set_that_the_rows_satisfy_takes_force_at_once() -> None:
    stream = open_stream()
    stream.declare("a", [BASE])
    device = HandDevice("a")
    send(stream, device.seal(device.put("t", "id name", ["1", "Ann"], ["2", None], ["3", None])))
    assert stream.declare("b", [shape("t", "id TEXT, name TEXT NOCASE", unique=["name"])]) == []
    entry = only_entry(send(stream, device.seal(device.put("t", "id name", ["4", "ANN"]))))
    assert reasons(entry) == ["unique"]


def test_a_unique_set_that_rows_violate_is_a_problem_that_names_them_until_they_differ() -> None:
    stream = open_stream()
    stream.declare("a", [BASE])
    device = HandDevice("a")
    send(stream, device.seal(device.put("t", "id name", ["1", "Ann"], ["2", "ANN"], ["3", "Bob"])))
    unique = shape("t", "id TEXT, name TEXT NOCASE, extra TEXT", unique=["name"])
    for _ in range(2):
        (problem,) = stream.declare("b", [unique])
        assert problem.code == "unique_violated"
        assert '["1"]' in problem.message
        assert '["2"]' in problem.message
    assert [column.name for column in stream.tables()[0].columns] == ["Id", "Name", "extra"]
    send(stream, device.seal(device.set("t", "id name", ["2", "Cid"])))
    assert stream.declare("b", [unique]) == []
    assert reasons(only_entry(send(stream, device.seal(device.set("t", "id name", ["2", "bob"]))))) == ["unique"]


def test_rows_that_were_there_get_the_default_of_a_new_column_as_devices_rows_do() -> None:
    """Guarantee 7."""
    stream = open_stream()
    stream.declare("a", [BASE])
    device = HandDevice("a")
    send(stream, device.seal(device.put("t", "id name", ["1", "Ann"])))
    stream.declare("a", [shape("t", "id TEXT, name TEXT NOCASE, n REAL =5")])
    assert rows_of(stream, "t") == [{"Id": "1", "Name": "Ann", "n": 5.0}]
    send(stream, device.seal(device.put("t", "id name n", ["2", "Bob", None])))
    assert rows_of(stream, "t")[1] == {"Id": "2", "Name": "Bob"}


def test_the_default_of_a_new_column_can_violate_a_new_unique_set() -> None:
    stream = open_stream()
    stream.declare("a", [BASE])
    device = HandDevice("a")
    send(stream, device.seal(device.put("t", "id name", ["1", "Ann"], ["2", "Bob"])))
    (problem,) = stream.declare("a", [shape("t", "id TEXT, name TEXT NOCASE, n REAL =5", unique=["n"])])
    assert problem.code == "unique_violated"


def test_a_state_behind_the_catalogue_is_brought_in_line_when_it_is_opened(tmp_path: Path) -> None:
    """Guarantee 6: as after a kill between storing the catalogue and the state."""
    stream = open_stream(SqliteLog.open(tmp_path / "log.db"), tmp_path / "state.db")
    stream.declare("a", [BASE])
    device = HandDevice("a")
    send(stream, device.seal(device.put("t", "id name", ["1", "Ann"], ["2", "Bob"])))
    stream.close()
    log = SqliteLog.open(tmp_path / "log.db")
    later = shape("T", "Id TEXT, Name TEXT NOCASE, n REAL =5", key="Id", unique=["Name"])
    log.save_document("catalogue", Catalogue.from_json(b"[" + later.model_dump_json().encode() + b"]").to_json())
    again = open_stream(log, tmp_path / "state.db")
    assert [row["n"] for row in rows_of(again, "t")] == [5.0, 5.0]
    assert reasons(only_entry(send(again, device.seal(device.set("t", "id name", ["2", "ann"]))))) == ["unique"]
    before = picture(again)
    again.close()
    for path in tmp_path.glob("state.db*"):
        path.unlink()
    anew = Stream.open(SqliteLog.open(tmp_path / "log.db"), tmp_path / "state.db")
    assert picture(anew) == before
    anew.close()


def test_a_unique_set_that_is_the_key_itself_costs_nothing() -> None:
    stream = open_stream()
    stream.declare("a", [shape("t", "id TEXT, name TEXT", unique=["id", "name", "name"])])
    assert [unique.columns for unique in stream.tables()[0].unique] == [("name",)]


def test_the_number_of_tables_is_bounded() -> None:
    """Guarantee 12."""
    stream = open_stream()
    problems = stream.declare("a", [shape(f"t{n}", "id TEXT") for n in range(1001)])
    assert [problem.code for problem in problems] == ["too_many"]
    assert len(stream.tables()) == 1000
