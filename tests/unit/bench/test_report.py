from __future__ import annotations

from pathlib import Path

import pytest

from bench import report
from bench.machine import Machine
from bench.results import Results, Sample, Usage, new_run

MACHINE = Machine(cpus=2, model="x", memory_mib=1, kernel="6.1", python="3.11.7", sqlite="3.40.1", mosquitto="2.0.11")


def results(*, shared: bool = False) -> Results:
    limit = Sample(figures={"batches rows/s": 100.0})
    job = Sample(figures={"rows/s": 60.0}, rows=1000, used={"hub": Usage(cpu_s=0.02, rss_mib=50)})
    delay = Sample(series={"p50 ms": [(0, 1.5), (10, 21.5)]})
    samples = {"sqlite": limit, "T": job, "delay": delay}
    return Results(runs={name: new_run([sample], MACHINE, "abc", shared=shared) for name, sample in samples.items()})


def test_the_page_and_the_plots_are_those_of_the_results_that_are_kept() -> None:
    assert report.stale() == [], "run: make bench-report"


def test_the_report_stands_between_the_marks_and_nothing_else_changes() -> None:
    text = f"above\n{report.BEGIN}\nold\n{report.END}\nbelow\n"
    made = report.page(text, results())
    assert made.startswith(f"above\n{report.BEGIN}\n")
    assert made.endswith(f"{report.END}\nbelow\n")
    assert "old" not in made
    assert report.page(made, results()) == made


def test_a_page_without_a_place_for_the_report_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks the marks"):
        report.page(f"{report.BEGIN}", results())


def test_a_job_is_told_beside_its_limit() -> None:
    assert "| **T** | rows/s | 60 | sqlite: batches rows/s | 100 | 0.6 | ≥ 0.55 |" in report.report(results())
    assert "| T | hub | 20 | 50.0 | 0 |" in report.report(results())


def test_a_series_is_told_in_a_row_and_drawn() -> None:
    assert "| p50 ms | 1.5 | 21.5 |" in report.report(results())
    assert list(report.plot_names(results())) == ["performance-cpu", "performance-delay"]


def test_runs_on_a_machine_that_had_other_work_are_named() -> None:
    assert "other work" not in report.report(results())
    assert "While `sqlite`, `T`, `delay` ran" in report.report(results(shared=True))


def test_plots_and_page_that_were_made_of_other_results_are_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "FOLDER", tmp_path)
    monkeypatch.setattr(report, "DATA", tmp_path / "data.json")
    monkeypatch.setattr(report, "PAGE", tmp_path / "page.md")
    kept = results()
    kept.save(report.DATA)
    report.PAGE.write_text(report.page(f"{report.BEGIN}{report.END}", kept))
    (tmp_path / "performance-cpu.svg").write_text(report.fingerprint(kept))
    assert report.stale() == ["performance-delay.svg"]
    kept.with_runs({"T": new_run([Sample(figures={"rows/s": 1.0})], MACHINE, "abc", shared=False)}).save(report.DATA)
    assert report.stale() == ["page.md", "performance-cpu.svg", "performance-delay.svg"]
