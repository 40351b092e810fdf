"""A progress bar for people who watch `tidewire-agent run` on a terminal while a snapshot is loaded."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from typing import Final, TextIO

from tidewire_schemas.snapshots import LoadProgress

REDRAW_S: Final = 0.2
"""Often enough to be seen moving."""

_WIDTH_MAX: Final = 40
_CLEAR: Final = "\r\x1b[K"


def bar(progress: LoadProgress, columns: int) -> str:
    """One line of less than `columns`: `loading a snapshot [████······] 40 %  4 of 10 chunks`."""
    part = progress.loaded / progress.chunks if progress.chunks else 1.0
    before, after = "loading a snapshot", f"{int(part * 100)} %  {progress.loaded} of {progress.chunks} chunks"
    width = min(_WIDTH_MAX, columns - len(f"{before} [] {after}") - 1)
    full = int(part * width)
    drawn = f" [{'█' * full}{'·' * (width - full)}]" if width > 0 else ""
    return f"{before}{drawn} {after}"[: max(0, columns - 1)]


async def show_progress(progress: Callable[[], LoadProgress | None], out: TextIO) -> None:
    """Draw the bar while there is something to show, until cancelled. What is logged goes above it."""
    drawn = False

    def make_way(_record: logging.LogRecord) -> bool:
        if drawn:
            out.write(_CLEAR)
            out.flush()
        return True

    handlers = logging.getLogger().handlers
    for handler in handlers:
        handler.addFilter(make_way)
    try:
        while True:
            now = progress()
            if now is not None:
                out.write(_CLEAR + bar(now, shutil.get_terminal_size().columns))
                out.flush()
            elif drawn:
                out.write(_CLEAR)
                out.flush()
            drawn = now is not None
            await asyncio.sleep(REDRAW_S)
    finally:
        for handler in handlers:
            handler.removeFilter(make_way)
        if drawn:
            out.write("\n")
            out.flush()
