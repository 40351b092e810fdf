"""Apps that write on every device of a site, whatever happens to it, and what must have come of it."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from support.outcome import check_outcome
from support.processes import Site
from support.waiting import wait_for
from support.writer import Observer, Writer

_SOME = 15


class Work:
    """One app writes on each device and one looks; both end with the block.

    with Work(site, seed) as work:
        ...              # what may happen to the site
        work.check()
    """

    def __init__(self, site: Site, seed: int) -> None:
        self._site = site
        self.writers = [Writer(device.db, device.device, seed) for device in site.devices]
        self._observers = [Observer(device.db) for device in site.devices]

    def go_on(self, transactions: int = _SOME) -> None:
        """Until each app has committed so many more."""
        enough = {writer: writer.committed + transactions for writer in self.writers}
        wait_for(lambda: all(writer.committed >= n for writer, n in enough.items()), what="transactions of each app")

    def check(self) -> list[dict[str, Any]]:
        """End the apps: all that they wrote comes into the log and to every device, once; the log."""
        for writer in self.writers:
            writer.stop()
        self._site.wait_at_rest()
        for observer in self._observers:
            observer.stop()
        return check_outcome(self._site, self.writers)

    def __enter__(self) -> Self:
        for observer in self._observers:
            observer.start()
        for writer in self.writers:
            writer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stop in [each.stop for each in self.writers] + [each.stop for each in self._observers]:
            try:
                stop()
            except BaseException as failure:
                if error is None:
                    raise
                error.add_note(f"and so did an app or an observer: {failure!r}")
