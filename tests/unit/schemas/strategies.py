"""Arbitrary values and messages, for property tests of the wire contract."""

from __future__ import annotations

from typing import Any, get_args

from hypothesis import strategies as st

from tidewire_schemas.base import Message
from tidewire_schemas.codec import rows_digest
from tidewire_schemas.keys import Affinity, Collation
from tidewire_schemas.messages import (
    Ack,
    Batch,
    ChainPoint,
    DeviceState,
    Entry,
    FreshAnswer,
    FreshRequest,
    Head,
    HeldRow,
    Hello,
    HubState,
    LastSealed,
    Page,
    Part,
    Problem,
    Refusal,
    Replay,
    ReplayRequest,
    Run,
    TableProblem,
    Welcome,
)
from tidewire_schemas.names import fold
from tidewire_schemas.operations import Op, RefusalReason
from tidewire_schemas.positions import SAFE_INTEGER_MAX, Position
from tidewire_schemas.shapes import ColumnShape, ForeignKey, TableShape, UniqueSet
from tidewire_schemas.snapshots import (
    IncludedBatch,
    LoadProgress,
    RefusedRow,
    Snapshot,
    SnapshotChunk,
    SnapshotRequest,
    SnapshotTable,
)
from tidewire_schemas.values import INTEGER_MAX, INTEGER_MIN, RawText, Value, encode
from tidewire_schemas.verification import (
    ComparedTable,
    Verified,
    VerifyAnswer,
    VerifyKey,
    VerifyNow,
    VerifyRange,
    VerifyReport,
    VerifyRequest,
    VerifyRow,
)


def _is_raw(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return True
    return False


raw_texts = st.binary(min_size=1, max_size=12).filter(_is_raw).map(RawText)
texts = st.text(max_size=20)
integers = st.integers(INTEGER_MIN, INTEGER_MAX)
reals = st.floats(allow_nan=False)
values: st.SearchStrategy[Value] = st.one_of(st.none(), integers, reals, texts, st.binary(max_size=20), raw_texts)
"""Anything that SQLite holds in a cell."""

ids = st.integers(0, 2**128 - 1).map("{:032x}".format)
topic_names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True)
identifiers = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
counts = st.integers(0, SAFE_INTEGER_MAX)
ordinals = st.integers(1, SAFE_INTEGER_MAX)
millis = st.integers(-SAFE_INTEGER_MAX, SAFE_INTEGER_MAX)
positions = st.builds(Position, counts, counts)


def column_names(low: int, high: int) -> st.SearchStrategy[list[str]]:
    return st.lists(identifiers, min_size=low, max_size=high, unique_by=fold)


def wire_rows(width: int) -> st.SearchStrategy[list[Any]]:
    return st.lists(values.map(encode), min_size=width, max_size=width)


@st.composite
def runs(draw: st.DrawFn) -> Run:
    op = draw(st.sampled_from(get_args(Op)))
    columns = draw(column_names(2 if op == "set" else 1, 4))
    width = len(columns)
    key = width if op == "delete" else draw(st.integers(1, width - 1 if op == "set" else width))
    rows = draw(st.lists(wire_rows(width), min_size=1, max_size=3))
    ties = draw(st.none() | st.tuples(*[counts] * len(rows)))
    base, table = draw(positions), draw(identifiers)
    return Run(op=op, table=table, base=base, key=key, columns=tuple(columns), rows=rows, ties=ties)


@st.composite
def table_shapes(draw: st.DrawFn) -> TableShape:
    names = draw(column_names(1, 4))
    affinities = st.sampled_from(get_args(Affinity))
    collations = st.sampled_from(get_args(Collation))
    columns = tuple(
        ColumnShape(
            name=name,
            affinity=draw(affinities),
            collation=draw(collations),
            not_null=draw(st.booleans()),
            default=encode(draw(values)),
        )
        for name in names
    )
    unique = tuple(UniqueSet(columns=(name,), collations=(draw(collations),)) for name in names[1:])
    foreign = tuple(ForeignKey(columns=(name,), table=draw(identifiers), references=(name,)) for name in names[1:2])
    key = tuple(names[: draw(st.integers(1, len(names)))])
    rowid = len(key) == 1 and draw(st.booleans())
    return TableShape(
        name=draw(identifiers), columns=columns, key=key, key_is_rowid=rowid, unique=unique, foreign_keys=foreign
    )


@st.composite
def refusals(draw: st.DrawFn) -> Refusal:
    columns = draw(column_names(1, 3))
    key = draw(wire_rows(len(columns)))
    row = HeldRow(columns=tuple(columns), values=key) if draw(st.booleans()) else None
    reason = draw(st.sampled_from(get_args(RefusalReason)))
    op = draw(st.sampled_from(get_args(Op)))
    table = draw(identifiers)
    return Refusal(table=table, columns=tuple(columns), key=key, op=op, reason=reason, detail=draw(texts), row=row)


@st.composite
def pages(draw: st.DrawFn) -> Page:
    first = draw(st.integers(1, 2**40))
    entries = [
        Entry(
            seq=first + number,
            epoch=draw(ordinals),
            device=draw(topic_names),
            incarnation=draw(ids),
            batch=draw(ordinals),
            digest=draw(ids),
            at=draw(millis),
            refused=draw(st.lists(refusals(), max_size=2)),
            changes=draw(st.lists(runs(), max_size=2)),
        )
        for number in range(draw(st.integers(0, 2)))
    ]
    return Page(log=draw(ids), prev=Position(draw(counts), first - 1), entries=entries)


@st.composite
def snapshot_requests(draw: st.DrawFn) -> SnapshotRequest:
    snapshot = draw(st.none() | ids)
    return SnapshotRequest(
        incarnation=draw(ids),
        boot=draw(ids),
        snapshot=snapshot,
        tables=draw(st.none() | st.lists(identifiers, max_size=3).map(tuple)),
        first=draw(counts),
        chunks=0 if snapshot is None else draw(st.integers(0, 64)),
        refused_after=draw(counts),
    )


@st.composite
def snapshot_chunks(draw: st.DrawFn) -> SnapshotChunk:
    columns = draw(column_names(1, 4))
    rows = draw(st.lists(wire_rows(len(columns)), min_size=1, max_size=3))
    return SnapshotChunk(
        incarnation=draw(ids),
        boot=draw(ids),
        snapshot=draw(ids),
        chunk=draw(counts),
        table=draw(identifiers),
        key=draw(st.integers(1, len(columns))),
        columns=tuple(columns),
        digest=rows_digest(rows),
        rows=rows,
    )


@st.composite
def verify_requests(draw: st.DrawFn) -> VerifyRequest:
    columns = draw(column_names(1, 4))
    key = draw(st.integers(1, len(columns)))
    ranges = draw(st.lists(st.sampled_from(["", "00", "f3c1"]), max_size=3).map(tuple))
    rows = [] if ranges else draw(st.lists(wire_rows(key), max_size=3))
    return VerifyRequest(
        incarnation=draw(ids),
        boot=draw(ids),
        nonce=draw(ids),
        table=draw(identifiers),
        columns=tuple(columns),
        key=key,
        ranges=ranges,
        rows=rows,
    )


verify_ranges = st.builds(
    VerifyRange,
    prefix=st.sampled_from(["", "00", "f3c1"]),
    rows=counts,
    digest=ids,
    keys=st.none() | st.lists(st.builds(VerifyKey, key=wire_rows(1), digest=ids), max_size=3).map(tuple),
)
snapshot_tables = st.builds(
    SnapshotTable, table=identifiers, rows=counts, bytes=counts, first=counts, chunks=counts, digest=ids
)
refused_rows = st.builds(
    RefusedRow,
    seq=ordinals,
    incarnation=ids,
    batch=ordinals,
    table=identifiers,
    key=st.integers(1, 3).flatmap(wire_rows),
    op=st.sampled_from(get_args(Op)),
    reason=st.sampled_from(get_args(RefusalReason)),
    detail=texts,
)
included_batches = st.builds(IncludedBatch, incarnation=ids, batch=ordinals, digest=ids, seq=ordinals)
chain_points = st.builds(ChainPoint, batch=ordinals, digest=ids, seq=counts)
batches = st.builds(
    Batch, incarnation=ids, batch=ordinals, prev_digest=ids, sealed_at=millis, changes=st.lists(runs(), max_size=3)
)
who = {"incarnation": ids, "boot": ids}

messages: dict[str, st.SearchStrategy[Message]] = {
    "batch": batches,
    "part": st.builds(
        Part, digest=ids, part=st.integers(0, 9), parts=st.integers(10, 20), size=ordinals, text=st.text(min_size=1)
    ),
    "hello": st.builds(
        Hello,
        **who,
        log=st.none() | ids,
        position=positions,
        epoch=counts,
        last_sealed=st.none() | st.builds(LastSealed, batch=ordinals, digest=ids),
        oldest_kept=counts,
        tables=st.lists(table_shapes(), max_size=2).map(tuple),
    ),
    "replay_request": st.builds(ReplayRequest, **who, position=positions, pages=st.integers(1, 64)),
    "snapshot_request": snapshot_requests(),
    "fresh_request": st.builds(FreshRequest, **who, nonce=ids),
    "device_state": st.builds(
        DeviceState,
        **who,
        state=st.sampled_from(["offline", "live", "loading_snapshot", "halted"]),
        position=st.none() | positions,
        pending=st.none() | counts,
        oldest_unsent_at=st.none() | millis,
        snapshot=st.none() | st.builds(LoadProgress, snapshot=ids, loaded=counts, chunks=counts),
        verified=st.none()
        | st.builds(Verified, at=millis, position=positions, rows=counts, differing=counts, complete=st.booleans()),
        problem=st.none() | texts,
    ),
    "welcome": st.builds(
        Welcome,
        **who,
        log=ids,
        epoch=ordinals,
        head=positions,
        oldest=counts,
        checkpoint=st.sampled_from(["on_log", "off_log"]),
        snapshot_advised=st.booleans(),
        accepted=st.none() | chain_points,
        recent=st.lists(chain_points, max_size=3).map(tuple),
        table_problems=st.lists(st.builds(TableProblem, table=identifiers, code=texts, message=texts), max_size=2).map(
            tuple
        ),
        payload_bytes_max=st.integers(1024, SAFE_INTEGER_MAX),
        batch_bytes_max=st.integers(1024, SAFE_INTEGER_MAX),
    ),
    "ack": st.builds(
        Ack, incarnation=ids, boot=st.none() | ids, epoch=ordinals, batch=ordinals, digest=ids, seq=ordinals
    ),
    "page": pages(),
    "replay": st.builds(Replay, **who, last=st.booleans(), page=pages()),
    "snapshot": st.builds(
        Snapshot,
        **who,
        snapshot=ids,
        log=ids,
        position=positions,
        chunks=counts,
        bytes=counts,
        tables=st.lists(snapshot_tables, max_size=3).map(tuple),
        included=st.lists(included_batches, max_size=3).map(tuple),
        refused=st.lists(refused_rows, max_size=3).map(tuple),
        refused_since=counts,
    ),
    "snapshot_chunk": snapshot_chunks(),
    "fresh_answer": st.builds(FreshAnswer, **who, nonce=ids, head=positions),
    "verify_request": verify_requests(),
    "verify_answer": st.builds(
        VerifyAnswer,
        **who,
        nonce=ids,
        position=positions,
        known=st.booleans(),
        ranges=st.lists(verify_ranges, max_size=3).map(tuple),
        rows=st.lists(st.builds(VerifyRow, key=wire_rows(1), changed=counts, values=st.none() | wire_rows(2))).map(
            tuple
        ),
    ),
    "verify_now": st.builds(VerifyNow, nonce=ids, tables=st.lists(identifiers, max_size=3).map(tuple)),
    "verify_report": st.builds(
        VerifyReport,
        **who,
        nonce=ids,
        position=positions,
        tables=st.lists(
            st.builds(ComparedTable, table=identifiers, rows=counts, differing=counts, problem=texts), max_size=3
        ).map(tuple),
        problem=texts,
    ),
    "problem": st.builds(
        Problem, incarnation=st.none() | ids, code=texts, message=texts, hint=texts, batch=st.none() | counts
    ),
    "head": st.builds(Head, log=ids, epoch=ordinals, head=positions, oldest=counts, leader=topic_names, at=millis),
    "hub_state": st.builds(
        HubState,
        state=st.sampled_from(["starting", "leading", "offline"]),
        node=topic_names,
        boot=ids,
        epoch=st.none() | counts,
        version=st.none() | texts,
    ),
}
"""Every message by the name in its `type` field."""
