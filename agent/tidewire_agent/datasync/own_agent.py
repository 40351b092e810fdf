"""How a `DataSync` runs the agent of its file, or joins the one that runs already."""

from __future__ import annotations

from contextlib import closing

from tidewire_agent.errors import DeviceNeeded
from tidewire_agent.runtime.agent import Agent
from tidewire_agent.settings import AgentSettings
from tidewire_agent.store.catalogue import ALL_TABLES
from tidewire_agent.store.edge_store import EdgeStore
from tidewire_schemas.errors import DatabaseError


class OwnAgents:
    """Agents with one set of settings, for an `AgentKeeper`."""

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings

    @property
    def device(self) -> str | None:
        """The device's name, None for the one that the file remembers."""
        return self._settings.device

    @property
    def wanted(self) -> tuple[str, ...]:
        """The tables to sync, `*` for all of them."""
        return (*self._settings.tables, ALL_TABLES) if self._settings.all_tables else self._settings.tables

    def make(self) -> Agent:
        """One that can be run once."""
        return Agent(self._settings)

    def join(self) -> bool:
        """Attach our tables beside the agent that runs on the file, which notices it; False where that must wait.

        Raises:
            OtherDevice: the file belongs to a device of another name.
            OtherStream: the agent that runs follows another stream.
            DatabaseError: the file cannot be used.
        """
        settings = self._settings
        try:
            store = EdgeStore.open(settings.db, device=settings.device, settings=settings.store_settings())
            with closing(store):
                store.join(settings.stream)
                store.attach(settings.tables, all_tables=settings.all_tables)
        except DeviceNeeded:
            return False  # that agent has only begun, and is about to name the device
        except DatabaseError as error:
            if error.retry:
                return False
            raise
        return True
