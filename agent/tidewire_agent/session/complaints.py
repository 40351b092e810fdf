"""What a session says is wrong when something does not come: each is a state that a person sees. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tidewire_agent.session.effects import Trouble
from tidewire_schemas.messages import TableProblem, Welcome
from tidewire_schemas.positions import START, Position

NO_WELCOME: Final = Trouble(
    "no_welcome",
    "no answer to Hello",
    "likely causes, in this order: no hub runs on this broker; the hub serves another stream (--stream); the broker's"
    " rules keep this device from its `ask` or `in` topic, or the hub from them",
)
HUB_SILENT: Final = Trouble(
    "hub_silent",
    "no word from the hub",
    "is it running, and does it reach the broker? nothing is lost meanwhile, and it goes on by itself",
)
NO_ACK: Final = Trouble(
    "no_ack",
    "batches were sent and no ack came",
    "likely causes, in this order: the hub has stopped or cannot write (see its log); the broker's rules keep this"
    " device from its `up` topic",
)
HUB_BUSY: Final = "hub_busy"
"""The hub says that it has much to do: what is waited for will come."""

OUTBOX_FULL: Final = "outbox_full"

NO_PAGES: Final = Trouble(
    "no_pages",
    "the log goes on and its entries do not arrive",
    "may this device read the stream's `log` topic and its own `in` topic?",
)
NO_LIVE_PAGES: Final = Trouble(
    "no_live_pages",
    "entries arrive only when they are asked for",
    "may this device read the stream's `log` topic? (a broker may grant a subscription and deliver nothing)",
)
NO_CHUNKS: Final = Trouble(
    "no_snapshot",
    "a snapshot was asked for and does not come",
    "is the hub busy or its disk full? may this device read its own `in` topic?",
)
SNAPSHOT_GONE: Final = "snapshot_gone"
"""The snapshot that was being loaded is no longer at the hub."""

BROKEN_CHUNK: Final = Trouble(
    "snapshot_broken",
    "a chunk of the snapshot does not match its checksum; it is asked for again",
    "if this stays, the hub's disk may be damaged: see its log",
)

SOLVED_BY_WELCOME: Final = (
    NO_WELCOME.code,
    HUB_SILENT.code,
    "log_foreign",
    "log_lost_its_end",
    "leader_stale",
    "hub_problem",
    HUB_BUSY,
)
"""What is no longer wrong once a hub has welcomed the device."""

TABLES_REFUSED: Final = "tables_refused"

CLONED: Final = "cloned"
"""The hub says when it is so, and in each Welcome for as long as it is."""


def tables_refused(problems: Sequence[TableProblem]) -> Trouble:
    """What the hub says of tables that it does not take as this device declares them."""
    first = "; ".join(f"{problem.table}: {problem.message}" for problem in problems[:3])
    hint = "a key and a column's type cannot change: give the table its old shape back, or make one of another name"
    return Trouble(TABLES_REFUSED, f"the hub does not take {len(problems)} table(s) as declared: {first}", hint)


def snapshot_gone(loaded: int, chunks: int) -> Trouble:
    """The hub has removed a snapshot of which so many chunks are loaded."""
    text = f"the hub has removed the snapshot that is being loaded, with {loaded} of {chunks} chunks here"
    hint = (
        "another one is taken; if that goes on, the hub's snapshot_hold_s is too short for how slowly this device loads"
    )
    return Trouble(SNAPSHOT_GONE, text, hint)


def outbox_full(what: str) -> Trouble:
    """More waits to be sent than a user allows."""
    hint = "it becomes less once the hub takes what waits: look why it does not, or allow more"
    return Trouble(OUTBOX_FULL, what, hint)


def hub_busy(busy: str) -> Trouble:
    """The hub says that its answers take long, and why."""
    return Trouble(HUB_BUSY, f"the hub is busy: {busy}", "wait: nothing is lost, it goes on by itself")


def cloned(text: str) -> Trouble:
    """More than one agent runs under this device's name."""
    hint = (
        "two live copies of one database: stop one, make a copy of its database without the device's name"
        " (`tidewire-agent backup`), and start that under another --device"
    )
    return Trouble(CLONED, text, hint)


def leader_stale(epoch: int, known: int) -> Trouble:
    """A hub answers whose leadership is over."""
    text = f"a hub of an earlier leadership answers (epoch {epoch}, known is {known})"
    return Trouble("leader_stale", text, "two hubs lead this stream: stop the older one")


def log_foreign(log: str, followed: str | None) -> Trouble:
    """The hub's log is not the one that this database follows."""
    hint = "start the hub with its own data directory again; or take the new log over with `adopt`"
    return Trouble("log_foreign", f"the hub's log is {log}, this database follows {followed}", hint)


def log_lost_its_end(position: Position, welcome: Welcome) -> Trouble:
    """The hub does not know the device's checkpoint."""
    common = welcome.common or START
    return Trouble(
        "log_lost_its_end",
        f"the hub's log does not hold entry {position.seq} that this device has applied: it has lost its end",
        f"what is here of what came after entry {common.seq} is offered to it again",
    )
