"""What devices offer again after the hub lost the end of its log: the later `was` wins, new writes win over all."""

from __future__ import annotations

import random
from itertools import permutations

import pytest

from support.stream_kit import LOG_ID, NOW_MS, HandDevice, only_entry, open_stream, send, shape
from tidewire_hub.log.memory import MemoryLog
from tidewire_hub.stream import Incoming, Stream
from tidewire_schemas.positions import START, Position

LOST = NOW_MS * 1024 + 100
"""The epoch of the lost part: after that of the hub that was backed up, before that of the restored one."""

COLUMNS = "id x y"


def was(seq: int) -> Position:
    return Position(LOST, seq)


class Restored:
    """A hub that has its first entry, and lost what came after."""

    def __init__(self) -> None:
        self.log = MemoryLog(LOG_ID)
        self.stream = open_stream(self.log)
        self.a, self.b, self.c = HandDevice("a"), HandDevice("b"), HandDevice("c")
        tables = [shape("t", "id TEXT, x BLOB, y BLOB"), shape("r", "id INTEGER, x BLOB, y BLOB", rowid=True)]
        assert self.stream.declare("a", tables) == []
        send(self.stream, self.c.seal(self.c.put("t", COLUMNS, ["old", 1, 1])))
        self.common = self.stream.head
        self.stream.lead(NOW_MS + 1000, 7, heard_epoch=LOST)
        for device in (self.a, self.b, self.c):
            device.base = self.common

    def rows(self, table: str = "t") -> list[dict[str, object]]:
        return list(self.stream.rows(table))


@pytest.fixture
def hub() -> Restored:
    return Restored()


def test_among_what_is_offered_again_the_later_place_wins_a_cell_in_any_order() -> None:
    for order in permutations(range(4)):
        hub = Restored()
        offers = [
            (hub.a, hub.a.set("t", "id x", ["old", "by a"]), was(2)),
            (hub.b, hub.b.set("t", COLUMNS, ["old", "by b", "by b"]), was(3)),
            (hub.c, hub.c.set("t", "id y", ["old", "by c"]), was(4)),
            (hub.a, hub.a.put("t", COLUMNS, ["new", 1, 1]), was(5)),
        ]
        for number in order:
            device, run, place = offers[number]
            send(hub.stream, device.seal(run, was=place))
        assert hub.rows() == [{"id": "new", "x": 1, "y": 1}, {"id": "old", "x": "by b", "y": "by c"}]


def test_a_new_write_wins_over_what_was_lost_before_it(hub: Restored) -> None:
    send(hub.stream, hub.b.seal(hub.b.set("t", "id x", ["old", "new"])))
    entry = only_entry(send(hub.stream, hub.a.seal(hub.a.set("t", COLUMNS, ["old", "lost", "lost"]), was=was(2))))
    assert [(run.op, run.columns, run.rows) for run in entry.changes] == [("set", ("id", "y"), [["old", "lost"]])]
    assert entry.was == was(2)
    assert hub.rows() == [{"id": "old", "x": "new", "y": "lost"}]
    entry = only_entry(send(hub.stream, hub.c.seal(hub.c.set("t", "id x", ["old", "older"]), was=was(3))))
    assert [(refusal.reason, refusal.row and refusal.row.values) for refusal in entry.refused] == [
        ("overtaken", ["old", "new", "lost"])
    ]


def test_a_delete_offered_again_keeps_older_births_away_and_yields_to_newer_ones() -> None:
    """Also one that comes before what it deleted."""
    for order in permutations(range(3)):
        hub = Restored()
        offers = [
            (hub.a, hub.a.put("t", COLUMNS, ["k", 1, 1]), was(2)),
            (hub.b, hub.b.delete("t", "id", ["k"]), was(3)),
            (hub.c, hub.c.put("t", COLUMNS, ["k", 2, 2]), was(4)),
        ]
        for number in order:
            device, run, place = offers[number]
            send(hub.stream, device.seal(run, was=place))
        assert hub.rows()[0] == {"id": "k", "x": 2, "y": 2}, order
        only_two = Restored()
        for device, run, place in sorted(offers[:2], key=lambda offer: offer[2], reverse=order[0] == 1):
            send(only_two.stream, HandDevice(device.name).seal(run, was=place))
        assert [row["id"] for row in only_two.rows()] == ["old"]


def test_a_device_hears_of_a_seed_whose_row_was_deleted_later_in_the_lost_part(hub: Restored) -> None:
    """A snapshot does not tell it of the delete, so else it would keep the row."""
    send(hub.stream, hub.a.seal(hub.a.delete("t", "id", ["old"]), was=was(5)))
    entry = only_entry(send(hub.stream, hub.b.seal(hub.b.seed("t", COLUMNS, ["old", 1, 1]), was=was(3))))
    assert [(refusal.key, refusal.reason, refusal.row) for refusal in entry.refused] == [(["old"], "overtaken", None)]
    assert hub.rows() == []


def test_a_row_that_was_written_since_is_not_deleted_by_what_was_lost(hub: Restored) -> None:
    send(hub.stream, hub.b.seal(hub.b.set("t", "id x", ["old", "new"])))
    entry = only_entry(send(hub.stream, hub.a.seal(hub.a.delete("t", "id", ["old"]), was=was(2))))
    assert [refusal.reason for refusal in entry.refused] == ["overtaken"]
    assert hub.rows() == [{"id": "old", "x": "new", "y": 1}]


def test_a_key_handed_out_again_since_is_about_another_thing(hub: Restored) -> None:
    send(hub.stream, hub.b.seal(hub.b.put("r", COLUMNS, [1, "new", "new"])))
    entry = only_entry(send(hub.stream, hub.a.seal(hub.a.put("r", COLUMNS, [1, "lost", "lost"]), was=was(2))))
    assert [refusal.reason for refusal in entry.refused] == ["overtaken"]
    assert hub.rows("r") == [{"id": 1, "x": "new", "y": "new"}]


def test_any_order_gives_the_rows_that_were_lost() -> None:
    """Guarantee 7: random histories, offered again in random orders, come to the same rows; so does the log's fold."""
    for seed in range(60):
        chance = random.Random(seed)
        writes = [
            (chance.choice("abc"), chance.choice("kl"), chance.choice(["put", "delete"]), n) for n in range(2, 14)
        ]
        left = {key: (kind, n) for _, key, kind, n in writes}
        expected = [{"id": key, "x": n, "y": n} for key, (kind, n) in sorted(left.items()) if kind == "put"]
        for order in (writes, chance.sample(writes, len(writes))):
            hub = Restored()
            for name, key, kind, seq in order:
                send(hub.stream, batch(getattr(hub, name), key, kind, seq))
            assert [row for row in hub.rows() if row["id"] != "old"] == expected, seed
            assert Stream.open(hub.log, None).digests() == hub.stream.digests()


def batch(device: HandDevice, key: str, kind: str, seq: int) -> Incoming:
    run = device.delete("t", "id", [key]) if kind == "delete" else device.put("t", COLUMNS, [key, seq, seq])
    return device.seal(run, was=was(seq))


def test_the_common_point_is_found_by_epochs(hub: Restored) -> None:
    epoch, head = hub.common
    assert hub.stream.common([was(9), hub.common]) == hub.common
    assert hub.stream.common([was(9), Position(epoch, head + 5)]) == hub.common
    assert hub.stream.common([was(9)]) == START
    assert hub.stream.common([]) == START


def test_two_hubs_from_copies_of_one_log_never_take_the_same_epoch(hub: Restored) -> None:
    """Guarantee 9: their clocks stand at 1970, so only chance is left."""
    epochs = {open_stream(MemoryLog(LOG_ID)).lead(0, number) for number in (3, 1_000_000)}
    assert len(epochs) == 2
