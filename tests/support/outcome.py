"""What must hold after writers wrote through any fault: nothing lost, nothing twice, all equal."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from support.hub_process import tidewire_hub
from support.processes import Device, Site
from support.writer import Writer

KEYS = {"journal": 2, "tally": 1, "own": 2, "shared": 1, "tickets": 1}
"""How many of the first columns are the key, by table of `support.writer.SCHEMA`."""


def check_outcome(site: Site, writers: Sequence[Writer]) -> list[dict[str, Any]]:
    """All that the writers committed is in the log and in every file, once; the log.

    Each writer wrote on a device of its own, and all devices are at rest.
    """
    log = stored_log(site)
    check_log(log, len(site.devices))
    site.assert_equal()
    for device in site.devices:
        check_rows(device, writers)
        assert rows_of(device) == folded(log)
    check_tickets(site, writers)
    check_programs(site)
    return log


def stored_log(site: Site) -> list[dict[str, Any]]:
    answer = tidewire_hub("log", "--data", site.hub.data, "--from", "1", "--json")
    assert answer.returncode == 0, answer.stderr
    return [json.loads(line) for line in answer.stdout.splitlines()]


def check_log(log: list[dict[str, Any]], devices: int) -> None:
    """Numbered without a gap; each device's batches once and in order; and so its transactions."""
    assert [entry["seq"] for entry in log] == list(range(1, len(log) + 1))
    assert [entry["epoch"] for entry in log] == sorted(entry["epoch"] for entry in log)
    chains: dict[tuple[str, str], list[int]] = {}
    journal: dict[str, list[int]] = {}
    for entry in log:
        chains.setdefault((entry["device"], entry["incarnation"]), []).append(entry["batch"])
        noted = [row[1] for run in entry["changes"] if run["table"] == "journal" for row in run["rows"]]
        journal.setdefault(entry["device"], []).extend(sorted(noted))
        assert all(refused["table"] in ("shared", "tickets") for refused in entry["refused"]), entry["refused"]
    assert len(chains) == devices, "a kill made no device take a new incarnation"
    for batches in (*chains.values(), *journal.values()):
        assert batches == list(range(1, len(batches) + 1))


def check_rows(device: Device, writers: Sequence[Writer]) -> None:
    """What nobody else changed is as its writer committed it last; a cell that all change is as one wrote it."""
    for writer in writers:
        mine = writer.device
        journal = device.query("SELECT n, note FROM journal WHERE device = ? ORDER BY n", mine)
        assert journal == [(n, f"{mine} {n}") for n in range(1, writer.committed + 1)]
        assert device.query("SELECT n FROM tally WHERE device = ?", mine) == [(writer.committed,)]
        own = device.query("SELECT slot, n, note FROM own WHERE device = ? ORDER BY slot", mine)
        assert own == [(slot, *writer.own[slot]) for slot in sorted(writer.own)]
    written = set[tuple[str, str, str]]().union(*(writer.shared for writer in writers))
    for key, left, right in device.query("SELECT key, left, right FROM shared"):
        assert {(key, "left", left), (key, "right", right)} <= written


def check_tickets(site: Site, writers: Sequence[Writer]) -> None:
    """Every ticket is in the table or in the dead letters of its device, once."""
    found = Counter(site.devices[0].query("SELECT device, n FROM tickets"))
    for device in site.devices:
        letters = device.dead()
        assert {letter["table"] for letter in letters} <= {"shared", "tickets"}
        for letter in letters:
            if letter["table"] == "tickets":
                assert (letter["reason"], letter["cells"]["device"]) == ("key_taken", device.device)
                found[device.device, letter["cells"]["n"]] += 1
    assert found == Counter((writer.device, n) for writer in writers for n in writer.tickets)


def check_programs(site: Site) -> None:
    """Nothing failed in a way nobody thought of, and nothing is complained of now."""
    assert "Traceback" not in site.hub.log
    for device in site.devices:
        assert "Traceback" not in device.log
        assert device.status.rejected_count == 0
        device.wait_no_problem()


Rows = dict[str, dict[tuple[Any, ...], tuple[Any, ...]]]


def rows_of(device: Device) -> Rows:
    found: Rows = {table: {} for table in KEYS}
    for table, width in KEYS.items():
        for row in device.query(f"SELECT * FROM {table}"):
            found[table][row[:width]] = row[width:]
    return found


def folded(log: list[dict[str, Any]]) -> Rows:
    """The rows that the log makes, by the simplest reading of the protocol page."""
    columns = {"journal": ["note"], "tally": ["n"], "own": ["n", "note"], "shared": ["left", "right"]}
    columns["tickets"] = ["device", "n"]
    rows: Rows = {table: {} for table in KEYS}
    for entry in log:
        for run in sorted(entry["changes"], key=lambda run: run["op"] != "delete"):
            table = rows[run["table"]]
            for row in run["rows"]:
                key = tuple(row[: run["key"]])
                if run["op"] == "delete":
                    table.pop(key, None)
                    continue
                cells = dict(zip(columns[run["table"]], table.get(key, ()), strict=False))
                cells.update(zip(run["columns"][run["key"] :], row[run["key"] :], strict=True))
                table[key] = tuple(cells[name] for name in columns[run["table"]])
    return rows
