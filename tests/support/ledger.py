"""Apps whose every value is known: whatever else a device holds, nobody has written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from support.processes import Device, Site
from support.waiting import wait_for

SCHEMA = "CREATE TABLE items (id TEXT PRIMARY KEY, n INTEGER NOT NULL, note TEXT NOT NULL);"


def note(row: str, n: int) -> str:
    """What an app writes into version `n` of a row."""
    return f"{row} in version {n}: " + f"{row}/{n} " * 8


class Ledger:
    """What the apps of a site have written. A row is written by the app of one device alone."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.written: dict[str, int] = {}
        self._of = Counter[str]()

    def write(self, device: Device, rows: int = 6, again: int = 3) -> None:
        """Some new rows, and new versions of some older ones of this device, each in a transaction."""
        mine = [row for row in self.written if row.startswith(f"{device.device}-")]
        first = self._of[device.device]
        self._of[device.device] += rows
        new = [f"{device.device}-{number:04}" for number in range(first, first + rows)]
        statements = []
        for row in (*new, *mine[:: max(1, len(mine) // again)]):
            n = self.written.get(row, 0) + 1
            statements.append(f"INSERT OR REPLACE INTO items VALUES ('{row}', {n}, '{note(row, n)}');")
            self.written[row] = n
        done = device.sql(*statements)
        assert not done.stderr, done.stderr

    def lose_end(self, device: Device, kept: Mapping[str, int]) -> None:
        """The disk of a device has lost the end of what its app wrote, but nothing of `kept`.

        Where it ended between a commit and its sealing, that commit came again as a new write: a later version is told.
        """
        found = self._rows(device)
        lost = [(key, values.get("n", 0)) for key, values in self._overwritten()]
        for row in [row for row in self.written if row.startswith(f"{device.device}-")]:
            assert found.get(row, 0) >= kept.get(row, 0) or (row in found and ([row], kept[row]) in lost), row
            if row in found:
                self.written[row] = found[row]
            else:
                del self.written[row]

    def _overwritten(self) -> list[tuple[list[str], dict[str, Any]]]:
        """Keys and values that a concurrent write has gone over."""
        return [(record["key"], record["lost"]) for record in self.site.conflicts() if record["kind"] == "overwritten"]

    def check_values(self, devices: Sequence[Device]) -> None:
        """No device holds what no app wrote."""
        for device in devices:
            for row, n, text in device.query("SELECT id, n, note FROM items"):
                assert 0 < n <= self.written.get(row, 0), (device.device, row, n)
                assert text == note(row, n), (device.device, row, n)

    def wait_complete(self, devices: Sequence[Device]) -> None:
        """Until all hold all that was written: also what a device gives back to a hub that had lost it.

        What a device says of itself is from before, until it has heard of the hub that leads now.
        """
        wait_for(lambda: self._have_heard(devices), 120.0, what="all have heard of the hub that leads")
        wait_for(
            lambda: all(self._rows(device) == self.written for device in devices), 120.0, what="all rows are there"
        )
        self.site.wait_at_rest(*devices)

    def _have_heard(self, devices: Sequence[Device]) -> bool:
        answer = self.site.hub.http("readyz")
        heard = "SELECT value FROM tidewire_meta WHERE name = 'heard_epoch'"
        return answer is not None and all(device.query(heard) == [(answer[1]["hub"]["epoch"],)] for device in devices)

    def _rows(self, device: Device) -> dict[Any, Any]:
        return dict(device.query("SELECT id, n FROM items"))

    def check_all(self, devices: Sequence[Device]) -> None:
        """Guarantee 7, when all are at rest: the devices and the hub hold all that was written."""
        for device in devices:
            assert self._rows(device) == self.written, device.device
        self.check_values(devices)
        self.site.assert_equal(*devices)
