"""A hub's stream and several edge stores in one process, joined by plain calls: the real work on real SQLite files.

Nothing here decides anything: a batch goes up when a test says so, a page comes down when a test says so. That makes
every interleaving of two devices something a test can write down.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from support.snapshots import FleetSnapshot
from tidewire_agent.runtime import filework
from tidewire_agent.session.chain import parted
from tidewire_agent.store.edge_store import EdgeStore
from tidewire_agent.store.settings import StoreSettings
from tidewire_hub import handshake
from tidewire_hub.actions import Greet
from tidewire_hub.log.memory import MemoryLog
from tidewire_hub.settings import HubSettings
from tidewire_hub.stream import Commit, Incoming, Stream
from tidewire_hub.stream_host import StreamHost
from tidewire_schemas.codec import encode_page, parse
from tidewire_schemas.messages import Page, Welcome
from tidewire_schemas.positions import Epoch, Position, Seq

NOW_MS = 1_795_390_000_000
PAGE_BYTES_MAX = 100_000


class Edge:
    """One device: its file, a connection as an app has it, and Tidewire's store."""

    def __init__(
        self, path: Path, device: str, *, tables: Sequence[str] = (), settings: StoreSettings | None = None
    ) -> None:
        self.path = path
        self.device = device
        self.settings = settings
        self.app = sqlite3.connect(path, isolation_level=None, timeout=5)
        self.app.execute("PRAGMA foreign_keys = ON")
        self.store = EdgeStore.open(path, device=device, settings=settings)
        self.sent = 0
        if tables:
            self.attach(*tables)

    def attach(self, *tables: str) -> None:
        """Attach tables; each must succeed."""
        for report in self.store.attach(tables):
            assert report.attached, report

    def sql(self, script: str) -> None:
        """Run statements as the app: each commits by itself unless the script says BEGIN."""
        self.app.executescript(script)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Read as the app."""
        return self.app.execute(query).fetchall()

    def seal(self) -> None:
        """Seal all there is."""
        while self.store.seal(NOW_MS).more:
            pass
        self.store.harden()

    def dead(self) -> list[tuple[str, str, tuple[Any, ...]]]:
        """(table, reason, key) of the dead letters, oldest first."""
        return [(letter.table, letter.reason, tuple(letter.key)) for letter in reversed(self.store.dead(1000))]

    def close(self) -> None:
        self.app.close()
        self.store.close()


class Fleet:
    """A hub and its devices."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = MemoryLog("0" * 31 + "1")
        self.stream = Stream.open(self._log, None)
        self.stream.lead(NOW_MS, 0)
        self.edges: list[Edge] = []
        self._leads = 0
        self.commits: list[Commit] = []
        self._closed = False

    def edge(
        self,
        device: str,
        schema: str = "",
        *,
        tables: Sequence[str] = (),
        rows: str = "",
        settings: StoreSettings | None = None,
    ) -> Edge:
        """A new device: `schema` and `rows` are there before it is attached. Attaches all tables unless told."""
        path = self.folder / f"{device}.db"
        connection = sqlite3.connect(path, isolation_level=None)
        connection.executescript(f"PRAGMA journal_mode = WAL; {schema}; {rows}")
        connection.close()
        edge = Edge(path, device, settings=settings)
        if tables:
            edge.attach(*tables)
        else:
            edge.store.attach([], all_tables=True)
        self.edges.append(edge)
        self.hello(edge)
        return edge

    def hello(self, edge: Edge) -> None:
        """The handshake: shapes and chain up, log and head down; an edge whose chain has parted gets new numbers."""
        for _attempt in range(4):
            if edge.store.epoch > self.stream.epoch:
                self._lead(edge.store.epoch)
            welcome = self.welcome(edge)
            assert not welcome.table_problems, welcome.table_problems
            if welcome.checkpoint == "off_log":
                assert welcome.common is not None
                edge.store.heal(welcome.common, welcome.recent)
                continue
            points = [*((welcome.accepted,) if welcome.accepted else ()), *welcome.recent]
            sealed = edge.store.last_sealed
            fork = parted(welcome, edge.store.batches.digests_of(points), sealed.batch if sealed else 0)
            if fork is None:
                edge.store.follow(welcome.log, welcome.epoch, welcome.head, welcome.columns_elsewhere)
                if edge.store.checkpoint.seq + 1 < welcome.oldest:
                    FleetSnapshot(self).take(edge)
                elif edge.store.replay_from.seq + 1 < welcome.oldest:
                    edge.store.load_wait()
                return
            edge.store.renumber(fork.after, fork.digest)
        raise AssertionError("the handshake comes to no end")

    def welcome(self, edge: Edge) -> Welcome:
        """What the hub answers to an edge."""
        hello = filework.hello(edge.store, "b" * 32)
        host = StreamHost(self.stream, HubSettings.model_validate({"data": self.folder}))
        return handshake.welcome(
            hello,
            host.greet(Greet(edge.device, hello, agents="one" if self._is_alone(edge) else "two")),
            log=self.stream.log_id,
            epoch=self.stream.epoch,
            head=self.stream.head,
            oldest=max(self.stream.oldest, self.stream.whole_since + 1),
            payload_bytes_max=PAGE_BYTES_MAX,
            batch_bytes_max=2**24,
        )

    def _lead(self, heard_epoch: int) -> None:
        """A new leadership, by a clock that stands still: chance keeps the epochs of two branches of the log apart."""
        self._leads += 1
        self.stream.lead(NOW_MS, 1025 * self._leads, heard_epoch=heard_epoch)

    def lose_tail(self, after: int) -> None:
        """The hub goes on from a backup that ends at this entry."""
        log = MemoryLog(self.stream.log_id)
        for entry in self.stream.read(Seq(0), bytes_max=2**40, entries_max=after) if after else []:
            epoch, seq = entry.position
            if epoch != log.epoch():
                log.acquire(Epoch(epoch))
            log.append(Epoch(epoch), Seq(seq - 1), [entry])
        for name in ("catalogue", "declared"):
            log.save_document(name, self._log.load_document(name) or b"[]")
        self.stream.close()
        self._log = log
        self.stream = Stream.open(log, None)
        self._lead(0)

    def clone(self, edge: Edge, name: str) -> Edge:
        """A copy of a device's file, as of a cloned card, that goes on under the same device name."""
        path = self.folder / f"{name}.db"
        with sqlite3.connect(path) as copy:
            edge.app.backup(copy)
        copy.close()
        made = Edge(path, edge.device, settings=edge.settings)
        self.edges.append(made)
        return made

    def push(self, edge: Edge) -> Commit:
        """Seal, and bring all that the log does not have into it."""
        if edge.store.refresh() or edge.store.epoch != self.stream.epoch:
            self.hello(edge)
        if not self._is_alone(edge):
            self.hello(edge)
        edge.seal()
        commit = self._sequence(edge)
        assert not commit.problems, commit.problems
        self.commits.append(commit)
        return commit

    def _is_alone(self, edge: Edge) -> bool:
        return not any(other is not edge and other.device == edge.device for other in self.edges)

    def _sequence(self, edge: Edge) -> Commit:
        accepted = self.stream.accepted(edge.device, edge.store.incarnation)
        batches = edge.store.outbox(accepted.batch if accepted else 0, count_max=100_000, bytes_max=2**40)
        return self.stream.sequence([Incoming(edge.device, batch.payload) for batch in batches], NOW_MS)

    def pull(self, edge: Edge, *, until: int | None = None) -> None:
        """Apply what the log has, up to an entry; nothing while a snapshot of all tables is being loaded."""
        if edge.store.refresh() or edge.store.epoch != self.stream.epoch:
            self.hello(edge)
        if edge.store.loading is not None and edge.store.loading.whole:
            return
        while (start := edge.store.replay_from) != self.stream.head and (until is None or start.seq < until):
            edge.store.apply(self.page(start, until=until))

    def take_tables(self, edge: Edge) -> None:
        """Take the tables that wait for a snapshot."""
        loading = edge.store.loading
        if loading is not None and loading.snapshot is None:
            FleetSnapshot(self).take(edge, whole=False)

    def page(self, start: Position, *, until: int | None = None) -> Page:
        """The page that follows a position."""
        entries = self.stream.read(Seq(start.seq), bytes_max=PAGE_BYTES_MAX, entries_max=1000)
        wanted = [entry.data for entry in entries if until is None or entry.position.seq <= until]
        page = parse("log", encode_page(self.stream.log_id, start, wanted), bytes_max=2**30)
        assert isinstance(page, Page)
        return page

    def sync(self, edges: Iterable[Edge] | None = None) -> None:
        """All push and pull until nothing moves any more."""
        chosen = self.edges if edges is None else list(edges)
        for _round in range(1000):
            head = self.stream.head
            for edge in chosen:
                self.pull(edge)
                self.take_tables(edge)
                self.push(edge)
            for edge in chosen:
                self.pull(edge)
            if self.stream.head == head and all(edge.store.replay_from == head for edge in chosen):
                backlogs = [edge.store.backlog() for edge in chosen]
                if not any(b.changes or b.batches for b in backlogs):
                    return
        raise AssertionError("the fleet did not come to rest")

    def assert_equal(self, *, edges: Iterable[Edge] | None = None) -> None:
        """Guarantee 7: with nothing pending and equal positions, all edges and the hub hold equal rows."""
        hub = {digest.table: (digest.rows, digest.digest) for digest in self.stream.digests()}
        for edge in self.edges if edges is None else edges:
            position, digests = edge.store.digests()
            assert position == self.stream.head
            for table in digests:
                assert (table.rows, table.digest) == hub.get(table.table, (0, "0" * 32)), (edge.device, table.table)
            assert edge.store.backlog().parked == 0

    def close(self) -> None:
        """Close all; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        for edge in self.edges:
            edge.close()
        self.stream.close()
