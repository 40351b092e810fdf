"""The command line without an agent: what each command does to the file, prints, and returns."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tidewire_agent.cli import main
from tidewire_agent.lock import AgentLock, lock_path
from tidewire_agent.status import AgentStatus
from tidewire_agent.store.edge_store import EdgeStore
from tidewire_agent.store.opening import TABLES_VERSION
from tidewire_link.command_line import ExitCode
from tidewire_schemas.positions import START


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE orders (id TEXT PRIMARY KEY, total REAL)")
    connection.execute("CREATE TABLE notes (text)")
    connection.commit()
    connection.close()
    return path


def call(*args: str | Path, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args], env=env)


def test_help_lists_every_command_and_the_exit_codes() -> None:
    result = call("--help")
    assert result.exit_code == 0
    for name in ("run", "attach", "detach", "put", "get", "delete", "keys", "watch", "status", "log", "dead"):
        assert f"  {name} " in result.output
        assert "Exit codes" in call(name, "--help").output
    assert "5 database or disk" in " ".join(result.output.split())


def test_the_version_is_told() -> None:
    assert call("--version").output.startswith("tidewire-agent, version ")


def test_help_does_not_import_the_agent() -> None:
    script = (
        "import sys\nfrom tidewire_agent.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "assert not {'paho', 'aiosqlite', 'sqlite3', 'asyncio'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL, timeout=120)


def test_the_module_runs_as_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tidewire_agent", "--version"], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.startswith("tidewire-agent")


def test_attach_says_what_became_of_each_table(database: Path) -> None:
    result = call("attach", "--db", database, "--device", "till-7", "orders", "notes", "--json")
    assert result.exit_code == ExitCode.ERROR
    records = [json.loads(line) for line in result.output.splitlines()]
    assert [(r["table"], r["attached"]) for r in records] == [("orders", True), ("notes", False)]
    assert "PRIMARY KEY" in records[1]["reason"]


def test_attach_remembers_no_table_that_does_not_exist(database: Path) -> None:
    result = call("attach", "--db", database, "--device", "till-7", "orders", "ordres")
    assert result.exit_code == ExitCode.ERROR
    assert "there is no such table" in result.stdout
    assert "--table" in result.stderr  # what to do where it is to come
    status = call("status", "--db", database)
    assert "orders" in status.output
    assert "ordres" not in status.output
    result = call("detach", "--db", database, "ordres")
    assert result.exit_code == ExitCode.USAGE
    assert call("attach", "--db", database, "orders").exit_code == 0


def test_attach_forgets_no_table_that_the_settings_ask_for(database: Path) -> None:
    """It is attached once the app has made it."""
    with closing(EdgeStore.open(database, device="till-7")) as store:
        assert [report.attached for report in store.attach(["later"])] == [False]
    assert call("attach", "--db", database, "later").exit_code == ExitCode.ERROR
    with closing(sqlite3.connect(database, isolation_level=None)) as app:
        app.execute("CREATE TABLE later (id TEXT PRIMARY KEY)")
    with closing(EdgeStore.open(database, device=None)) as store:
        assert [shape.name for shape in store.tables.shapes()] == ["later"]


def test_attach_without_a_table_is_wrong_usage(database: Path) -> None:
    assert call("attach", "--db", database).exit_code == ExitCode.USAGE


def test_all_tables_attaches_what_can_be_synced(database: Path) -> None:
    result = call("attach", "--db", database, "--device", "till-7", "--all-tables")
    assert "orders" in result.output


def test_the_device_is_remembered(database: Path) -> None:
    call("attach", "--db", database, "--device", "till-7", "orders")
    assert json.loads(call("status", "--db", database, "--json").output)["device"] == "till-7"
    result = call("attach", "--db", database, "--device", "till-8", "orders")
    assert result.exit_code == ExitCode.USAGE
    assert "till-7" in result.output


def test_detach_removes_every_trace(database: Path) -> None:
    before = schema(database)
    call("attach", "--db", database, "--device", "till-7", "orders")
    assert schema(database) != before
    assert call("detach", "--db", database).exit_code == 0
    assert [row for row in schema(database) if row[0] != "sqlite_sequence"] == before
    assert not lock_path(database).exists()


def test_status_names_the_tables_and_what_waits_of_each(database: Path) -> None:
    assert json.loads(call("status", "--db", database, "--json").output)["tables"] == []
    call("attach", "--db", database, "--device", "till-7", "orders", "notes")
    write(database, "INSERT INTO orders VALUES ('o-1', 1.5)")
    tables = json.loads(call("status", "--db", database, "--json").output)["tables"]
    assert [(table["table"], table["state"], table["waiting"]) for table in tables] == [
        ("orders", "not_connected", 1),
        ("notes", "not_synced", 0),
    ]
    assert "table orders: not connected yet, 1 changes wait to be sent\n" in shown(database)
    with closing(EdgeStore.open(database, device=None)) as store:
        store.follow("a" * 32, 1, START)
    assert "table orders: synced, 1 changes wait to be sent\n" in shown(database)
    assert "table notes: not synced\n  table 'notes' cannot be synced: it has no PRIMARY KEY" in shown(database)
    for name in ("orders", "notes"):
        assert call("detach", "--db", database, name, "--force").exit_code == 0
    assert "no table is attached\n" in shown(database)


def test_status_is_told_while_another_program_writes(database: Path) -> None:
    call("attach", "--db", database, "--device", "till-7", "orders")
    with closing(sqlite3.connect(database, isolation_level=None)) as app:
        app.execute("BEGIN IMMEDIATE")
        result = call("status", "--db", database, "--json")
    assert json.loads(result.output)["device"] == "till-7"


def test_detach_of_one_table_leaves_the_others(database: Path) -> None:
    call("attach", "--db", database, "--device", "till-7", "orders")
    assert call("detach", "--db", database, "orders").exit_code == 0
    assert json.loads(call("status", "--db", database, "--json").output)["tables"] == []
    assert call("detach", "--db", database, "orders").exit_code == ExitCode.USAGE


def test_detach_refuses_to_lose_changes_unless_forced(database: Path) -> None:
    call("attach", "--db", database, "--device", "till-7", "orders")
    write(database, "INSERT INTO orders VALUES ('o-1', 1.5)")
    refused = call("detach", "--db", database)
    assert refused.exit_code == ExitCode.DATABASE
    assert "--force" in refused.output
    assert call("detach", "--db", database, "--force").exit_code == 0


def test_detach_and_adopt_say_in_json_what_they_did(database: Path) -> None:
    assert json.loads(call("adopt", "--db", database, "--json").output) == {"forgotten_log": None}
    assert call("detach", "--db", database, "--json").output == ""
    call("attach", "--db", database, "--device", "till-7", "orders")
    with closing(EdgeStore.open(database, device=None)) as store:
        store.follow("a" * 32, 1, START)
    assert json.loads(call("adopt", "--db", database, "--json").output) == {"forgotten_log": "a" * 32}
    detached = {"table": "orders", "detached": True}
    assert json.loads(call("detach", "--db", database, "--json", "orders").output) == detached
    call("attach", "--db", database, "orders")
    assert json.loads(call("detach", "--db", database, "--json").output) == detached


def tell(database: Path, **told: object) -> None:
    """Write the status document as an agent does."""
    known: dict[str, object] = {"pid": 1, "since": 1, "updated_at": 1, "version": "0", "device": "till-7"}
    known |= {"stream": "main", "broker": "mqtt://h:1883", "boot": "b" * 32}
    with AgentLock.acquire(database) as lock:
        lock.write(AgentStatus.model_validate(known | told))


def test_a_table_that_the_hub_refuses_is_not_told_as_synced(database: Path) -> None:
    call("attach", "--db", database, "--device", "till-7", "orders")
    tell(database, state="live", refused={"Orders": "the column total was REAL"})
    (table,) = json.loads(call("status", "--db", database, "--json").output)["tables"]
    assert (table["state"], table["problem"]) == ("refused", "the column total was REAL")
    assert "table orders: refused\n  the column total was REAL" in call("status", "--db", database).output


def test_status_says_when_the_broker_is_tried_again(database: Path) -> None:
    call("attach", "--db", database, "--device", "till-7", "orders")
    tell(database, state="offline", connects_at=1_795_390_000_000)
    with AgentLock.acquire(database):  # as while an agent runs
        assert "connects to the broker again at 2026-11-22 23:26:40 UTC" in call("status", "--db", database).output


def test_adopt_ends_the_problem_that_it_solves(database: Path) -> None:
    call("attach", "--db", database, "--device", "till-7", "orders")
    problems = [{"code": code, "message": "m"} for code in ("log_foreign", "tables_refused")]
    tell(database, state="halted", problems=problems)
    assert call("adopt", "--db", database).exit_code == 0
    status = json.loads(call("status", "--db", database, "--json").output)
    assert [problem["code"] for problem in status["problems"]] == ["tables_refused"]


COMMANDS = (
    ("status",), ("log",), ("digests",), ("adopt",), ("detach",), ("keys",), ("get", "k"), ("put", "k", "1"),
    ("delete", "k"), ("watch",), ("attach", "t"), ("dead", "list"), ("dead", "retry", "1"), ("dead", "discard", "1"),
    ("verify",), ("backup", "copy.db"), ("run", "--broker", "mqtt://127.0.0.1:9"),
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_what_is_no_database_is_told_in_the_same_words_by_every_command(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    letter, folder, nothing = tmp_path / "letter.txt", tmp_path / "folder", tmp_path / "no.db"
    letter.write_text("Dear Sir or Madam, " * 100)
    folder.mkdir()
    not_made = "give the path of the app's SQLite file; the agent does not create it"
    for path, said, hint in (
        (letter, f"{letter} is not an SQLite database", "give the app's SQLite file"),
        (folder, f"{folder} is not a file", not_made),
        (nothing, f"there is no database {nothing}", not_made),
    ):
        result = call(*command, "--db", path)
        assert result.exit_code == ExitCode.DATABASE
        assert result.output == f"error: {said}\nhint: {hint}\n"
    assert {path.name for path in tmp_path.iterdir()} == {"letter.txt", "folder"}


WRITING = (("attach", "orders"), ("run", "--broker", "mqtt://127.0.0.1:9"))


@pytest.mark.parametrize("command", [*WRITING, ("status",)], ids=" ".join)
def test_tables_of_another_make_are_told(tmp_path: Path, command: tuple[str, ...]) -> None:
    write(tmp_path / "other.db", "CREATE TABLE tidewire_meta (a, b)")
    refused = call(*command, "--db", tmp_path / "other.db")
    assert refused.exit_code == ExitCode.DATABASE
    assert "not those of this version" in refused.output


@pytest.mark.parametrize("command", WRITING, ids=" ".join)
@pytest.mark.parametrize(("version", "hint"), [(99, "update Tidewire"), (TABLES_VERSION - 1, "tidewire-agent detach")])
def test_tables_of_another_version_are_left_alone(
    database: Path, command: tuple[str, ...], version: int, hint: str
) -> None:
    call("attach", "--db", database, "--device", "till-7", "orders")
    write(database, f"UPDATE tidewire_meta SET value = {version} WHERE name = 'tables_version'")
    write(database, "DROP TABLE tidewire_verify")
    before = schema(database)
    refused = call(*command, "--db", database)
    assert refused.exit_code == ExitCode.DATABASE
    assert f"version {version}, this one" in refused.output
    assert hint in refused.output
    assert schema(database) == before


def test_a_change_of_tidewires_tables_is_a_new_version_of_them(database: Path) -> None:
    """When this fails: raise `TABLES_VERSION`, once for each release, and put the new columns' digest here."""
    call("attach", "--db", database, "--device", "till-7", "orders")
    with closing(sqlite3.connect(database)) as connection:
        columns = connection.execute(
            """
            SELECT m.name, c.name, c.pk FROM sqlite_master AS m, pragma_table_info(m.name) AS c
            WHERE m.name LIKE 'tidewire!_%' ESCAPE '!' ORDER BY m.name, c.cid
            """
        ).fetchall()
    digest = hashlib.sha256(repr(columns).encode()).hexdigest()[:16]
    assert (TABLES_VERSION, digest) == (2, "67395e69ffda1855")


def test_dead_letters_of_a_database_that_no_agent_used_are_none(database: Path) -> None:
    before = database.read_bytes()
    assert call("dead", "list", "--db", database).output == "no dead letters\n"
    assert call("dead", "retry", "--db", database, "1").exit_code == ExitCode.USAGE
    assert database.read_bytes() == before


def test_the_newest_dead_letters_are_listed_and_what_is_left_out_is_counted(database: Path) -> None:
    write(database, "CREATE TABLE things (id TEXT PRIMARY KEY, n)")
    call("attach", "--db", database, "--device", "till-7", "things")
    write(database, "INSERT INTO things VALUES (NULL, 1), (NULL, 2), (NULL, 3)")
    with closing(EdgeStore.open(database, device=None)) as store:
        store.seal(0)
    assert call("dead", "list", "--db", database, "--limit", "1").stdout.endswith(
        "… and 2 more: give a larger --limit\n"
    )
    assert "more" not in call("dead", "list", "--db", database, "--limit", "3").output
    in_json = call("dead", "list", "--db", database, "--limit", "1", "--json")
    assert json.loads(in_json.stdout)["reason"] == "null_key"
    assert in_json.stderr == "… and 2 more: give a larger --limit\n"


def test_the_newest_batches_are_listed_and_that_there_are_more_is_said(database: Path) -> None:
    call("attach", "--db", database, "--device", "till-7", "orders")
    with closing(EdgeStore.open(database, device=None)) as store:
        for number in range(2):
            write(database, f"INSERT INTO orders VALUES ('o-{number}', 1.5)")
            store.seal(0)
    assert call("log", "--db", database, "--limit", "1").stdout.endswith("… and more: give a larger --limit\n")
    assert "more" not in call("log", "--db", database, "--limit", "2").output
    assert json.loads(call("log", "--db", database, "--limit", "1", "--json").stdout)["batch"] == 2


def test_a_view_is_named_as_one_with_the_tables_that_it_shows(database: Path) -> None:
    write(database, "CREATE TABLE Items (id TEXT PRIMARY KEY, order_id)")
    write(database, "CREATE VIEW big AS SELECT * FROM orders WHERE total > 100")
    write(database, "CREATE VIEW Basket AS SELECT big.id, i.id AS item FROM big JOIN items AS i ON i.order_id = big.id")
    write(database, "CREATE VIEW broken AS SELECT * FROM nowhere")
    for name, hint in (("basket", "sync what it shows: Items, orders"), ("broken", "sync the tables that it reads")):
        result = call("attach", "--db", database, "--device", "till-7", name, "--json")
        assert result.exit_code == ExitCode.ERROR
        reason = json.loads(result.output)["reason"]
        assert "cannot be synced: it is a view" in reason
        assert hint in reason


def test_a_database_of_one_stream_is_not_run_on_another(database: Path) -> None:
    call("attach", "--db", database, "--device", "till-7", "orders")
    with closing(EdgeStore.open(database, device=None)) as store:
        store.join("main")
        store.join("other")  # no log is followed yet
        store.follow("a" * 32, 1, START)
    for options in ((), ("--stream", "main")):
        refused = call("run", "--db", database, "--broker", "mqtt://127.0.0.1:9", *options)
        assert refused.exit_code == ExitCode.USAGE
        assert "--stream other" in refused.output
        assert "adopt" in refused.output
    assert call("adopt", "--db", database).exit_code == 0
    with closing(EdgeStore.open(database, device=None)) as store:
        store.join("main")


def test_a_database_of_one_device_is_not_run_as_another(database: Path) -> None:
    call("attach", "--db", database, "--device", "till-7", "orders")
    refused = call("run", "--db", database, "--device", "till-8", "--broker", "mqtt://127.0.0.1:9")
    assert refused.exit_code == ExitCode.USAGE
    assert "till-7" in refused.output


def test_detach_of_what_was_never_attached_changes_nothing(database: Path) -> None:
    before = database.read_bytes()
    assert "no trace" in call("detach", "--db", database).output
    assert database.read_bytes() == before


def test_detach_while_an_agent_runs_is_refused(database: Path) -> None:
    call("attach", "--db", database, "--device", "till-7", "orders")
    with AgentLock.acquire(database):
        assert call("detach", "--db", database).exit_code == ExitCode.LOCKED


@pytest.mark.parametrize(
    ("given", "printed"),
    [('{"on": true}', '{"on":true}'), ("12", "12"), ("on", "on"), ('"12"', "12"), ("null", "null")],
)
def test_what_was_put_is_got(database: Path, given: str, printed: str) -> None:
    assert call("put", "--db", database, "lamp", given).exit_code == 0
    assert call("get", "--db", database, "lamp").output == printed + "\n"


def test_a_text_that_looks_like_json_stays_one_if_told(database: Path) -> None:
    call("put", "--db", database, "--text", "n", "12")
    assert json.loads(call("get", "--db", database, "n", "--json").output) == {"key": "n", "value": "12"}


def test_a_missing_key_is_exit_code_1(database: Path) -> None:
    result = call("get", "--db", database, "nothing")
    assert result.exit_code == ExitCode.ERROR
    assert "nothing" in result.output


def test_keys_are_listed_by_prefix(database: Path) -> None:
    for key in ("lamp/a", "lamp/b", "door"):
        call("put", "--db", database, key, "1")
    assert call("keys", "--db", database, "lamp/").output == "lamp/a\nlamp/b\n"
    assert call("keys", "--db", database, "lamp/a", "--values").output == "lamp/a\t1\n"
    assert [json.loads(line) for line in call("keys", "--db", database, "d", "--json").output.splitlines()] == [
        {"key": "door"}
    ]


def test_delete_removes_keys_and_names_the_missing(database: Path) -> None:
    call("put", "--db", database, "a", "1")
    result = call("delete", "--db", database, "a", "b")
    assert result.exit_code == ExitCode.ERROR
    assert "'b'" in result.output
    assert call("keys", "--db", database).output == ""


def test_watch_prints_what_is_there_and_ends_by_itself(database: Path) -> None:
    call("put", "--db", database, "lamp", '"on"')
    assert call("watch", "--db", database, "--initial", "--timeout", "0.1").output == "lamp\ton\n"
    line = call("watch", "--db", database, "--initial", "--timeout", "0.1", "--json").output
    assert json.loads(line) == {"key": "lamp", "deleted": False, "value": "on"}


def test_status_of_a_database_that_no_agent_knows_does_not_change_it(database: Path) -> None:
    before = database.read_bytes()
    assert call("status", "--db", database).output == "never run\n"
    assert call("log", "--db", database).output.startswith("no agent")
    assert database.read_bytes() == before


def test_dead_letters_are_listed_and_dropped(database: Path) -> None:
    call("attach", "--db", database, "--device", "till-7", "orders")
    assert call("dead", "list", "--db", database).output == "no dead letters\n"
    assert call("dead", "retry", "--db", database, "7").exit_code == ExitCode.USAGE
    assert call("dead", "discard", "--db", database).exit_code == ExitCode.USAGE
    assert call("dead", "discard", "--db", database, "--all").exit_code == 0


@pytest.mark.parametrize(
    "command", [["status"], ["log"], ["keys"], ["get", "k"], ["attach", "t"], ["detach"], ["dead", "list"], ["run"]]
)
def test_a_file_that_is_no_database_is_a_database_error(tmp_path: Path, command: list[str]) -> None:
    path = tmp_path / "garbage.db"
    path.write_bytes(b"this is not a database at all, not by far" * 100)
    result = (
        call(*command, "--db", path, "--device", "x")
        if command[0] in ("attach", "run")
        else call(*command, "--db", path)
    )
    assert result.exit_code == ExitCode.DATABASE, result.output
    assert "error: " in result.output


@pytest.mark.parametrize("command", [["status"], ["log"], ["attach", "t"], ["detach"], ["dead", "list"], ["run"]])
def test_a_missing_database_is_a_database_error_and_is_not_made(tmp_path: Path, command: list[str]) -> None:
    result = call(*command, "--db", tmp_path / "no.db")
    assert result.exit_code == ExitCode.DATABASE, result.output
    assert not (tmp_path / "no.db").exists()


def test_an_unknown_setting_in_the_file_is_wrong_usage(tmp_path: Path, database: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(f'db = "{database}"\ndevise = "x"\n')
    result = call("run", "--config", config)
    assert result.exit_code == ExitCode.USAGE
    assert "did you mean device" in result.output


def test_the_environment_is_read(database: Path) -> None:
    assert call("status", env={"TIDEWIRE_AGENT_DB": str(database)}).output == "never run\n"


def test_an_unknown_flag_is_wrong_usage(database: Path) -> None:
    assert call("run", "--db", database, "--nonsense").exit_code == ExitCode.USAGE


def shown(database: Path) -> str:
    return call("status", "--db", database).output


def schema(database: Path) -> list[tuple[str, str]]:
    connection = sqlite3.connect(database)
    found = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
    connection.close()
    return found


def write(database: Path, statement: str) -> None:
    connection = sqlite3.connect(database)
    connection.execute(statement)
    connection.commit()
    connection.close()
