"""The file with what is known of devices, written off the event loop."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path

from tidewire_hub.devices import DevicesDocument, read_document
from tidewire_hub.layout import replace_file

logger = logging.getLogger(__name__)


class DeviceFile:
    """The file at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._saving = False
        self._unsaved: bytes | None = None

    def load(self) -> DevicesDocument | None:
        """What was saved last; None where there is nothing that can be read."""
        try:
            text = self._path.read_bytes()
        except OSError:
            return None
        document = read_document(text)
        if document is None:
            logger.warning("%s cannot be read: beginning anew", self._path)
        return document

    def save(self, document: bytes) -> None:
        """Write off the event loop, one write at a time; of several that wait the newest counts."""
        if self._saving:
            self._unsaved = document
            return
        self._saving = True

        def written(future: asyncio.Future[None]) -> None:
            self._saving = False
            error = future.exception()
            if error is not None:
                logger.warning("cannot write %s: %s", self._path, error)
            if self._unsaved is not None:
                newer, self._unsaved = self._unsaved, None
                self.save(newer)

        write = partial(replace_file, self._path, document)
        asyncio.get_running_loop().run_in_executor(None, write).add_done_callback(written)
