"""The attached tables as they are now: definitions, triggers, and what a change of the schema means for them.

`PRAGMA schema_version` moves with every change of the schema, whoever makes it. Then the definitions are read again,
the triggers made anew, and in the same transaction what they missed is captured:

    a column was added, or renamed     rows in which it differs from its default are changes, and all rows if another
                                       column had its name here; but where other devices have values of it already, the
                                       table takes its rows anew (`elsewhere.py`)
    the table was rebuilt              (it is there, its triggers are not) every row is sent whole, and the hub's rows
                                       are taken once more below that: only true differences remain
    the table is gone                  it is marked missing and a person is told; nothing is deleted elsewhere
    the table was renamed              as gone, under its old name; the new name can be attached, or is where all are
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Final, NamedTuple

from tidewire_agent.errors import TableNotSyncable
from tidewire_agent.store import capture
from tidewire_agent.store.elsewhere import Elsewhere
from tidewire_agent.store.healing import forget_table
from tidewire_agent.store.meta import Attached, Meta, Registry, trim_marks
from tidewire_agent.store.sql import names, placeholders, quote
from tidewire_agent.store.tables import KV_TABLE, Table, read_table, user_tables
from tidewire_schemas.names import fold
from tidewire_schemas.positions import START

Transaction = Callable[[], AbstractContextManager[None]]

ALL_TABLES: Final = "*"

CREATE_KV: Final = f"""
    CREATE TABLE IF NOT EXISTS {KV_TABLE} (key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL) WITHOUT ROWID
"""


class AttachReport(NamedTuple):
    """What became of one table that was asked for."""

    table: str
    attached: bool
    reason: str
    exists: bool = True
    """Whether there is anything of this name."""


class Synced(NamedTuple):
    """An attached table and its definition."""

    attached: Attached
    table: Table


class Catalogue:
    """The attached tables of one database.

    Args:
        connection: the agent's connection.
        meta: the database's memory.
        transaction: gives a write transaction (BEGIN IMMEDIATE … COMMIT).
        allow_unkept_unique: attach tables with unique indexes that the hub cannot keep.
    """

    def __init__(
        self, connection: sqlite3.Connection, meta: Meta, transaction: Transaction, *, allow_unkept_unique: bool
    ) -> None:
        self._connection = connection
        self._meta = meta
        self._transaction = transaction
        self._allow_unkept_unique = allow_unkept_unique
        self.registry = Registry(connection)
        self.elsewhere = Elsewhere(connection, meta)
        self._definitions: dict[int, Table] = {}
        self.schema_version = -1

    def __iter__(self) -> Iterator[Synced]:
        for table_id in self._definitions:
            synced = self.by_id(table_id)
            if synced is not None:
                yield synced

    def by_id(self, table_id: int) -> Synced | None:
        """The attached table of this number, None where it is missing now or another process has detached it."""
        table = self._definitions.get(table_id)
        attached = self.registry.by_id.get(table_id)
        return None if table is None or attached is None else Synced(attached, table)

    def by_name(self, name: str) -> Synced | None:
        """The attached table of this name, None where it is not attached or missing now."""
        attached = self.registry.by_name.get(fold(name))
        return None if attached is None else self.by_id(attached.id)

    def is_stale(self) -> bool:
        """Whether the schema has changed since it was last looked at."""
        return self._current_version() != self.schema_version

    def attach(self, wanted: Sequence[str], *, all_tables: bool, ahead: bool = True) -> list[AttachReport]:
        """Attach these tables (or all there are), remember that they are wanted, and say what became of each.

        `ahead` tells that those which do not exist are remembered, too, and attached once they do.
        """
        with self._transaction():
            if KV_TABLE in (fold(name) for name in wanted):
                self._connection.execute(CREATE_KV)
            asked = {fold(name): name for name in wanted}
            remembered = {fold(name): name for name in self._wanted()}
            if all_tables:
                remembered[ALL_TABLES] = ALL_TABLES
            unwanted = self._unwanted()
            self._meta.set(unwanted=json.dumps(sorted(unwanted - asked.keys())))
            self.registry.reload()
            reports = [self._attach_one(name) for name in (self._all_tables() if all_tables else wanted)]
            if not ahead:
                for report in reports:
                    if not report.exists:
                        asked.pop(fold(report.table), None)
            self._meta.set(
                wanted=json.dumps(sorted({**remembered, **asked}.values())),
                unwanted=json.dumps(sorted(unwanted - asked.keys())),
            )
        self.refresh()
        return reports

    def detach_one(self, name: str) -> bool:
        """Stop syncing one table; its rows stay as they are. False where it was neither attached nor asked for."""
        attached = self.registry.by_name.get(fold(name))
        if attached is None and fold(name) not in map(fold, self._wanted()):
            return False
        with self._transaction():
            if attached is not None:
                self._detach(attached)
            self._meta.set(
                wanted=json.dumps([other for other in self._wanted() if fold(other) != fold(name)]),
                unwanted=json.dumps(sorted({*self._unwanted(), fold(name)})),
            )
        self.refresh()
        return True

    def _detach(self, attached: Attached) -> None:
        capture.remove(self._connection, attached.id)
        for statement in (
            "DELETE FROM tidewire_change WHERE t = ?",
            "DELETE FROM tidewire_touched WHERE t = ?",
            "DELETE FROM tidewire_unsent WHERE t = ?",
            "DELETE FROM tidewire_parked WHERE t = ?",
            "DELETE FROM tidewire_elsewhere WHERE t = ?",
            "DELETE FROM tidewire_gone WHERE t = ?",
            "DELETE FROM tidewire_loading WHERE t = ?",
            "DELETE FROM tidewire_table WHERE id = ?",
        ):
            self._connection.execute(statement, (attached.id,))
        forget_table(self._meta, attached.id)
        trim_marks(self._connection, self._meta)

    def remove_triggers(self) -> None:
        """In the caller's transaction: stop capturing, of all tables."""
        for attached in list(self.registry.by_id.values()):
            capture.remove(self._connection, attached.id)

    def refresh(self) -> None:
        """Look at the schema again, and follow what has changed."""
        with self._transaction():
            self.registry.reload()
            self._definitions = {}
            for attached in list(self.registry.by_id.values()):
                self._refresh_one(attached)
            self._attach_newly_created()
            version = self._current_version()
        # Our own CREATE TRIGGER statements move the version too; only what comes after counts.
        self.schema_version = version

    def problems(self) -> list[str]:
        """What a person should know about tables that are wanted and not synced."""
        found = [a.problem for a in self.registry.by_id.values() if a.problem is not None]
        wanted = self._wanted()
        for name in self._all_tables() if ALL_TABLES in wanted else wanted:
            if fold(name) not in self.registry.by_name:
                try:
                    self._read(name)
                except TableNotSyncable as error:
                    found.append(str(error))
        if not self.registry.by_id and not wanted:
            found.append("no table is attached: name tables with --table, or give --all-tables")
        return found

    # ── one table ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _attach_one(self, name: str) -> AttachReport:
        known = self.registry.by_name.get(fold(name))
        if known is not None and known.state == "behind":
            return self._attach_again(known)
        if known is not None and known.state != "missing":
            return AttachReport(known.name, attached=True, reason="attached already")
        try:
            table = self._read(name)
            self._prove_writable(table)
        except TableNotSyncable as error:
            return AttachReport(name, attached=False, reason=str(error), exists=self._is_name(name))
        if known is not None:
            self._connection.execute("DELETE FROM tidewire_table WHERE id = ?", (known.id,))
            self.elsewhere.forget(known.id)
            forget_table(self._meta, known.id)
        has_rows = self._connection.execute(f"SELECT EXISTS (SELECT 1 FROM {quote(table.name)})").fetchone()[0]
        behind = self._meta.checkpoint != START
        table_id = self._connection.execute(
            """
            INSERT INTO tidewire_table (name, columns, state, first_batch, cursor_epoch, cursor_seq)
            VALUES (?, ?, ?, ?, ?, ?)
            """,
            (
                table.name,
                json.dumps(table.column_names),
                "taking" if has_rows or behind else "synced",
                max(1, self._meta.number("next_batch")),
                START.epoch if behind else None,
                START.seq if behind else None,
            ),
        ).lastrowid
        assert table_id is not None  # an INSERT into a rowid table gives one
        capture.install(self._connection, table_id, table, table.column_names)
        self.registry.reload()
        return AttachReport(table.name, attached=True, reason="attached")

    def _attach_again(self, behind: Attached) -> AttachReport:
        try:
            table = self._read(behind.name)
        except TableNotSyncable as error:
            return AttachReport(behind.name, attached=False, reason=str(error))
        # Made anew, as another process that works on the file notices nothing but a change of the schema.
        capture.install(self._connection, behind.id, table, behind.columns)
        self._take_anew(behind)
        return AttachReport(behind.name, attached=True, reason="taken anew")

    def _refresh_one(self, attached: Attached) -> None:
        wanted = {fold(name) for name in self._wanted()}
        if attached.state == "missing" and not wanted & {fold(attached.name), ALL_TABLES}:
            return
        try:
            table = self._read(attached.name)
        except TableNotSyncable as error:
            if attached.state != "missing":
                self._mark_missing(attached, str(error))
            return
        triggers = capture.installed(self._connection, attached.id)
        if triggers and any(fold(on) != fold(table.name) for _name, on in triggers):
            # Renamed, and a table of the old name made: the triggers went with the old one.
            capture.remove(self._connection, attached.id)
            triggers = []
        if not triggers:
            self._capture_rebuilt(attached, table)
        elif table.column_names != attached.columns or self._reused(attached, table):
            self._capture_new_columns(attached, table)
            if attached.state == "behind":
                self._take_anew(attached)
        self._definitions[attached.id] = table

    def _take_anew(self, attached: Attached) -> None:
        """A table that fell behind follows the log again, from its start."""
        behind = self._meta.checkpoint != START
        self.registry.update(
            attached.id,
            state="synced" if attached.target is None else "taking",  # in which case there are rows to be offered
            offered=None,
            problem=None,
            cursor_epoch=START.epoch if behind else None,
            cursor_seq=START.seq if behind else None,
        )

    def _stop_loading(self, attached: Attached) -> None:
        """What a snapshot has brought says nothing of the table as it is now."""
        self._connection.execute("DELETE FROM tidewire_loading WHERE t = ?", (attached.id,))

    def _mark_missing(self, attached: Attached, reason: str) -> None:
        self._stop_loading(attached)
        self.elsewhere.forget(attached.id)
        moved = {on for _name, on in capture.installed(self._connection, attached.id)}
        capture.remove(self._connection, attached.id)
        new_name = next(iter(moved), None)
        if new_name is not None and fold(new_name) != fold(attached.name):
            reason = _renamed(attached.name, new_name, followed=ALL_TABLES in self._wanted())
        elif not self._exists(attached.name):
            reason = (
                f"table {attached.name!r} was dropped; its rows stay on the hub and on other devices"
                f" (create it again to take them from there, or forget it: tidewire-agent detach {attached.name}, and"
                " start the agent without that --table)"
            )
        self.registry.update(attached.id, state="missing", problem=reason)

    def _capture_rebuilt(self, attached: Attached, table: Table) -> None:
        self._stop_loading(attached)
        columns = _kept_places(attached.columns, table)
        capture.install(self._connection, attached.id, table, columns)
        self._capture(attached.id, capture.WHOLE, table, "NULL", "1")
        self.elsewhere.used_before(attached.id, {fold(n) for n in attached.columns if n}, table.by_name.keys())
        self.elsewhere.has_now(attached.id, table.by_name.keys(), ())
        self.elsewhere.settle(attached.id)
        cursor = None if self._meta.checkpoint == START else START
        self.registry.update(
            attached.id,
            state="synced" if attached.state == "missing" else attached.state,
            problem=None,
            first_batch=max(1, self._meta.number("next_batch")),  # earlier batches do not tell what the rebuild did
            columns=json.dumps(columns),
            cursor_epoch=cursor.epoch if cursor else None,
            cursor_seq=cursor.seq if cursor else None,
        )

    def _reused(self, attached: Attached, table: Table) -> dict[str, str]:
        """Columns that were renamed and whose name another column has now: that name → the new name (both folded)."""
        now = capture.columns_now(self._connection, attached.id)
        renamed = ((name, now.get(place, name)) for place, name in enumerate(attached.columns) if name)
        return {
            fold(name): fold(new) for name, new in renamed if fold(name) != fold(new) and fold(name) in table.by_name
        }

    def _capture_new_columns(self, attached: Attached, table: Table) -> None:
        reused = self._reused(attached, table)
        remembered = ["" if fold(name) in reused else name for name in attached.columns]
        columns = _kept_places(remembered, table)
        capture.install(self._connection, attached.id, table, columns)
        known = {fold(name) for name in remembered}
        new = [name for name in table.by_name if name not in known]
        had = {fold(name) for name in attached.columns if name}
        again = self.elsewhere.used_before(attached.id, had, table.by_name.keys()) | reused.keys()
        others = self.elsewhere.lacking(attached.id)
        # Whoever renamed the old column elsewhere has given its name to another there, too.
        others |= self.elsewhere.note_reused(attached.id, [name for name, became in reused.items() if became in others])
        if self.elsewhere.has_now(attached.id, table.by_name.keys(), new):
            self._stop_loading(attached)
        for place, name in enumerate(columns):
            if fold(name) not in new or fold(name) in others:
                continue
            column = table.by_name[fold(name)]
            default = column.default_sql if column.default is not None and column.default_sql else "NULL"
            mask = capture.full_mask([place], len(columns))
            self._capture(
                attached.id,
                capture.UPDATED,
                table,
                f"'{mask}'" if isinstance(mask, str) else str(mask),
                # What batches or the hub hold under a name that another column had gives way in all rows.
                "1" if fold(name) in again else f"{quote(name)} IS NOT ({default})",
            )
        self.registry.update(attached.id, columns=json.dumps(columns))

    def _capture(self, table_id: int, op: int, table: Table, mask: str, where: str) -> None:
        """Write a change for each row, as a trigger would have."""
        key_columns = ", ".join(f"k{i}" for i in range(len(table.key)))
        self._connection.execute(
            f"""
            INSERT INTO tidewire_change (t, op, cols, {key_columns})
            SELECT {table_id}, {op}, {mask}, {names(table.key)} FROM {quote(table.name)} WHERE {where}
            """
        )

    def _attach_newly_created(self) -> None:
        wanted = self._wanted()
        there = self._all_tables()
        # A program that uses DataSync on this file means it to be synced: its table needs no asking.
        for name in there if ALL_TABLES in wanted else [*wanted, *(name for name in there if name == KV_TABLE)]:
            if fold(name) not in self.registry.by_name and self._attach_one(name).attached:
                attached = self.registry.by_name[fold(name)]
                self._definitions[attached.id] = self._read(name)

    def _prove_writable(self, table: Table) -> None:
        """A statement that cannot even be prepared here (an index that calls the app's own function) is refused now."""
        columns = table.column_names
        try:
            self._connection.execute(
                f"EXPLAIN INSERT INTO {quote(table.name)} ({names(columns)}) VALUES ({placeholders(len(columns))})",
                [None] * len(columns),
            )
        except sqlite3.Error as error:
            raise TableNotSyncable(table.name, f"a write to it cannot be prepared here: {error}") from error

    def _read(self, name: str) -> Table:
        return read_table(self._connection, name, allow_unkept_unique=self._allow_unkept_unique)

    def _wanted(self) -> list[str]:
        return [str(name) for name in json.loads(self._meta.text("wanted") or "[]")]

    def _unwanted(self) -> set[str]:
        """Folded names of tables that were detached: not even attached because all are."""
        return {str(name) for name in json.loads(self._meta.text("unwanted") or "[]")}

    def _all_tables(self) -> list[str]:
        unwanted = self._unwanted()
        return [name for name in user_tables(self._connection) if fold(name) not in unwanted]

    def _exists(self, name: str) -> bool:
        return any(fold(other) == fold(name) for other in user_tables(self._connection))

    def _is_name(self, name: str) -> bool:
        """Whether there is a table, or something that takes itself for one, of this name."""
        found = self._connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        return fold(name) in (fold(other) for (other,) in found)

    def _current_version(self) -> int:
        return int(self._connection.execute("PRAGMA schema_version").fetchone()[0])


def _renamed(old: str, new: str, *, followed: bool) -> str:
    """What a person reads of a table that has another name now."""
    if followed:
        return (
            f"table {old!r} was renamed to {new!r}, which is synced as a table of its own; the rows of {old!r} stay on"
            f" the hub and on other devices (rename it there too, then end this message: tidewire-agent detach {old})"
        )
    return (
        f"table {old!r} was renamed to {new!r}; nothing of it is synced now"
        f" (attach {new!r} to sync it under its new name; forget the old one: tidewire-agent detach {old})"
    )


def _kept_places(known: Sequence[str], table: Table) -> list[str]:
    """The columns whose places are the bits of masks: old ones keep theirs, so that waiting changes stay readable.

    A column that is gone leaves an empty place: one that comes under its name later is another.
    """
    present = {fold(name) for name in known}
    kept = [name if fold(name) in table.by_name else "" for name in known]
    return [*kept, *(name for name in table.column_names if fold(name) not in present)]
