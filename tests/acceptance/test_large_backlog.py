"""Work that was done while nobody could send it: a device works it off without holding it in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.processes import Device, Site

TABLE = "CREATE TABLE readings (id TEXT PRIMARY KEY, ts INTEGER, note TEXT);"

LIMITS = ("--batch-bytes-max", "1000000", "--piece-bytes-max", "500000")
ROWS = 12_000
NOTE_BYTES = 4_000
MEMORY_MAX = ROWS * NOTE_BYTES
"""What an agent may take more than at rest: less than the rows alone, in whatever form they would be held."""


def peak_bytes(device: Device) -> int:
    """The most memory that its agent has had."""
    status = Path(f"/proc/{device.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) * 1024


@pytest.mark.fault("a backlog larger than memory")
def test_a_backlog_larger_than_the_memory_that_an_agent_takes_drains(tmp_path: Path) -> None:
    """Guarantee 1. Guarantee 7."""
    with Site(tmp_path) as site:
        device = site.device("a", TABLE, *LIMITS).start()
        at_rest = peak_bytes(device)
        device.stop()
        device.sql(
            f"INSERT INTO readings SELECT printf('r-%06d', value), value, printf('%0{NOTE_BYTES}d', value)"
            f" FROM generate_series(1, {ROWS});"
        )
        assert device.query("SELECT count(*) FROM readings") == [(ROWS,)]
        device.start()
        site.wait_at_rest()
        assert peak_bytes(device) - at_rest < MEMORY_MAX
        assert "batch_bytes_max" in device.log  # one transaction, parted
        assert device.digests() == site.hub_digests()
