"""A progress bar for people who watch `tidewire-agent run` on a terminal while a snapshot is loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TextIO

from tidewire_schemas.snapshots import LoadProgress

REDRAW_S: Final = 0.2
"""Often enough to be seen moving."""

_WIDTH: Final = 40
_CLEAR: Final = "\r\x1b[K"


def bar(progress: LoadProgress) -> str:
    """One line: `loading a snapshot [████······] 40 %  4 of 10 chunks`."""
    part = progress.loaded / progress.chunks if progress.chunks else 1.0
    full = int(part * _WIDTH)
    return (
        f"loading a snapshot [{'█' * full}{'·' * (_WIDTH - full)}] {int(part * 100)} %"
        f"  {progress.loaded} of {progress.chunks} chunks"
    )


async def show_progress(progress: Callable[[], LoadProgress | None], out: TextIO) -> None:
    """Draw the bar while there is something to show, until cancelled."""
    drawn = False
    try:
        while True:
            now = progress()
            if now is not None:
                out.write(_CLEAR + bar(now))
                out.flush()
            elif drawn:
                out.write(_CLEAR)
                out.flush()
            drawn = now is not None
            await asyncio.sleep(REDRAW_S)
    finally:
        if drawn:
            out.write("\n")
            out.flush()
