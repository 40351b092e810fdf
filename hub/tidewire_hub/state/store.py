"""The state's file: opened, brought in line with the catalogue, and written in transactions that say how far it is."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from tidewire_hub.catalogue import Catalogue, Table, Unique
from tidewire_hub.database import WAL_BYTES_MAX, connect, roll_back, shorten_wal, transaction
from tidewire_hub.effects import Effects, effects_of
from tidewire_hub.projection import as_of
from tidewire_hub.resolve_ops import read_ops
from tidewire_hub.resolve_rows import in_phases
from tidewire_hub.resolve_view import Life, life_of, unique_value
from tidewire_hub.state.chains import Chains
from tidewire_hub.state.check import check_state
from tidewire_hub.state.conflicts import Conflicts, Origin
from tidewire_hub.state.devices import Devices
from tidewire_hub.state.lives import Lives
from tidewire_hub.state.plain import PlainRun, plain_runs
from tidewire_hub.state.rows import Rows
from tidewire_hub.state.view import StateView
from tidewire_schemas.messages import ChainPoint, Entry, Parent, Refusal
from tidewire_schemas.positions import START, Position

FORMAT: Final = 4
"""`PRAGMA user_version` of the file. Another number: the file is made anew."""

PAGE_BYTES: Final = 8192
"""Keys come in random order, and a deeper tree of smaller pages costs new rows a quarter more (measured)."""

_SCHEMA: Final = Path(__file__).with_name("schema.sql")
_META: Final = "SELECT log_id, epoch, seq, catalogue FROM meta"
_OFFERED: Final = "SELECT seq, was_epoch, was_seq FROM offered"
_ADD_OFFERED: Final = "INSERT INTO offered (seq, was_epoch, was_seq) VALUES (?, ?, ?)"
_SAVE_POSITION: Final = "UPDATE meta SET epoch = ?, seq = ?"
_SAVE_CATALOGUE: Final = "UPDATE meta SET catalogue = ?"


class Limits(NamedTuple):
    """How much the state keeps besides the rows; see `StreamSettings`."""

    cache_bytes: int
    chain_points_max: int
    conflicts_max: int
    wal_bytes_max: int = WAL_BYTES_MAX


class Folded(NamedTuple):
    """An entry as the state takes it up."""

    position: Position
    device: str
    incarnation: str
    batch: int
    digest: str
    at: int
    refused: Sequence[Refusal] = ()
    lost: Sequence[dict[str, Any]] = ()
    """What the refused rows held."""
    parent: Parent | None = None
    """Where its incarnation began, in the first entry of one that goes on from another."""
    was: Position | None = None
    """The place that it had in a part of the log that was lost."""


class State:
    """The fold of one stream's log, in one SQLite file."""

    def __init__(self, connection: sqlite3.Connection, limits: Limits) -> None:
        self._connection: Final = connection
        self._wal_bytes_max: Final = limits.wal_bytes_max
        self.devices: Final = Devices(connection)
        self.lives: Final = Lives(connection, self.devices)
        self.rows: Final = Rows(connection, self.devices)
        self.chains: Final = Chains(connection, self.devices, limits.chain_points_max)
        self.conflicts: Final = Conflicts(connection, limits.conflicts_max)
        self._offered: dict[int, Position] = {}
        self.log_id: str = ""
        self.position: Position = START
        self.catalogue: Catalogue = Catalogue()
        self.load()

    @classmethod
    def open(cls, path: Path | None, log_id: str, limits: Limits) -> Self | None:
        """The state in this file, made there if there is none; None where the file is of another log or format."""
        connection = connect(
            path,
            synchronous="NORMAL",
            cache_bytes=limits.cache_bytes,
            wal_bytes_max=limits.wal_bytes_max,
            page_bytes=PAGE_BYTES,
        )
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                _create(connection, log_id)
            elif version != FORMAT:
                connection.close()
                return None
            state = cls(connection, limits)
        except BaseException:
            connection.close()
            raise
        if state.log_id != log_id:
            connection.close()
            return None
        return state

    def load(self) -> None:
        """Read again what is held in memory, after opening and after a rollback."""
        self.log_id, epoch, seq, catalogue = self._connection.execute(_META).fetchone()
        self.position = Position(epoch, seq)
        self.catalogue = Catalogue.from_json(catalogue)
        self.devices.load()
        self.lives.load()
        self._offered = {seq: Position(epoch, was) for seq, epoch, was in self._connection.execute(_OFFERED)}
        self.rows.load()
        self.conflicts.load()

    def begin(self) -> None:
        """Open the transaction unless it is open."""
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN IMMEDIATE")

    @property
    def uncommitted(self) -> bool:
        """Whether a transaction is open."""
        return self._connection.in_transaction

    def commit(self) -> None:
        """End the transaction: rows, totals and the position together."""
        self.rows.save_totals()
        self._connection.execute(_SAVE_POSITION, self.position)
        self._connection.execute("COMMIT")

    def rollback(self) -> None:
        """Undo the open transaction and what memory holds of it."""
        roll_back(self._connection)
        self.load()

    def rest(self, path: Path) -> None:
        """Give back space of the file at `path` that is held to be quick, while no transaction is open."""
        shorten_wal(self._connection, path, self._wal_bytes_max)

    def check(self, rest: Callable[[float], None]) -> None:
        """See `check_state`."""
        check_state(self._connection, rest)

    def view(self) -> StateView:
        """The state as resolution of one batch reads it; to be thrown away when something was written."""
        return StateView(self._connection)

    def meet(self, entry: Folded) -> None:
        """Before anything of an entry: learn whose it is."""
        if entry.parent is not None:
            self.lives.begin(entry.device, entry.incarnation, entry.parent)

    def life_of(self, entry: Folded) -> Life:
        """Whose an entry is, and what that one knew."""
        return self.lives.of(entry.device, entry.incarnation)._replace(again=entry.was is not None)

    def offered(self, seq: int) -> Position | None:
        """The place that an entry had before the hub lost it; None for all others."""
        return self._offered.get(seq)

    def take_plain(self, runs: Sequence[PlainRun], entry: Folded) -> bool:
        """Take up an entry of plain runs, if nothing of it has to be judged; otherwise nothing is changed."""
        if not self.rows.write_plain(runs, entry.position.seq, life_of(entry.device, entry.incarnation)):
            return False
        self._take(entry, None)
        return True

    def take(self, effects: Effects, view: StateView, entry: Folded) -> int:
        """Take up an entry by its effects; how many conflict records it made."""
        self.rows.write(effects, view)
        return self._take(entry, effects)

    def fold(self, entry: Entry, lost: Sequence[dict[str, Any]]) -> None:
        """Take up an entry of the log: the same as was done when it was made."""
        folded = Folded(
            position=entry.position,
            device=entry.device,
            incarnation=entry.incarnation,
            batch=entry.batch,
            digest=entry.digest,
            at=entry.at,
            refused=entry.refused,
            lost=lost,
            parent=entry.parent,
            was=entry.was,
        )
        self.meet(folded)
        changes = as_of(entry.changes, self.catalogue, entry.seq)
        plain = None if entry.was else plain_runs(changes, self.catalogue)
        if plain is not None and self.take_plain(plain, folded):
            return
        ops = [op for op in in_phases(read_ops(changes, self.catalogue)) if op.reason is None]
        view = self.view()
        view.prefetch({op.id for op in ops})
        self.take(effects_of(ops, entry.seq, self.life_of(folded), view), view, folded)

    def has_dropped(self, catalogue: Catalogue) -> bool:
        """Whether cells are gone from here that count by the log's catalogue.

        A log that was put back may end where the state is, and be of a time before columns were given up.
        """
        return any(
            name in {*known.shape.forgotten, *known.shape.since}
            and not _is_same(known, table, name)
            and table.shape.since.get(name, 0) < self.position.seq
            for known, table in zip(self.catalogue.tables, catalogue.tables, strict=False)
            for name in table.columns
        )

    def align(self, catalogue: Catalogue) -> None:
        """Bring rows and unique values in line with a later catalogue, in one transaction."""
        self.begin()
        for table in catalogue.tables:
            known = self.catalogue.tables[table.id - 1] if table.id <= len(self.catalogue.tables) else None
            if known is None:
                continue  # no row of it was ever taken up
            given_up = known.columns.keys() - {name for name in table.columns if _is_same(known, table, name)}
            added = [name for name in table.columns if name not in known.columns or name in given_up]
            self.rows.reshape(table, given_up, added)
            first_new = len(known.unique)
            if table.unique[:first_new] != known.unique:
                first_new = 0
                self.rows.forget_unique(table)
            for number in range(first_new, len(table.unique)):
                self.rows.index_unique(table, number)
        self.catalogue = catalogue
        self._connection.execute(_SAVE_CATALOGUE, (catalogue.to_json(),))
        self.commit()

    def clash(self, table: Table, unique: Unique, added: Collection[str]) -> tuple[bytes, bytes] | None:
        """Keys of two rows that hold the same value of a unique set, None if all differ.

        `added` are columns of `table` that its rows do not have yet: they will hold the default.
        """
        defaults = {name: table.defaults[name] for name in added if name in table.defaults}
        holders: dict[bytes, bytes] = {}
        for key, cells in self.rows.scan(table):
            value = unique_value({**defaults, **cells}, unique)
            if value is not None and holders.setdefault(value, key) != key:
                return holders[value], key
        return None

    def close(self) -> None:
        """Close the file; what was not committed is folded again next time."""
        roll_back(self._connection)
        self._connection.close()

    def _take(self, entry: Folded, effects: Effects | None) -> int:
        point = ChainPoint(batch=entry.batch, digest=entry.digest, seq=entry.position.seq)
        self.chains.add(entry.device, entry.incarnation, point)
        if entry.was is not None:
            self._connection.execute(_ADD_OFFERED, (entry.position.seq, *entry.was))
            self._offered[entry.position.seq] = entry.was
        self.position = entry.position
        overwritten = effects.overwritten if effects is not None else ()
        origin = Origin(entry.position.seq, entry.at, entry.device, entry.incarnation, entry.batch)
        return self.conflicts.add(origin, overwritten, entry.refused, entry.lost)


def _is_same(known: Table, table: Table, name: str) -> bool:
    """Whether a column is not one that was forgotten and came back since."""
    return name in known.columns and known.shape.since.get(name) == table.shape.since.get(name)


def _create(connection: sqlite3.Connection, log_id: str) -> None:
    with transaction(connection):
        for statement in _SCHEMA.read_text(encoding="utf-8").split(";\n"):
            connection.execute(statement)
        connection.execute(
            "INSERT INTO meta (id, log_id, epoch, seq, catalogue) VALUES (1, ?, 0, 0, ?)",
            (log_id, Catalogue().to_json()),
        )
        connection.execute(f"PRAGMA user_version = {FORMAT}")
