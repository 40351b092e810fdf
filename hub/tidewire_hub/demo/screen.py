"""How the story is shown: live tables on a terminal, plain lines everywhere else."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Final, Protocol

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tidewire_hub.demo.readings import ITEM, Reading, TillReading

PLAIN_INTERVAL_S: Final = 1.0
"""Time between two plain lines."""

_STATE_STYLES: Final = {"live": "green", "catching_up": "yellow", "handshaking": "yellow", "offline": "red"}


class Screen(Protocol):
    """Where the story is told."""

    def say(self, text: str = "") -> None:
        """A line of text."""
        ...

    def headline(self, text: str) -> None:
        """A new act."""
        ...

    def show(self, reading: Reading) -> None:
        """How things are now; replaces what was shown before in this act."""
        ...

    def settle(self) -> None:
        """The act is over: what is shown stays."""
        ...

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Some records."""
        ...


def make_screen() -> Screen:
    """Live tables on a terminal, unless NO_COLOR, CI or TERM=dumb ask for something simpler."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    console = Console(highlight=False)
    plain = not console.is_terminal or console.is_dumb_terminal or "NO_COLOR" in os.environ or "CI" in os.environ
    return PlainScreen() if plain else LiveScreen(console)


class LiveScreen:
    """For a terminal, from 80 columns."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None

    def say(self, text: str = "") -> None:
        """A line of text, above what is live."""
        self._console.print(escape(text), soft_wrap=True)

    def headline(self, text: str) -> None:
        """A new act."""
        self.settle()
        self._console.print()
        self._console.print(Text(text, style="bold"))

    def show(self, reading: Reading) -> None:
        """How things are now."""
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="visible")
            self._live.start()
        self._live.update(_live_table(reading), refresh=True)

    def settle(self) -> None:
        """Leave the last table where it is."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Some records."""
        table = Table(box=None, padding=(0, 2), header_style="dim")
        for number, column in enumerate(columns):
            table.add_column(column, no_wrap=True, justify="left" if number == 0 else "right")
        for row in rows:
            table.add_row(*map(escape, row))
        self._console.print(table)


class PlainScreen:
    """For files, pipes and CI: lines alone, and not too many."""

    def __init__(self) -> None:
        self._began_at = time.monotonic()
        self._said_at = 0.0
        self._last: Reading | None = None

    def say(self, text: str = "") -> None:
        """A line of text."""
        _print_line(text)

    def headline(self, text: str) -> None:
        """A new act."""
        self.settle()
        _print_line()
        _print_line(text)

    def show(self, reading: Reading) -> None:
        """One line, if the last one was a while ago."""
        self._last = reading
        if time.monotonic() >= self._said_at + PLAIN_INTERVAL_S:
            self._say_reading(reading)

    def settle(self) -> None:
        """The last reading, unless it was said."""
        if self._last is not None:
            self._say_reading(self._last)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Some records."""
        widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
        for row in (columns, *rows):
            cells = [
                cell.ljust(width) if number == 0 else cell.rjust(width)
                for number, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            _print_line("  " + "  ".join(cells))

    def _say_reading(self, reading: Reading) -> None:
        self._said_at, self._last = time.monotonic(), None
        tills = "  ".join(_till_text(till) for till in reading.tills)
        prices = " ".join(str(till.price) for till in reading.tills)
        _print_line(f"  {self._said_at - self._began_at:4.1f} s  hub #{reading.head}  {tills}  {ITEM} {prices}")


def _print_line(text: str = "") -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _till_text(till: TillReading) -> str:
    text = f"{till.name} {till.orders} at #{till.seq}"
    if till.state != "live":
        text += f" {till.state}"
    return f"{text}, {till.waiting} to send" if till.waiting else text


def _live_table(reading: Reading) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("file", no_wrap=True)
    for column in ("orders", f"{ITEM}", "at entry", "behind", "to send"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("agent", no_wrap=True)
    for till in reading.tills:
        behind = max(0, reading.head - till.seq)
        table.add_row(
            f"{till.name}.db",
            str(till.orders),
            "" if till.price is None else str(till.price),
            f"#{till.seq}",
            _count(behind),
            _count(till.waiting),
            Text(till.state, style=_STATE_STYLES.get(till.state, "yellow")),
        )
    table.add_row("hub's log", "", "", Text(f"#{reading.head}", style="bold"), "", "", "")
    return table


def _count(number: int) -> Text:
    return Text(str(number), style="yellow" if number else "dim")
