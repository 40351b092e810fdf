"""`DataSync`: keys and values shared between devices, in a few lines.

    from tidewire_agent import DataSync

    with DataSync("shop.db", device="till-7", broker="mqtt://broker.local") as sync:
        sync.update("lamp/kitchen", {"on": True, "level": 40})
        sync.flush(timeout=10)                                      # the hub has it, durably
        print(sync.get("lamp/kitchen"))
        for change in sync.watch("lamp/", timeout=60):
            print(change.key, change.value)                         # from here or from any other device

Keys and values are rows of the ordinary table `tidewire_kv`. All but `flush` and `fresh` work without a network.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tidewire_agent.datasync.errors import FlushTimeout, FreshTimeout, SyncTimeout, TransactionOpen
from tidewire_agent.datasync.file import BUSY_TIMEOUT_S, DataFile, Synchronous
from tidewire_agent.datasync.keeper import AgentThread, agents_for
from tidewire_agent.datasync.waiting import AttachWait, FlushWait, FreshWait, Wait, timed_out
from tidewire_agent.datasync.watching import Watch
from tidewire_agent.lock import read_status
from tidewire_agent.status import AgentStatus
from tidewire_schemas.errors import TidewireError

TIMEOUT_S: Final = 30.0
"""How long `flush` and `fresh` wait unless told: a hub restart fits in."""

ATTACH_TIMEOUT_S: Final = 10.0
"""How long opening waits until writes are captured; that needs the file alone, no network."""

NOT_ATTACHED: Final = "no agent has begun to sync tidewire_kv"

PAUSES_S: Final = (0.005, 0.01, 0.02, 0.05)
"""Between looks at the file while waiting: quick at first, then at an idle cost; the last one repeats."""


class DataSync:
    """Shared keys and values in one SQLite file; blocking, and safe to use from many threads.

    With a `broker`, it runs the file's agent in a background thread, unless another one runs already, here or in
    another process; when that ends, it takes over. Without, it works through the file alone, and some agent syncs it.

    Args:
        path: the SQLite file; made if there is none. Other programs may use it at the same time.
        broker: URL of the MQTT broker, such as `mqtt://user:password@host`.
        device: this device's name; needed once, then the file remembers it; the host's name if never given.
        tables: further tables of the file to sync.
        busy_timeout_s: longest wait for another program's write lock.
        synchronous: "FULL" makes each commit wait for the disk; with "NORMAL" a power cut can take the newest commits
            that no `flush` has confirmed.
        settings: any other setting of the agent by its name, such as `stream` or `ca_file`.

    Raises:
        DatabaseError: the file cannot be used (each reason has its subclass).
        SettingError: a setting is wrong, unknown or missing.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        broker: str | None = None,
        device: str | None = None,
        tables: Sequence[str] = (),
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        synchronous: Synchronous = "NORMAL",
        **settings: object,
    ) -> None:
        agents = agents_for(path, broker, device=device, tables=tables, settings=settings)
        self._file = DataFile(
            path, busy_timeout_s=busy_timeout_s, synchronous=synchronous, has_agent=agents is not None
        )
        self._watches: weakref.WeakSet[Watch] = weakref.WeakSet()
        self._closing = threading.Event()
        self._agent = AgentThread(agents, name=f"tidewire {self._file.path.name}") if agents else None
        if agents is not None and self._agent is not None:
            # A program that forgot close() still says goodbye to the hub when it ends.
            self._finalizer = weakref.finalize(self, self._agent.stop)
            try:
                self._wait(
                    AttachWait(agents.device, agents.wanted), ATTACH_TIMEOUT_S, SyncTimeout, NOT_ATTACHED, early=True
                )
            except BaseException:
                self.close()
                raise

    @property
    def path(self) -> Path:
        """The SQLite file."""
        return self._file.path

    @property
    def status(self) -> AgentStatus | None:
        """What the agent on this file last said about itself, whoever runs it; None if none ever ran."""
        return read_status(self._file.path)

    @property
    def connection(self) -> sqlite3.Connection:
        """A connection to the file for SQL; each thread has its own, which it alone should use.

        It waits `busy_timeout_s` for locks; a transaction that `sqlite3` opens by itself is IMMEDIATE. Commit what you
        begin: until then nobody else can write, and updates of this thread are part of that transaction.
        """
        return self._file.connection

    def transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        """All or nothing: updates and SQL inside are committed together, or not at all on an exception.

        They also travel and are applied together, on every device.
        """
        return self._file.transaction()

    def update(self, key: str, value: object) -> bool:
        """Set a key to a JSON value; False if it had this value already, and nothing was written.

        What JSON does not tell apart comes back as JSON has it: tuples as lists, keys of dicts as texts.

        Raises:
            InvalidKey, InvalidValue: nothing was written.
            DatabaseError: nothing was written; `DatabaseBusy` after `busy_timeout_s`.
        """
        return self._file.update(key, value)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, or `default` if there is no such key.

        Raises:
            StoredValueInvalid: somebody wrote with plain SQL what is not JSON.
        """
        return self._file.get(key, default)

    def delete(self, key: str) -> bool:
        """Remove a key; False if there was none."""
        return self._file.delete(key)

    def keys(self, prefix: str = "") -> list[str]:
        """The keys that begin with `prefix`, in the order of their UTF-8 bytes."""
        return self._file.keys(prefix)

    def watch(self, prefix: str = "", *, timeout: float | None = None, initial: bool = False) -> Watch:
        """An iterator over changes of keys that begin with `prefix`, made here or elsewhere, from now on.

        Args:
            prefix: all keys when empty.
            timeout: the iteration ends when nothing changed for this many seconds.
            initial: begin with the keys that are there already.
        """
        watch = Watch(self._file, prefix, timeout=timeout, initial=initial)
        self._watches.add(watch)
        return watch

    def flush(self, timeout: float | None = TIMEOUT_S) -> None:
        """Wait until the hub has durably put everything committed here before this call into its order.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            FlushTimeout: not yet; it goes on by itself, nothing is lost.
            TransactionOpen: this thread has a transaction open.
        """
        self._wait(FlushWait(), timeout, FlushTimeout, "the hub has not confirmed all writes")

    def fresh(self, timeout: float | None = TIMEOUT_S) -> None:
        """Wait until this file holds everything that the hub had at the time of this call.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            FreshTimeout: not yet; the file may miss what others wrote.
            TransactionOpen: this thread has a transaction open.
        """
        self._wait(FreshWait(), timeout, FreshTimeout, "this file does not hold all that the hub has")

    def close(self) -> None:
        """Stop watches and the agent, and close all connections; again does nothing.

        What is not sent yet stays in the file and is sent by the next agent; `flush` first to wait for it.
        """
        self._closing.set()
        for watch in list(self._watches):
            watch.close()
        if self._agent is not None:
            self._finalizer()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait(
        self, wait: Wait, timeout: float | None, kind: type[SyncTimeout], what: str, *, early: bool = False
    ) -> None:
        """Look until it is done; with `early`, a problem of our own agent ends the wait with its error."""
        deadline = None if timeout is None else time.monotonic() + timeout
        pauses = iter(PAUSES_S)
        pause = PAUSES_S[0]
        try:
            while not self._look(wait):
                problem = self._agent.problem if self._agent is not None else None
                if early and problem is not None:
                    raise problem
                left = float("inf") if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    raise timed_out(kind, what, timeout, self._file.path, problem)
                pause = next(pauses, pause)
                self._closing.wait(min(pause, left))
        finally:
            # On the way out of an error, that error matters more than a question left behind.
            with suppress(TidewireError), self._file.operation() as connection:
                wait.forget(connection)

    def _look(self, wait: Wait) -> bool:
        with self._file.operation() as connection:
            if connection.in_transaction:
                raise TransactionOpen("a transaction of this thread is open")
            return wait.done(connection)
