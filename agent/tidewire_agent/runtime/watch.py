"""Noticing commits: by any process, within milliseconds, at next to no cost while nothing happens.

In WAL mode every commit writes to the `-wal` file, so inotify on that one file tells of it at once. Two things follow
from how SQLite commits (https://sqlite.org/walformat.html): the event comes when pages are *written*, and the commit
counts only once the wal-index is updated, which is a little later, and after the disk's fsync where the app runs with
synchronous=FULL. So an event is only a reason to look (`PRAGMA data_version`, which says exactly whether another
connection has committed), now and a few times more. That is asked through a connection of the watch's own, which costs
a few microseconds; the store, on its thread, is asked only when that has seen a commit, which may be the store's own.
Where inotify is not to be had, the file's size and time are
looked at instead; and as a safety net the database is asked now and then whatever the file says.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from math import inf
from pathlib import Path
from typing import Final, Literal, Protocol

from tidewire_agent.runtime.pace import GAP_S

_log = logging.getLogger("tidewire.agent")

RECHECKS_S: Final = (0.001, 0.002, 0.004, 0.008, 0.016, *(0.016 + 0.03 * n for n in range(1, 17)))
"""When to look again after an event: soon, as the wal-index follows the write at once where nothing is fsynced; then
every 30 ms for half a second, as a slow card may need that long for the app's fsync."""

WAL_INDEX_S: Final = 0.0002
"""How soon after a small write without fsync the commit is there: far less than a timer can wait."""

PAUSED_S: Final = GAP_S * 1.1
"""So long after a commit there is a look, whatever else is looked for: an app that has paused by then is in no rush."""

ALONE_S: Final = 0.02
"""An event so long after the one before is mostly of a small transaction by itself."""

WatchMode = Literal["auto", "poll"]


class Notifier(Protocol):
    """Says that the file may have changed."""

    def start(self, notify: Callable[[], None]) -> None:
        """Call `notify` on the event loop when the file may have changed: once, until `listen`."""
        ...

    def listen(self) -> None:
        """Tell again, also of what happened since it told last."""
        ...

    def renew(self) -> None:
        """Called now and then: the file may have been deleted and made anew."""
        ...

    def close(self) -> None:
        """Stop."""
        ...


STREAK_PAUSE_S: Final = 0.004
"""While each look finds a commit, they are this far apart: else one at full speed has it look all the time."""

DEAF_S: Final = 0.004
"""After an event no other is listened to for so long: a large transaction brings one for each of its pages."""


class InotifyNotifier:
    """inotify on one file. Raises OSError where that is not supported."""

    def __init__(self, path: Path) -> None:
        from inotify_simple import INotify, flags  # noqa: PLC0415  # not there on other systems than Linux

        self._path = path
        self._mask = flags.MODIFY | flags.ATTRIB | flags.DELETE_SELF | flags.MOVE_SELF
        self._inotify = INotify(nonblocking=True)
        self._watched: tuple[int, int] | None = None
        self._notify: Callable[[], None] = lambda: None
        self._listens = False
        self._told_at = -inf
        try:
            self._watch()
        except OSError:
            self._inotify.close()
            raise

    def start(self, notify: Callable[[], None]) -> None:
        """Begin to tell."""
        self._notify = notify
        self.listen()

    def listen(self) -> None:
        """Look at the file descriptor again."""
        if not self._listens:
            self._listens = True
            asyncio.get_running_loop().add_reader(self._inotify.fileno(), self._readable)

    def _readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._inotify.fileno(), 65536)  # what happened does not matter: something did
        self._listens = False
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._inotify.fileno())
        if loop.time() - self._told_at > ALONE_S:
            time.sleep(WAL_INDEX_S)  # as long as one turn of the event loop takes
        self._told_at = loop.time()
        self._notify()

    def renew(self) -> None:
        """Watch the file that has the name now."""
        with contextlib.suppress(OSError):
            self._watch()

    def close(self) -> None:
        """Stop."""
        asyncio.get_running_loop().remove_reader(self._inotify.fileno())
        self._inotify.close()

    def _watch(self) -> None:
        found = os.stat(self._path)
        identity = (found.st_dev, found.st_ino)
        if identity != self._watched:
            self._inotify.add_watch(self._path, self._mask)
            self._watched = identity


class StatNotifier:
    """Looks at the file's size and time every `interval_s`: one system call each.

    On a thread of its own, as a turn of the event loop costs several times as much as the look.
    """

    def __init__(self, path: Path, interval_s: float) -> None:
        self._path = path
        self._interval_s = interval_s
        self._closed = threading.Event()

    def start(self, notify: Callable[[], None]) -> None:
        """Begin to tell."""
        loop = asyncio.get_running_loop()

        def look_on() -> None:
            seen = self._look()
            while not self._closed.wait(self._interval_s):
                found = self._look()
                if found != seen:
                    seen = found
                    with contextlib.suppress(RuntimeError):  # the loop has ended
                        loop.call_soon_threadsafe(notify)

        threading.Thread(target=look_on, name="tidewire file watch", daemon=True).start()

    def listen(self) -> None:
        """Nothing to do: it tells no more often than it looks."""

    def renew(self) -> None:
        """Nothing to do: it looks by name."""

    def close(self) -> None:
        """Stop."""
        self._closed.set()

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns


class Peek:
    """Asks whether anybody has committed, the store included, without waiting for anything."""

    def __init__(self, database: Path) -> None:
        self._connection = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=0, isolation_level=None)

    def version(self) -> int | None:
        """A number that changes with every commit; None where it cannot be had now."""
        try:
            found: int = self._connection.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.Error:
            return None
        return found

    def close(self) -> None:
        """Stop."""
        self._connection.close()


class CommitWatch:
    """Calls `on_commit` after every commit by another connection (several commits may be one call).

    Args:
        database: the SQLite file.
        data_version: asks the database; a number that changes when another connection has committed.
        on_start: called on the event loop once every commit from then on will be noticed.
        on_commit: called on the event loop.
        on_quiet: called after a look that found no commit.
        mode: `poll` never uses inotify.
        poll_interval_s: how often the database is asked whatever the file says.
        stat_interval_s: without inotify, how often the file is looked at.
    """

    def __init__(
        self,
        database: Path,
        data_version: Callable[[], Awaitable[int]],
        on_start: Callable[[], None],
        on_commit: Callable[[], None],
        on_quiet: Callable[[], None] = lambda: None,
        *,
        mode: WatchMode,
        poll_interval_s: float,
        stat_interval_s: float,
    ) -> None:
        self._database = database
        self._wal = database.with_name(database.name + "-wal")
        self._data_version = data_version
        self._on_start = on_start
        self._on_commit = on_commit
        self._on_quiet = on_quiet
        self._mode = mode
        self._poll_interval_s = poll_interval_s
        self._stat_interval_s = stat_interval_s
        self._awake = asyncio.Event()
        self._touched = False

    async def run(self) -> None:
        """Watch until cancelled; raises what `data_version` raises."""
        with closing(self._notifier()) as notifier, closing(self._peek()) as peek:
            notifier.start(self._touch)
            await self._watch(notifier, peek)

    async def _watch(self, notifier: Notifier, peek: Peek) -> None:
        clock = asyncio.get_running_loop().time
        known = await self._data_version()
        self._on_start()
        peeked = None
        touched_at, rechecks = -inf, len(RECHECKS_S)
        paused_at = inf
        next_poll = clock()
        streak = 0
        while True:
            now = clock()
            found = peek.version()
            version = known
            if found is None or found != peeked or now >= next_poll:
                peeked = found
                version = await self._data_version()
            if version != known:
                known = version
                streak += 1
                self._on_commit()
                paused_at = clock() + PAUSED_S
                if streak > 1:
                    await asyncio.sleep(STREAK_PAUSE_S)
            else:
                streak = 0
                self._on_quiet()
            now = clock()
            if now >= paused_at:
                paused_at = inf
            if now >= next_poll:
                next_poll = now + self._poll_interval_s
                notifier.renew()
            while rechecks < len(RECHECKS_S) and touched_at + RECHECKS_S[rechecks] <= now:
                rechecks += 1
            due = touched_at + RECHECKS_S[rechecks] if rechecks < len(RECHECKS_S) else inf
            if now - touched_at >= DEAF_S:
                notifier.listen()
            if await self._wait(min(due, paused_at, next_poll) - now):
                touched_at, rechecks = clock(), 0

    def _peek(self) -> Peek:
        return Peek(self._database)

    async def _wait(self, seconds: float) -> bool:
        """Whether the file was touched within this time."""
        if not self._touched:
            # A timeout's exception would cost more than all else of a look.
            alarm = asyncio.get_running_loop().call_later(seconds, self._awake.set)
            await self._awake.wait()
            alarm.cancel()
        self._awake.clear()
        touched, self._touched = self._touched, False
        return touched

    def _touch(self) -> None:
        self._touched = True
        self._awake.set()

    def _notifier(self) -> Notifier:
        if self._mode == "auto" and sys.platform == "linux":
            try:
                return InotifyNotifier(self._wal)
            except (OSError, ImportError) as error:
                _log.warning("no inotify on %s (%s): looking at it every %g s", self._wal, error, self._stat_interval_s)
        return StatNotifier(self._wal, self._stat_interval_s)
