"""The named steps of agent and hub at which a process is killed, and what is going on then."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from support.crash_point import CrashPoint

Program = Literal["agent", "hub"]

Situation = Literal["apps write", "comes back", "new device", "far behind", "short log", "new log", "backup", "detach"]
"""What is going on:

apps write   the process is started anew while apps write on two devices
comes back   a device was away for a moment, and replays what it missed
new device   a device with rows of its own meets the log, takes a snapshot, and offers its rows
far behind   a device was away for so long that it takes a snapshot
short log    the hub is started anew, makes snapshots and trims its log, while apps write
new log      a hub and its devices start for the first time
backup       the command `backup`
detach       the command `detach`, after which the device begins anew
"""


class Step(NamedTuple):
    """A step of one program in one situation."""

    name: str
    program: Program
    situation: Situation
    point: CrashPoint

    def __str__(self) -> str:
        return f"{self.program}: {self.name}, {self.situation}, {self.point.moment}"


def _steps(program: Program, situation: Situation, *rows: tuple[str, ...]) -> list[Step]:
    """Of each row (name, function, moments…); a moment ends with how many of it must come."""
    found = []
    for name, function, *moments in rows:
        whole = function if function.startswith("tidewire_") else f"tidewire_{program}.{function}"
        for moment in moments:
            when, _, nth = moment.rpartition(" ")
            found.append(Step(name, program, situation, CrashPoint(whole, when, int(nth))))
    return found


_LINK: Final = "tidewire_link.mqtt:MqttConnection"

STEPS: Final = (
    *_steps(
        "agent",
        "apps write",
        ("changes are read", "store.draft:Drafter.read", "after 2"),
        ("a batch is sealed", "store.seal:Sealer._store", "before COMMIT 3", "after COMMIT 3"),
        ("a batch is made durable", "store.outbox:Outbox.harden", "before 4", "after 4"),
        ("batches are published", "runtime.hub_loop:HubLoop._send_batches", "before 2", "after 3"),
        ("bytes go out", f"{_LINK}._flush", "before 8", "after 8"),
        ("the broker confirms a publish", f"{_LINK}._on_publish", "before 6", "after 6"),
        ("an ack is taken", "session.uplink:Uplink.acked", "before 2", "after 3"),
        ("a page is heard", "session.session:Session._take_page", "before 3"),
        ("entries are applied", "store.apply:Applier.apply", "before COMMIT 4", "after COMMIT 4"),
        ("own batches are released", "store.apply:Applier._release", "after 2"),
        ("the checkpoint moves", "store.apply:Applier._move_to", "before 4", "after 4"),
        ("a dead letter is written", "store.dead_letters:DeadLetters._shortened", "before 1"),
        ("refused rows are put back", "store.apply:Applier._take_hub_rows", "after 1"),
        ("old batches are forgotten", "store.outbox:Outbox.prune", "after 2"),
        ("the -wal is moved", "store.checkpoint:WalCheckpoint.run_if_due", "before PRAGMA 2", "after PRAGMA 2"),
        ("its state is said", "runtime.agent:Agent._publish_state", "before 2", "after 2"),
        ("its status is written", "lock:AgentLock.write", "before 3", "after 3"),
    ),
    *_steps(
        "agent",
        "comes back",
        ("a Hello is made", "runtime.filework:hello", "after 1"),
        ("a Welcome is heard", "runtime.filework:compare", "after 1"),
        ("a Welcome is taken", "store.edge_store:EdgeStore.follow", "before COMMIT 1", "after COMMIT 1"),
        ("a piece of replay is applied", "store.apply:Applier.apply", "before COMMIT 2", "after COMMIT 1"),
        ("a page of replay is applied", "runtime.file_loop:FileLoop._apply", "after 1"),
    ),
    *_steps(
        "agent",
        "new device",
        ("its tables are made", "store.edge_store:prepare", "before COMMIT 1", "after COMMIT 1"),
        ("the stream is joined", "store.edge_store:EdgeStore.join", "before COMMIT 1", "after COMMIT 1"),
        ("tables are attached", "store.catalogue:Catalogue.attach", "before COMMIT 1", "after COMMIT 1"),
        ("a snapshot is begun", "store.snapshot_loader:SnapshotLoader.begin", "before COMMIT 1"),
        ("a chunk is loaded", "store.snapshot_loader:SnapshotLoader.load", "after COMMIT 3"),
        ("a load ends", "store.snapshot_loader:SnapshotLoader._end", "after COMMIT 1"),
        ("old rows are offered", "store.seal:Sealer._seeds_as_batch", "before COMMIT 1", "after COMMIT 1"),
    ),
    *_steps(
        "agent",
        "far behind",
        ("a snapshot is begun", "store.snapshot_loader:SnapshotLoader.begin", "after COMMIT 1"),
        ("a chunk is loaded", "store.snapshot_loader:SnapshotLoader.load", "before COMMIT 2", "after COMMIT 2"),
        ("rows are swept", "store.snapshot_loader:SnapshotLoader._sweep", "before COMMIT 2", "after COMMIT 2"),
        ("a load ends", "store.snapshot_loader:SnapshotLoader._end", "before COMMIT 1", "after COMMIT 1"),
        ("marks of a load go", "store.snapshot_loader:SnapshotLoader.tidy", "before COMMIT 1", "after COMMIT 1"),
    ),
    *_steps(
        "agent",
        "backup",
        ("the database is copied", "cli.backup:_copy", "before 1", "after 1"),
        ("the copy loses its identity", "store.edge_store:EdgeStore.detach", "before COMMIT 1", "after COMMIT 1"),
        ("the copy becomes one file", "cli.backup:_make_one_file", "after 1"),
        ("the copy has its name", "cli.backup:_make_durable", "before 2"),
    ),
    *_steps(
        "agent",
        "detach",
        (
            "all traces are removed",
            "store.synced_tables:SyncedTables.remove_all_traces",
            "before COMMIT 1",
            "after COMMIT 1",
        ),
    ),
    *_steps(
        "hub",
        "apps write",
        ("the lock is taken", "layout:DataLock.__init__", "after 1"),
        ("an epoch is begun", "log.sqlite:SqliteLog.acquire", "before COMMIT 1", "after COMMIT 1"),
        ("a device is greeted", "stream_host:StreamHost.greet", "before 1", "after 2"),
        ("a batch comes in", "intake:Intake.take", "before 4", "after 5"),
        ("a group is resolved", "sequencer:Sequencer.take_all", "after 3"),
        ("a group is appended", "log.sqlite:SqliteLog.append", "before COMMIT 4", "after COMMIT 4"),
        ("the state is committed", "state.store:State.commit", "before COMMIT 3", "after COMMIT 3"),
        ("a page is sent", "intake:Intake._fan_out", "before 3", "after 3"),
        ("acks are sent", "intake:Intake._ack", "before 4", "after 4"),
        ("bytes go out", f"{_LINK}._flush", "before 12", "after 12"),
        ("the broker confirms a publish", f"{_LINK}._on_publish", "before 9"),
        ("what is known of devices is kept", "device_file:replace_file", "before 1", "after 1"),
    ),
    *_steps(
        "hub",
        "comes back",
        ("entries are read for replay", "stream_host:StreamHost.read", "before 1", "after 1"),
    ),
    *_steps(
        "hub",
        "short log",
        ("the log is trimmed", "log.sqlite:SqliteLog.trim", "before COMMIT 1", "after COMMIT 2"),
        ("the state is copied", "snapshot.build:copy_database", "before 1", "after 1"),
        ("a chunk is written", "snapshot.build:_ChunkWriter._write", "after 2"),
        ("chunks and manifest are there", "snapshot.shelf:_make_durable", "before 1", "after 4"),
        ("a snapshot has its name", "snapshot.shelf:_make_durable", "before 5"),
        ("an older copy of the state goes", "snapshot.shelf:Shelf._drop_older_copies", "after 1"),
        ("a snapshot is removed", "snapshot.shelf:Shelf.remove", "before 1", "after 1"),
    ),
    *_steps(
        "hub",
        "far behind",
        ("a chunk is read", "snapshot.shelf:Shelf.read", "before 1", "after 3"),
    ),
    *_steps(
        "hub",
        "new log",
        ("a log is made", "log.sqlite:_prepare", "before COMMIT 1", "after COMMIT 1"),
        ("a state is made", "state.store:_create", "before COMMIT 1", "after COMMIT 1"),
        ("who has which columns is kept", "log.sqlite:SqliteLog.save_document", "before COMMIT 1", "after COMMIT 1"),
        ("the catalogue is kept", "log.sqlite:SqliteLog.save_document", "before COMMIT 2", "after COMMIT 2"),
        ("the state takes the catalogue", "state.store:State.align", "before COMMIT 1", "after COMMIT 1"),
    ),
    *_steps(
        "hub",
        "backup",
        ("the log is copied", "backup:copy_database", "before 1", "after 1"),
        ("the copy is complete", "backup:_make_durable", "before 1"),
        ("the copy has its name", "backup:_make_durable", "before 2"),
    ),
)

FEW: Final = frozenset(
    {
        "agent: a batch is sealed, apps write, after COMMIT",
        "agent: batches are published, apps write, after",
        "agent: entries are applied, apps write, before COMMIT",
        "agent: entries are applied, apps write, after COMMIT",
        "agent: a Welcome is taken, comes back, after COMMIT",
        "agent: tables are attached, new device, after COMMIT",
        "agent: a load ends, far behind, before COMMIT",
        "agent: the copy loses its identity, backup, after COMMIT",
        "hub: a group is appended, apps write, before COMMIT",
        "hub: a group is appended, apps write, after COMMIT",
        "hub: the state is committed, apps write, before COMMIT",
        "hub: acks are sent, apps write, before",
        "hub: a snapshot has its name, short log, before",
        "hub: the catalogue is kept, new log, before COMMIT",
    }
)
"""Those that every run of the tests takes."""
