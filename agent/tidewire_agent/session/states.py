"""The agent's states, and what leads from one to another.

Theory of operation
-------------------
An agent follows one log. It cannot know alone where it stands in it, so every connection begins with a handshake: it
says `Hello` (where it stands, what it has sealed) and the hub answers with `Welcome` (which log this is, who leads it,
how far it goes, which of the device's batches it has). Nothing is sent or applied before that answer.

After it two things go on side by side and never wait for each other: batches go up through a window of unacked ones,
and pages of the log come down and are applied one after another. What the hub says about the log comes in two ways:
pages that it fans out to everyone as they are made (*live*), and pages that this device has asked for (*replay*). Both
land in one buffer; whichever continues the device's position is applied next, the rest waits or is dropped, as it can
be asked for again. `CATCHING_UP` means that something is known to be missing and was asked for; `LIVE` that nothing is.

Where the log no longer holds what a device is missing, or that is more than a snapshot of all rows, it takes the
snapshot: `LOADING`. Batches go up meanwhile, no page is applied, and the next handshake tells how to go on. Tables that
were attached late, or fell behind, take one of their own beside the log that the other tables follow.

Whenever what comes in does not fit what the `Welcome` said (a newer epoch, another log, the same place under another
epoch) or what must come does not (no ack), the device does not guess: it is in *doubt*, and says `Hello` again. A
`Welcome` is the only thing from which it learns a log or an epoch; heads and pages only raise doubt. All there is to
recover from (lost, repeated and reordered messages, a new leader, a restarted hub) is thus one and the same path.

`HALTED` needs a person: the hub follows another log than this database, or does not know the device's checkpoint.
Nothing is sent and nothing applied, but `Hello` is said now and then, so that a hub brought back with the right volume
is noticed without touching the device.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final


class State(enum.Enum):
    """Where the agent is; the values are those of `DeviceState.state`."""

    OFFLINE = "offline"
    """No connection to the broker, or not yet subscribed."""
    HANDSHAKING = "handshaking"
    """`Hello` was said, or is about to be; its `Welcome` is awaited."""
    CATCHING_UP = "catching_up"
    """Entries are known to be missing and were asked for."""
    LOADING = "loading_snapshot"
    """A snapshot of all tables is loaded in place of entries; meanwhile tables hold some of its rows and not others."""
    LIVE = "live"
    """The device holds all it has heard of, and applies pages as they are made."""
    HALTED = "halted"
    """A person must decide; `Hello` is repeated slowly."""


class Cause(enum.Enum):
    """What leads from one state to another."""

    CONNECTED = enum.auto()
    DISCONNECTED = enum.auto()
    WELCOME_LEVEL = enum.auto()
    """A `Welcome`, and the device holds all entries."""
    WELCOME_BEHIND = enum.auto()
    """A `Welcome`, and entries are missing."""
    WELCOME_SNAPSHOT = enum.auto()
    """A `Welcome`, and a snapshot is to be loaded: entries that are missing are no longer kept, or too many."""
    FOREIGN_LOG = enum.auto()
    """The hub's log is not the one this device follows, or does not hold its checkpoint."""
    DOUBT = enum.auto()
    """What came, or did not come, does not fit the last `Welcome`."""
    GAP = enum.auto()
    """A page came, or a head was heard, and entries before it are missing."""
    NOT_NEEDED = enum.auto()
    """The newest snapshot holds nothing that the device does not: entries are asked for after all."""
    CAUGHT_UP = enum.auto()
    """What was asked for is applied to its end."""


TRANSITIONS: Final[Mapping[tuple[State, Cause], State]] = {
    (State.OFFLINE, Cause.CONNECTED): State.HANDSHAKING,
    (State.HANDSHAKING, Cause.WELCOME_LEVEL): State.LIVE,
    (State.HANDSHAKING, Cause.WELCOME_BEHIND): State.CATCHING_UP,
    (State.HANDSHAKING, Cause.WELCOME_SNAPSHOT): State.LOADING,
    (State.HANDSHAKING, Cause.FOREIGN_LOG): State.HALTED,
    (State.HANDSHAKING, Cause.DOUBT): State.HANDSHAKING,
    (State.HANDSHAKING, Cause.DISCONNECTED): State.OFFLINE,
    (State.CATCHING_UP, Cause.CAUGHT_UP): State.LIVE,
    (State.LOADING, Cause.NOT_NEEDED): State.CATCHING_UP,
    (State.LOADING, Cause.DOUBT): State.HANDSHAKING,
    (State.LOADING, Cause.DISCONNECTED): State.OFFLINE,
    (State.CATCHING_UP, Cause.GAP): State.CATCHING_UP,
    (State.CATCHING_UP, Cause.DOUBT): State.HANDSHAKING,
    (State.CATCHING_UP, Cause.DISCONNECTED): State.OFFLINE,
    (State.LIVE, Cause.GAP): State.CATCHING_UP,
    (State.LIVE, Cause.DOUBT): State.HANDSHAKING,
    (State.LIVE, Cause.DISCONNECTED): State.OFFLINE,
    (State.HALTED, Cause.WELCOME_LEVEL): State.LIVE,
    (State.HALTED, Cause.WELCOME_BEHIND): State.CATCHING_UP,
    (State.HALTED, Cause.WELCOME_SNAPSHOT): State.LOADING,
    (State.HALTED, Cause.FOREIGN_LOG): State.HALTED,
    (State.HALTED, Cause.DOUBT): State.HANDSHAKING,
    (State.HALTED, Cause.DISCONNECTED): State.OFFLINE,
}
"""All there is. A pair that is missing here is a mistake in `session.py`, and raises KeyError."""

FOLLOWING: Final = frozenset({State.LOADING, State.CATCHING_UP, State.LIVE})
"""States in which batches are sent and what comes in is used: after the handshake."""

ASKING: Final = frozenset({State.HANDSHAKING, State.HALTED})
"""States in which a `Welcome` is awaited."""

STATE_LINES: Final[Mapping[State, str]] = {
    State.OFFLINE: "offline: no connection to the broker",
    State.HANDSHAKING: "handshaking: saying Hello to the hub",
    State.LOADING: "loading a snapshot: entries that are missing are no longer kept, or too many",
    State.CATCHING_UP: "catching up: entries of the log are missing",
    State.LIVE: "live: holding all entries of the log",
    State.HALTED: "halted: a person must decide",
}
"""What the log says when a state begins."""
