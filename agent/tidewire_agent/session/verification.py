"""Comparing the rows of a device with the hub's, while both go on: what to ask, to look at, to conclude. Pure.

    whole table   equal sums: done
    ranges        where the sums differ, of ranges within, until a range is small enough to be listed
    rows          where the lists differ: the rows themselves

Only rows are judged. Of anything larger a difference may come from entries that one side holds and the other does not
hold yet, and says no more than where to look. A row here is read first, at position k; the hub's answer is of a
position from k on and says which entry changed the row last. If that is at most k, then both must be equal by the log
alone; if not, the row is looked at again. (Guarantee 7.) Rows with a local change that is not in the log yet are not
judged.

`verification` is a generator: it yields what it wants done (`verify_steps`) and is sent what came of it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

from tidewire_agent.session.verify_steps import (
    AskHub,
    ListTables,
    NoAnswer,
    ReadRows,
    Repair,
    Repaired,
    RepairRows,
    Result,
    RowHere,
    RowsHere,
    Scan,
    ScanTable,
    Step,
    Subject,
    Sum,
)
from tidewire_agent.verify_report import RowDifference, TableVerified
from tidewire_schemas.values import WireRow
from tidewire_schemas.verification import (
    RANGE_DIGITS,
    RANGES_ASKED_MAX,
    ROWS_ASKED_MAX,
    VerifyAnswer,
    VerifyRange,
    VerifyRow,
)

CHANGED: Final = "the table was changed meanwhile"

NOTHING: Final = Sum(0, "0" * 32)

ROUNDS_MAX: Final = 8
"""How often a row that is written again and again is looked at."""

SHOWN_CHARS_MAX: Final = 200
"""A longer value is shortened where a difference is listed."""

T = TypeVar("T")
Steps = Generator[Step, Result, T]


class Wish(NamedTuple):
    """What is to be compared, and what to do about differences."""

    tables: tuple[str, ...] = ()
    """All that are attached, if empty."""
    repair: bool = False


class Bounds(NamedTuple):
    """How much is looked at and told; see `settings.py`."""

    rows_max: int
    listed_max: int


class Compared(NamedTuple):
    """What came of it."""

    tables: list[TableVerified]
    problem: str
    """Why nothing was compared, empty if something was."""


class _Broken(Exception):
    """The table cannot be compared to the end, for the reason given."""


class _Unanswered(_Broken):
    """Nor can any other: the hub cannot be asked, for the reason given."""


@dataclass(slots=True)
class _Findings:
    """What is known of a table so far."""

    rows: int = 0
    differing: int = 0
    repaired: int = 0
    pending: int = 0
    too_large: int = 0
    unsettled: int = 0
    problem: str = ""
    listed: list[RowDifference] = field(default_factory=list)


def verification(wish: Wish, bounds: Bounds) -> Steps[Compared]:
    """Compare tables one after the other; what was found of each."""
    subjects = yield ListTables(wish.tables)
    assert isinstance(subjects, list)
    done = []
    compared, unanswered = False, ""
    for subject in subjects:
        assert isinstance(subject, Subject)
        found = _Findings(problem=subject.problem or unanswered)
        if not found.problem:
            try:
                yield from _compare(subject, wish, bounds, found)
                compared = True
            except _Unanswered as reason:
                found.problem = unanswered = str(reason)
            except _Broken as reason:
                found.problem = str(reason)
        listed = tuple(found.listed)
        done.append(
            TableVerified(
                table=subject.table,
                rows=found.rows,
                differing=found.differing,
                repaired=found.repaired,
                listed=listed,
                pending=found.pending,
                too_large=found.too_large,
                unsettled=found.unsettled,
                problem=found.problem,
            )
        )
    problem = "" if compared else unanswered if subjects else "no table is attached"
    return Compared(done, problem)


def _compare(subject: Subject, wish: Wish, bounds: Bounds, found: _Findings) -> Steps[None]:
    answer = yield from _ask(AskHub(subject))
    if not answer.known:
        found.problem = "the hub does not know this table by this key"
        return
    scan = yield from _scan(subject, answer, sums={""})
    here = scan.sums.get("", NOTHING)
    found.rows = here.rows
    if answer.ranges and _sum_of(answer.ranges[0]) == here:
        return
    suspects = yield from _suspects(subject, bounds, found)
    yield from _judge(subject, wish, bounds, found, suspects)


def _suspects(subject: Subject, bounds: Bounds, found: _Findings) -> Steps[list[WireRow]]:
    """Keys of the rows that differ, or seem to."""
    suspects: dict[str, WireRow] = {}
    ranges = [""]
    while ranges:
        asked, ranges = ranges[:RANGES_ASKED_MAX], ranges[RANGES_ASKED_MAX:]
        answer = yield from _ask(AskHub(subject, ranges=tuple(asked)))
        told = _by_asked(asked, answer.ranges)
        ranges = [prefix for prefix in asked if prefix not in told] + ranges
        listed = frozenset(p for p, parts in told.items() if any(part.keys is not None for part in parts))
        scan = yield from _scan(subject, answer, sums=told.keys() - listed, listed=listed)
        for prefix, parts in told.items():
            if prefix in listed:
                suspects.update(_differing_rows(scan, prefix, parts[0]))
            else:
                ranges += _differing_parts(scan, prefix, parts)
        if scan.cut or len(suspects) > bounds.rows_max:
            found.problem = f"more than {bounds.rows_max} rows differ or are on their way: not all were compared"
            return list(suspects.values())[: bounds.rows_max]
    return list(suspects.values())


def _by_asked(asked: Sequence[str], ranges: Iterable[VerifyRange]) -> dict[str, list[VerifyRange]]:
    """What the hub tells of the ranges that were asked for, as far as there was room."""
    told: dict[str, list[VerifyRange]] = {}
    for one in ranges:
        prefix = one.prefix if one.keys is not None else one.prefix[:-RANGE_DIGITS]
        if prefix in asked:
            told.setdefault(prefix, []).append(one)
    return told


def _differing_parts(scan: Scan, prefix: str, parts: Iterable[VerifyRange]) -> list[str]:
    hub = {part.prefix: _sum_of(part) for part in parts}
    length = len(prefix) + RANGE_DIGITS
    here = {part: total for part, total in scan.sums.items() if len(part) == length and part.startswith(prefix)}
    return sorted(part for part in hub.keys() | here.keys() if hub.get(part) != here.get(part))


def _differing_rows(scan: Scan, prefix: str, listed: VerifyRange) -> dict[str, WireRow]:
    """Keys by their spelling. One row may come under two spellings of its key."""
    hub = {repr(row.key): row for row in listed.keys or ()}
    here = {repr(row.key): row for row in scan.rows.get(prefix, ())}
    return {
        name: (hub.get(name) or here[name]).key
        for name in hub.keys() | here.keys()
        if name not in hub or name not in here or hub[name].digest != here[name].digest
    }


def _judge(subject: Subject, wish: Wish, bounds: Bounds, found: _Findings, suspects: Sequence[WireRow]) -> Steps[None]:
    """Look at each row, until the log alone says whether it is as it must be."""
    waiting = list(suspects)
    for _round in range(ROUNDS_MAX):
        again: list[WireRow] = []
        names: set[bytes] = set()
        while waiting:
            asked, waiting = waiting[:ROWS_ASKED_MAX], waiting[ROWS_ASKED_MAX:]
            here = yield ReadRows(subject, tuple(asked))
            if not isinstance(here, RowsHere):
                raise _Broken(CHANGED)
            new = list({row.name: row for row in here.rows if row.name not in names}.values())
            found.pending += sum(row.excused for row in new)
            found.too_large += sum(row.too_large for row in new)
            judged = [row for row in new if not row.excused and not row.too_large]
            if not judged:
                continue
            answer = yield from _ask(AskHub(subject, rows=tuple(row.key for row in judged)))
            if not answer.rows:
                again += [row.key for row in judged]
                continue
            pairs = list(zip(judged, answer.rows, strict=False))
            names.update(row.name for row, _ in pairs)
            waiting = [row.key for row in judged[len(pairs) :]] + waiting
            again += yield from _settle(subject, wish, bounds, found, here, pairs, answer)
        waiting = again
        if not waiting:
            return
    found.unsettled += len(waiting)


def _settle(
    subject: Subject,
    wish: Wish,
    bounds: Bounds,
    found: _Findings,
    here: RowsHere,
    pairs: Sequence[tuple[RowHere, VerifyRow]],
    answer: VerifyAnswer,
) -> Steps[list[WireRow]]:
    """Conclude what can be concluded; the keys of the rows that must be looked at again."""
    again: list[WireRow] = []
    differing: list[tuple[RowHere, VerifyRow]] = []
    for row, hub in pairs:
        if row.values == hub.values and _same_types(row.values, hub.values):
            continue
        if _at_or_after(answer, here) and hub.changed <= here.position.seq:
            differing.append((row, hub))
        else:
            again.append(row.key)
    outcome = Repaired((False,) * len(differing), "")
    if wish.repair and differing:
        repairs = tuple(Repair(row, hub.values) for row, hub in differing)
        result = yield RepairRows(subject, answer.position, repairs)
        assert isinstance(result, Repaired)
        outcome = result
        found.problem = outcome.problem or found.problem
    for (row, hub), done in zip(differing, outcome.done, strict=True):
        if wish.repair and not done and not outcome.problem:
            again.append(row.key)
            continue
        found.differing += 1
        found.repaired += done
        if len(found.listed) < bounds.listed_max:
            found.listed.append(_difference(subject, row, hub, repaired=done))
    return again


def _at_or_after(answer: VerifyAnswer, here: RowsHere) -> bool:
    """Whether the hub answered from a place in the log that is not before what is applied here."""
    if answer.position.seq == here.position.seq:
        return answer.position == here.position
    return answer.position.seq > here.position.seq


def _same_types(left: WireRow | None, right: WireRow | None) -> bool:
    """Python holds 1 and 1.0 equal, SQLite stores them apart."""
    return left is None or right is None or list(map(type, left)) == list(map(type, right))


def _difference(subject: Subject, row: RowHere, hub: VerifyRow, *, repaired: bool) -> RowDifference:
    return RowDifference(
        key=[_shown(value) for value in row.key],
        here=_named(subject, row.values),
        hub=_named(subject, hub.values),
        repaired=repaired,
    )


def _named(subject: Subject, values: WireRow | None) -> dict[str, object] | None:
    return None if values is None else {n: _shown(v) for n, v in zip(subject.columns, values, strict=True)}


def _shown(value: object) -> object:
    if isinstance(value, str) and len(value) > SHOWN_CHARS_MAX:
        return f"{value[:SHOWN_CHARS_MAX]}… ({len(value)} characters)"
    if isinstance(value, dict):
        return {tag: _shown(inner) for tag, inner in value.items()}
    return value


def _sum_of(one: VerifyRange) -> Sum:
    return Sum(one.rows, one.digest)


def _ask(question: AskHub) -> Steps[VerifyAnswer]:
    answer = yield question
    if isinstance(answer, NoAnswer):
        raise _Unanswered(answer.reason)
    assert isinstance(answer, VerifyAnswer)
    return answer


def _scan(
    subject: Subject, answer: VerifyAnswer, *, sums: Iterable[str] = (), listed: Iterable[str] = ()
) -> Steps[Scan]:
    scan = yield ScanTable(subject, answer.position, frozenset(sums), frozenset(listed))
    if not isinstance(scan, Scan):
        raise _Broken(CHANGED)
    return scan
