"""Keys and JSON values in an ordinary synced table, `tidewire_kv`.

Synchronous functions on a `sqlite3` connection; they neither begin nor commit. The table is synced as any other, so
other programs may read and write it with plain SQL.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any, Final

from tidewire_agent.datasync.errors import InvalidKey, InvalidValue, StoredValueInvalid
from tidewire_agent.store.catalogue import CREATE_KV

KEY_BYTES_MAX: Final = 1024
"""Bytes of UTF-8. Long enough for paths and URLs; short enough that a batch of keys stays small."""

VALUE_BYTES_MAX: Final = 4 * 1024 * 1024
"""Bytes of JSON text. Inside a batch its quotes and backslashes at most double it: well under `batch_bytes_max`."""

_EXISTS: Final = """
    SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'tidewire_kv'
"""

_GET: Final = """
    SELECT value FROM tidewire_kv WHERE key = ?
"""

# An upsert, never REPLACE, which would delete the row and make another: two changes for the log instead of one.
_PUT: Final = """
    INSERT INTO tidewire_kv (key, value) VALUES (?, ?)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value
"""

_DELETE: Final = """
    DELETE FROM tidewire_kv WHERE key = ?
"""

_KEYS: Final = """
    SELECT key FROM tidewire_kv
    WHERE key >= :prefix AND (:stop IS NULL OR key < :stop)
    ORDER BY key
"""

_ROWS: Final = """
    SELECT key, value FROM tidewire_kv
    WHERE key >= :prefix AND (:stop IS NULL OR key < :stop)
    ORDER BY key
"""

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def exists(connection: sqlite3.Connection) -> bool:
    """Whether the table is there."""
    return connection.execute(_EXISTS).fetchone() is not None


def create(connection: sqlite3.Connection) -> None:
    """Make the table unless it is there."""
    connection.execute(CREATE_KV)


def get_text(connection: sqlite3.Connection, key: str) -> str | None:
    """The JSON text under a key, None if there is no such key."""
    row = connection.execute(_GET, (key,)).fetchone()
    return None if row is None else row[0]


def put_text(connection: sqlite3.Connection, key: str, text: str) -> None:
    """Insert or overwrite one key."""
    connection.execute(_PUT, (key, text))


def delete(connection: sqlite3.Connection, key: str) -> bool:
    """Remove one key; whether it was there."""
    return connection.execute(_DELETE, (key,)).rowcount > 0


def keys(connection: sqlite3.Connection, prefix: str) -> list[str]:
    """The keys that begin with `prefix`, in the order of their bytes."""
    return [row[0] for row in connection.execute(_KEYS, _range(prefix))]


def rows(connection: sqlite3.Connection, prefix: str) -> dict[str, str]:
    """Key to JSON text, for the keys that begin with `prefix`."""
    return dict(connection.execute(_ROWS, _range(prefix)).fetchall())


def checked_key(key: object) -> str:
    """The key itself.

    Raises:
        InvalidKey: not a text, empty, longer than `KEY_BYTES_MAX`, with a NUL or a lone surrogate.
    """
    if not isinstance(key, str):
        raise InvalidKey(f"a key must be a str, not {type(key).__name__}")
    if not key:
        raise InvalidKey("a key cannot be empty")
    if "\0" in key:
        raise InvalidKey(f"the key {key[:80]!r} holds a NUL")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise InvalidKey(f"the key {key[:80]!r} is not valid Unicode") from None
    if size > KEY_BYTES_MAX:
        raise InvalidKey(f"the key {key[:80]!r} has {size} bytes, above KEY_BYTES_MAX={KEY_BYTES_MAX}")
    return key


def encode_value(value: object) -> str:
    """The compact JSON text of a value.

    Raises:
        InvalidValue: not JSON (also NaN, infinities, lone surrogates, circles), or above `VALUE_BYTES_MAX`.
    """
    try:
        text = _encode(value)
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidValue("the value holds a text that is not valid Unicode") from None
    except RecursionError:
        raise InvalidValue("the value is nested too deep") from None
    except (TypeError, ValueError) as error:
        raise InvalidValue(f"the value is not JSON: {error}") from None
    if size > VALUE_BYTES_MAX:
        raise InvalidValue(
            f"the value has {size} bytes of JSON, above VALUE_BYTES_MAX={VALUE_BYTES_MAX}",
            hint="store large things as files or as rows of a table of your own",
        )
    return text


def decode_value(key: str, text: object) -> Any:  # what JSON holds, callers know it better than a type can say
    """The value of a JSON text.

    Raises:
        StoredValueInvalid: somebody wrote with plain SQL what is not JSON.
    """
    try:
        if isinstance(text, str):
            return json.loads(text)
    except (ValueError, RecursionError):
        pass
    raise StoredValueInvalid(f"the value of key {key[:80]!r} is not JSON: {str(text)[:80]!r}")


def checked_prefix(prefix: object) -> str:
    """The prefix itself; the empty one means all keys.

    Raises:
        InvalidKey: no key can begin with it.
    """
    return checked_key(prefix) if prefix != "" else ""


def _range(prefix: str) -> dict[str, str | None]:
    """The first key with this prefix and the first one after them, so that the key's index is used.

    Text compares by its UTF-8 bytes, which is the order of code points.
    """
    stop = None
    for at in range(len(prefix) - 1, -1, -1):
        if ord(prefix[at]) < 0x10FFFF:
            following = ord(prefix[at]) + 1
            # Surrogates are no characters: the next one that can be stored comes after them.
            stop = prefix[:at] + chr(0xE000 if 0xD800 <= following <= 0xDFFF else following)
            break
    return {"prefix": prefix, "stop": stop}
