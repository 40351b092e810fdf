"""Every checker finds what it stands for: worlds whose product is broken on purpose, in one place each."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import from_json, to_json

from simulation.apps import SCHEMA
from simulation.checkers import EdgeChecker, Guarantee, Violation, is_healing
from simulation.lifetime import simulate
from simulation.oracle import Oracle, torn
from simulation.world import Plan
from support.fleet import Fleet
from support.snapshots import FleetSnapshot
from tidewire_agent.session.downlink import Downlink
from tidewire_agent.session.uplink import Uplink
from tidewire_agent.session.window import SendWindow
from tidewire_agent.store.apply import Applier
from tidewire_agent.store.change_log import ChangeLog
from tidewire_agent.store.dead_letters import DeadLetters
from tidewire_agent.store.draft import Draft
from tidewire_agent.store.outbox import SealedBatch
from tidewire_agent.store.seal import Sealer
from tidewire_hub.dedupe import Next, place_of
from tidewire_hub.log.port import StoredEntry
from tidewire_hub.log.sqlite import SqliteLog
from tidewire_hub.sequencer import Sequencer
from tidewire_hub.state.store import State
from tidewire_schemas.messages import Entry, Page, Run
from tidewire_schemas.positions import START, Epoch, Position, Seq

Break = Callable[[pytest.MonkeyPatch], None]

NETWORK = ("duplicates", "broker_drops", "connection_cut", "device_offline")

SEEDS = range(12)
"""A break must be found within so many worlds."""


def a_log_that_loses_entries(patch: pytest.MonkeyPatch) -> None:
    append = SqliteLog.append

    def broken(self: SqliteLog, epoch: Epoch, after: Seq, entries: list[StoredEntry]) -> None:
        append(self, epoch, after, entries)
        if after % 5 == 4:
            self._connection.execute("DELETE FROM entry WHERE seq = ?", (after + len(entries),))

    patch.setattr(SqliteLog, "append", broken)


def an_edge_without_dead_letters(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DeadLetters, "add", lambda *_: None)


def a_sealer_that_forgets_a_table(patch: pytest.MonkeyPatch) -> None:
    store = Sealer._store

    def broken(self: Sealer, draft: Draft, now_ms: int) -> tuple[SealedBatch | None, float]:
        runs = [run for run in from_json(draft.changes_json) if run["table"] != "pairs"]
        return store(self, draft._replace(changes_json=to_json(runs)), now_ms)

    patch.setattr(Sealer, "_store", broken)


def a_sealer_that_seals_twice(patch: pytest.MonkeyPatch) -> None:
    remove = ChangeLog.remove
    calls = count()

    def broken(self: ChangeLog, cut: int) -> None:
        if next(calls) % 7 != 6:
            remove(self, cut)

    patch.setattr(ChangeLog, "remove", broken)


def a_hub_that_takes_what_comes_too_early(patch: pytest.MonkeyPatch) -> None:
    def broken(batch: Any, digest: str, newest: Any, **others: Any) -> Any:
        early = newest is not None and batch.batch > newest.batch + 1
        return Next() if early else place_of(batch, digest, newest, **others)

    patch.setattr("tidewire_hub.sequencer.place_of", broken)


def an_edge_that_skips_entries(patch: pytest.MonkeyPatch) -> None:
    new_entries = Applier._new_entries

    def broken(self: Applier, page: Page) -> Iterator[Entry]:
        own = self._meta.text("device")
        return (entry for entry in new_entries(self, page) if entry.seq % 7 or entry.device == own)

    patch.setattr(Applier, "_new_entries", broken)


def an_edge_that_goes_back(patch: pytest.MonkeyPatch) -> None:
    move_to = Applier._move_to

    def broken(self: Applier, position: Position, released: int | None) -> None:
        move_to(self, position, released)
        if position.seq % 10 == 9:
            self._meta.set(seq=position.seq - 4)

    patch.setattr(Applier, "_move_to", broken)


def an_edge_that_applies_half(patch: pytest.MonkeyPatch) -> None:
    _without(patch, lambda run: run.table == "ledger_twin")


def an_edge_that_drops_updates(patch: pytest.MonkeyPatch) -> None:
    _without(patch, lambda run: run.table == "users" and run.op == "set")


def _without(patch: pytest.MonkeyPatch, dropped: Callable[[Any], bool]) -> None:
    apply_changes = Applier._apply_changes

    def broken(self: Applier, entry: Entry, *, first_batch: int) -> None:
        kept = [run for run in entry.changes if not dropped(run)]
        apply_changes(self, entry.model_copy(update={"changes": kept}), first_batch=first_batch)

    patch.setattr(Applier, "_apply_changes", broken)


def a_hub_that_numbers_under_an_old_epoch(patch: pytest.MonkeyPatch) -> None:
    def broken(state: State, *, epoch: Epoch, head: Position, **others: Any) -> Sequencer:
        return Sequencer(state, epoch=Epoch(epoch - (head.seq % 5 == 4)), head=head, **others)

    patch.setattr("tidewire_hub.stream.Sequencer", broken)
    patch.setattr("tidewire_hub.log.sqlite.check_append", lambda *_, **__: None)


def an_edge_that_takes_another_epoch(patch: pytest.MonkeyPatch) -> None:
    move_to = Applier._move_to

    def broken(self: Applier, position: Position, released: int | None) -> None:
        move_to(self, Position(position.epoch + (position.seq > 9), position.seq), released)

    patch.setattr(Applier, "_move_to", broken)


def a_window_without_limit(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SendWindow, "room", property(lambda _: (1000, 2**30)))


def a_session_that_never_asks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Downlink, "request_replay", lambda *_: None)


def a_session_that_fails(patch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    patch.setattr(Uplink, "resend", broken)


@pytest.mark.parametrize(
    ("found", "broken", "faults"),
    [
        (Guarantee.LOST, a_log_that_loses_entries, ()),
        (Guarantee.LOST, an_edge_without_dead_letters, ("device_offline",)),
        (Guarantee.TWICE, a_sealer_that_seals_twice, ()),
        (Guarantee.OUT_OF_ORDER, a_hub_that_takes_what_comes_too_early, NETWORK),
        (Guarantee.SKIPPED, an_edge_that_skips_entries, ()),
        (Guarantee.BACK, an_edge_that_goes_back, ()),
        (Guarantee.TORN, an_edge_that_applies_half, ()),
        (Guarantee.DIVERGED, an_edge_that_drops_updates, ()),
        (Guarantee.DIVERGED, a_sealer_that_forgets_a_table, ()),
        (Guarantee.STALE, a_hub_that_numbers_under_an_old_epoch, ()),
        (Guarantee.STALE, an_edge_that_takes_another_epoch, ()),
        (Guarantee.OVER, a_window_without_limit, ("device_offline",)),
        (Guarantee.REST, a_session_that_never_asks, ("device_offline",)),
        (Guarantee.MISTAKE, a_session_that_fails, ("broker_drops",)),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_is_broken_is_found_and_called_by_its_name(
    found: Guarantee,
    broken: Break,
    faults: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken(monkeypatch)
    worlds = (violated(Plan(seed, steps=60, faults=faults), tmp_path / str(seed)) for seed in SEEDS)
    assert any(guarantee is found for guarantee in worlds), f"{len(SEEDS)} worlds did not show it"


def violated(plan: Plan, folder: Path) -> Guarantee | None:
    """The guarantee that did not hold in a world, if any."""
    folder.mkdir()
    violation = simulate(plan, folder).violation
    return None if violation is None else violation.guarantee


def test_the_oracle_leaves_the_spelling_of_a_key_alone_where_some_columns_are_set() -> None:
    """As hub and devices do: `x` and `X` are one key there."""
    oracle = Oracle()
    for seq, op, row in ((1, "put", ["X", "k", "old"]), (2, "set", ["x", "k", "new"])):
        columns = ("name", "kind", "note")
        run = Run(op="put" if op == "put" else "set", table="tags", base=START, key=2, columns=columns, rows=[row])
        oracle.take(
            Entry(
                seq=seq,
                epoch=1,
                device="a",
                incarnation="a" * 32,
                batch=seq,
                digest="b" * 32,
                at=0,
                refused=[],
                changes=[run],
            )
        )
    assert oracle.rows("tags", 2) == [(b"text", b"X", b"text", b"k", b"text", b"new")]


def test_half_of_a_transaction_is_only_let_through_where_the_load_that_brought_it_broke_off(tmp_path: Path) -> None:
    """Guarantee 4: the hub lost the end of its log, with the snapshot of it, while a device took it row by row."""
    fleet, oracle = Fleet(tmp_path), Oracle()
    a, b, c = (fleet.edge(name, SCHEMA) for name in "abc")
    with closing(sqlite3.connect(b.path)) as file, closing(fleet):
        file.text_factory = bytes
        checker = EdgeChecker("b", "b", oracle)

        def look() -> None:
            for entry in fleet.page(oracle.head).entries:
                oracle.take(entry)
            checker.look(file, {"b"})

        def commit(number: int) -> None:
            row = f"INSERT INTO ledger VALUES ('a-{number}', 'a', {number})"
            a.sql(f"BEGIN; {row}; INSERT INTO ledger_twin VALUES ('a-{number}'); COMMIT")
            fleet.push(a)

        commit(1)
        fleet.pull(b)
        look()
        commit(2)
        fleet.pull(b)
        commit(3)
        look()
        snapshot = FleetSnapshot(fleet)
        b.store.load_begin(snapshot.manifest(b), whole=True)
        b.store.load(snapshot.chunk(0))
        look()
        assert torn(file) == {b"a-3"}
        fleet.lose_tail(1)
        oracle.lose_end(1)
        fleet.hello(b)
        look()
        fleet.take_tables(b)
        fleet.pull(b)
        b.seal()
        c.sql("INSERT INTO users (id) VALUES (1)")
        fleet.push(c)
        fleet.pull(b)
        assert not is_healing(file)
        look()
        assert torn(file) == {b"a-3"}, "kept, and offered again: it may be all that is left of it"
        fleet.sync()
        look()
        assert torn(file) == frozenset(), "who wrote it has the rest"
        b.sql("INSERT INTO ledger VALUES ('b-1', 'b', 1)")
        commit(4)
        fleet.pull(b)
        with pytest.raises(Violation, match="b holds half of"):
            look()


def test_every_guarantee_has_a_broken_product_that_shows_it() -> None:
    (mark,) = test_what_is_broken_is_found_and_called_by_its_name.pytestmark  # type: ignore[attr-defined]
    assert {case[0] for case in mark.args[1]} == set(Guarantee)
