from __future__ import annotations

from itertools import count

import pytest

from tidewire_agent.store import capture as c
from tidewire_agent.store.netchange import Change, LogRow, NetChange
from tidewire_schemas.keys import key_bytes
from tidewire_schemas.positions import Position

HERE = Position(5, 10)
EARLIER = Position(5, 9)


def net(*rows: tuple[int, int, bool], bases: dict[int, Position] | None = None) -> list[Change]:
    """Fold (op, key, is it there at the end) rows."""
    ties = count(1)
    change = NetChange(lambda key: key_bytes(key, ["BINARY"] * len(key)), lambda: next(ties))
    change.feed(
        LogRow(
            id=number,
            op=op,
            changed=frozenset({f"c{number}"}) if op == c.UPDATED else frozenset(),
            key=(key,),
            row=(key, "value") if there else None,
            base=(bases or {}).get(number, HERE),
        )
        for number, (op, key, there) in enumerate(rows)
    )
    return change.changes()


def ops(*rows: tuple[int, int, bool]) -> list[tuple[str, int]]:
    return [(change.op, change.key[0]) for change in net(*rows)]  # type: ignore[misc]  # keys here are integers


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(c.INSERTED, 1, True)], [("put", 1)]),
        ([(c.INSERTED, 1, True), (c.UPDATED, 1, True)], [("put", 1)]),
        ([(c.INSERTED, 1, False), (c.DELETED, 1, False)], []),
        ([(c.UPDATED, 1, True)], [("set", 1)]),
        ([(c.DELETED, 1, False)], [("delete", 1)]),
        ([(c.UPDATED, 1, False), (c.DELETED, 1, False)], [("delete", 1)]),
        ([(c.CANDIDATE, 1, True)], []),
        ([(c.CANDIDATE, 1, True), (c.INSERTED, 1, True)], [("put", 1)]),
        ([(c.DELETED, 1, True), (c.INSERTED, 1, True)], [("delete", 1), ("put", 1)]),
        ([(c.INSERTED, 1, True), (c.DELETED, 1, True), (c.INSERTED, 1, True)], [("put", 1)]),
        ([(c.MOVED_FROM, 1, False), (c.MOVED_TO, 2, True)], [("delete", 1), ("put", 2)]),
        ([(c.MOVED_FROM, 1, True), (c.MOVED_TO, 1, True)], [("put", 1)]),
        ([(c.WHOLE, 1, True)], [("put", 1)]),
        ([(c.WHOLE, 1, False), (c.DELETED, 1, False)], [("delete", 1)]),
        ([(c.CANDIDATE, 1, False), (c.INSERTED, 2, True)], [("delete", 1), ("put", 2)]),
    ],
)
def test_the_table_of_net_changes_holds(rows: list[tuple[int, int, bool]], expected: list[tuple[str, int]]) -> None:
    assert ops(*rows) == expected


def test_updates_of_one_row_are_one_set_of_all_their_columns() -> None:
    (change,) = net((c.UPDATED, 1, True), (c.UPDATED, 1, True))
    assert change.changed == {"c0", "c1"}


def test_the_base_of_a_merged_change_is_the_earliest() -> None:
    (change,) = net((c.UPDATED, 1, True), (c.UPDATED, 1, True), bases={0: EARLIER})
    assert change.base == EARLIER


def test_both_halves_of_a_key_change_carry_one_tie() -> None:
    delete, put = net((c.MOVED_FROM, 1, False), (c.MOVED_TO, 2, True))
    assert delete.tie == put.tie != 0


def test_a_row_is_tied_to_those_it_replaced_and_to_no_other() -> None:
    changes = net(
        (c.CANDIDATE, 1, False),
        (c.CANDIDATE, 2, True),
        (c.INSERTED, 3, True),
        (c.INSERTED, 4, True),
        (c.UPDATED, 2, True),
    )
    ties = {change.key[0]: change.tie for change in changes}
    assert ties[1] == ties[3] != 0
    assert ties[2] == ties[4] == 0


def test_key_changes_in_a_chain_share_one_tie() -> None:
    changes = net((c.MOVED_FROM, 1, False), (c.MOVED_TO, 2, False), (c.MOVED_FROM, 2, False), (c.MOVED_TO, 3, True))
    assert {change.key[0] for change in changes} == {1, 3}
    assert len({change.tie for change in changes}) == 1


def test_deletes_come_first() -> None:
    assert [op for op, _key in ops((c.INSERTED, 1, True), (c.DELETED, 2, False), (c.UPDATED, 3, True))] == [
        "delete",
        "put",
        "set",
    ]
