"""Names of devices, streams, hub nodes, tables and columns.

Names that become a topic level are restricted to what every broker takes (RabbitMQ turns dots into slashes,
`+ # /` have a meaning in MQTT). Table and column names are SQLite identifiers: any text, compared as SQLite does.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import Field

from tidewire_schemas.errors import InvalidName

TOPIC_NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9_-]{0,62}$"
ID_PATTERN: Final = r"^[0-9a-f]{32}$"
IDENTIFIER_CHARS_MAX: Final = 255

_TOPIC_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")

TopicName = Annotated[str, Field(pattern=TOPIC_NAME_PATTERN)]
"""A device, stream or hub node: 1 to 63 of `a-z 0-9 _ -`, beginning with a letter or digit."""

Id = Annotated[str, Field(pattern=ID_PATTERN)]
"""128 random bits, or a 128-bit digest, as 32 lower-case hexadecimal digits."""

Identifier = Annotated[str, Field(min_length=1, max_length=IDENTIFIER_CHARS_MAX, pattern=r"^[^\x00]*$")]
"""A table or column name as SQLite takes it."""

_ASCII_LOWER: Final = {c: c + 32 for c in range(ord("A"), ord("Z") + 1)}


def check_topic_name(name: str, kind: str) -> str:
    """Return `name` if it can be a topic level; `kind` ("device", "stream", "node") is for the message.

    Raises:
        InvalidName: it holds another character, is empty, or is longer than 63.
    """
    if not _TOPIC_NAME.fullmatch(name):
        raise InvalidName(kind=kind, name=name)
    return name


def fold(identifier: str) -> str:
    """The spelling under which SQLite finds a table or column: ASCII letters in lower case, others as they are."""
    return identifier.translate(_ASCII_LOWER)
