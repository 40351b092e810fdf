"""What must hold after writers wrote through any fault: nothing lost, nothing twice, all equal."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Mapping, Sequence
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
    check_log(log, [device.incarnation for device in site.devices])
    site.assert_equal()
    for device in site.devices:
        check_rows(device, writers)
        assert rows_of(device) == folded(log)
    tickets = site.devices[0].query("SELECT device, n FROM tickets")
    check_tickets(tickets, {device.device: device.dead() for device in site.devices}, writers)
    check_programs(site)
    return log


def stored_log(site: Site) -> list[dict[str, Any]]:
    answer = tidewire_hub("log", "--data", site.hub.data, "--from", "1", "--json")
    assert answer.returncode == 0, answer.stderr
    return [json.loads(line) for line in answer.stdout.splitlines()]


def check_log(log: Sequence[dict[str, Any]], incarnations: Container[str], *, late_tables: Container[str] = ()) -> None:
    """Numbered without a gap; each incarnation's batches once and in order; and so each device's transactions.

    Of a log that no longer begins at its first entry what is left is checked. `incarnations` are those of the devices;
    with `late_tables` are those whose tables were attached when apps had written: old rows are offered after new ones.
    """
    first = log[0]["seq"]
    assert [entry["seq"] for entry in log] == list(range(first, first + len(log)))
    assert [entry["epoch"] for entry in log] == sorted(entry["epoch"] for entry in log)
    chains: dict[str, list[int]] = {}
    journal: dict[str, list[int]] = {}
    for entry in log:
        assert entry["incarnation"] in incarnations, f"{entry['device']} took a new incarnation"
        chains.setdefault(entry["incarnation"], []).append(entry["batch"])
        runs = (run for run in entry["changes"] if run["table"] == "journal")
        noted = [row[1] for run in runs for row in run["rows"] if row[0] == entry["device"]]
        journal.setdefault(entry["device"], []).extend(sorted(noted))
        refused = {refused["table"] for refused in entry["refused"]}
        assert entry["device"] in late_tables or refused <= {"shared", "tickets"}, entry["refused"]
    in_order = {name: sorted(numbers) if name in late_tables else numbers for name, numbers in journal.items()}
    for name, numbers in (chains | in_order).items():
        begin = 1 if first == 1 or not numbers else numbers[0]
        assert numbers == list(range(begin, begin + len(numbers))), (name, numbers)


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


def check_tickets(
    tickets: Sequence[tuple[str, int]],
    letters: Mapping[str, Sequence[dict[str, Any]]],
    writers: Sequence[Writer],
) -> None:
    """Every ticket (device, n) is in the table or in the dead letters of its device, once."""
    found = Counter(tickets)
    for device, theirs in letters.items():
        assert {letter["table"] for letter in theirs} <= {"shared", "tickets"}, device
        for letter in theirs:
            if letter["table"] == "tickets":
                assert (letter["reason"], letter["cells"]["device"]) == ("key_taken", device), letter
                found[device, letter["cells"]["n"]] += 1
    expected = Counter((writer.device, n) for writer in writers for n in writer.tickets)
    assert found == expected, (found - expected, expected - found)


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
