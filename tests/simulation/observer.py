"""Who looks at a database from outside, and again only after somebody has committed."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from simulation.virtual_time import connect_outside


class Observer(sqlite3.Connection):
    """A connection for checkers; it writes nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seen: dict[str, int] = {}

    @classmethod
    def of(cls, path: Path) -> Observer:
        """Look at this database."""
        connection = connect_outside(path, factory=cls)
        assert isinstance(connection, cls)
        return connection

    def has_news(self, reader: str) -> bool:
        """Whether anything was committed since this reader asked last; true the first time."""
        (version,) = self.execute("PRAGMA data_version").fetchone()
        news: bool = self._seen.get(reader) != version
        self._seen[reader] = version
        return news
