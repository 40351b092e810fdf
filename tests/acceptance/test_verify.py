"""`tidewire-agent verify` beside a running agent, as a person uses it; and the check that the agent makes by itself."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support.agent_process import tidewire_agent
from support.hub_process import HubProcess, tidewire_hub
from support.processes import Device, Site
from support.waiting import wait_for
from support.writer import SCHEMA, Writer
from tidewire_agent.store.silence import trigger_switch


def behind_the_back(device: Device, *statements: str) -> None:
    """Run statements that no trigger notices."""
    switch = trigger_switch()
    assert switch is not None
    with closing(sqlite3.connect(device.db, isolation_level=None, timeout=5)) as connection:
        switch(connection, False)
        for statement in statements:
            connection.execute(statement)


@pytest.mark.fault("a row changed behind Tidewire's back")
def test_a_wrong_row_is_found_and_repaired_while_apps_write(tmp_path: Path) -> None:
    """Guarantee 7: nothing is reported while nothing is wrong; then exactly what is wrong, and it can be mended."""
    with Site(tmp_path) as site:
        a, b = (site.device(name, SCHEMA + "CREATE TABLE quiet (id TEXT PRIMARY KEY, v);").start() for name in "ab")
        a.sql("INSERT INTO quiet VALUES ('x', 'right'), ('y', 1.5), ('z', x'00');")
        writers = [Writer(device.db, device.device, seed=1) for device in (a, b)]
        for writer in writers:
            writer.start()
        try:
            wait_for(lambda: b.query("SELECT count(*) FROM quiet") == [(3,)], what="the rows came")
            found = tidewire_agent("verify", "--db", b.db, "--json")
            told = [json.loads(line) for line in found.stdout.splitlines()]
            assert {table["table"] for table in told} >= {"journal", "tally", "own", "shared", "quiet"}, found.stderr
            assert [table["differing"] for table in told] == [0] * len(told)
            assert not any(table["problem"] for table in told)

            behind_the_back(b, "UPDATE quiet SET v = 'wrong' WHERE id = 'x'", "DELETE FROM quiet WHERE id = 'y'")
            found = tidewire_agent("verify", "--db", b.db, "--table", "quiet")
            assert found.returncode == 1
            assert found.stdout.startswith("quiet: 2 rows, 2 differ")
            assert 'here: {"id": "x", "v": "wrong"}' in found.stdout
            assert 'hub:  {"id": "x", "v": "right"}' in found.stdout
            assert "here: no such row" in found.stdout
            b.wait_problem("rows_differ")

            repaired = tidewire_agent("verify", "--db", b.db, "--table", "quiet", "--repair")
            assert (repaired.returncode, repaired.stderr) == (0, "")
            assert "2 repaired" in repaired.stdout
        finally:
            for writer in writers:
                writer.stop()
        site.wait_at_rest()
        site.assert_equal()
        clean = tidewire_agent("verify", "--db", b.db)
        assert (clean.returncode, clean.stderr) == (0, ""), clean.stdout
        b.wait_no_problem()
        assert [(letter["reason"], letter["key"]) for letter in b.dead() if letter["table"] == "quiet"] == [
            ("repaired", ["x"])
        ]


def test_an_agent_looks_by_itself_now_and_then_and_says_what_it_finds(tmp_path: Path) -> None:
    """Guarantee 7."""
    with Site(tmp_path, "--devices-save-interval-s", "0.2") as site:
        a = site.device("a", "CREATE TABLE t (id INTEGER PRIMARY KEY, v);", "--verify-interval-s", "0.5").start()
        a.sql("INSERT INTO t VALUES (1, 'right');")
        site.wait_at_rest()
        wait_for(lambda: a.status.verified is not None and a.status.verified.complete, what="it has looked")
        assert a.problems == set()
        behind_the_back(a, "UPDATE t SET v = 'wrong'")
        a.wait_problem("rows_differ")
        status = tidewire_agent("status", "--db", a.db).stdout
        assert "1 rows, 1 differ" in status

        def at_the_hub() -> dict[str, Any]:
            listed = tidewire_hub("devices", "--data", site.folder / "hub", "--json").stdout
            found: dict[str, Any] = json.loads(listed)
            return found

        wait_for(lambda: (at_the_hub()["verified"] or {}).get("differing") == 1, what="the hub lists it")
        behind_the_back(a, "UPDATE t SET v = 'right'")
        a.wait_no_problem()


def test_a_look_at_one_table_changes_what_is_said_of_that_table_only(tmp_path: Path) -> None:
    """Guarantee 12."""
    with Site(tmp_path) as site:
        schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, v); CREATE TABLE u (id INTEGER PRIMARY KEY, v);"
        a = site.device("a", schema).start()
        a.sql("INSERT INTO t VALUES (1, 'right'); INSERT INTO u VALUES (1, 'right'), (2, 'right');")
        site.wait_at_rest()
        behind_the_back(a, "UPDATE t SET v = 'wrong'", "UPDATE u SET v = 'wrong'")

        def says(*arguments: str) -> str:
            tidewire_agent("verify", "--db", a.db, *arguments)
            status = tidewire_agent("status", "--db", a.db).stdout
            return next((line for line in status.splitlines() if "rows_differ" in line), "")

        wait_for(lambda: "3 rows are not as the log says, in t, u" in says(), what="both are named")
        wait_for(lambda: "1 rows are not as the log says, in t" in says("--table", "u", "--repair"), what="t is named")
        for _ in range(2):
            assert "1 rows are not as the log says, in t" in says("--table", "u")
        tidewire_agent("verify", "--db", a.db, "--table", "t", "--repair")
        a.wait_no_problem()


def test_where_nothing_can_be_compared_the_command_says_why_once(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, v); CREATE TABLE u (id INTEGER PRIMARY KEY, v);"
        options = ("--verify-timeout-s", "0.2", "--hello-backoff-max-s", "0.5")
        a = site.device("a", schema, *options).start()
        site.hub.kill()
        assert said(a) == "the hub did not answer\n"
        foreign = HubProcess(tmp_path / "other", site.broker.url, log=tmp_path / "other.log")
        with foreign:
            a.wait_problem("log_foreign")
            problem, hint = said(a).splitlines()
            assert problem.startswith(f"error: the agent of {a.db} is halted: the device follows log ")
            assert "tidewire-agent adopt" in hint
        site.broker.stop()
        a.wait_problem("broker")
        assert said(a).startswith("the agent is offline: ")
        assert f"{site.broker.url} cannot be reached" in said(a)
        assert a.stop() == 0
        assert said(a).startswith(f"error: no agent runs on {a.db}\nhint: start it (`tidewire-agent run`)")


def said(device: Device) -> str:
    """By a verification that cannot be."""
    found = tidewire_agent("verify", "--db", device.db)
    assert (found.returncode, found.stdout) == (1, "")
    return found.stderr
