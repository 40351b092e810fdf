"""What can be wrong, and whose fault it is.

    TidewireError
    ├── SettingError            the person who set it up: an unknown key, a bad value
    │   └── InvalidName
    ├── MessageError            the sender of a message: it is set aside, nothing else is held up
    │   ├── MessageTooLarge
    │   ├── MalformedMessage
    │   ├── UnsupportedVersion
    │   └── ValueNotStorable
    ├── SequenceGap             nobody: something was lost on the way and is asked for again
    ├── DatabaseError           the database file or its disk
    ├── AlreadyRunning          the person who started a second process on the same data
    ├── LedElsewhere            the person who runs two hubs on one stream, or what is left of an earlier one
    └── LinkError               the broker or the way to it (subclasses in `tidewire_link`)

Every error has a stable `code` for programs, a `hint` that says what to do, and `retry`: whether the same again may
succeed. `str(error)` is one line for people.
"""

from __future__ import annotations

from typing import ClassVar


class TidewireError(Exception):
    """Base of all errors that Tidewire raises on purpose."""

    code: ClassVar[str] = "error"
    hint: ClassVar[str] = ""
    retry: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint  # type: ignore[misc]  # an instance may know better than its class

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class SettingError(TidewireError):
    """A setting is missing, unknown or out of range."""

    code = "setting"


class InvalidName(SettingError):
    """A device, stream or node name cannot be a topic level."""

    code = "name_invalid"
    hint = "use 1 to 63 of a-z 0-9 _ -, beginning with a letter or digit"

    def __init__(self, *, kind: str, name: str) -> None:
        super().__init__(f"{kind} name {name[:80]!r} cannot be used in a topic")
        self.kind = kind
        self.name = name


class MessageError(TidewireError):
    """A message that came in cannot be used."""

    code = "message"


class MessageTooLarge(MessageError):
    """A message, or a batch put together from parts, is above its limit."""

    code = "message_too_large"
    hint = "raise the named limit on both sides, or write less in one transaction"

    def __init__(self, *, size: int, limit: int, limit_name: str) -> None:
        super().__init__(f"{size} bytes are above {limit_name}={limit}")
        self.size = size
        self.limit = limit
        self.limit_name = limit_name


class MalformedMessage(MessageError):
    """Not UTF-8, not JSON, too deep, or not of the shape that its topic carries."""

    code = "message_malformed"
    hint = "see the schema of this topic in docs/reference/protocol.md"


class UnsupportedVersion(MessageError):
    """The message speaks another version of the protocol."""

    code = "message_version"
    hint = "this side speaks version 1: upgrade the older of agent and hub"


class ValueNotStorable(MessageError):
    """A value that no SQLite column can hold, or that JSON cannot carry."""

    code = "value_not_storable"
    hint = "allowed: null, text, integers of 64 bits, finite numbers, {blob}, {real}, {text}"


class SequenceGap(TidewireError):
    """A batch or entry came whose predecessor is missing."""

    code = "gap"
    retry = True

    def __init__(self, *, what: str, expected: int, got: int) -> None:
        super().__init__(f"{what} {got} came where {expected} was expected")
        self.expected = expected
        self.got = got


class DatabaseError(TidewireError):
    """The database file cannot be used as it is."""

    code = "database"


class AlreadyRunning(TidewireError):
    """Another process runs on this database or data directory: two would undo each other's work."""

    code = "already_running"

    def __init__(self, *, what: str, path: object, pid: int | None = None, hint: str | None = None) -> None:
        who = f"process {pid}" if pid else "another process"
        hint = hint or "stop it first, or give this one data of its own"
        super().__init__(f"{who} already runs {what} {path}", hint=hint)


class LedElsewhere(TidewireError):
    """Another hub leads this stream: this one must not."""

    code = "led_elsewhere"
