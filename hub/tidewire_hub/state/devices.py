"""Devices, and the lives of their databases, by number: names are long and repeated in every row."""

from __future__ import annotations

import sqlite3
from typing import Final


class Devices:
    """Numbers of devices and of their lives (`resolve_view.life_of`), given out as they first write."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection: Final = connection
        self._ids: dict[str, int] = {}

    def load(self) -> None:
        """Read again what is held in memory, after opening and after a rollback."""
        self._ids = dict(self._connection.execute("SELECT name, id FROM device"))

    def id_of(self, name: str) -> int:
        """The device's number, a new one if it has none."""
        number = self._ids.get(name)
        if number is None:
            number = len(self._ids) + 1
            self._connection.execute("INSERT INTO device (id, name) VALUES (?, ?)", (number, name))
            self._ids[name] = number
        return number

    def known(self, name: str) -> int | None:
        """The device's number, None if it never wrote."""
        return self._ids.get(name)
