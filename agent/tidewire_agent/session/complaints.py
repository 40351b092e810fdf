"""What a session says is wrong when something does not come: each is a state that a person sees. Pure."""

from __future__ import annotations

from typing import Final

from tidewire_agent.session.effects import Trouble

NO_WELCOME: Final = Trouble(
    "no_welcome",
    "no answer to Hello",
    "is the hub down, is the stream's name right, may this device use its topics?",
)
NO_ACK: Final = Trouble(
    "no_ack",
    "batches were sent and no ack came",
    "may this device publish on its `up` topic? does the hub say why in its log?",
)
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
