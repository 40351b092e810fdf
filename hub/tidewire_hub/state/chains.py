"""Which batches of which device are in the log: what deduplication and the handshake look at."""

from __future__ import annotations

import sqlite3
from typing import Final, NamedTuple

from tidewire_hub.state.devices import Devices
from tidewire_schemas.messages import ChainPoint, Parent

_NEWEST: Final = """
    SELECT batch, digest, seq FROM chain
    WHERE device = ? AND incarnation = ?
    ORDER BY batch DESC LIMIT ?
"""
_AT: Final = "SELECT batch, digest, seq FROM chain WHERE device = ? AND incarnation = ? AND batch = ?"
_FIND: Final = "SELECT incarnation, batch, seq FROM chain WHERE device = ? AND digest = ?"
_NEWEST_OF_ALL: Final = "SELECT batch, digest, seq FROM chain WHERE device = ? ORDER BY seq DESC LIMIT ?"
_ADD: Final = "INSERT INTO chain (device, incarnation, batch, digest, seq) VALUES (?, ?, ?, ?, ?)"
_FORGET: Final = "DELETE FROM chain WHERE device = ? AND incarnation = ? AND batch <= ?"
_DEVICES: Final = """
    SELECT device.name, incarnation, max(batch), digest, seq  -- SQLite: the other columns are of the row with the max
    FROM chain JOIN device ON device.id = chain.device
    GROUP BY device, incarnation
    ORDER BY device.name, seq
"""


class DeviceChain(NamedTuple):
    """One incarnation of a device and its newest batch in the log."""

    device: str
    incarnation: str
    accepted: ChainPoint


class Chains:
    """Batches of each (device, incarnation) that are in the log: the newest `points_max` of each."""

    def __init__(self, connection: sqlite3.Connection, devices: Devices, points_max: int) -> None:
        self._connection: Final = connection
        self._devices: Final = devices
        self._points_max: Final = points_max

    def newest(self, device: str, incarnation: str, count: int) -> list[ChainPoint]:
        """Up to `count` points, newest first."""
        number = self._devices.known(device)
        if number is None:
            return []
        stored = self._connection.execute(_NEWEST, (number, incarnation, count))
        return [ChainPoint(batch=batch, digest=digest, seq=seq) for batch, digest, seq in stored]

    def at(self, device: str, incarnation: str, batch: int) -> ChainPoint | None:
        """The point of one batch, None if it is not in the log or no longer remembered."""
        stored = self._connection.execute(_AT, (self._devices.known(device), incarnation, batch)).fetchone()
        return None if stored is None else ChainPoint(batch=stored[0], digest=stored[1], seq=stored[2])

    def find(self, device: str, digest: str) -> Parent | None:
        """The batch of any of its incarnations that has this digest; a scan, for what happens once in a life."""
        stored = self._connection.execute(_FIND, (self._devices.known(device), digest)).fetchone()
        return None if stored is None else Parent(incarnation=stored[0], batch=stored[1], seq=stored[2])

    def newest_of_all(self, device: str, count: int) -> list[ChainPoint]:
        """Up to `count` points of all its incarnations, the latest in the log first."""
        stored = self._connection.execute(_NEWEST_OF_ALL, (self._devices.known(device), count))
        return [ChainPoint(batch=batch, digest=digest, seq=seq) for batch, digest, seq in stored]

    def add(self, device: str, incarnation: str, point: ChainPoint) -> None:
        """One batch more; forgets the one that is too many."""
        number = self._devices.id_of(device)
        self._connection.execute(_ADD, (number, incarnation, point.batch, point.digest, point.seq))
        if point.batch > self._points_max:
            self._connection.execute(_FORGET, (number, incarnation, point.batch - self._points_max))

    def devices(self) -> list[DeviceChain]:
        """Every (device, incarnation) with its newest point, by name, the latest incarnation last."""
        return [
            DeviceChain(device, incarnation, ChainPoint(batch=batch, digest=digest, seq=seq))
            for device, incarnation, batch, digest, seq in self._connection.execute(_DEVICES)
        ]
