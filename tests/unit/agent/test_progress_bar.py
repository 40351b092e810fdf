"""The bar that people see while a snapshot is loaded."""

from __future__ import annotations

import asyncio
import io
import logging
import re

import pytest

from support.waiting import wait_for_async
from tidewire_agent.cli.progress import bar, show_progress
from tidewire_schemas.snapshots import LoadProgress

HALF = LoadProgress(snapshot="a" * 32, loaded=50, chunks=100)


@pytest.mark.parametrize("columns", [20, 40, 60, 79, 80, 81, 200])
def test_the_bar_is_narrower_than_the_terminal(columns: int) -> None:
    """A line that wraps could not be drawn over."""
    assert len(bar(HALF, columns)) < columns


def test_the_bar_shows_how_much_is_loaded() -> None:
    assert bar(HALF, 200) == f"loading a snapshot [{'█' * 20}{'·' * 20}] 50 %  50 of 100 chunks"


async def test_what_is_logged_stands_on_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    handler = logging.StreamHandler(terminal)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    drawing = asyncio.create_task(show_progress(lambda: HALF, terminal))
    await wait_for_async(terminal.getvalue, what="the bar is drawn")
    logging.getLogger("tidewire").error("something happened")
    drawing.cancel()
    await asyncio.wait([drawing])
    logging.getLogger("tidewire").error("something else")
    shown = [re.split("\r|\x1b\\[K", line)[-1] for line in terminal.getvalue().split("\n")]
    assert shown == ["something happened", "", "something else", ""]
    assert terminal.getvalue().startswith("\r\x1b[Kloading a snapshot")
