"""Speed has not collapsed: a job reaches at least half of the share of its limit that it reached in the baseline."""

from __future__ import annotations

from bench import check


def test_every_job_reaches_half_of_what_it_reached_beside_sqlite_alone() -> None:
    floors = check.floors()
    found = check.best(floors)
    assert all(found[job] >= floor for job, floor in floors.items()), (found, floors)
