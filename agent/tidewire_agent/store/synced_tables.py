"""The tables that are synced: attached, detached, followed through changes of the schema, and told to the hub."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from tidewire_agent.store.catalogue import AttachReport, Catalogue
from tidewire_agent.store.loads import Loads
from tidewire_agent.store.opening import remove_tables
from tidewire_agent.store.parked import Parked
from tidewire_agent.store.pending import Pending
from tidewire_agent.store.row_writer import RowWriter
from tidewire_agent.store.transactions import Transactions
from tidewire_schemas.messages import ColumnsElsewhere
from tidewire_schemas.names import fold
from tidewire_schemas.shapes import TableShape


class SyncedTables:
    """The attached tables of one database. Whoever remembers something of them is told when they change."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        transactions: Transactions,
        catalogue: Catalogue,
        pending: Pending,
        parked: Parked,
        loads: Loads,
        rows: RowWriter,
    ) -> None:
        self._connection = connection
        self._transactions = transactions
        self._catalogue = catalogue
        self._pending = pending
        self._parked = parked
        self._loads = loads
        self._rows = rows
        self._told: dict[int, TableShape] | None = None
        self.told_count = 0
        """How many times the hub was told tables, each time other ones."""

    def attach(self, wanted: Sequence[str], *, all_tables: bool, ahead: bool) -> list[AttachReport]:
        """Sync these tables from now on; what became of each. See `Catalogue.attach`."""
        reports = self._catalogue.attach(wanted, all_tables=all_tables, ahead=ahead)
        self._loads.reload()
        self._pending.forget()
        return reports

    def detach(self, name: str) -> bool:
        """Stop syncing one table. False where it was not attached."""
        found = self._catalogue.detach_one(name)
        self._loads.reload()
        return found

    def remove_all_traces(self) -> None:
        """Remove triggers and Tidewire's tables."""
        with self._transactions.write():
            self._catalogue.remove_triggers()
            remove_tables(self._connection)

    def refresh(self) -> None:
        """Follow a change of the schema, if there was one."""
        if self._catalogue.is_stale():
            self.follow_schema()

    def follow_schema(self) -> None:
        """Look at the schema: it may have changed while nobody looked."""
        self._catalogue.refresh()
        self._loads.reload()  # no table goes on with a load whose columns are others now
        self._pending.forget()
        self._parked.recount()  # of a table that another process has detached nothing is left
        self.await_columns()

    def await_columns(self) -> None:
        """Tables to which columns have come that others had before take their rows anew."""
        awaited = self._catalogue.elsewhere.awaited()
        waiting = {
            table_id: least
            for table_id, least in awaited.items()
            if not self._loads.is_under_way(table_id) and self._catalogue.by_id(table_id) is not None
        }
        if waiting:
            with self._transactions.write():
                self._loads.wait(waiting)

    def told(self, elsewhere: Sequence[ColumnsElsewhere], head: int) -> None:
        """In the caller's transaction: the hub tells which columns of them other devices have."""
        found = ((self._catalogue.by_name(told.table), told.columns) for told in elsewhere)
        self._catalogue.elsewhere.told(
            (
                (synced.attached.id, [name for name in columns if fold(name) not in synced.table.by_name])
                for synced, columns in found
                if synced is not None
            ),
            head,
        )

    def shapes(self) -> tuple[TableShape, ...]:
        """The shapes of the attached tables."""
        return tuple(synced.table.shape for synced in self._catalogue)

    def tell(self) -> tuple[TableShape, ...]:
        """The shapes for a Hello: what the hub is told, and knows from then on."""
        tables = self._shapes_by_id()
        if tables != self._told:
            self._told = tables
            self.told_count += 1
        return tuple(tables.values())

    def are_as_told(self, count: int) -> bool:
        """Whether the tables are those that the hub was told this time, as far as the schema was followed."""
        return self.told_count == count and not self.news

    @property
    def news(self) -> bool:
        """Whether the tables are others than the hub was told, until it is told these (say Hello again).

        By their numbers, too: one that was detached and attached again is to be brought up anew.
        """
        return self._told is not None and self._told != self._shapes_by_id()

    @property
    def behind(self) -> int:
        """How many tables have fallen behind."""
        return sum(attached.state == "behind" for attached in self._catalogue.registry.by_id.values())

    def problems(self) -> list[str]:
        """What a person should know about tables that are wanted and not synced, in whole or in part."""
        return [*self._catalogue.problems(), *self._rows.problems()]

    def _shapes_by_id(self) -> dict[int, TableShape]:
        return {synced.attached.id: synced.table.shape for synced in self._catalogue}
