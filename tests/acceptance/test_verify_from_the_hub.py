"""`tidewire-hub verify DEVICE`: a person at the hub has a device compare its rows."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

from support.agent_process import tidewire_agent
from support.hub_process import tidewire_hub
from support.processes import Device, Site
from tidewire_agent.store.silence import trigger_switch

SCHEMA = "CREATE TABLE t (id TEXT PRIMARY KEY, v); CREATE TABLE u (id TEXT PRIMARY KEY, v);"


def verify(site: Site, device: str, *options: str) -> subprocess.CompletedProcess[str]:
    return tidewire_hub("verify", device, "--data", site.folder / "hub", "--broker", site.broker.url, *options)


def change_behind_the_back(device: Device, statement: str) -> None:
    """No trigger notices it."""
    switch = trigger_switch()
    assert switch is not None
    with closing(sqlite3.connect(device.db, isolation_level=None, timeout=5)) as connection:
        switch(connection, False)
        connection.execute(statement)


def test_a_device_tells_the_hub_which_rows_differ(tmp_path: Path) -> None:
    """Guarantee 7."""
    with Site(tmp_path) as site:
        a, b = (site.device(name, SCHEMA).start() for name in "ab")
        a.sql("INSERT INTO t VALUES ('x', 'right'), ('y', 1)")
        site.wait_at_rest()
        equal = verify(site, "b")
        assert (equal.returncode, equal.stdout, equal.stderr) == (0, "t: 2 rows, 0 differ\nu: 0 rows, 0 differ\n", "")
        change_behind_the_back(b, "UPDATE t SET v = 'wrong' WHERE id = 'x'")
        found = verify(site, "b", "--table", "t")
        assert (found.returncode, found.stderr) == (1, "")
        assert found.stdout == (
            't: 2 rows, 1 differ\n  ["x"]\n'
            '    device: {"id": "x", "v": "wrong"}\n    hub:    {"id": "x", "v": "right"}\n'
        )
        (record,) = map(json.loads, verify(site, "b", "--table", "t", "--json").stdout.splitlines())
        assert (record["table"], record["differing"], record["listed"][0]["key"]) == ("t", 1, ["x"])
        assert tidewire_agent("verify", "--db", b.db, "--repair").returncode == 0
        assert verify(site, "b").returncode == 0
        assert verify(site, "a").returncode == 0
        assert b.status.verified is not None
        assert b.status.rejected_count == 0
        assert "set aside" not in site.hub.log


def test_where_no_report_comes_the_reason_is_said(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        a = site.device("a", SCHEMA).start()
        assert a.stop() == 0
        stopped = verify(site, "a")
        assert stopped.returncode == 1
        assert stopped.stderr.startswith("error: device a is stopped\nhint: start its agent")
        unknown = verify(site, "nobody", "--timeout", "0.5")
        assert unknown.returncode == 1
        assert "no device nobody has said anything on this broker" in unknown.stderr
        assert verify(site, "Not A Name").returncode == 2
        site.broker.stop()
        assert verify(site, "a").returncode == 3


def test_who_asks_for_a_report_is_told_that_no_hub_runs_and_an_idle_device_notices_it(tmp_path: Path) -> None:
    with Site(tmp_path, "--head-period-s", "0.2") as site:
        a = site.device("a", SCHEMA, "--hub-silence-s", "3", "--welcome-timeout-s", "1", "--hello-backoff-max-s", "1")
        a.start()
        site.hub.kill()
        unanswered = verify(site, "a")
        assert unanswered.returncode == 1
        assert unanswered.stderr.startswith("error: the hub hub of stream main is offline")
        a.wait_problem("hub_silent")
        assert a.status.state == "handshaking"
        assert "no word from the hub since 2" in a.log
        site.hub.start()
        a.wait_state("live")
        a.wait_no_problem()


def test_of_many_differing_rows_as_many_are_listed_at_the_hub_as_there_is_room_for(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        a = site.device("a", SCHEMA, "--verify-listed-max", "1000").start()
        a.sql(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)"
            " INSERT INTO t SELECT i, printf('%.150c', 'x') FROM n"
        )
        site.wait_at_rest()
        change_behind_the_back(a, "UPDATE t SET v = v || 'y'")
        (record,) = map(json.loads, verify(site, "a", "--table", "t", "--json").stdout.splitlines())
        assert (record["rows"], record["differing"]) == (500, 500)
        assert 50 < len(record["listed"]) < 500
