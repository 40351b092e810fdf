"""What a session says is wrong when something does not come: each is a state that a person sees. Pure."""

from __future__ import annotations

from typing import Final

from tidewire_agent.session.effects import Trouble

NO_WELCOME: Final = Trouble(
    "no_welcome",
    "no answer to Hello",
    "likely causes, in this order: no hub runs on this broker; the hub serves another stream (--stream); the broker's"
    " rules keep this device from its `ask` or `in` topic, or the hub from them",
)
NO_ACK: Final = Trouble(
    "no_ack",
    "batches were sent and no ack came",
    "likely causes, in this order: the hub has stopped or cannot write (see its log); the broker's rules keep this"
    " device from its `up` topic",
)
HUB_BUSY: Final = "hub_busy"
"""The hub says that it has much to do: what is waited for will come."""

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

SOLVED_BY_WELCOME: Final = (
    NO_WELCOME.code,
    "log_foreign",
    "checkpoint_off_log",
    "leader_stale",
    "hub_problem",
    "cloned",
    HUB_BUSY,
)
"""What is no longer wrong once a hub has welcomed the device."""
