"""What is wrong now: one entry per code, said once when it comes and once when it goes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from tidewire_agent.session.effects import Trouble
from tidewire_schemas.errors import DatabaseError, TidewireError

BROKER: Final = "broker"
"""Code of the problem that says why there is no connection."""

_log = logging.getLogger("tidewire.agent")


class Troubles:
    """The problems of an agent. `on_change` is called after each change."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._now: dict[str, Trouble] = {}

    @property
    def all(self) -> tuple[Trouble, ...]:
        """All there are, the oldest first."""
        return tuple(self._now.values())

    @property
    def line(self) -> str | None:
        """All of them in one line, or None."""
        return "; ".join(map(str, self._now.values())) or None

    def say(self, trouble: Trouble) -> None:
        """Something is wrong. The same again is not said twice."""
        if self._now.get(trouble.code) == trouble:
            return
        self._now[trouble.code] = trouble
        _log.warning("problem: %s", trouble)
        self._on_change()

    def say_since(self, trouble: Trouble, at: float) -> None:
        """Something is wrong since then, in seconds since 1970."""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))
        self.say(replace(trouble, message=f"{trouble.message} since {since} UTC"))

    def say_error(self, error: TidewireError, *, code: str | None = None) -> None:
        """An error, as something that is wrong until it is cleared."""
        self.say(Trouble(code or error.code, error.message, error.hint))

    def clear(self, *codes: str) -> None:
        """These are over."""
        for code in codes:
            trouble = self._now.pop(code, None)
            if trouble is not None:
                _log.info("over: %s", trouble.message)
                self._on_change()


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended a task group; a database's error last, as it may follow from a mistake."""
    errors = [first_error(error) if isinstance(error, BaseExceptionGroup) else error for error in group.exceptions]
    errors.sort(key=lambda error: isinstance(error, DatabaseError))
    return errors[0]
