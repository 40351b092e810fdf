"""The edge of Tidewire: the agent that syncs an SQLite file, and `DataSync` for Python programs.

`DataSync` and `AsyncDataSync` are imported when first used, so that importing this package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidewire_agent.datasync.asynchronous import AsyncDataSync
    from tidewire_agent.datasync.blocking import DataSync

__all__ = ["AsyncDataSync", "DataSync"]


def __getattr__(name: str) -> object:
    match name:
        case "DataSync":
            from tidewire_agent.datasync.blocking import DataSync  # noqa: PLC0415 - lazily, see above

            return DataSync
        case "AsyncDataSync":
            from tidewire_agent.datasync.asynchronous import AsyncDataSync  # noqa: PLC0415

            return AsyncDataSync
        case _:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
