"""What a look at some tables leaves of what is known of the others."""

from __future__ import annotations

from tidewire_agent.runtime.verify_findings import VerifyFindings
from tidewire_agent.verify_report import NOT_ATTACHED, TableVerified, VerifyReport
from tidewire_schemas.positions import Position


def report(*tables: TableVerified, problem: str = "") -> VerifyReport:
    return VerifyReport(at=1, position=Position(1, 1), tables=tables, problem=problem)


def table(name: str, differing: int = 0, problem: str = "", pending: int = 0) -> TableVerified:
    return TableVerified(table=name, rows=10, differing=differing, problem=problem, pending=pending)


def both_differ() -> VerifyFindings:
    findings = VerifyFindings()
    findings.take(report(table("items", 1), table("Orders", 5)), of_all=True)
    return findings


def wrong(findings: VerifyFindings) -> dict[str, int]:
    return {table.table: table.wrong for table in findings.differing}


def test_a_look_at_one_table_leaves_what_is_known_of_the_others() -> None:
    findings = both_differ()
    known = findings.take(report(table("orders", 2)), of_all=False)
    assert wrong(findings) == {"items": 1, "orders": 2}
    assert (known.differing, known.rows) == (3, 20)
    known = findings.take(report(table("orders")), of_all=False)
    assert wrong(findings) == {"items": 1}
    assert (known.differing, known.rows) == (1, 20)


def test_a_look_that_could_not_be_is_no_news_of_rows_that_differ() -> None:
    findings = both_differ()
    findings.take(report(table("items", problem="it is being taken over still")), of_all=False)
    findings.take(report(table("orders", pending=2)), of_all=False)
    findings.take(report(problem="the hub did not answer"), of_all=True)
    assert wrong(findings) == {"items": 1, "Orders": 5}


def test_a_look_at_all_forgets_tables_that_are_gone_and_a_name_that_is_no_table_is_not_kept() -> None:
    findings = both_differ()
    known = findings.take(report(table("nowhere", problem=NOT_ATTACHED)), of_all=False)
    assert [table.table for table in known.tables] == ["items", "Orders"]
    findings.take(report(table("items", 1)), of_all=True)
    assert wrong(findings) == {"items": 1}
    findings.take(report(table("items", problem=NOT_ATTACHED)), of_all=False)
    assert wrong(findings) == {}
