"""What goes above `dead_letters_max` is said everywhere that a person looks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.agent_process import tidewire_agent
from support.hub_process import tidewire_hub
from support.processes import Site
from support.waiting import wait_for

SCHEMA = "CREATE TABLE t (id INTEGER PRIMARY KEY, v);"


def test_letters_that_went_are_counted_in_status_state_topic_log_and_a_problem(tmp_path: Path) -> None:
    """Guarantee 12."""
    with Site(tmp_path, "--devices-save-interval-s", "0.2") as site:
        a = site.device("a", SCHEMA).start()
        a.sql(f"INSERT INTO t VALUES {', '.join(f'({n}, {n})' for n in range(10))};")
        site.wait_at_rest()
        mine = f"INSERT INTO t VALUES {', '.join(f'({n}, -{n + 1})' for n in range(10))};"
        b = site.device("b", SCHEMA + mine, "--dead-letters-max", "4", "--state-interval-s", "0.5").start()
        b.wait_problem("dead_letters_full")
        wait_for(lambda: (b.status.dead_letters, b.status.dead_letters_dropped) == (4, 6), what="status tells")
        wait_for(lambda: at_the_hub(site, "b").get("dead_letters_dropped") == 6, what="the state topic tells")
        wait_for(lambda: "6 dead letters are gone" in b.log, what="the log tells")
        wait_for(lambda: "table t: rows that were here gave way" in b.log, what="the log tells why")
        assert "4 dead letters (6 older ones are gone)" in tidewire_agent("status", "--db", b.db).stdout
        assert tidewire_agent("dead", "discard", "--all", "--db", b.db).returncode == 0
        b.wait_no_problem()


def test_letters_that_go_while_nothing_else_happens_are_no_longer_told(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        a = site.device("a", SCHEMA).start()
        a.sql("INSERT INTO t VALUES (1, 'a'), (2, 'a');")
        site.wait_at_rest()
        mine = "INSERT INTO t VALUES (1, 'b'), (2, 'b');"
        b = site.device("b", SCHEMA + mine, "--state-interval-s", "86400", "--state-pause-s", "0.1").start()
        wait_for(lambda: at_the_hub(site, "b").get("dead_letters") == 2, what="the state topic tells of two")
        site.wait_at_rest()
        assert tidewire_agent("dead", "discard", "--all", "--db", b.db).returncode == 0
        wait_for(lambda: b.status.dead_letters == 0, what="status tells that they are gone")
        wait_for(lambda: at_the_hub(site, "b").get("dead_letters") == 0, what="the state topic tells it")


def at_the_hub(site: Site, device: str) -> dict[str, Any]:
    """What the hub knows of a device from its state topic."""
    listed = tidewire_hub("devices", "--data", site.folder / "hub", "--json").stdout
    found: dict[str, dict[str, Any]] = {record["device"]: record for record in map(json.loads, listed.splitlines())}
    return found.get(device, {})
