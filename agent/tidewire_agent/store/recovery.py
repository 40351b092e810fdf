"""When device and hub do not agree on what was: new numbers for batches, a step back in the log, another log."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence

from tidewire_agent.store.catalogue import Catalogue
from tidewire_agent.store.healing import fall_back, take_another_log
from tidewire_agent.store.incarnations import Incarnations
from tidewire_agent.store.loads import Loads
from tidewire_agent.store.meta import Meta
from tidewire_agent.store.parked import Parked
from tidewire_agent.store.pending import Pending
from tidewire_agent.store.seal import Sealer
from tidewire_agent.store.taking_apart import TakeApart
from tidewire_agent.store.transactions import Transactions
from tidewire_schemas.messages import ChainPoint
from tidewire_schemas.positions import Position


class Recovery:
    """Brings one database back to where the conversation with the hub can go on."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        meta: Meta,
        transactions: Transactions,
        catalogue: Catalogue,
        incarnations: Incarnations,
        sealer: Sealer,
        pending: Pending,
        parked: Parked,
        loads: Loads,
    ) -> None:
        self._connection = connection
        self._meta = meta
        self._transactions = transactions
        self._catalogue = catalogue
        self._incarnations = incarnations
        self._sealer = sealer
        self._pending = pending
        self._parked = parked
        self._loads = loads

    def renumber(self, after: int | None, digest: str | None, apart: TakeApart | None) -> None:
        """Begin a new incarnation, in which what follows a batch is numbered from 1: see `Incarnations.renumber`."""
        with self._transactions.write():
            included = self._meta.included
            shift, loose = self._incarnations.renumber(after, digest, apart)
            if apart is not None:
                self._sealer.keep_back(loose, apart.bytes_max)
            self._loads.renumbered(included - shift)
        self._catalogue.registry.reload()
        self._pending.forget()

    def heal(self, common: Position, points: Sequence[ChainPoint]) -> None:
        """Go back to the last entry in `common`, and offer again what the hub has lost: see `healing.py`."""
        while self._connection.execute("SELECT EXISTS (SELECT 1 FROM tidewire_change)").fetchone()[0]:
            if not self._sealer.seal(time.time_ns() // 1_000_000).more:
                break
        with self._transactions.write():
            offered = self._incarnations.heal(points, common)
            fall_back(self._connection, self._meta, common, offered)
            self._loads.clear()
        self._catalogue.registry.reload()
        self._pending.forget()
        self._parked.recount()

    def adopt(self) -> None:
        """Forget the log, and take whatever comes from its start."""
        with self._transactions.write():
            take_another_log(self._connection, self._meta)
            self._loads.clear()
            self._incarnations.clear()
        self._catalogue.refresh()
        self._pending.forget()
        self._parked.recount()
