from __future__ import annotations

from pathlib import Path

import pytest

from bench.machine import Machine, commit
from bench.results import Results, Run, Sample, Spread, Usage, new_run
from bench.workloads import RATIOS, WORKLOADS, Ratio

MACHINE = Machine(cpus=2, model="x", memory_mib=1, kernel="6.1", python="3.11.7", sqlite="3.40.1", mosquitto="2.0.11")


def run(*values: float, figure: str = "rows/s") -> Run:
    return new_run([Sample(figures={figure: value}) for value in values], MACHINE, "abc", shared=False)


def used(**cpu_s: float) -> Sample:
    return Sample(used={name.replace("_", " "): Usage(cpu_s=cpu, rss_mib=cpu) for name, cpu in cpu_s.items()})


def test_new_runs_take_the_place_of_older_ones_and_leave_the_others(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "results.json"
    Results(runs={"T": run(1.0), "S": run(2.0)}).save(file)
    Results.load(file).with_runs({"T": run(3.0)}).save(file)
    found = Results.load(file)
    assert [found.runs[name].spread("rows/s").median for name in ("T", "S")] == [3.0, 2.0]


def test_a_file_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert Results.load(tmp_path / "none.json").runs == {}


def test_a_figure_is_told_by_its_median_and_its_extremes() -> None:
    assert run(5, 1, 2).spread("rows/s") == Spread(2, 1, 5)


def test_figures_keep_as_many_digits_as_a_measurement_has() -> None:
    assert run(0.123456, 60_123.4).samples[0].figures["rows/s"] == 0.1235
    assert run(60_123.4).samples[0].figures["rows/s"] == 60_123


def test_processes_of_one_kind_are_told_together() -> None:
    both = new_run([used(agent_b0=1, agent_b1=3, hub=7), used(agent_b0=2, agent_b1=9, hub=8)], MACHINE, "", shared=True)
    assert {name: (usage.cpu_s, usage.rss_mib) for name, usage in both.used().items()} == {
        "each agent b0–b1": (2.5, 9),
        "hub": (7.5, 8),
    }


def test_a_ratio_compares_what_was_measured_side_by_side() -> None:
    results = Results(runs={"T": run(10, 30), "sqlite": run(20, 40, figure="batches rows/s")})
    ratio = Ratio("T", "rows/s", "sqlite", "batches rows/s", 0.6)
    assert ratio.of(results) == Spread(0.625, 0.5, 0.75)
    assert ratio.of(Results(runs={"T": run(10)})) is None


@pytest.mark.parametrize(("most", "value", "reached"), [(False, 2, True), (False, 1, False), (True, 1, True)])
def test_a_target_is_the_least_or_the_most_of_a_ratio(most: bool, value: float, reached: bool) -> None:
    assert Ratio("T", "a", "L", "b", 2 if not most else 1.5, most=most).reached(value) is reached


def test_every_ratio_names_workloads_that_there_are() -> None:
    assert {name for ratio in RATIOS for name in (ratio.workload, ratio.limit)} <= WORKLOADS.keys()


def test_a_result_says_on_what_it_was_measured() -> None:
    here = Machine.here()
    assert here.cpus >= 1
    assert here.kernel in str(here)
    assert commit()
