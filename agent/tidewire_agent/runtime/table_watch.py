"""Says which of the app's tables are not synced, and why."""

from __future__ import annotations

from tidewire_agent.runtime.database import Database
from tidewire_agent.runtime.troubles import Troubles
from tidewire_agent.session.effects import Trouble
from tidewire_agent.store.edge_store import EdgeStore


class TableWatch:
    """Says `tables_not_synced` when it comes, and that it is over when it is."""

    def __init__(self, database: Database[EdgeStore], troubles: Troubles) -> None:
        self._database = database
        self._troubles = troubles

    async def look(self) -> None:
        """Look now."""
        problems, synced = await self._database.run(lambda store: (store.tables.problems(), store.tables.shapes()))
        if problems:
            hint = "the other tables are synced" if synced else ""
            self._troubles.say(Trouble("tables_not_synced", "; ".join(problems), hint))
        else:
            self._troubles.clear("tables_not_synced")
