"""The clocks of devices and hub are wrong by years and jump by days while apps write."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from support.clocks import DAY_S, Clock, ahead_in_1970_s
from support.processes import Site
from support.work import Work
from support.writer import SCHEMA


@pytest.mark.fault("clocks that are years off, and jump by a day while all run")
def test_clocks_that_are_years_apart_and_jump_change_nothing(tmp_path: Path) -> None:
    """Guarantees 2, 3, 5, 7, 9: a device has booted in 1970, another lives years ahead, the hub goes back by years."""
    hub = Clock(tmp_path / "hub.clock", 400 * DAY_S)
    early = Clock(tmp_path / "a.clock", ahead_in_1970_s())
    late = Clock(tmp_path / "b.clock", 3650 * DAY_S)
    with Site(tmp_path) as site:
        site.hub.terminate()
        site.hub.host = hub
        site.hub.start()
        for name, clock in (("a", early), ("b", late), ("c", site.host)):
            device = site.device(name, SCHEMA)
            device.host = clock
            device.start()
        with Work(site, seed=1970) as work:
            work.go_on()
            for clock, ahead_s in ((early, DAY_S), (late, -DAY_S), (hub, 399 * DAY_S)):
                clock.set_ahead(ahead_s)
                work.go_on()
            site.hub.kill()
            hub.set_ahead(-3650 * DAY_S)
            site.hub.start()
            early.set_ahead(-DAY_S)
            work.go_on()
            log = work.check()
        assert log[0]["at"] > (time.time() + 399 * DAY_S) * 1000 > log[-1]["at"] + 4000 * DAY_S * 1000, "right clocks"
        assert {device.stop() for device in site.devices} == {0}
