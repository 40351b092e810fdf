"""A verification in one process: each step is a plain call, and a test may do what it likes between two of them."""

from __future__ import annotations

from collections.abc import Callable

from support.fleet import Edge, Fleet
from tidewire_agent.session.verification import Bounds, Wish, verification
from tidewire_agent.session.verify_steps import AskHub, ListTables, ReadRows, RepairRows, Result, ScanTable, Step
from tidewire_agent.store.verify import scan
from tidewire_agent.verify_report import TableVerified
from tidewire_hub.verify import answer
from tidewire_schemas.codec import encode, parse
from tidewire_schemas.verification import VerifyAnswer, VerifyRequest

BOUNDS = Bounds(rows_max=10_000, listed_max=100)


def verify(
    fleet: Fleet,
    edge: Edge,
    *tables: str,
    repair: bool = False,
    bounds: Bounds = BOUNDS,
    answer_bytes_max: int = 2**20,
    before: Callable[[Step], None] | None = None,
) -> dict[str, TableVerified]:
    """What a verification finds, by table; `before` is called before each step."""
    work = verification(Wish(tables, repair), bounds)
    step = next(work)
    while True:
        if before is not None:
            before(step)
        try:
            step = work.send(perform(fleet, edge, step, bounds.rows_max, answer_bytes_max))
        except StopIteration as end:
            return {table.table: table for table in end.value.tables}


def perform(fleet: Fleet, edge: Edge, step: Step, rows_max: int, answer_bytes_max: int) -> Result:
    """What came of a step."""
    verifier = edge.store.verifier
    match step:
        case ListTables(tables):
            return verifier.subjects(tables)
        case AskHub():
            return hub_answer(fleet, step, answer_bytes_max)
        case ScanTable():
            table = verifier.table(step.subject)
            if table is None:
                return None
            return scan(edge.path, table, step, rows_max=rows_max, rest=lambda _seconds: None)
        case ReadRows():
            return verifier.read(step.subject, step.keys)
        case RepairRows():
            return verifier.repair(step.subject, step.position, step.repairs)


def hub_answer(fleet: Fleet, step: AskHub, bytes_max: int) -> VerifyAnswer:
    """The hub's answer, as it travels."""
    subject = step.subject
    asked = VerifyRequest(
        incarnation="a" * 32,
        boot="b" * 32,
        nonce="c" * 32,
        table=subject.table,
        columns=subject.columns,
        key=subject.key,
        ranges=step.ranges,
        rows=list(step.rows),
    )
    request = parse("ask", encode(asked), bytes_max=2**24)
    assert isinstance(request, VerifyRequest)
    fleet.stream.tables()  # brings the state to the head
    made = answer(fleet.stream._follower.state, request, bytes_max=bytes_max, rest=lambda _seconds: None)
    told = parse("in", encode(made), bytes_max=2**24)
    assert isinstance(told, VerifyAnswer)
    return told
