"""The problem of too many dead letters: said in time and again as it grows, without a line for each look."""

from __future__ import annotations

from tidewire_agent.runtime.letter_watch import LetterWatch
from tidewire_agent.runtime.troubles import Troubles
from tidewire_agent.store.backlog import Backlog


def looked(watch: LetterWatch, letters: int, dropped: int) -> None:
    watch.look(Backlog(0, 0, 0, None, 0, letters, dropped))


def test_it_is_said_before_the_first_letter_goes_and_is_over_once_there_is_room() -> None:
    troubles = Troubles(lambda: None)
    watch = LetterWatch(10, troubles)
    looked(watch, 8, 0)
    assert troubles.line is None
    looked(watch, 9, 0)
    assert "above it the oldest go" in str(troubles.line)
    looked(watch, 10, 3)
    assert "3 dead letters are gone" in str(troubles.line)
    looked(watch, 2, 3)
    assert troubles.line is None


def test_while_many_go_it_is_said_now_and_then_and_the_last_number_is_right() -> None:
    said: list[str] = []
    troubles = Troubles(lambda: said.append(str(troubles.line)))
    watch = LetterWatch(10, troubles)
    for dropped in range(1000):
        looked(watch, 10, dropped)
    assert len(said) <= 12
    looked(watch, 10, 999)
    assert "999 dead letters are gone" in said[-1]
    count = len(said)
    looked(watch, 10, 999)
    assert len(said) == count
