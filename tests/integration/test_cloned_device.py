"""Two agents on copies of one database, under one name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from support.agent_process import AgentProcess, make_database, wait_rows
from support.broker import Mosquitto
from support.hub_process import HubProcess, tidewire_hub
from support.waiting import wait_for


def shown(hub: HubProcess) -> dict[str, Any]:
    (record,) = map(json.loads, tidewire_hub("devices", "--data", hub.data, "--json").stdout.splitlines())
    found: dict[str, Any] = record
    return found


def clone_of(hub: HubProcess) -> str | None:
    found: str | None = shown(hub)["clone"]
    return found


@pytest.mark.fault("a device's database copied, two agents run from it")
def test_a_copied_card_is_named_at_the_hub_and_by_both_agents_and_a_restart_is_not(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Guarantees 2 and 7: what either of them writes is on both, once; also in a column that only one of them has."""
    first, second = tmp_path / "first.db", tmp_path / "second.db"
    quickly = ["--ack-timeout-s", "1"]
    options = ["--devices-save-interval-s", "0.1"]
    with HubProcess(tmp_path / "data", broker.url, *options, log=tmp_path / "hub.log") as hub:
        app = make_database(first)
        with AgentProcess(first, "till-7", broker.url, *quickly) as one:
            one.start()
            app.execute("INSERT INTO orders VALUES ('a', 1)")
            one.kill()
            one.start()
            one.stop()
            app.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            shutil.copy(first, second)
            migrated = "ALTER TABLE orders ADD COLUMN note", "UPDATE orders SET note = 'of the copy'"
            make_database(second, *migrated).close()
            one.start()
            assert clone_of(hub) is None
            with AgentProcess(second, "till-7", broker.url, *quickly) as two:
                two.start()
                copy = make_database(second, "SELECT 1")
                written: list[tuple[str, float]] = []

                def both_say_so() -> bool:
                    number = len(written)
                    written.extend([(f"one-{number}", 1.0), (f"two-{number}", 2.0)])
                    app.execute("INSERT INTO orders VALUES (?, 1)", (f"one-{number}",))
                    copy.execute("INSERT INTO orders (id, total) VALUES (?, 2)", (f"two-{number}",))
                    return "cloned" in one.problems & two.problems

                wait_for(both_say_so, 40, what="both agents say that they are two", every_s=0.2)
                for path in (first, second):
                    all_rows = "SELECT id, total FROM orders ORDER BY id"
                    wait_rows(path, sorted([("a", 1.0), *written]), query=all_rows)
                said = "device till-7 is run twice: boots"
                wait_for(lambda: said in (clone_of(hub) or ""), what="the hub names it", every_s=0.1)
                assert said in hub.log
                assert "over: device till-7 is run twice" not in one.log + two.log
                two.stop()
                copy.close()
            wait_for(lambda: clone_of(hub) is None, what="the hub sees one agent again", every_s=0.1)
            wait_for(lambda: "cloned" not in one.problems, what="so does the agent that goes on", every_s=0.1)
            wait_for(lambda: shown(hub)["state"] == "live", what="that one is shown", every_s=0.1)
            assert shown(hub)["boot"] == one.status.boot
            app.execute("ALTER TABLE orders ADD COLUMN note")
            note = "SELECT note FROM orders WHERE id = 'a'"
            wait_for(lambda: app.execute(note).fetchone() == ("of the copy",), what="the copy's value comes, too")
        app.close()
